//! Simulated processes: all tasks of one can be killed at once, as by `kill -9`, or stand still, as under
//! SIGSTOP, while the clocks go on.
//!
//! Invariant: a task belongs to the life of the task that spawned it; outside any life, spawning is tokio's own.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

tokio::task_local! {
    static PRESENT: Life;
}

/// One simulated process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Life(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    paused: AtomicBool,
    dead: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Tasks that were to run while the process stood still.
    waiting: Mutex<Vec<Waker>>,
    /// When it last went on.
    went_on: Mutex<Option<Instant>>,
}

impl Life {
    /// Spawns the process's first task, or one that comes to it from outside.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let lived = Lived {
            life: self.clone(),
            future: Box::pin(PRESENT.scope(self.clone(), future)),
        };
        let task = tokio::spawn(lived);
        if self.0.dead.load(Ordering::Acquire) {
            task.abort();
        } else {
            let mut tasks = lock(&self.0.tasks);
            if tasks.len() >= 1024 && tasks.len().is_power_of_two() {
                tasks.retain(|task| !task.is_finished());
            }
            tasks.push(task.abort_handle());
        }
        task
    }

    /// Ends every task where it stands.
    pub fn kill(&self) {
        self.0.dead.store(true, Ordering::Release);
        for task in lock(&self.0.tasks).drain(..) {
            task.abort();
        }
        self.go_on();
    }

    /// Has every task stand still.
    pub fn pause(&self) {
        self.0.paused.store(true, Ordering::Release);
    }

    /// Ends a pause.
    pub fn go_on(&self) {
        self.0.paused.store(false, Ordering::Release);
        *lock(&self.0.went_on) = Some(Instant::now());
        let waiting = std::mem::take(&mut *lock(&self.0.waiting));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// When its last pause ended, if it ever stood still.
    pub(super) fn went_on_at(&self) -> Option<Instant> {
        *lock(&self.0.went_on)
    }

    /// Whether it was not killed.
    pub fn is_alive(&self) -> bool {
        !self.0.dead.load(Ordering::Acquire)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process that this task belongs to, in a simulation.
pub(super) fn present() -> Option<Life> {
    PRESENT.try_with(Life::clone).ok()
}

/// Spawns a task that belongs to the same process as this one.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match PRESENT.try_with(Life::clone) {
        Ok(life) => life.spawn(future),
        Err(_) => tokio::spawn(future),
    }
}

/// A task that runs only while its process does.
struct Lived<T> {
    life: Life,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> Future for Lived<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if self.life.0.paused.load(Ordering::Acquire) {
            lock(&self.life.0.waiting).push(context.waker().clone());
            return Poll::Pending;
        }
        self.future.as_mut().poll(context)
    }
}
