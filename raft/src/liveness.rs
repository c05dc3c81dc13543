//! Which nodes are there: each pair of nodes says so to each other a few times a second, once for all their groups.
//! Groups that are quiescent go by this alone (see `quiesce`).
//!
//! Invariant: a node that was heard spoke no earlier than it is noted to have; one that was started again is another.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiang_engine::codec;
use tokio::time::Instant;

use crate::node::Node;
use crate::options::Timing;
use crate::peer::Lane;
use crate::quiesce::Terms;
use crate::rpc::{self, Beat, Kind};
use crate::witness::Leaderless;
use crate::world::{random_u64, sleep_to_beat, spawn};

/// When nodes were last heard.
pub struct Liveness {
    /// This process, among all that have run or will run this node.
    own_boot: u64,
    timing: Timing,
    heard: Mutex<BTreeMap<u64, Heard>>,
}

#[derive(Clone, Copy)]
struct Heard {
    boot: u64,
    at: Instant,
}

/// A process of a node: not the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// The node.
    pub node: u64,
    /// Which of its processes.
    pub boot: u64,
}

impl Liveness {
    pub fn new(timing: Timing) -> Self {
        Liveness {
            own_boot: random_u64(),
            timing,
            heard: Mutex::default(),
        }
    }

    /// What this node says.
    pub fn own_beat(&self) -> Beat {
        Beat {
            boot: self.own_boot,
        }
    }

    /// Notes that a node spoke at `at` or later.
    pub fn note(&self, node: u64, beat: &Beat, at: Instant) {
        let boot = beat.boot;
        self.lock().insert(node, Heard { boot, at });
    }

    /// The process of a node, if it is alive: heard more recently than followers trust a leader for.
    pub fn boot(&self, node: u64) -> Option<Boot> {
        let heard = *self.lock().get(&node)?;
        let boot = heard.boot;
        (heard.at.elapsed() < self.timing.trust()).then_some(Boot { node, boot })
    }

    /// The nodes that are alive, ascending.
    pub fn alive(&self) -> Vec<u64> {
        let heard: Vec<u64> = self.lock().keys().copied().collect();
        let is_alive = |node: &u64| self.boot(*node).is_some();
        heard.into_iter().filter(is_alive).collect()
    }

    /// Whether this process is alive and was not started again.
    pub fn is_alive(&self, boot: Boot) -> bool {
        self.boot(boot.node) == Some(boot)
    }

    /// How long ago a node was heard.
    pub fn heard(&self, node: u64) -> Option<Duration> {
        Some(self.lock().get(&node)?.at.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after quiescent groups, says to the nodes with greater numbers that this one is there, and hears the same from them, until the task is
/// dropped. A node whose store takes no more writes is as good as gone, and does not.
pub async fn run_beats(node: Node) {
    let interval = node.options().timing.beat();
    let (mut terms, mut leaderless) = (Terms::new(), Leaderless::new());
    loop {
        sleep_to_beat(interval).await;
        if node.store().fault().is_some() {
            return;
        }
        let groups = node.groups();
        let beat = codec::encode(&groups.liveness.own_beat());
        node.watch_groups(&mut terms);
        node.stand_in(&mut leaderless);
        let others = node.other_nodes().into_iter();
        for other in others.filter(|other| *other > node.node_id()) {
            let asked_at = Instant::now();
            let kind = Kind::Beat as u8;
            let call = groups.peers.call(other, Lane::Control, kind, &beat);
            let (groups, patience) = (groups.clone(), 2 * interval);
            spawn(async move {
                if let Ok(beat) = rpc::answer::<Beat>(call.within(patience).await) {
                    groups.liveness.note(other, &beat, asked_at);
                }
            });
        }
    }
}
