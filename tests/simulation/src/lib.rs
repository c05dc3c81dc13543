//! A whole cluster in one thread, under simulated time, network, disk and clocks, everything drawn from one seed.
//!
//! What runs is the product: nodes with their engine, Raft groups, peer protocol and storage logic, and the
//! service behind the HTTP interface with its carts. What is simulated is the world (`net`, `machine`): frames
//! are late, lost, doubled and reordered, links are cut one way or both, processes are killed, stand still and
//! start again, disks lose what was not synced, clocks jump, leaders are moved, nodes join and leave (`faults`). Buyers
//! (`buyers`, and many at once, `crowd`) grab, pay, cancel and repeat meanwhile; whether what they are refused can be true is known from what they asked for (`stock`).
//! Shops (`shop`) add units and change the configuration, keepers stop and resume promotions (`doors`), stewards have others end sooner or later by the clock (`hours`, `clocks`), partners change one promotion at once (`partners`) and what they
//! are told has one order (`versions`), patrons meet limits (`patrons`), somebody follows the flows of
//! each shard (`readers`), and an operator takes backups (`backup`), the last of which is restored in the end (`restored`). What is over may be forgotten soon (`retention`).
//! The judge (`judge`) looks after every event and, when all is quiet again, at everything.
//!
//! Invariant: the same seed gives the same trace.

mod backup;
mod buyers;
mod clocks;
mod crowd;
mod doors;
mod faults;
mod hours;
mod judge;
mod machine;
mod net;
mod partners;
mod patrons;
mod readers;
mod restored;
mod retention;
mod schedule;
mod shop;
mod stock;
mod story;
mod trace;
mod versions;

use std::time::Duration;

pub use trace::Trace;

/// How a run is shaped.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How long faults go on, in simulated time.
    pub faults_last: Duration,
    /// Buyers at a time.
    pub buyers: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            faults_last: Duration::from_secs(20),
            buyers: 6,
        }
    }
}

/// Runs one seed.
///
/// # Errors
/// What was violated, with the trace that led to it.
pub fn run(seed: u64, shape: Shape) -> Result<Trace, Trace> {
    let trace = simulated(seed, story::play(seed, shape));
    if trace.violation().is_some() {
        Err(trace)
    } else {
        Ok(trace)
    }
}

/// Plays the schedule of `held_up`: whether its leader was tempted, which a schedule that proves anything does.
///
/// # Errors
/// What was violated.
pub fn run_held_up(seed: u64) -> Result<bool, String> {
    simulated(seed, schedule::held_up::play(seed))
}

/// Plays the schedule of `slow_clock`: whether its leader was tempted.
///
/// # Errors
/// What was violated.
pub fn run_slow_clock(seed: u64) -> Result<bool, String> {
    simulated(seed, schedule::slow_clock::play(seed))
}

/// Plays the schedule of `full_disk`: whether the shard slept when the disk became full.
///
/// # Errors
/// What was violated.
pub fn run_full_disk(seed: u64) -> Result<bool, String> {
    simulated(seed, schedule::full_disk::play(seed))
}

/// Plays the schedule of `left_behind`: whether those that had left were called.
///
/// # Errors
/// What was violated.
pub fn run_left_behind(seed: u64) -> Result<bool, String> {
    simulated(seed, schedule::left_behind::play(seed))
}

/// What comes of a story that is told in one thread, under simulated time.
fn simulated<T>(seed: u64, story: impl Future<Output = T>) -> T {
    qiang_raft::world::seed_this_thread(Some(seed));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    let outcome = runtime.block_on(story);
    // What still runs ends here, before the thread is given back its own randomness.
    drop(runtime);
    qiang_raft::world::seed_this_thread(None);
    outcome
}
