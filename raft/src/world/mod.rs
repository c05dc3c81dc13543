//! What comes from outside: randomness, the wall clock, and threads that may block.
//!
//! Everything in this crate that could make two runs differ comes through here, so that a simulation of
//! a whole cluster in one thread, under tokio's paused time, is a function of its seed. Outside a
//! simulation each call is the system's own.

mod beat;
mod channel;
mod home;
mod lateness;
mod life;
mod scarcity;
pub mod watch;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::{Either, Ready, ready};
use openraft::Instant as _;
use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft::impls::TokioRuntime;
use qiang_engine::UnixMs;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng, TryRng};
use tokio::time::Instant;

pub(crate) use beat::BEAT;
pub(crate) use home::Home;
pub(crate) use lateness::HoldUps;
pub use life::{Life, spawn};
pub(crate) use scarcity::room;

thread_local! {
    /// The generator of a simulation's only thread.
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// Makes all randomness on this thread a function of `seed`, and has blocking work run inline: for
/// simulations, which live on one thread. `None` ends that.
pub fn seed_this_thread(seed: Option<u64>) {
    SEEDED.with(|seeded| *seeded.borrow_mut() = seed.map(SmallRng::seed_from_u64));
}

pub(crate) fn is_simulated() -> bool {
    SEEDED.with(|seeded| seeded.borrow().is_some())
}

/// The source of randomness: the system's, or the simulation's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(draw(Rng::next_u32, Rng::next_u32))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(draw(Rng::next_u64, Rng::next_u64))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        Ok(())
    }
}

fn draw<T>(
    simulated: impl FnOnce(&mut SmallRng) -> T,
    system: impl FnOnce(&mut rand::rngs::ThreadRng) -> T,
) -> T {
    SEEDED.with(|seeded| match seeded.borrow_mut().as_mut() {
        Some(generator) => simulated(generator),
        None => system(&mut rand::rng()),
    })
}

/// A random number.
pub fn random_u64() -> u64 {
    Random.next_u64()
}

/// A random duration below `limit`.
pub(crate) fn random_below(limit: Duration) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(Random.random_range(0..micros))
}

/// Runs `work`, which may block, without holding up the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if is_simulated() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}

/// Lets everybody who is ready go first, so that what they say can be sent together.
pub(crate) async fn others_first() {
    tokio::task::yield_now().await;
}

/// Waits for `duration`, and outside a simulation for the next of the process's beats.
pub(crate) async fn sleep_to_beat(duration: Duration) {
    let wait = if is_simulated() {
        duration
    } else {
        beat::on_beat(duration)
    };
    tokio::time::sleep(wait).await;
}

/// The wall clock of one node.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<SimulatedClock>>);

#[derive(Debug)]
struct SimulatedClock {
    began: Instant,
    began_at: UnixMs,
    ahead_ms: AtomicI64,
}

impl Clock {
    /// A clock that goes with tokio's time and shows `began_at` at the moment `began` of it, for simulations.
    pub fn simulated(began: Instant, began_at: UnixMs) -> Self {
        Clock(Some(Arc::new(SimulatedClock {
            began,
            began_at,
            ahead_ms: AtomicI64::new(0),
        })))
    }

    /// Sets a simulated clock to be this much ahead of the others, in milliseconds; nothing else has an effect.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        if let Some(simulated) = &self.0 {
            simulated.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        }
    }

    /// The time.
    pub fn now(&self) -> UnixMs {
        let Some(simulated) = &self.0 else {
            return wall_clock();
        };
        let elapsed = u64::try_from(simulated.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ahead_ms = simulated.ahead_ms.load(Ordering::Relaxed);
        UnixMs((simulated.began_at.0 + elapsed).saturating_add_signed(ahead_ms))
    }
}

/// The system's wall clock.
pub fn wall_clock() -> UnixMs {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// tokio with this module's randomness and timers: what openraft runs on.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Either<Ready<()>, <TokioRuntime as AsyncRuntime>::Sleep>;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Random;
    type Mpsc = channel::LateMpsc;
    type Watch = watch::OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Either::Right(TokioRuntime::sleep(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        if is_simulated() {
            return Either::Right(TokioRuntime::sleep_until(deadline));
        }
        let wait = deadline.saturating_duration_since(Self::Instant::now());
        match beat::on_beat(wait) {
            Duration::ZERO => Either::Left(ready(())),
            wait => Either::Right(TokioRuntime::sleep(wait)),
        }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Random {
        Random
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
