//! The way into an actor: one bounded mailbox for clients, one queue for what the log says, and the
//! task to wake. Handles are cheap to clone.
//!
//! Invariant: every command handed over is answered exactly once. A reply that is dropped
//! answers `outcome_unknown` by itself, so no caller waits for ever or is told what may be wrong.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use crossbeam::queue::SegQueue;
use futures::task::AtomicWaker;
use qiang_engine::{Answer, Command, Place, Refusal, Replica, Tag};
use smallvec::{SmallVec, smallvec};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::types::LogId;
use crate::world::{others_first, spawn};

/// Commands that may wait for one actor; past it the answer is `overloaded` at once.
const MAILBOX_COMMANDS_MAX: usize = 32_768;

/// Entries that may wait for one actor before `apply` holds back.
const LOG_EVENTS_MAX: usize = 1024;

/// What a command came to.
pub type Outcome = Result<Answer, Refusal>;

/// One of each command that a caller hands over together, which is most often one: that takes no allocation.
pub type Each<T> = SmallVec<[T; 1]>;

/// The reply to one of the commands that a caller has handed over together.
pub struct Reply(Option<(Arc<Gathering>, usize)>);

/// The answers to commands that were handed over together, in the order of the commands.
struct Gathering {
    gathered: Mutex<Gathered>,
    lacking: AtomicUsize,
    waiter: AtomicWaker,
}

struct Gathered {
    answers: Each<Option<Outcome>>,
    /// Who takes all answers, if nobody waits for them.
    taker: Option<Taker>,
}

type Taker = Box<dyn FnOnce(Each<Outcome>) + Send>;

impl Reply {
    /// A reply that nobody waits for.
    #[cfg(test)]
    pub fn to_nobody() -> Self {
        Reply(None)
    }

    /// Answers.
    pub fn send(mut self, outcome: Outcome) {
        self.fill(outcome);
    }

    fn fill(&mut self, outcome: Outcome) {
        if let Some((gathering, position)) = self.0.take() {
            gathering.take(position, outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.fill(Err(Refusal::OutcomeUnknown));
    }
}

impl Gathering {
    fn of(count: usize, taker: Option<Taker>) -> Arc<Self> {
        let answers = smallvec![None; count];
        Arc::new(Gathering {
            gathered: Mutex::new(Gathered { answers, taker }),
            lacking: AtomicUsize::new(count),
            waiter: AtomicWaker::new(),
        })
    }

    fn take(&self, position: usize, outcome: Outcome) {
        // A caller that stopped waiting learns the outcome when it repeats the order id.
        if let Some(answer) = self.lock().answers.get_mut(position) {
            *answer = Some(outcome);
        }
        if self.lacking.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let taker = self.lock().taker.take();
        match taker {
            Some(taker) => taker(self.told()),
            None => self.waiter.wake(),
        }
    }

    /// The answers that there are by `deadline`, and `outcome_unknown` for those that there are not.
    async fn until(&self, deadline: Instant) -> Each<Outcome> {
        // Whether all are there or the time is over, what is there is told.
        let _ = timeout_at(deadline, self.complete()).await;
        self.told()
    }

    fn told(&self) -> Each<Outcome> {
        let answers = std::mem::take(&mut self.lock().answers);
        let or_unknown = |answer: Option<Outcome>| answer.unwrap_or(Err(Refusal::OutcomeUnknown));
        answers.into_iter().map(or_unknown).collect()
    }

    async fn complete(&self) {
        poll_fn(|context| {
            // First be known, then look: an answer that comes in between wakes.
            self.waiter.register(context.waker());
            match self.lacking.load(Ordering::Acquire) {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the log tells an actor, in order.
pub enum LogEvent {
    /// A batch was committed.
    Batch { index: u64, bytes: Bytes },
    /// A blank entry was committed; `leader` is set if this process proposed it as leader.
    Blank { index: u64, leader: Option<LogId> },
    /// An entry without meaning for the shard was committed.
    Other { index: u64 },
    /// A snapshot replaces the state.
    Snapshot { index: u64, replica: Box<Replica> },
    /// A proposal was refused before it came into the log.
    Refused { tag: Tag },
    /// A proposal's outcome is not known.
    Unknown { tag: Tag },
    /// The group was stopped on this node: what comes next begins from nothing.
    Reset,
}

struct Inner {
    commands: SegQueue<(Place, Command, Reply)>,
    commands_waiting: AtomicUsize,
    log: SegQueue<LogEvent>,
    log_waiting: AtomicUsize,
    log_drained: Notify,
    stirred: Notify,
    /// Threads on which a [`Call`] is under way, a bit for each.
    calls: AtomicU64,
}

thread_local! {
    /// This thread's bit in [`Inner::calls`]. Threads that share one only wait for each other's calls.
    static THREAD: u64 = {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        1 << (THREADS.fetch_add(1, Ordering::Relaxed) % u64::from(u64::BITS))
    };
}

/// A call on its way to an actor. It arrives when it is dropped, even if its caller gives up.
struct Call {
    mailbox: Mailbox,
    thread: u64,
}

impl Call {
    /// Arrives after everybody who is ready has spoken.
    async fn soon(self) {
        others_first().await;
        drop(self);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let calls = &self.mailbox.0.calls;
        calls.fetch_and(!self.thread, Ordering::AcqRel);
        self.mailbox.wake();
    }
}

/// A handle to one actor's mailbox.
#[derive(Clone)]
pub struct Mailbox(Arc<Inner>);

impl Mailbox {
    pub(crate) fn new() -> Self {
        Mailbox(Arc::new(Inner {
            commands: SegQueue::new(),
            commands_waiting: AtomicUsize::new(0),
            log: SegQueue::new(),
            log_waiting: AtomicUsize::new(0),
            log_drained: Notify::new(),
            stirred: Notify::new(),
            calls: AtomicU64::new(0),
        }))
    }

    /// Hands commands to the shard at `place` over and waits for all their answers until `deadline`, in the order of the commands. What finds no
    /// room is `overloaded` at once, what is not answered in time has an unknown outcome.
    pub async fn ask(
        &self,
        place: Place,
        commands: &[&Command],
        deadline: Instant,
    ) -> Each<Outcome> {
        if commands.is_empty() {
            return Each::new();
        }
        let gathering = Gathering::of(commands.len(), None);
        let commands = commands.iter().map(|command| (*command).clone());
        self.put_all(place, commands, &gathering);
        self.call().await;
        gathering.until(deadline).await
    }

    /// Hands commands over as [`Mailbox::ask`] does, without waiting: `taker` is given their answers when all are there.
    pub fn ask_for(
        &self,
        place: Place,
        commands: Vec<Command>,
        taker: impl FnOnce(Each<Outcome>) + Send + 'static,
    ) {
        if commands.is_empty() {
            return taker(Each::new());
        }
        let gathering = Gathering::of(commands.len(), Some(Box::new(taker)));
        self.put_all(place, commands.into_iter(), &gathering);
        if let Some(call) = self.begin_call() {
            spawn(call.soon());
        }
    }

    fn put_all(
        &self,
        place: Place,
        commands: impl Iterator<Item = Command>,
        gathering: &Arc<Gathering>,
    ) {
        for (position, command) in commands.enumerate() {
            self.put(place, command, Reply(Some((gathering.clone(), position))));
        }
    }

    fn put(&self, place: Place, command: Command, reply: Reply) {
        if self.0.commands_waiting.fetch_add(1, Ordering::Relaxed) >= MAILBOX_COMMANDS_MAX {
            self.0.commands_waiting.fetch_sub(1, Ordering::Relaxed);
            return reply.send(Err(Refusal::Overloaded));
        }
        self.0.commands.push((place, command, reply));
    }

    /// Has the actor look around as soon as everybody who is ready on this thread has spoken, so that what comes together is
    /// decided together and wakes the actor's thread once.
    async fn call(&self) {
        if let Some(call) = self.begin_call() {
            call.soon().await;
        }
    }

    /// Begins a call, unless one is under way on this thread: that is still to come, and will be heard after what was
    /// just put here.
    fn begin_call(&self) -> Option<Call> {
        let thread = THREAD.with(|bit| *bit);
        let calls = self.0.calls.fetch_or(thread, Ordering::AcqRel);
        (calls & thread == 0).then(|| Call {
            mailbox: self.clone(),
            thread,
        })
    }

    /// Has the actor look around now.
    pub(crate) fn wake(&self) {
        self.0.stirred.notify_one();
    }

    /// Waits until there is something for the actor, or it was told to look around.
    pub(crate) async fn stirred(&self) {
        self.0.stirred.notified().await;
    }

    /// Commands that wait.
    pub fn depth(&self) -> usize {
        self.0.commands_waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn take_command(&self) -> Option<(Place, Command, Reply)> {
        let taken = self.0.commands.pop();
        if taken.is_some() {
            self.0.commands_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    pub(crate) fn push_log(&self, event: LogEvent) {
        self.0.log_waiting.fetch_add(1, Ordering::Relaxed);
        self.0.log.push(event);
        self.wake();
    }

    pub(crate) fn take_log(&self) -> Option<LogEvent> {
        let event = self.0.log.pop()?;
        if self.0.log_waiting.fetch_sub(1, Ordering::Relaxed) == LOG_EVENTS_MAX {
            self.0.log_drained.notify_waiters();
        }
        Some(event)
    }

    /// Waits until the actor is not too far behind the log.
    pub(crate) async fn log_has_room(&self) {
        loop {
            let drained = self.0.log_drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.0.log_waiting.load(Ordering::Relaxed) < LOG_EVENTS_MAX {
                return;
            }
            drained.await;
        }
    }

    pub(crate) fn idle(&self) -> bool {
        self.0.commands.is_empty() && self.0.log.is_empty()
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
