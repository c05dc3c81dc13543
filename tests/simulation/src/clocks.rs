//! What the wall clocks of all machines say together. Each may be seconds ahead of the others or behind them.
//!
//! Invariant: no node reads a time that is earlier or later than is said here.

use std::collections::BTreeMap;

use qiang_engine::UnixMs;
use qiang_raft::world::Clock;

/// The clocks of a run.
#[derive(Debug)]
pub struct Clocks {
    right: Clock,
    /// How far those are ahead that were ever set, in milliseconds.
    ahead_ms: BTreeMap<u64, i64>,
    /// The latest time that one has said before it was set.
    latest_before: UnixMs,
    jumps: u64,
}

impl Clocks {
    /// All of them as this one, until they are set.
    pub fn new(right: Clock) -> Self {
        Clocks {
            right,
            ahead_ms: BTreeMap::new(),
            latest_before: UnixMs(0),
            jumps: 0,
        }
    }

    /// The clock of a machine is set.
    pub fn set(&mut self, machine: u64, ahead_ms: i64) {
        self.latest_before = self.latest();
        self.ahead_ms.insert(machine, ahead_ms);
        self.jumps += 1;
    }

    /// The true time.
    pub fn now(&self) -> UnixMs {
        self.right.now()
    }

    /// The latest time that one says, or has ever said.
    pub fn latest(&self) -> UnixMs {
        let ahead_ms = self.ahead_ms.values().max().copied().unwrap_or(0).max(0);
        let now = UnixMs(self.now().0.saturating_add_signed(ahead_ms));
        now.max(self.latest_before)
    }

    /// The earliest time that one says.
    pub fn earliest(&self) -> UnixMs {
        let ahead_ms = self.ahead_ms.values().min().copied().unwrap_or(0).min(0);
        UnixMs(self.now().0.saturating_add_signed(ahead_ms))
    }

    /// How often one was set.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}
