//! One node's disk: the log of every group, the little state that Raft must not lose, and snapshot files.
//!
//! The log *is* the flow log: an accepted grab is written once per replica, here. One RocksDB holds all groups; one writer
//! thread takes what every group has to write, puts everything that waits into one batch with one synced write, and only then
//! calls back. So one `fsync` serves all groups, and what the log recovers to after a crash is always a prefix, without holes, of
//! what was handed over.
//!
//! The crate knows nothing of Raft: entries, votes and markers are opaque bytes under `(group, index)`. What it promises:
//! - nothing whose callback said `Ok` is lost, whatever dies;
//! - what is read back is what was written: every value carries a checksum over its key and itself, checked on each read, and a
//!   value that fails it is an error that names it, never skipped;
//! - after the first failed write the store takes no more (`Store::fault`), and goes on reading.
//!
//! With the feature `simulation` there is a second kind of store, for tests: the same code on a disk in memory, without a thread and
//! without a clock (`Store::open_simulated`). The real kind is the same with the feature and without.

mod batch;
mod database;
mod directory;
mod error;
mod group;
mod identity;
mod log;
mod operation;
mod options;
mod reader;
mod record;
#[cfg(feature = "simulation")]
mod simulation;
mod snapshot;
mod stats;
mod store;
mod tail;
mod wal_check;
mod writer;

pub use bytes::Bytes;
#[cfg(feature = "simulation")]
pub use database::SimulatedDisk;
pub use error::{IncarnationError, OpenError, ReadError, SnapshotError, WriteError};
pub use identity::{FORMAT_VERSION, Identity};
pub use log::GroupLog;
pub use operation::Done;
pub use options::Options;
pub use record::{GROUPS_MAX, GroupId};
#[cfg(feature = "simulation")]
pub use simulation::Written;
pub use snapshot::{SnapshotDir, SnapshotInfo, SnapshotReader, SnapshotWriter};
pub use stats::{Histogram, Stats};
pub use store::Store;
