//! Waiting for a condition with a deadline, the only way a test here waits.
//!
//! Invariant: when the deadline passes, the panic names what was waited for and the last state that was seen.

use std::time::{Duration, Instant};

/// How often a condition is looked at again. Short beside every promise of the contract (one second), long beside a request.
const POLL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it gives `Ok`, at most for `within`; an `Err` carries the present state for the message.
#[track_caller]
pub fn wait_until<T>(
    within: Duration,
    what: &str,
    condition: impl FnMut() -> Result<T, String>,
) -> T {
    wait_until_by(Instant::now() + within, what, condition)
}

/// As [`wait_until`], with the deadline as a moment.
///
/// The condition is looked at once more after the deadline only if it was never looked at before it.
#[track_caller]
pub fn wait_until_by<T>(
    deadline: Instant,
    what: &str,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    let mut looks = 0_u32;
    loop {
        let asked = Instant::now();
        looks += 1;
        let state = match condition() {
            Ok(value) => return value,
            Err(state) => state,
        };
        assert!(
            asked < deadline,
            "waited {:?} ({looks} looks) for: {what}\n  last state: {state}",
            started.elapsed()
        );
        // Not a synchronisation: only the pause between two looks at the condition.
        std::thread::sleep(POLL);
    }
}

/// Whether `condition` came true within `within`; for cleaning up, where a panic would hide the first one.
pub fn comes_true(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        let asked = Instant::now();
        if condition() {
            return true;
        }
        if asked >= deadline {
            return false;
        }
        // As above: the pause between two looks.
        std::thread::sleep(POLL);
    }
}
