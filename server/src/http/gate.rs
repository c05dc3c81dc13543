//! The method-level bound on grabs in flight: past it a grab is refused at once, before anything is done.
//!
//! Invariant: the grabs let in never exceed the bound, except for one batch larger than it when nothing else is in
//! flight; what was let in leaves when its permit is dropped, however the request ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the grabs in flight on this node.
#[derive(Debug, Clone, Default)]
pub(crate) struct GrabGate {
    in_flight: Arc<AtomicU64>,
}

/// The right to have so many grabs in flight, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<'a> {
    in_flight: &'a AtomicU64,
    grabs: u64,
}

impl GrabGate {
    /// Lets `grabs` in under a bound of `most`; `None` when they would pass it.
    pub(crate) fn enter(&self, grabs: u64, most: u64) -> Option<Permit<'_>> {
        let mut now = self.in_flight.load(Ordering::Relaxed);
        loop {
            // A batch larger than the bound could otherwise never be served.
            if now > 0 && now.saturating_add(grabs) > most {
                return None;
            }
            match self.in_flight.compare_exchange_weak(
                now,
                now + grabs,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(seen) => now = seen,
            }
        }
        Some(Permit {
            in_flight: &self.in_flight,
            grabs,
        })
    }

    /// Grabs in flight just now.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.grabs, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_until_a_permit_is_dropped() {
        let gate = GrabGate::default();
        let first = gate.enter(1, 2).unwrap();
        let second = gate.enter(1, 2).unwrap();
        assert!(gate.enter(1, 2).is_none());
        drop(first);
        let third = gate.enter(1, 2).unwrap();
        assert_eq!(gate.in_flight(), 2);
        drop((second, third));
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_batch_larger_than_the_bound_goes_alone() {
        let gate = GrabGate::default();
        let single = gate.enter(1, 10).unwrap();
        assert!(gate.enter(100, 10).is_none());
        drop(single);
        let batch = gate.enter(100, 10).unwrap();
        assert!(gate.enter(1, 10).is_none());
        drop(batch);
        drop(gate.enter(1, 10).unwrap());
    }

    #[test]
    fn threads_together_keep_the_bound() {
        let gate = GrabGate::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let permit = gate.enter(1, 3);
                        assert!(gate.in_flight() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(gate.in_flight(), 0);
    }
}
