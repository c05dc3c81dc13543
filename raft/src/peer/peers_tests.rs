//! What becomes of questions: answered out of order, never sent, sent into a connection that breaks, too many at once.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::duplex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::peer::dialler::PAUSE_MIN;
use crate::peer::link::{QUEUE_MAX, SILENCE_MAX};
use crate::peer::{BoxFuture, Handler, Incoming, Responder, serve};

const SOON: Duration = Duration::from_secs(5);

/// A node that keeps every question until the test takes it.
#[derive(Default)]
struct Keeping {
    kept: Mutex<Vec<(Bytes, Responder)>>,
    came: Notify,
}

impl Handler for Keeping {
    fn handle(&self, _: Incoming, _: u8, payload: Bytes, to: Responder) {
        self.kept.lock().expect("whole").push((payload, to));
        self.came.notify_one();
    }
}

impl Keeping {
    fn count(&self) -> usize {
        self.kept.lock().expect("whole").len()
    }

    /// The first `count` questions, as soon as there are as many.
    async fn take(&self, count: usize) -> Vec<(Bytes, Responder)> {
        while self.count() < count {
            self.came.notified().await;
        }
        self.kept.lock().expect("whole").drain(..count).collect()
    }
}

/// Dials node 2, if it is there.
#[derive(Default)]
struct Dialer {
    node: Arc<Keeping>,
    is_away: AtomicBool,
    serving: Mutex<Vec<AbortHandle>>,
}

impl Dialer {
    /// Ends every connection.
    fn hang_up(&self) {
        let serving = std::mem::take(&mut *self.serving.lock().expect("whole"));
        serving.iter().for_each(AbortHandle::abort);
    }
}

impl Dial for Dialer {
    fn dial(&self, _: &str, _: Lane) -> BoxFuture<io::Result<Box<dyn Stream>>> {
        if self.is_away.load(Ordering::Relaxed) {
            return Box::pin(async { Err(io::Error::other("nobody is there")) });
        }
        let (here, there) = duplex(1 << 20);
        let served = serve(
            Box::new(there),
            Credentials::new("c", 1, 2),
            self.node.clone(),
        );
        let serving = tokio::spawn(served).abort_handle();
        self.serving.lock().expect("whole").push(serving);
        Box::pin(async { Ok(Box::new(here) as Box<dyn Stream>) })
    }
}

/// The links of node 1, and the way to node 2.
fn links() -> (Peers, Arc<Dialer>) {
    let dialer = Arc::new(Dialer::default());
    let peers = Peers::new(Credentials::new("c", 1, 1), dialer.clone());
    peers.set_address(2, "node-2:7500");
    (peers, dialer)
}

fn ask(peers: &Peers, payload: &[u8]) -> Call {
    peers.call(2, Lane::Forward, 7, payload)
}

fn answer_all(questions: Vec<(Bytes, Responder)>, answer: &[u8]) {
    for (_, to) in questions {
        to.answer(answer);
    }
}

fn is_not_sent(answer: &Result<Bytes, CallError>) -> bool {
    matches!(answer, Err(CallError::NotSent(_)))
}

#[tokio::test]
async fn questions_come_in_order_and_answers_as_they_are_ready() {
    let (peers, dialer) = links();
    let calls: Vec<Call> = (0..100u8).map(|n| ask(&peers, &[n])).collect();
    let mut kept = dialer.node.take(100).await;
    assert!(kept.iter().map(|(payload, _)| payload[0]).eq(0..100));
    kept.reverse();
    for (payload, to) in kept {
        to.answer(&[payload[0], payload[0]]);
    }
    for (n, call) in (0..).zip(calls) {
        assert_eq!(call.within(SOON).await, Ok(Bytes::copy_from_slice(&[n, n])));
    }
}

#[tokio::test]
async fn an_answer_that_is_not_there_at_once_comes_later() {
    let (peers, dialer) = links();
    let call = ask(&peers, b"now or later");
    let (_, to) = dialer.node.take(1).await.pop().expect("one");
    let (tell, told) = oneshot::channel::<Bytes>();
    to.answer_with(async { told.await.expect("it is told") });
    tell.send(Bytes::from_static(b"later")).expect("it listens");
    assert_eq!(call.within(SOON).await, Ok(Bytes::from_static(b"later")));
}

#[tokio::test(start_paused = true)]
async fn who_asks_a_node_that_is_away_learns_at_once_that_nothing_was_sent() {
    let (peers, dialer) = links();
    dialer.is_away.store(true, Ordering::Relaxed);
    let calls = [ask(&peers, b"a"), ask(&peers, b"b")];
    for call in calls {
        assert!(is_not_sent(&call.await));
    }
    // While the link rests, nobody waits for it.
    let now = Instant::now();
    assert!(is_not_sent(&ask(&peers, b"c").await));
    assert_eq!(Instant::now(), now);
    dialer.is_away.store(false, Ordering::Relaxed);
    advance(2 * PAUSE_MIN).await;
    sleep(Duration::from_millis(1)).await;
    let call = ask(&peers, b"d");
    dialer.node.take(1).await.pop().expect("one").1.answer(b"e");
    assert_eq!(call.await, Ok(Bytes::from_static(b"e")));
}

#[tokio::test]
async fn what_was_sent_is_broken_with_its_connection_and_the_next_one_goes_on() {
    let (peers, dialer) = links();
    let sent = ask(&peers, b"sent");
    let kept = dialer.node.take(1).await;
    dialer.hang_up();
    assert_eq!(sent.await, Err(CallError::Broken));
    let call = ask(&peers, b"anew");
    // An answer to a connection of the past is heard by nobody.
    answer_all(kept, b"late");
    dialer
        .node
        .take(1)
        .await
        .pop()
        .expect("one")
        .1
        .answer(b"yes");
    assert_eq!(call.within(SOON).await, Ok(Bytes::from_static(b"yes")));
}

#[tokio::test]
async fn who_answers_may_hang_up_instead() {
    let (peers, dialer) = links();
    let call = ask(&peers, b"what nobody may ask");
    dialer.node.take(1).await.pop().expect("one").1.hang_up();
    assert_eq!(call.await, Err(CallError::Broken));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_silent_while_answers_are_awaited_is_given_up() {
    let (peers, dialer) = links();
    let since = Instant::now();
    let call = ask(&peers, b"hello?");
    let _kept = dialer.node.take(1).await;
    assert_eq!(call.await, Err(CallError::Broken));
    let waited = since.elapsed();
    assert!(
        (SILENCE_MAX..2 * SILENCE_MAX).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_crowd_of_questions_is_read_as_far_as_there_is_room_and_the_rest_later() {
    /// As many as are read at once, a frame more, and some that then wait.
    const CROWD: usize = 15_000;
    let (peers, dialer) = links();
    let payload = [0; 100];
    let calls: Vec<Call> = (0..CROWD).map(|_| ask(&peers, &payload)).collect();
    let mut kept = dialer.node.take(8_192).await;
    sleep(Duration::from_millis(50)).await;
    let more = dialer.node.count();
    assert!(more < 4_000, "{more} further ones are under way");
    kept.extend(dialer.node.take(more).await);
    answer_all(kept, b"yes");
    let rest = dialer.node.take(CROWD - 8_192 - more).await;
    answer_all(rest, b"yes");
    for call in calls {
        assert_eq!(call.within(SOON).await, Ok(Bytes::from_static(b"yes")));
    }
}

#[tokio::test]
async fn what_finds_no_room_in_the_queue_or_in_a_frame_is_not_sent() {
    let (peers, _dialer) = links();
    // On this thread nothing is sent while this goes on.
    let calls: Vec<Call> = (0..=QUEUE_MAX).map(|_| ask(&peers, b"q")).collect();
    let last = calls.into_iter().next_back().expect("many");
    assert!(is_not_sent(&last.await));
    let long = vec![0; FRAME_BYTES_MAX];
    assert!(is_not_sent(&ask(&peers, &long).await));
}

#[tokio::test]
async fn links_that_are_closed_tell_everybody() {
    let (peers, dialer) = links();
    let sent = ask(&peers, b"sent");
    let _kept = dialer.node.take(1).await;
    let waiting = ask(&peers, b"waiting");
    peers.close();
    assert_eq!(sent.await, Err(CallError::Broken));
    assert!(is_not_sent(&waiting.await));
}
