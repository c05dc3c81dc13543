//! When Raft's timers go off: all groups of a process on one beat, so that an idle node wakes a few times a second and
//! not once for every group and timer.
//!
//! Invariant: a timer goes off no earlier than asked, and less than a beat later; a wait that is shorter than a timer
//! can measure is no wait.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Width of a beat. Raft looks at its clocks this often, which is what an election may be late by.
pub const BEAT: Duration = Duration::from_millis(25);

/// What tokio's timers can measure. openraft waits for a microsecond to gather what has reached the disk; as a timer
/// that would hold up every commit for a thousand times as long.
const SHORTEST: Duration = Duration::from_millis(1);

/// How long a timer that is to go off after `wait` waits.
pub fn on_beat(wait: Duration) -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let passed = BEGAN.get_or_init(Instant::now).elapsed();
    to_beat(passed, wait)
}

/// The same, so long after the first beat.
fn to_beat(passed: Duration, wait: Duration) -> Duration {
    if wait < SHORTEST {
        return Duration::ZERO;
    }
    if wait < BEAT / 2 {
        return wait;
    }
    let beats = (passed + wait).as_micros().div_ceil(BEAT.as_micros());
    let micros = u64::try_from(beats * BEAT.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros).saturating_sub(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn timers_of_all_groups_go_off_together_and_never_early() {
        for (wait_ms, waits_ms) in [(15, 22), (22, 22), (23, 47), (70, 72)] {
            assert_eq!(to_beat(ms(1_003), ms(wait_ms)), ms(waits_ms), "{wait_ms}");
        }
    }

    #[test]
    fn short_waits_are_left_as_they_are_and_the_shortest_are_none() {
        assert_eq!(to_beat(ms(1_003), ms(5)), ms(5));
        assert_eq!(to_beat(ms(1_003), Duration::from_micros(1)), ms(0));
    }
}
