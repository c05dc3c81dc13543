//! Replication: one Raft group per shard and one for the cluster's own state, on openraft.
//!
//! openraft stays behind this crate: nothing of it is seen outside. A grab passes through here four
//! times: [`Mailbox`] takes it in, `host` lets the shard's actor decide it and proposes the turn's
//! batch, `log_store` hands the entry to storage, and `shard_machine` brings it back to the actor
//! when it is committed.

pub mod board;
pub mod flows;
mod group;
mod host;
mod keeper;
mod log_store;
mod mailbox;
mod meta;
mod network;
mod node;
pub mod offline;
mod shard_machine;
mod snapshot;
mod start;
#[cfg(test)]
mod storage_suite;
mod types;

pub use board::Board;
pub use flows::{Flow, FlowError};
pub use group::GroupStatus;
pub use host::wall_clock;
pub use mailbox::{Mailbox, Reply};
pub use meta::{ConfigRefusal, ConfigVersion};
pub use node::{CourierJob, Node, NodeOptions, Policy, StartError};
pub use types::NodeInfo;
