//! A node as the rest of the process uses it: mailboxes, flows, the board, the configuration, and its end.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use futures::future::try_join_all;
use openraft::Raft;
use qiang_engine::promotion::Rate;
use qiang_engine::shard::Tell;
use qiang_engine::{OrderId, PromotionId, ShardId, TryId};
use qiang_storage::{OpenError, Store};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle as Task;

use crate::board::Board;
use crate::flows::FlowReader;
use crate::group::{GroupStatus, ShardGroup, leads_caught_up, raft_status};
use crate::host::{Surroundings, wall_clock};
use crate::mailbox::Mailbox;
use crate::meta::{ConfigRefusal, ConfigVersion, MetaCommand, MetaMachine, Versions, no_versions};
use crate::start::{
    lease, open_store, raft_config, reader, seat_actors, start_keepers, start_meta, start_shard,
    stop_threads,
};
use crate::types::TypeConfig;

/// Jobs that may wait for the courier; more are asked for again later.
const COURIER_JOBS_MAX: usize = 8192;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its number in the cluster, never used twice.
    pub node_id: u64,
    /// What others know of it.
    pub info: crate::types::NodeInfo,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Begin a new one-node cluster if the data directory is empty or absent.
    pub bootstrap: bool,
    /// Threads for actors; 0 means one per core, at most one per shard.
    pub actor_threads: usize,
    /// Entries of a group after which its next snapshot is built.
    pub snapshot_entries: u64,
    /// How the store is opened.
    pub storage: qiang_storage::Options,
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
pub struct PolicyCell(Arc<RwLock<Policy>>);

impl PolicyCell {
    pub(crate) fn new(policy: Policy) -> Self {
        PolicyCell(Arc::new(RwLock::new(policy)))
    }

    pub(crate) fn get(&self) -> Policy {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

/// A message that an actor wants carried between shards.
#[derive(Debug)]
pub enum CourierJob {
    /// Ask home what became of a try, then have the guest follow.
    Ask {
        /// The shard that asks.
        guest: ShardId,
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
        /// A promotion of home.
        home: PromotionId,
    },
    /// Tell a cart's guests what became of it, then report that they were told.
    Tell {
        /// The shard that decided.
        home: ShardId,
        /// What, and to whom.
        tell: Tell,
    },
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no data yet, and nobody said to begin.
    #[error("{} holds no node yet: to begin a new one-node cluster there, start once with --bootstrap", .dir.display())]
    NotBootstrapped {
        /// The data directory.
        dir: PathBuf,
    },
    /// A group's log, vote or snapshot cannot be used.
    #[error("group {group} cannot start: {why}")]
    Group {
        /// The shard's number, or `meta`.
        group: String,
        /// Why.
        why: String,
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

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    store: Store,
    shards: Vec<Arc<ShardGroup>>,
    flows: Vec<FlowReader>,
    meta: Raft<TypeConfig, MetaMachine>,
    versions: watch::Receiver<Versions>,
    board: Board,
    policy: PolicyCell,
    courier: Mutex<Option<mpsc::Receiver<CourierJob>>>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    keepers: Vec<Task<()>>,
}

impl Node {
    /// Opens the data directory and starts every group. Returns when the groups run; they decide as
    /// soon as each has a leader.
    pub async fn start(options: NodeOptions, policy: Policy) -> Result<Self, StartError> {
        let store = open_store(&options).await?;
        let config = Arc::new(raft_config());
        let policy = PolicyCell::new(policy);
        let board = Board::default();
        let (courier, jobs) = mpsc::channel(COURIER_JOBS_MAX);
        let around = Surroundings {
            board: board.clone(),
            policy: policy.clone(),
            courier,
            runtime: tokio::runtime::Handle::current(),
            lease: lease(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (shards, threads) = seat_actors(&options, &around, &stop)?;
        let started = try_join_all(
            shards
                .iter()
                .map(|group| start_shard(&options, &store, &config, group)),
        )
        .await;
        let (versions, shown) = watch::channel(no_versions());
        let meta = match started {
            Ok(_) => start_meta(&options, &store, &config, versions).await,
            Err(error) => Err(error),
        };
        let meta = match meta {
            Ok(meta) => meta,
            Err(error) => {
                stop_threads(&stop, threads);
                return Err(error);
            }
        };
        let flows = shards
            .iter()
            .map(|group| reader(&store, group))
            .collect::<Result<Vec<_>, _>>()?;
        let keepers = start_keepers(&options, &store, &shards, &flows, &meta, &policy);
        let inner = Inner {
            options,
            store,
            shards,
            flows,
            meta,
            versions: shown,
            board,
            policy,
            courier: Mutex::new(Some(jobs)),
            stop,
            threads: Mutex::new(threads),
            keepers,
        };
        Ok(Node {
            inner: Arc::new(inner),
        })
    }

    /// The mailbox of a shard.
    pub fn shard(&self, shard: ShardId) -> &Mailbox {
        &self.inner.shards[usize::from(shard.0)].mailbox
    }

    /// The flows of a shard; `None` if there is no such shard.
    pub fn flows(&self, shard: ShardId) -> Option<&FlowReader> {
        self.inner.flows.get(usize::from(shard.0))
    }

    /// The committed counters of all promotions.
    pub fn board(&self) -> &Board {
        &self.inner.board
    }

    /// Messages to carry between shards; there is one taker.
    pub fn take_courier_jobs(&self) -> Option<mpsc::Receiver<CourierJob>> {
        self.inner
            .courier
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Puts a policy in force.
    pub fn set_policy(&self, policy: Policy) {
        self.inner.policy.set(policy);
    }

    /// All versions of the cluster's configuration, the last in force, and word of new ones.
    pub fn config_versions(&self) -> watch::Receiver<Versions> {
        self.inner.versions.clone()
    }

    /// Puts `document` in the place of version `expected` of the configuration.
    pub async fn put_config(
        &self,
        expected: u64,
        document: String,
    ) -> Result<ConfigVersion, ConfigRefusal> {
        let nonce = rand::random();
        let next = ConfigVersion {
            version: 0,
            at: wall_clock(),
            document,
            nonce,
        };
        let payload = MetaCommand::PutConfig { expected, next }.encode();
        match self.inner.meta.client_write(payload).await {
            Ok(_) => {}
            Err(error) if error.forward_to_leader().is_some() => {
                return Err(ConfigRefusal::Unavailable);
            }
            Err(_) => return Err(ConfigRefusal::OutcomeUnknown),
        }
        let versions = self.inner.versions.borrow().clone();
        let own = versions
            .iter()
            .find(|version| version.nonce == nonce)
            .cloned();
        own.ok_or_else(|| ConfigRefusal::Conflict {
            current: versions.last().map_or(0, |version| version.version),
        })
    }

    /// The state of every group on this node: the shards in order, then `meta`.
    pub fn groups(&self) -> Vec<GroupStatus> {
        let mut groups: Vec<GroupStatus> = self
            .inner
            .shards
            .iter()
            .map(|group| group.status(lease()))
            .collect();
        let mut meta = raft_status(&self.inner.meta, lease());
        "meta".clone_into(&mut meta.group);
        meta.deciding = leads_caught_up(&self.inner.meta);
        groups.push(meta);
        groups
    }

    /// How the node was started.
    pub fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    /// The node's store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Stops every group and thread, then closes the store. Whoever still waits is answered.
    pub async fn stop(&self) {
        for keeper in &self.inner.keepers {
            keeper.abort();
        }
        for group in &self.inner.shards {
            if let Some(raft) = group.raft.get() {
                // A group that has already stopped, for a fault, has nothing more to say.
                let _ = raft.shutdown().await;
            }
        }
        let _ = self.inner.meta.shutdown().await;
        let threads = std::mem::take(
            &mut *self
                .inner
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let (stop, store) = (self.inner.stop.clone(), self.inner.store.clone());
        let stopped = tokio::task::spawn_blocking(move || {
            stop_threads(&stop, threads);
            store.close();
        });
        if let Err(error) = stopped.await {
            tracing::error!(%error, "stopping the node's threads panicked");
        }
    }
}
