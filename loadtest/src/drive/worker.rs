//! One worker: a thread with its connections, orders, pace and figures.
//!
//! Invariant: a worker shares nothing with another while the run goes on, except the wish to stop.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

use super::pace::Pacer;
use crate::client::Answer;
use crate::ledger::{Entry, Grab, Word};
use crate::record::Recorder;
use crate::workload::{Ending, Orders, Step, Workload};

/// The shortest time between two looks at what is due: a request is sent at most this late, and waking up for each of
/// 100,000 requests a second would cost more than sending them.
const DUE_RESOLUTION: Duration = Duration::from_micros(50);

/// The longest time between two looks, so that a wish to stop is heard.
const DUE_LOOK_MAX: Duration = Duration::from_millis(100);

/// What connections of a worker share.
pub(super) struct Desk {
    pub(super) orders: Orders,
    pub(super) recorder: Recorder,
    pub(super) pacer: Pacer,
    /// Connections that wait for something to be due, longest first.
    pub(super) idle: VecDeque<Rc<Notify>>,
}

/// A worker.
pub(super) struct Worker {
    desk: RefCell<Desk>,
    workload: Arc<Workload>,
    pipeline: usize,
    timeout: Duration,
    until: Option<Instant>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    pub(super) fn new(
        desk: Desk,
        workload: Arc<Workload>,
        pipeline: usize,
        timeout: Duration,
        until: Option<Instant>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            desk: RefCell::new(desk),
            workload,
            pipeline,
            timeout,
            until,
            stop,
        }
    }

    /// What the connections share; a connection never waits while it has it.
    pub(super) fn desk(&self) -> RefMut<'_, Desk> {
        let mut desk = self.desk.borrow_mut();
        if self.stop.load(Ordering::Relaxed) {
            desk.pacer.end();
        }
        desk
    }

    pub(super) fn into_desk(self) -> Desk {
        self.desk.into_inner()
    }

    pub(super) fn workload(&self) -> &Workload {
        &self.workload
    }

    pub(super) fn pipeline(&self) -> usize {
        self.pipeline
    }

    /// How long an answer may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether nothing is to be sent any more.
    pub(super) fn is_over(&self) -> bool {
        let past = self.until.is_some_and(|until| Instant::now() >= until);
        past || self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn on_lost(&self, broken: Option<String>) {
        self.desk.borrow_mut().recorder.on_lost(broken);
    }

    /// Records what a step was answered, in the figures and in the ledger.
    pub(super) fn on_answers(
        &self,
        step: &Step,
        started: Instant,
        now: Option<Instant>,
        answers: &[Answer],
    ) -> Ending {
        let mut desk = self.desk.borrow_mut();
        // A step without an answer has no latency, but it is counted.
        let ended = now.unwrap_or_else(Instant::now);
        desk.recorder
            .on_answers(step.kind(), started, ended, answers);
        let mut ending = Ending::Refused;
        for (index, answer) in answers.iter().enumerate() {
            ending = if answer.is_success() {
                Ending::Granted
            } else if answer.is_unknown() {
                Ending::Unknown
            } else {
                Ending::Refused
            };
            if let Some(order) = step.order(index) {
                enter(desk.orders.stripe().entry(order), step, *answer);
            }
        }
        ending
    }

    /// Wakes connections when something is due, until the run is over.
    pub(super) async fn run_clock(&self) -> io::Result<()> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        // A timer is read like a pipe; the runtime's own wrapper for any descriptor is unsafe to call.
        let timer_in = Receiver::from_file_unchecked(File::from(timer.try_clone()?))?;
        loop {
            let now = Instant::now();
            let next = {
                let mut desk = self.desk();
                for _ in 0..desk.pacer.due(now) {
                    let Some(idle) = desk.idle.pop_front() else {
                        break;
                    };
                    idle.notify_one();
                }
                // What is due and found no connection is taken by the next one that is free.
                desk.pacer.next_after(now)
            };
            if self.is_over() {
                break;
            }
            let ahead = next.map_or(DUE_LOOK_MAX, |due| due.saturating_duration_since(now));
            let ahead = ahead.clamp(DUE_RESOLUTION, DUE_LOOK_MAX);
            wait(&timer, &timer_in, ahead).await?;
        }
        // Those that still wait learn that it is over.
        for idle in self.desk().idle.drain(..) {
            idle.notify_one();
        }
        Ok(())
    }
}

/// Waits to the microsecond; the runtime's own timers go by the millisecond.
async fn wait(timer: &OwnedFd, timer_in: &Receiver, ahead: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(ahead.subsec_nanos()),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    loop {
        timer_in.readable().await?;
        let mut expirations = [0; 8];
        match timer_in.try_read(&mut expirations) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Enters what a step about an order was answered.
fn enter(entry: &mut Entry, step: &Step, answer: Answer) {
    let word = if answer.is_success() {
        Word::Done
    } else if answer.is_unknown() {
        Word::Unknown
    } else {
        Word::Refused
    };
    let denied = entry.grab() == Grab::Granted && answer.denies_the_order();
    match step {
        Step::Grab { .. } | Step::Repeat { .. } | Step::Batch { .. } => entry.on_grab(match word {
            Word::Done => Grab::Granted,
            Word::Unknown => Grab::Unknown,
            _ if denied => Grab::Contradicted,
            _ => Grab::Refused,
        }),
        Step::Confirm { .. } => entry.on_confirm(word),
        Step::Cancel { .. } => entry.on_cancel(word),
        Step::ReadOrder { .. } if denied => entry.on_grab(Grab::Contradicted),
        Step::ReadOrder { .. } | Step::ReadPromotion { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Code;

    fn answer(status: u16, code: &str) -> Answer {
        Answer {
            status,
            code: Code::of(code.as_bytes()),
        }
    }

    #[test]
    fn answers_are_entered_as_what_they_mean() {
        let mut entry = Entry::default();
        let grab = Step::Grab { order: 0 };
        enter(&mut entry, &grab, answer(504, "outcome_unknown"));
        assert_eq!(entry.grab(), Grab::Unknown);
        enter(&mut entry, &grab, answer(200, "granted"));
        assert_eq!(entry.grab(), Grab::Granted);
        let confirm = Step::Confirm {
            order: 0,
            promotion: 0,
        };
        enter(&mut entry, &confirm, Answer::NONE);
        assert_eq!(
            (entry.confirm(), entry.cancel()),
            (Word::Unknown, Word::Unasked)
        );
    }

    #[test]
    fn a_granted_order_that_is_denied_is_a_contradiction() {
        let granted = || {
            let mut entry = Entry::default();
            entry.on_grab(Grab::Granted);
            entry
        };
        let repeat = Step::Repeat { order: 0 };
        let read = Step::ReadOrder {
            order: 0,
            promotion: 0,
        };
        let ends_as = |step: &Step, status, code| {
            let mut entry = granted();
            enter(&mut entry, step, answer(status, code));
            entry.grab()
        };
        assert_eq!(ends_as(&repeat, 409, "sold_out"), Grab::Contradicted);
        assert_eq!(ends_as(&read, 404, "order_not_found"), Grab::Contradicted);
        assert_eq!(ends_as(&repeat, 409, "order_returned"), Grab::Granted);
        assert_eq!(ends_as(&repeat, 429, "overloaded"), Grab::Granted);
    }
}
