//! The channels between Raft's tasks. In a simulation, whose only thread lets a task go on until it waits, what is sent may
//! come a little late, as if the thread of its sender had been held up just before.
//!
//! Invariant: what goes through one channel comes in the order in which it was sent, late or not; outside a simulation a
//! channel is tokio's.

use std::time::Duration;

use futures::TryFutureExt;
use openraft::OptionalSend;
use openraft::async_runtime::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, SendError, TryRecvError,
};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::life::{Life, present};
use super::{Random, is_simulated};

/// Spells of lateness come after so many milliseconds at most, and last so many at most: a fifth of the time.
const BETWEEN_SPELLS_MS_MAX: u64 = 800;
const SPELL_MS_MAX: u64 = 200;

/// How long the threads of a process that stood still come back one by one.
const COMING_BACK: Duration = Duration::from_millis(100);

/// In a spell one of so many messages comes late, by so many microseconds at most: long beside a commit, and long enough for
/// a leader's lease to come back in between.
const LATE_ONE_IN: u32 = 3;
const LATE_US_MAX: u64 = 60_000;

/// The channel.
pub struct LateMpsc;

/// Sends.
pub struct Sender<T>(mpsc::Sender<T>);

/// Sends while another sender is left.
pub struct WeakSender<T>(mpsc::WeakSender<T>);

/// Receives.
pub struct Receiver<T> {
    inner: mpsc::Receiver<T>,
    /// Present in a simulation.
    lateness: Option<Box<Lateness<T>>>,
}

/// What a simulated channel holds up.
struct Lateness<T> {
    /// The message that is next, and when it comes.
    next: Option<(T, Instant)>,
    /// When messages begin to come late, and when they no longer do.
    spell: (Instant, Instant),
    /// The process that receives, if it is known.
    life: Option<Life>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender(self.0.clone())
    }
}

impl Mpsc for LateMpsc {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, inner) = mpsc::channel(buffer);
        let lateness = is_simulated().then(|| Box::new(Lateness::new()));
        (Sender(sender), Receiver { inner, lateness })
    }
}

impl<T: OptionalSend> MpscSender<LateMpsc, T> for Sender<T> {
    fn send(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> + OptionalSend {
        self.0.send(message).map_err(|error| SendError(error.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T: OptionalSend> MpscWeakSender<LateMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

impl<T: OptionalSend> MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        let Some(lateness) = &mut self.lateness else {
            return self.inner.recv().await;
        };
        if lateness.next.is_none() {
            let message = self.inner.recv().await?;
            lateness.hold_up(message);
        }
        let (_, comes_at) = lateness.next.as_ref()?;
        if *comes_at > Instant::now() {
            sleep_until(*comes_at).await;
        }
        lateness.next.take().map(|(message, _)| message)
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let Some(lateness) = &mut self.lateness else {
            return self.inner.try_recv().map_err(said);
        };
        if lateness.next.is_none() {
            let message = self.inner.try_recv().map_err(said)?;
            lateness.hold_up(message);
        }
        let now = Instant::now();
        let come = lateness.next.take_if(|(_, comes_at)| *comes_at <= now);
        come.map(|(message, _)| message).ok_or(TryRecvError::Empty)
    }
}

impl<T> Lateness<T> {
    fn new() -> Self {
        Lateness {
            next: None,
            spell: spell_after(Instant::now()),
            life: present(),
        }
    }

    fn hold_up(&mut self, message: T) {
        let now = Instant::now();
        if self.spell.1 <= now {
            self.spell = spell_after(now);
        }
        let went_on = self.life.as_ref().and_then(Life::went_on_at);
        let comes_back = went_on.is_some_and(|at| now < at + COMING_BACK);
        let in_spell = self.spell.0 <= now || comes_back;
        let late = in_spell && Random.random_range(0..LATE_ONE_IN) == 0;
        let late_us = if late {
            Random.random_range(0..LATE_US_MAX)
        } else {
            0
        };
        self.next = Some((message, now + Duration::from_micros(late_us)));
    }
}

fn spell_after(now: Instant) -> (Instant, Instant) {
    let begins = now + Duration::from_millis(Random.random_range(0..BETWEEN_SPELLS_MS_MAX));
    let lasts = Duration::from_millis(Random.random_range(0..SPELL_MS_MAX));
    (begins, begins + lasts)
}

fn said(error: mpsc::error::TryRecvError) -> TryRecvError {
    match error {
        mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
        mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
    }
}
