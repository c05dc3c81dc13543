//! When the next request may start.
//!
//! Invariant: in an open loop a request's start is the moment it was due, however late it could be sent: a stall of the
//! server, or of this program, is in the latencies and not hidden by sending less.

use std::time::{Duration, Instant};

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each connection asks again when it was answered.
    Closed,
    /// So many requests a second, over all connections, whatever the answers do.
    Open {
        /// Requests a second.
        rate: f64,
    },
}

/// What a connection may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Start a request; its latency counts from here.
    Start(Instant),
    /// Nothing is due yet.
    Wait,
    /// The run is over.
    Over,
}

/// The pace of one worker.
#[derive(Debug)]
pub struct Pacer {
    from: Instant,
    until: Option<Instant>,
    /// Between requests of this worker; `None` in a closed loop.
    interval: Option<Duration>,
    started: u64,
    over: bool,
}

impl Pacer {
    /// The pace of one of `workers` from `from` until `until`.
    pub fn new(
        pace: Pace,
        worker: u64,
        workers: u64,
        from: Instant,
        until: Option<Instant>,
    ) -> Self {
        let interval = match pace {
            Pace::Closed => None,
            Pace::Open { rate } => Some(Duration::from_secs_f64(workers as f64 / rate)),
        };
        // Workers take turns instead of asking all at once.
        let offset = interval.map_or(Duration::ZERO, |interval| {
            interval.mul_f64(worker as f64 / workers as f64)
        });
        Self {
            from: from + offset,
            until,
            interval,
            started: 0,
            over: false,
        }
    }

    /// Whether a request may start now. One that does is told by [`Self::on_start`].
    pub fn turn(&self, now: Instant) -> Turn {
        match (self.until, self.next_due()) {
            _ if self.over => Turn::Over,
            // What was due before the end is still sent when there is a connection for it.
            (Some(until), Some(due)) if due >= until => Turn::Over,
            (Some(until), None) if now >= until => Turn::Over,
            (_, Some(due)) if due > now => Turn::Wait,
            (_, Some(due)) => Turn::Start(due),
            (_, None) => Turn::Start(now),
        }
    }

    /// A request was started.
    pub fn on_start(&mut self) {
        self.started += 1;
    }

    /// No request is to start any more.
    pub fn end(&mut self) {
        self.over = true;
    }

    /// When the next request is due; `None` in a closed loop.
    fn next_due(&self) -> Option<Instant> {
        let interval = self.interval?;
        // From the beginning, not from the one before: lateness of one must not move what follows.
        let nanos = interval.as_nanos() * u128::from(self.started);
        Some(self.from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The first moment after `now` at which a request becomes due; `None` in a closed loop.
    pub fn next_after(&self, now: Instant) -> Option<Instant> {
        let interval = self.interval?.as_nanos().max(1);
        let Some(passed) = now.checked_duration_since(self.from) else {
            return Some(self.from);
        };
        let nanos = (passed.as_nanos() / interval + 1) * interval;
        Some(self.from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// How many requests are due by `now`.
    pub fn due(&self, now: Instant) -> u64 {
        let Some(interval) = self.interval else {
            return 0;
        };
        let end = self.until.map_or(now, |until| until.min(now));
        let Some(passed) = end.checked_duration_since(self.from) else {
            return 0;
        };
        let passed = passed.as_nanos();
        let due = passed / interval.as_nanos().max(1) + 1;
        u64::try_from(due)
            .unwrap_or(u64::MAX)
            .saturating_sub(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_counts_from_the_moment_due() {
        let from = Instant::now();
        let at = |ms| from + Duration::from_millis(ms);
        let mut pacer = Pacer::new(Pace::Open { rate: 100.0 }, 0, 1, from, Some(at(40)));
        assert_eq!(pacer.turn(at(0)), Turn::Start(at(0)));
        pacer.on_start();
        assert_eq!(pacer.turn(at(5)), Turn::Wait);
        // A stall of 25 ms: what was due meanwhile starts late and counts from then.
        assert_eq!(pacer.due(at(30)), 3);
        assert_eq!(pacer.turn(at(30)), Turn::Start(at(10)));
        pacer.on_start();
        assert_eq!(pacer.turn(at(30)), Turn::Start(at(20)));
        pacer.on_start();
        assert_eq!(pacer.turn(at(50)), Turn::Start(at(30)));
        pacer.on_start();
        assert_eq!(pacer.turn(at(50)), Turn::Over);
    }

    #[test]
    fn workers_share_a_rate() {
        let from = Instant::now();
        let pace = Pace::Open { rate: 1_000.0 };
        let second = Pacer::new(pace, 1, 2, from, None);
        let at = |ms| from + Duration::from_millis(ms);
        assert_eq!(second.next_after(from), Some(at(1)));
        assert_eq!(second.next_after(at(1)), Some(at(3)));
        assert_eq!(second.next_after(at(4)), Some(at(5)));
        assert_eq!(second.due(at(10)), 5);
    }

    #[test]
    fn a_closed_loop_goes_on_until_the_end() {
        let from = Instant::now();
        let until = from + Duration::from_secs(1);
        let mut pacer = Pacer::new(Pace::Closed, 0, 1, from, Some(until));
        assert_eq!(pacer.turn(from), Turn::Start(from));
        assert_eq!(pacer.turn(until), Turn::Over);
        pacer.end();
        assert_eq!(pacer.turn(from), Turn::Over);
    }
}
