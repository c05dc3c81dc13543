//! Replication: a Raft group for each log that shards share and one for the cluster's own state, on openraft.
//!
//! openraft stays behind this crate: nothing of it is seen outside. A grab passes through here four
//! times: `router` brings it to its shard's leader, `host` lets the shard's actor decide it and proposes the turn's
//! batch, `log_store` hands the entry to storage, and `shard_machine` brings it back to the actor
//! when it is committed.

mod answers;
mod any_raft;
pub mod backup;
pub mod board;
mod closings;
pub mod cluster;
mod contacts;
mod early;
pub mod flows;
mod group;
mod groups;
mod hand_over;
mod host;
mod keeper;
mod liveness;
mod log_store;
mod mailbox;
mod meta;
mod network;
mod node;
pub mod offline;
mod operate;
mod options;
pub mod peer;
pub mod placement;
mod proposal;
mod question;
mod quiesce;
mod reconcile;
mod recover;
mod router;
mod rpc;
mod shard_machine;
mod snapshot;
mod start;
#[cfg(test)]
mod storage_suite;
#[cfg(test)]
mod testing;
mod types;
mod witness;
pub mod world;

pub use board::Board;
pub use cluster::{Cluster, ClusterChange, ClusterRefusal};
pub use flows::{Flow, FlowError, FlowQuery};
pub use group::GroupStatus;
pub use meta::{ConfigRefusal, ConfigVersion, MetaState};
pub use node::{CourierJob, Node};
pub use operate::Stale;
pub use options::{Begin, NodeOptions, Policy, StartError, Timing, World};
pub use question::{Each, Outcome, Question, only_outcome};
pub use recover::{RecoverError, Recovered};
pub use rpc::{MetaAnswer, NodeReport};
pub use types::NodeInfo;
pub use world::wall_clock;
