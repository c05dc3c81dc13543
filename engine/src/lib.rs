//! The pure core of qiang: what a shard is, how it decides, and how its decisions become flows.
//!
//! Nothing in this crate reads a clock, draws a random number, waits or touches a file: time and
//! nonces come in with the call. That is what lets the same code serve live traffic, replay a log
//! and run under simulation, and its manifest is the proof.
//!
//! Start at [`actor::Actor`], the owner of the shards of one log, and follow a grab through
//! [`shard::Shard::decide`] and [`shard::Shard::apply`].

pub mod actor;
pub mod batch;
pub mod codec;
pub mod command;
pub mod early;
pub mod ids;
pub mod limits;
pub mod order;
pub mod promotion;
pub mod record;
pub mod replica;
pub mod routing;
pub mod seen;
pub mod shard;

pub use batch::{Batch, Tag};
pub use command::{Answer, Command, Refusal, Rejection};
pub use ids::{OrderId, Pin, Place, PromotionId, ShardId, TryId, UnixMs};
pub use record::Record;
pub use replica::Replica;
pub use shard::Shard;
