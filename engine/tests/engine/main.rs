//! The engine's tests, as one program: what a shard decides, that it can be undone and replayed, and
//! that the bytes and places of released versions stay what they are.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a test is the report, also in what its tests share"
)]

mod actor_script;
mod against_model;
mod carts;
mod early;
mod model;
mod records;
mod replay;
mod routing;
mod script;
mod shard_script;
mod shared_log;
mod story;
mod support;
mod transcripts;
mod values;
