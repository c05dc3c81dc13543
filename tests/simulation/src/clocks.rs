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
    /// How far each machine's is ahead, in milliseconds.
    ahead_ms: BTreeMap<u64, i64>,
    /// The latest time that one has said before it was set.
    latest_before: UnixMs,
    jumps: u64,
}

impl Clocks {
    /// Those of these machines, all as this one until they are set.
    pub fn new(right: Clock, machines: impl IntoIterator<Item = u64>) -> Self {
        Clocks {
            right,
            ahead_ms: machines.into_iter().map(|machine| (machine, 0)).collect(),
            latest_before: UnixMs(0),
            jumps: 0,
        }
    }

    /// The clock of a machine is set, or comes with it.
    pub fn set(&mut self, machine: u64, ahead_ms: i64) {
        self.latest_before = self.latest();
        self.ahead_ms.insert(machine, ahead_ms);
        self.jumps += 1;
    }

    /// A machine is gone for good, and its clock with it.
    pub fn forget(&mut self, machine: u64) {
        self.latest_before = self.latest();
        self.ahead_ms.remove(&machine);
    }

    /// The true time.
    pub fn now(&self) -> UnixMs {
        self.right.now()
    }

    /// The latest time that one says, or has ever said.
    pub fn latest(&self) -> UnixMs {
        self.said(self.ahead_ms.values().max())
            .max(self.latest_before)
    }

    /// The earliest time that one says.
    pub fn earliest(&self) -> UnixMs {
        self.said(self.ahead_ms.values().min())
    }

    fn said(&self, ahead_ms: Option<&i64>) -> UnixMs {
        let ahead_ms = ahead_ms.copied().unwrap_or_default();
        UnixMs(self.now().0.saturating_add_signed(ahead_ms))
    }

    /// How often one was set.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}
