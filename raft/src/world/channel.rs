//! The channels between Raft's tasks. In a simulation, whose only thread lets a task go on until it waits, what is sent may
//! come a little late, as if the thread of its sender had been held up just before.
//!
//! Invariant: what goes through one channel comes in the order in which it was sent, late or not; outside a simulation a
//! channel is tokio's.

use futures::TryFutureExt;
use openraft::OptionalSend;
use openraft::async_runtime::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, SendError, TryRecvError,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::lateness::Lateness;

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
    held_back: Option<Box<HeldBack<T>>>,
}

/// What a simulated channel holds back.
struct HeldBack<T> {
    /// The message that is next, and when it comes.
    next: Option<(T, Instant)>,
    lateness: Lateness,
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
        let held_back = Lateness::new().map(|lateness| {
            Box::new(HeldBack {
                next: None,
                lateness,
            })
        });
        (Sender(sender), Receiver { inner, held_back })
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
        let Some(held_back) = &mut self.held_back else {
            return self.inner.recv().await;
        };
        if held_back.next.is_none() {
            let message = self.inner.recv().await?;
            held_back.hold_back(message);
        }
        let (_, comes_at) = held_back.next.as_ref()?;
        if *comes_at > Instant::now() {
            sleep_until(*comes_at).await;
        }
        held_back.next.take().map(|(message, _)| message)
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let Some(held_back) = &mut self.held_back else {
            return self.inner.try_recv().map_err(said);
        };
        if held_back.next.is_none() {
            let message = self.inner.try_recv().map_err(said)?;
            held_back.hold_back(message);
        }
        let now = Instant::now();
        let come = held_back.next.take_if(|(_, comes_at)| *comes_at <= now);
        come.map(|(message, _)| message).ok_or(TryRecvError::Empty)
    }
}

impl<T> HeldBack<T> {
    fn hold_back(&mut self, message: T) {
        self.next = Some((message, Instant::now() + self.lateness.draw()));
    }
}

fn said(error: mpsc::error::TryRecvError) -> TryRecvError {
    match error {
        mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
        mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
    }
}
