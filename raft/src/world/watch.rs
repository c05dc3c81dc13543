//! A value that others watch: its last state, and a word to whoever waits for the next.
//!
//! openraft shows its state through several of these after every step, mostly to nobody who waits. tokio's own spreads waiters over
//! several lists, each with its lock, and wakes them in random order; here there is one list, first come, first woken, which is
//! cheaper and makes two runs of a simulation equal.
//!
//! Invariant: a change is seen by every receiver that asks after it, before it learns that nobody is left to make another.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::Notify;

/// The channel.
pub struct OrderedWatch;

/// Changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value and waits for the next.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that was seen last.
    seen: u64,
}

/// The value for as long as it is looked at; it cannot change meanwhile.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

struct Shared<T> {
    value: RwLock<T>,
    /// Counts changes; it goes up while the value is locked for writing.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    changed: Notify,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.value.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value as `modify` does, and wakes who waits if it says that there is something new.
    fn change(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.write();
        let modified = modify(&mut value);
        if modified {
            self.version.fetch_add(1, Ordering::Release);
        }
        drop(value);
        if modified {
            self.changed.notify_waiters();
        }
        modified
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Sender<T> {
    /// A channel with this first value.
    pub fn new(init: T) -> Self {
        Sender(Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// Looks at the value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

/// Who waits learns that nobody is left to change the value.
impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    fn of(shared: &Arc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver {
            shared: shared.clone(),
            seen,
        }
    }

    /// Looks at the value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// Waits for the next value; false if nobody is left to change it.
    pub async fn next(&mut self) -> bool
    where
        T: OptionalSend + OptionalSync,
    {
        self.changed().await.is_ok()
    }

    /// Takes the present value for seen.
    pub fn mark_seen(&mut self) {
        self.take_change();
    }

    /// Whether there is a value that was not seen; it counts as seen from now on.
    fn take_change(&mut self) -> bool {
        let version = self.shared.version.load(Ordering::Acquire);
        std::mem::replace(&mut self.seen, version) != version
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver::of(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let sender = Sender::new(init);
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Relaxed) == 0 {
            return Err(SendError(value));
        }
        self.0.change(|shown| {
            *shown = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.change(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.version.load(Ordering::Acquire);
        Receiver::of(&self.0, seen)
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let shared = self.shared.clone();
        loop {
            let notified = shared.changed.notified();
            tokio::pin!(notified);
            // Enlisted before the look, so that no change falls in between.
            notified.as_mut().enable();
            let gone = shared.senders.load(Ordering::Acquire) == 0;
            if self.take_change() {
                return Ok(());
            }
            if gone {
                return Err(RecvError(()));
            }
            notified.await;
        }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let shown = self.shared.read();
        self.seen = self.shared.version.load(Ordering::Acquire);
        shown
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_last_one_even_when_nobody_is_left_to_make_another() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        let mut late = receiver.clone();
        sender.send(1).expect("watched");
        assert!(receiver.next().await);
        assert_eq!(*receiver.borrow(), 1);
        assert!(!sender.send_if_modified(|_| false));
        let nothing = tokio::time::timeout(Duration::from_millis(5), receiver.next()).await;
        assert!(nothing.is_err(), "there was nothing new");
        assert_eq!(*late.borrow_and_update(), 1);
        sender.send(2).expect("watched");
        drop(sender);
        assert!(late.next().await && *late.borrow() == 2);
        assert!(!late.next().await);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_a_change_and_by_the_last_senders_end() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        let second = sender.clone();
        let waiting = tokio::spawn(async move {
            let changed = receiver.next().await;
            let value = *receiver.borrow();
            (changed, value, receiver.next().await)
        });
        tokio::task::yield_now().await;
        second.send(7).expect("watched");
        tokio::task::yield_now().await;
        drop(sender);
        drop(second);
        assert_eq!(waiting.await.expect("joined"), (true, 7, false));
    }

    #[test]
    fn what_nobody_watches_is_not_sent() {
        let (sender, receiver) = OrderedWatch::channel(0);
        drop(receiver);
        assert_eq!(sender.send(1).expect_err("nobody watches").0, 1);
        assert_eq!(*sender.borrow(), 0);
    }
}
