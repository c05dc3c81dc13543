//! One lane to one node: what waits to be sent, and who waits for answers.
//!
//! Invariant: whoever asks learns one end. `NotSent` is told only of what was given to no connection; what was given to one
//! that ended is `Broken`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fxhash::FxHashMap;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::frame::{Message, Outbox, fits};
use super::peers::CallError;

/// Questions that may wait for one lane's connection; past it the answer is `NotSent` at once.
pub const QUEUE_MAX: u64 = 16_384;

/// How long a connection may be silent while answers are awaited. It is longer than any round trip and
/// any sync of a healthy disk; what is silent for longer is likely cut, and a fresh connection finds
/// the way sooner than the old one's retransmissions.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long a connection without any traffic is kept.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// Where an answer goes.
pub type Caller = oneshot::Sender<Result<Bytes, CallError>>;

/// One lane to one node, as those who ask and its dialler share it.
#[derive(Default)]
pub struct Link {
    state: Mutex<State>,
    /// There is something to send, or the link was closed.
    stirred: Notify,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    callers: FxHashMap<u64, Caller>,
    /// Questions asked so far; the number of one is how many there were with it.
    asked: u64,
    /// Questions of those that were given to a connection.
    sent: u64,
    /// The last answer, or when answers began to be awaited.
    heard: Option<Instant>,
    /// Why nothing can be sent now.
    down: Option<Arc<str>>,
    closed: bool,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks; `caller` learns the end, at once if it cannot be sent.
    pub fn ask(&self, kind: u8, payload: &[u8], caller: Caller) {
        let mut state = self.lock();
        if let Some(why) = state.refuses(payload) {
            drop(state);
            // Whoever asks holds the other end.
            let _ = caller.send(Err(CallError::NotSent(why)));
            return;
        }
        let is_first = state.outbox.is_empty();
        if state.callers.is_empty() {
            state.heard = Some(Instant::now());
        }
        state.asked += 1;
        let id = state.asked;
        state.callers.insert(id, caller);
        state.outbox.push(id, kind, payload);
        drop(state);
        if is_first {
            self.stirred.notify_one();
        }
    }

    /// Whether nothing is sent any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the link: nothing more is sent.
    pub fn close(&self) {
        self.lock().closed = true;
        self.go_down("this node is stopping".into());
        self.disconnect();
        self.stirred.notify_one();
    }

    /// Waits for something to send; false if the link was closed.
    pub async fn has_questions(&self) -> bool {
        let waits = || {
            let state = self.lock();
            !state.closed && state.outbox.is_empty()
        };
        while waits() {
            self.stirred.notified().await;
        }
        !self.is_closed()
    }

    /// A connection begins.
    pub fn begin(&self) {
        self.lock().heard = Some(Instant::now());
    }

    /// The next frame for the connection.
    pub fn take_frame(&self) -> Option<BytesMut> {
        let mut state = self.lock();
        let frame = state.outbox.take()?;
        state.sent = frame.last_id;
        Some(frame.bytes)
    }

    /// Gives out the answers of one frame.
    pub fn answer(&self, answers: &mut Vec<Message>) {
        let mut state = self.lock();
        state.heard = Some(Instant::now());
        let caller = |answer: Message| Some((state.callers.remove(&answer.id)?, answer.payload));
        let answered: Vec<_> = answers.drain(..).filter_map(caller).collect();
        drop(state);
        for (caller, payload) in answered {
            // A caller that no longer waits needs no answer.
            let _ = caller.send(Ok(payload));
        }
    }

    /// Whether the connection is silent though answers are awaited, or nobody has needed it for long.
    pub fn is_given_up(&self) -> bool {
        let state = self.lock();
        let patience = if state.callers.is_empty() {
            IDLE_MAX
        } else {
            SILENCE_MAX
        };
        state.heard.is_some_and(|heard| heard.elapsed() > patience)
    }

    /// The connection has ended: what was sent over it gets no answer.
    pub fn disconnect(&self) {
        let state = self.lock();
        let sent = state.sent;
        end(state, |id| id <= sent, &CallError::Broken);
    }

    /// Nothing can be sent for now: whoever waits for it, and whoever asks until [`Link::come_up`], learns why.
    pub fn go_down(&self, why: Arc<str>) {
        let mut state = self.lock();
        state.down = Some(why.clone());
        state.outbox = Outbox::default();
        let sent = state.sent;
        state.sent = state.asked;
        end(state, |id| id > sent, &CallError::NotSent(why));
    }

    /// It may be tried again.
    pub fn come_up(&self) {
        let mut state = self.lock();
        if !state.closed {
            state.down = None;
        }
    }
}

impl State {
    /// Why a question cannot be sent, if it cannot.
    fn refuses(&self, payload: &[u8]) -> Option<Arc<str>> {
        if let Some(why) = &self.down {
            return Some(why.clone());
        }
        if !fits(payload) {
            return Some("it is longer than a frame may be".into());
        }
        let is_full = self.asked - self.sent >= QUEUE_MAX;
        is_full.then(|| "too much waits for this node".into())
    }
}

/// Tells an end to the callers whose questions are `which`.
fn end(mut state: MutexGuard<'_, State>, which: impl Fn(u64) -> bool, error: &CallError) {
    let mut ended: Vec<_> = state.callers.extract_if(|id, _| which(*id)).collect();
    drop(state);
    // In the order of the questions, so that a simulation is a function of its seed.
    ended.sort_unstable_by_key(|(id, _)| *id);
    for (_, caller) in ended {
        // As above.
        let _ = caller.send(Err(error.clone()));
    }
}
