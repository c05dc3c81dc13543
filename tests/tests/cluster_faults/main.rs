//! What can go wrong between and around real nodes: a network that is cut, a disk that is full, strangers on the peer port,
//! operators who ask for too much or all at once, a data centre lost beside a witness, a start with a million orders.
//!
//! Invariant: whatever happens, every acknowledged grab is there afterwards, once; nothing is oversold; and what is refused
//! has changed nothing. The drills print what they measured; no figure is asserted.

mod full_disk;
mod network_cut;
mod operators;
mod peer_port;
mod restart;
mod witness;

use qiang_tests::{Buyers, Cluster, Random, Run, binary, id_on_shard, run};
use serde_json::Value;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A cluster is four processes or more: one at a time is what the machine is there for.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long another leader may take on a machine that is busy with something else, for waiting.
const FAILS_OVER_WITHIN: Duration = Duration::from_secs(30);

/// Between two orders of a buyer: a load that is there all the time, and few enough orders that each can be asked for in the end.
const PACE: Duration = Duration::from_millis(15);

/// How much is on sale: more than any of these tests sells.
const QUANTITY: u64 = 1_000_000;

/// One promotion on every second shard or so, so that each node that leads, leads some.
fn promotions(cluster: &Cluster) -> Vec<String> {
    let ids: Vec<String> = (0..8)
        .map(|number| id_on_shard("P", number * 2 + number % 2))
        .collect();
    for id in &ids {
        cluster.any().promotion(id).quantity(QUANTITY).create();
    }
    ids
}

fn buyers(cluster: &Cluster, name: &str, promotions: &[String], random: &Random) -> Buyers {
    Buyers::start(&cluster.addresses(), name, promotions, 6, PACE, random)
}

/// `qiang ARGUMENTS`, asking the node `id`.
fn qiang(cluster: &Cluster, id: u64, arguments: &[&str]) -> Run {
    run(Command::new(binary())
        .args(arguments)
        .env("QIANG_SERVER", cluster.node(id).http_address())
        .env("NO_COLOR", "1"))
}

/// The groups as node `id` sees them by asking all: the shards' and that of the cluster's own state.
fn groups(cluster: &Cluster, id: u64) -> Vec<Value> {
    let shown = cluster.node(id).get("/v1/cluster").expect(200);
    let mut groups = shown["shards"].as_array().expect("shards").clone();
    groups.push(shown["meta"].clone());
    groups
}
