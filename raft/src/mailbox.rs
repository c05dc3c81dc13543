//! The way into an actor: one bounded mailbox for clients, one queue for what the log says, and the
//! task to wake. Handles are cheap to clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::SegQueue;
use qiang_engine::shard::PREFETCH_MAX;
use qiang_engine::{Place, Refusal, Replica, Tag};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::question::{Asked, Each, Outcome, Question};
use crate::types::LogId;
use crate::world::{others_first, room, spawn};

/// Commands that may wait for one actor; past it the answer is `overloaded` at once.
const MAILBOX_COMMANDS_MAX: usize = 32_768;

/// Entries that may wait for one actor before `apply` holds back.
const LOG_EVENTS_MAX: usize = 1024;

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
    commands: SegQueue<Asked>,
    commands_waiting: AtomicUsize,
    commands_max: usize,
    log: SegQueue<LogEvent>,
    log_waiting: AtomicUsize,
    log_max: usize,
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
            commands_max: room(MAILBOX_COMMANDS_MAX),
            log: SegQueue::new(),
            log_waiting: AtomicUsize::new(0),
            log_max: room(LOG_EVENTS_MAX),
            log_drained: Notify::new(),
            stirred: Notify::new(),
            calls: AtomicU64::new(0),
        }))
    }

    /// Hands a question to the shard at `place` over and waits for all its answers until `deadline`. What finds no
    /// room is `overloaded` at once, what is not answered in time has an unknown outcome.
    pub async fn ask(
        &self,
        place: Place,
        question: &Arc<Question>,
        deadline: Instant,
    ) -> Each<Outcome> {
        self.put(place, question);
        if let Some(call) = self.begin_call() {
            call.soon().await;
        }
        question.answers(deadline).await
    }

    /// Hands a question over as [`Mailbox::ask`] does, without waiting for its answers.
    pub fn tell(&self, place: Place, question: &Arc<Question>) {
        self.put(place, question);
        if let Some(call) = self.begin_call() {
            spawn(call.soon());
        }
    }

    fn put(&self, place: Place, question: &Arc<Question>) {
        let waiting = &self.0.commands_waiting;
        for asked in Asked::all(place, question, PREFETCH_MAX) {
            let count = asked.len();
            if waiting.fetch_add(count, Ordering::Relaxed) >= self.0.commands_max {
                waiting.fetch_sub(count, Ordering::Relaxed);
                asked.refuse(&Refusal::Overloaded);
            } else {
                self.0.commands.push(asked);
            }
        }
    }

    /// Begins a call that has the actor look around as soon as everybody who is ready on this thread has spoken, so that what
    /// comes together is decided together and wakes the actor's thread once. With one under way none is begun: it is still to
    /// come, and will be heard after what was just put here.
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

    /// Takes what waits longest.
    pub(crate) fn take_commands(&self) -> Option<Asked> {
        let asked = self.0.commands.pop()?;
        self.0
            .commands_waiting
            .fetch_sub(asked.len(), Ordering::Relaxed);
        Some(asked)
    }

    pub(crate) fn push_log(&self, event: LogEvent) {
        self.0.log_waiting.fetch_add(1, Ordering::Relaxed);
        self.0.log.push(event);
        self.wake();
    }

    pub(crate) fn take_log(&self) -> Option<LogEvent> {
        let event = self.0.log.pop()?;
        if self.0.log_waiting.fetch_sub(1, Ordering::Relaxed) == self.0.log_max {
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
            if self.0.log_waiting.load(Ordering::Relaxed) < self.0.log_max {
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
