//! The open connections: who takes too long to send a request's head is closed, and all are called when the node stops.
//!
//! A timer for every head would be set and taken back with every request. Here a request only marks its connection, and
//! all are looked at now and then.
//!
//! Invariant: a connection is closed for want of a request only if none was under way on it for the whole header
//! timeout; and a call is heard, whenever it comes.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::body::{Body, Frame, SizeHint};

/// How often connections are looked at, at least and at most, whatever the header timeout is.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// No time that a look is made at.
const NOT_SEEN: u64 = u64::MAX;

/// All open connections.
pub(super) struct Connections {
    header_timeout: Duration,
    began: Instant,
    lines: Mutex<Vec<Weak<Line>>>,
}

/// One open connection, as seen from outside.
pub(super) struct Line {
    /// Requests whose head was read and whose answer is not written yet.
    under_way: AtomicU32,
    /// The first look that found none, in milliseconds since the beginning; [`NOT_SEEN`] if none has yet.
    idle_since_ms: AtomicU64,
    /// It is to be closed at once.
    is_late: AtomicBool,
    /// The node is stopping.
    is_draining: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// How waiting for a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It ended by itself.
    Itself,
    /// No request came in time.
    Late,
    /// The node is stopping.
    Draining,
}

impl Connections {
    /// None yet; each is given `header_timeout` for a request's head.
    pub(super) fn new(header_timeout: Duration) -> Self {
        Connections {
            header_timeout,
            began: Instant::now(),
            lines: Mutex::default(),
        }
    }

    /// How long it should be from one look to the next.
    pub(super) fn look_interval(&self) -> Duration {
        (self.header_timeout / 8).clamp(LOOK_MIN, LOOK_MAX)
    }

    /// A new connection.
    pub(super) fn open(&self) -> Arc<Line> {
        let line = Arc::new(Line {
            idle_since_ms: AtomicU64::new(NOT_SEEN),
            under_way: AtomicU32::new(0),
            is_late: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            waker: Mutex::default(),
        });
        self.lock().push(Arc::downgrade(&line));
        line
    }

    /// Looks at all: those that are late are called.
    pub(super) fn look(&self) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (now, timeout) = (ms(self.began.elapsed()), ms(self.header_timeout));
        self.lock().retain(|line| {
            let Some(line) = line.upgrade() else {
                return false;
            };
            if line.under_way.load(Ordering::Acquire) == 0 {
                let since = &line.idle_since_ms;
                match since.load(Ordering::Relaxed) {
                    NOT_SEEN => since.store(now, Ordering::Relaxed),
                    since if now - since > timeout => line.call(&line.is_late),
                    _ => {}
                }
            }
            true
        });
    }

    /// Calls all: the node is stopping.
    pub(super) fn drain(&self) {
        for line in self.lock().iter().filter_map(Weak::upgrade) {
            line.call(&line.is_draining);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// A request's head was read; it is under way until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// Drives `connection`, always in the same task, until it ends or is called.
    pub(super) async fn drive(&self, connection: impl Future) -> Ended {
        let mut connection = pin!(connection);
        let mut is_known = false;
        std::future::poll_fn(|context| {
            // A call after this wakes the task, and one before is seen below.
            if !std::mem::replace(&mut is_known, true) {
                *self.lock() = Some(context.waker().clone());
            }
            if self.is_draining.load(Ordering::Acquire) {
                return Poll::Ready(Ended::Draining);
            }
            if self.is_late.load(Ordering::Acquire) {
                return Poll::Ready(Ended::Late);
            }
            connection.as_mut().poll(context).map(|_| Ended::Itself)
        })
        .await
    }

    fn call(&self, how: &AtomicBool) {
        how.store(true, Ordering::Release);
        let waker = self.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is under way.
pub(super) struct UnderWay(Arc<Line>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.idle_since_ms.store(NOT_SEEN, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Release);
    }
}

/// The body of an answer, which is under way until all of it is written.
pub(super) struct Answering<B> {
    pub(super) body: B,
    pub(super) _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::thread::sleep;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(40);

    /// Looks until `line` was called, or for three times as long as it may take.
    fn look_on(connections: &Connections, line: &Line) -> Duration {
        let began = Instant::now();
        while !line.is_late.load(Ordering::Relaxed) && began.elapsed() < 6 * TIMEOUT {
            connections.look();
            sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }

    #[test]
    fn a_connection_without_a_request_is_late_after_the_timeout_and_not_before() {
        let connections = Connections::new(TIMEOUT);
        let line = connections.open();
        assert!(look_on(&connections, &line) >= TIMEOUT);
        assert!(line.is_late.load(Ordering::Relaxed));
    }

    #[test]
    fn it_is_not_late_while_a_request_is_under_way_and_has_all_the_time_after_it() {
        let connections = Connections::new(TIMEOUT);
        let line = connections.open();
        let (first, second) = (line.begin(), line.begin());
        look_on(&connections, &line);
        drop(first);
        look_on(&connections, &line);
        assert!(!line.is_late.load(Ordering::Relaxed));
        drop(second);
        assert!(look_on(&connections, &line) >= TIMEOUT);
        assert!(line.is_late.load(Ordering::Relaxed));
    }

    #[test]
    fn a_connection_that_is_gone_is_forgotten() {
        let connections = Connections::new(TIMEOUT);
        let kept = connections.open();
        drop(connections.open());
        connections.look();
        assert_eq!(connections.lock().len(), 1);
        drop(kept);
        connections.look();
        assert!(connections.lock().is_empty());
    }

    #[tokio::test]
    async fn a_call_is_heard_whether_it_comes_before_the_waiting_or_in_it() {
        let connections = Connections::new(TIMEOUT);
        let line = connections.open();
        assert_eq!(line.drive(async {}).await, Ended::Itself);
        let waiting = line.clone();
        let waiting = tokio::spawn(async move { waiting.drive(pending::<()>()).await });
        tokio::task::yield_now().await;
        connections.drain();
        assert_eq!(waiting.await.unwrap(), Ended::Draining);
        assert_eq!(line.drive(pending::<()>()).await, Ended::Draining);
    }
}
