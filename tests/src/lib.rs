//! The vocabulary of the black-box tests: it starts the released binary and speaks HTTP and the command line only.
//!
//! Invariant: nothing here knows the inside of the product. What a test may rely on is the published contract, and
//! each assumption about the shape of an answer lives in one place of this crate.
//!
//! A test reads like a story:
//!
//! ```no_run
//! use qiang_tests::Node;
//!
//! let mut node = Node::start();
//! node.promotion("A").quantity(100).create();
//! node.grab("o-1", "alice").of("A", 1).granted();
//! node.kill();
//! node.restart();
//! assert_eq!(node.order("o-1").state(), "held");
//! ```

mod audit;
mod buyers;
mod callers;
mod cli;
mod clock;
mod cluster;
mod disk;
mod flow;
mod history;
mod http;
mod linearizable;
mod load;
mod murmur;
mod network;
mod node;
mod partition;
mod random;
mod raw;
mod story;
mod wait;
mod walk;

pub use audit::{Audit, audit};
pub use buyers::{Buyers, Gap, Sale};
pub use callers::Callers;
pub use cli::{Run, run, run_within};
pub use clock::{instant_at, millis_since_epoch, parse_rfc3339_ms, rfc3339};
pub use cluster::Cluster;
pub use disk::SmallDisk;
pub use flow::{Flow, Kind};
pub use history::{Call, Event, GrabOutcome, Recorder, ReturnOutcome};
pub use http::{Answer, Client};
pub use linearizable::{STEPS_MAX, Verdict, check, check_promotion};
pub use load::{Acknowledged, Load};
pub use murmur::{SHARDS, id_on_another_shard, id_on_shard, shard_of};
pub use network::{Host, Network};
pub use node::{Builder, Node, binary, free_port};
pub use partition::{Direction, PeerProxy};
pub use random::Random;
pub use raw::{Raw, RawAnswer};
pub use story::{GrabDraft, OrderHandle, PromotionDraft, PromotionHandle};
pub use wait::{comes_true, wait_until, wait_until_by};
pub use walk::{Block, Step, Walk, matches_printed};
