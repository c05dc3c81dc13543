//! How a node is started: its settings, what surrounds it, the policy that the cluster's configuration sets, and why it may
//! not start.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::atomic::AtomicCell;
use qiang_engine::promotion::Rate;
use qiang_engine::routing::Sharing;
use qiang_storage::{OpenError, Store};

use crate::peer::{Dial, Tcp, Tls};
use crate::types::NodeInfo;
use crate::world::{BEAT, Clock};

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its number in the cluster, never used twice.
    pub node_id: u64,
    /// What others know of it.
    pub info: NodeInfo,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// What to do if the data directory is empty or absent.
    pub begin: Begin,
    /// How the shards of a cluster that it begins share logs.
    pub sharing: Sharing,
    /// Entries of a group after which its next snapshot is built.
    pub snapshot_entries: u64,
    /// Entries that Raft keeps behind a snapshot, for followers that are a little behind.
    pub entries_kept: u64,
    /// How long nodes wait for each other.
    pub timing: Timing,
    /// The version of the binary, for others to know.
    pub version: String,
    /// How the store is opened.
    pub storage: qiang_storage::Options,
}

/// What a node without data does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: there must be data.
    Existing,
    /// It is the first node of a new cluster.
    Bootstrap,
    /// It joins the cluster that the node at this peer address belongs to, and waits to be added.
    Join(String),
}

/// How long nodes wait for each other. Everything follows from the shortest election timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The shortest election timeout, in milliseconds.
    pub election_ms_min: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            election_ms_min: 200,
        }
    }
}

impl Timing {
    /// The longest election timeout, in milliseconds; followers trust a leader for as long.
    pub fn election_ms_max(self) -> u64 {
        self.election_ms_min * 3 / 2
    }

    /// Interval of heartbeats in milliseconds: the third one missed is still within the shortest timeout. It is a little
    /// shorter than a number of beats: what is due just after a beat waits for the next.
    pub fn heartbeat_ms(self) -> u64 {
        let beat_ms = u64::try_from(BEAT.as_millis()).expect("a beat is short");
        let beats = (self.election_ms_min * 3 / 8 / beat_ms).max(1);
        beats * beat_ms - beat_ms / 5
    }

    /// Interval in which nodes say that they are there: as with heartbeats, several may be lost before that has
    /// consequences.
    pub fn beat(self) -> Duration {
        Duration::from_millis((self.election_ms_min / 2).max(1))
    }

    /// How long followers trust a leader that they do not hear, and nodes each other.
    pub fn trust(self) -> Duration {
        Duration::from_millis(self.election_ms_max())
    }

    /// How long a leader trusts the answers of a quorum: shorter than its followers trust it.
    pub fn lease(self) -> Duration {
        Duration::from_millis(self.election_ms_min)
    }
}

/// What surrounds a node: the network, the clock, and, in a simulation, the disk.
#[derive(Clone)]
pub struct World {
    /// How connections to peers are opened.
    pub dial: Arc<dyn Dial>,
    /// What peers that connect are to show; nothing without TLS.
    pub tls: Option<Tls>,
    /// The time that decisions are made by.
    pub clock: Clock,
    /// A store that is already open, instead of the one in the data directory.
    pub store: Option<Store>,
}

impl World {
    /// The machine's own network, clock and disk, with TLS between nodes if there is any.
    pub fn secured(tls: Option<Tls>) -> Self {
        let world = World::default();
        match tls {
            Some(tls) => World {
                dial: Arc::new(tls.clone()),
                tls: Some(tls),
                ..world
            },
            None => world,
        }
    }
}

impl Default for World {
    fn default() -> Self {
        World {
            dial: Arc::new(Tcp),
            tls: None,
            clock: Clock::default(),
            store: None,
        }
    }
}

/// What the cluster's configuration asks of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Rate of promotions that set none.
    pub default_rate: Option<Rate>,
    /// Percent of every rate that is let through.
    pub rate_percent: u32,
    /// How long closed orders are kept after their promotions closed, in milliseconds.
    pub order_retention_ms: u64,
    /// How long flows are kept, in milliseconds.
    pub flow_retention_ms: u64,
}

/// The policy in force, shared by all actors.
#[derive(Debug, Clone)]
pub struct PolicyCell(Arc<AtomicCell<Policy>>);

impl PolicyCell {
    pub(crate) fn new(policy: Policy) -> Self {
        PolicyCell(Arc::new(AtomicCell::new(policy)))
    }

    pub(crate) fn get(&self) -> Policy {
        self.0.load()
    }

    pub(crate) fn set(&self, policy: Policy) {
        self.0.store(policy);
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no data yet, and nobody said to begin.
    #[error(
        "{} holds no node yet: to begin a new one-node cluster there, start once with --bootstrap; to join a cluster, with --join and the peer address of one of its nodes",
        .dir.display()
    )]
    NotBootstrapped {
        /// The data directory.
        dir: PathBuf,
    },
    /// The node to join by does not answer as one.
    #[error("cannot join by the node at {address}: {source}")]
    Join {
        /// Its peer address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The node to join by has this node's number.
    #[error("the node at {address} is node {node_id} itself: give this one another --node-id")]
    SameNode {
        /// Its peer address.
        address: String,
        /// The number of both.
        node_id: u64,
    },
    /// A group's log, vote or snapshot cannot be used.
    #[error("group {group} cannot start: {why}")]
    Group {
        /// The shard's number, or `meta`.
        group: String,
        /// Why.
        why: String,
    },
    /// The cluster was begun by a newer version.
    #[error(
        "the cluster's shards share {logs} logs, and this binary knows no such way to share them: use a newer one"
    )]
    UnknownSharing {
        /// The number of logs.
        logs: u16,
    },
    /// The system refused something.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}
