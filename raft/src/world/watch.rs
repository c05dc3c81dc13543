//! tokio's watch channel with waiters woken in the order in which they began to wait.
//!
//! tokio spreads the waiters of a watch over several lists and picks one at random for each, so two runs of
//! a simulation would differ. Here values and versions are tokio's, and waiting goes through one `Notify`,
//! which is first come, first woken.

use std::sync::Arc;

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::{Notify, watch};

/// The channel.
pub struct OrderedWatch;

/// Changes the value.
pub struct Sender<T> {
    /// `None` only while it is dropped.
    inner: Option<watch::Sender<T>>,
    changed: Arc<Notify>,
}

/// Sees the value and waits for the next.
pub struct Receiver<T> {
    inner: watch::Receiver<T>,
    changed: Arc<Notify>,
}

impl<T> Sender<T> {
    /// A channel with this first value.
    pub fn new(init: T) -> Self {
        Sender {
            inner: Some(watch::Sender::new(init)),
            changed: Arc::new(Notify::new()),
        }
    }

    /// Looks at the value.
    pub fn borrow(&self) -> watch::Ref<'_, T> {
        self.inner().borrow()
    }

    fn inner(&self) -> &watch::Sender<T> {
        self.inner.as_ref().expect("present until it is dropped")
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender {
            inner: self.inner.clone(),
            changed: self.changed.clone(),
        }
    }
}

/// Who waits learns that nobody is left to change the value.
impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.inner = None;
        self.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// Looks at the value.
    pub fn borrow(&self) -> watch::Ref<'_, T> {
        self.inner.borrow()
    }

    /// Waits for the next value; false if nobody is left to change it.
    pub async fn next(&mut self) -> bool
    where
        T: OptionalSend + OptionalSync,
    {
        self.changed().await.is_ok()
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver {
            inner: self.inner.clone(),
            changed: self.changed.clone(),
        }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let sender = Sender::new(init);
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        let sent = self.inner().send(value).map_err(|error| SendError(error.0));
        self.changed.notify_waiters();
        sent
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.inner().send_if_modified(modify);
        if modified {
            self.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver {
            inner: self.inner().subscribe(),
            changed: self.changed.clone(),
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let changed = self.changed.clone();
        loop {
            let notified = changed.notified();
            tokio::pin!(notified);
            // Enlisted before the look, so that no change falls in between.
            notified.as_mut().enable();
            if self.inner.has_changed().map_err(|_| RecvError(()))? {
                self.inner.mark_unchanged();
                return Ok(());
            }
            notified.await;
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.inner.borrow_and_update()
    }
}
