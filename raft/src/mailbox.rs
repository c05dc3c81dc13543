//! The way into an actor: one bounded mailbox for clients, one queue for what the log says, and the
//! thread to wake. Handles are cheap to clone.
//!
//! Invariant: every command handed over is answered exactly once. A reply slot that is dropped
//! answers `outcome_unknown` by itself, so no caller waits for ever or is told what may be wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::SegQueue;
use crossbeam::sync::Unparker;
use qiang_engine::{Answer, Command, Refusal, Replica, Tag};
use tokio::sync::{Notify, oneshot};

use crate::types::LogId;

/// Commands that may wait for one shard; past it the answer is `overloaded` at once.
const MAILBOX_COMMANDS_MAX: usize = 32_768;

/// Entries that may wait for one actor before `apply` holds back.
const LOG_EVENTS_MAX: usize = 1024;

/// One caller's reply.
#[derive(Debug)]
pub struct Reply(Option<oneshot::Sender<Result<Answer, Refusal>>>);

impl Reply {
    /// A reply slot and where its answer arrives.
    pub fn slot() -> (Self, oneshot::Receiver<Result<Answer, Refusal>>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(Some(sender)), receiver)
    }

    /// Answers.
    pub fn send(mut self, result: Result<Answer, Refusal>) {
        if let Some(sender) = self.0.take() {
            // A caller that stopped waiting learns the outcome when it repeats the order id.
            let _ = sender.send(result);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(Err(Refusal::OutcomeUnknown));
        }
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

/// How an actor that sleeps is woken: it lives on a thread, or, in a simulation, in a task.
pub enum Wake {
    /// The thread.
    Thread(Unparker),
    /// The task.
    Task(Arc<Notify>),
}

impl Wake {
    fn wake(&self) {
        match self {
            Wake::Thread(unparker) => unparker.unpark(),
            Wake::Task(notify) => notify.notify_one(),
        }
    }
}

struct Inner {
    commands: SegQueue<(Command, Reply)>,
    commands_waiting: AtomicUsize,
    log: SegQueue<LogEvent>,
    log_waiting: AtomicUsize,
    log_drained: Notify,
    wake: Wake,
}

/// A handle to one actor's mailbox.
#[derive(Clone)]
pub struct Mailbox(Arc<Inner>);

impl Mailbox {
    pub(crate) fn new(wake: Wake) -> Self {
        Mailbox(Arc::new(Inner {
            commands: SegQueue::new(),
            commands_waiting: AtomicUsize::new(0),
            log: SegQueue::new(),
            log_waiting: AtomicUsize::new(0),
            log_drained: Notify::new(),
            wake,
        }))
    }

    /// Hands a command over. A full mailbox answers `overloaded` at once.
    pub fn send(&self, command: Command, reply: Reply) {
        if self.0.commands_waiting.fetch_add(1, Ordering::Relaxed) >= MAILBOX_COMMANDS_MAX {
            self.0.commands_waiting.fetch_sub(1, Ordering::Relaxed);
            return reply.send(Err(Refusal::Overloaded));
        }
        self.0.commands.push((command, reply));
        self.0.wake.wake();
    }

    /// Hands a command over and waits for its answer.
    pub async fn ask(&self, command: Command) -> Result<Answer, Refusal> {
        let (reply, answer) = Reply::slot();
        self.send(command, reply);
        answer.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    /// Has the actor look around now.
    pub(crate) fn wake(&self) {
        self.0.wake.wake();
    }

    /// Commands that wait.
    pub fn depth(&self) -> usize {
        self.0.commands_waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn take_command(&self) -> Option<(Command, Reply)> {
        let taken = self.0.commands.pop();
        if taken.is_some() {
            self.0.commands_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    pub(crate) fn push_log(&self, event: LogEvent) {
        self.0.log_waiting.fetch_add(1, Ordering::Relaxed);
        self.0.log.push(event);
        self.0.wake.wake();
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
