//! How a node comes up: the store is opened, actors are seated on their threads, and every group begins
//! or goes on. A node of one voter elects itself without waiting for the election timeout.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::sync::Parker;
use openraft::{Config, Raft, SnapshotPolicy};
use qiang_engine::ShardId;
use qiang_engine::routing::SHARDS;
use qiang_storage::{GroupId, GroupLog, Identity, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle as Task;

use crate::flows::FlowReader;
use crate::group::ShardGroup;
use crate::host::{Seat, Surroundings, run_seats};
use crate::keeper::{Kept, run_keeper};
use crate::log_store::LogStore;
use crate::mailbox::Mailbox;
use crate::meta::{MetaMachine, Versions};
use crate::network::NoPeers;
use crate::node::{NodeOptions, PolicyCell, StartError};
use crate::shard_machine::ShardMachine;
use crate::snapshot;
use crate::types::{NodeInfo, StoredMembership, TypeConfig};

/// The group after the shards': the cluster's own state.
const META_GROUP: GroupId = GroupId(SHARDS);

/// Bounds of the randomised election timeout in milliseconds; the upper one is also the lease.
const ELECTION_TIMEOUT_MS: (u64, u64) = (400, 600);

/// Interval of heartbeats in milliseconds: four fit the shortest election timeout.
const HEARTBEAT_MS: u64 = 100;

/// Entries in one replication message at most.
const PAYLOAD_ENTRIES_MAX: u64 = 1024;

/// Entries that Raft keeps behind a snapshot, for followers that are a little behind.
const ENTRIES_BEHIND_SNAPSHOT: u64 = 8192;

const _: () = assert!(HEARTBEAT_MS * 4 <= ELECTION_TIMEOUT_MS.0);

pub(crate) fn lease() -> Duration {
    Duration::from_millis(ELECTION_TIMEOUT_MS.0)
}

pub(crate) fn raft_config() -> Config {
    let (min, max) = ELECTION_TIMEOUT_MS;
    Config {
        cluster_name: "qiang".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: min,
        election_timeout_max: max,
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: ENTRIES_BEHIND_SNAPSHOT,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(2 * (min + max)),
        // A restored leader reuses its term and can overwrite what others committed without it.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

pub(crate) async fn open_store(options: &NodeOptions) -> Result<Store, StartError> {
    let known = Identity::read(&options.data_dir)?;
    let cluster_id = match known {
        Some(identity) => identity.cluster_id,
        None if options.bootstrap => format!("{:016x}", rand::random::<u64>()),
        None => {
            return Err(StartError::NotBootstrapped {
                dir: options.data_dir.clone(),
            });
        }
    };
    let identity = Identity {
        cluster_id,
        node_id: options.node_id,
    };
    let (dir, storage) = (options.data_dir.clone(), options.storage.clone());
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, &identity, &storage)).await;
    let panicked = |error| StartError::System {
        doing: "open the store",
        source: io::Error::other(error),
    };
    Ok(opened.map_err(panicked)??)
}

/// The threads that actors live on.
pub(crate) type Threads = Vec<JoinHandle<()>>;

/// Spreads the shards' actors over threads.
pub(crate) fn seat_actors(
    options: &NodeOptions,
    around: &Surroundings,
    stop: &Arc<AtomicBool>,
) -> Result<(Vec<Arc<ShardGroup>>, Threads), StartError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = if options.actor_threads == 0 {
        cores
    } else {
        options.actor_threads
    };
    let count = wanted.clamp(1, usize::from(SHARDS));
    let mut parkers: Vec<(Parker, Vec<Seat>)> =
        (0..count).map(|_| (Parker::new(), Vec::new())).collect();
    let mut groups = Vec::new();
    for shard in 0..SHARDS {
        let (parker, seats) = &mut parkers[usize::from(shard) % count];
        let mailbox = Mailbox::new(parker.unparker().clone());
        let group = Arc::new(ShardGroup::new(ShardId(shard), mailbox));
        seats.push(Seat::new(group.clone(), around.clone()));
        groups.push(group);
    }
    let mut threads = Vec::new();
    for (number, (parker, seats)) in parkers.into_iter().enumerate() {
        let stop = stop.clone();
        let thread = std::thread::Builder::new().name(format!("actors-{number}"));
        let spawned = thread.spawn(move || run_seats(seats, &parker, &stop));
        threads.push(spawned.map_err(|source| StartError::System {
            doing: "start an actor thread",
            source,
        })?);
    }
    Ok((groups, threads))
}

pub(crate) fn stop_threads(stop: &AtomicBool, threads: Vec<JoinHandle<()>>) {
    stop.store(true, Ordering::Release);
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("an actor thread panicked");
        }
    }
}

fn group_error(group: &impl ToString, why: &impl ToString) -> StartError {
    StartError::Group {
        group: group.to_string(),
        why: why.to_string(),
    }
}

pub(crate) async fn start_shard(
    options: &NodeOptions,
    store: &Store,
    config: &Arc<Config>,
    group: &Arc<ShardGroup>,
) -> Result<(), StartError> {
    let id = GroupId(group.shard.0);
    let log = store
        .log(id)
        .map_err(|error| group_error(&group.shard, &error))?;
    let log_store = LogStore::new(log.clone());
    mend_snapshot(id, store, &log_store, &log)
        .await
        .map_err(|error| group_error(&group.shard, &error))?;
    let machine = ShardMachine {
        group: id,
        node_id: options.node_id,
        mailbox: group.mailbox.clone(),
        inherited_to: log.last_index().or(log.floor().map(|(floor, _)| floor)),
        log,
        snapshots: store.snapshots(id),
        log_bytes: group.log_bytes.clone(),
        applied: None,
        membership: StoredMembership::default(),
    };
    let raft = Raft::new(options.node_id, config.clone(), NoPeers, log_store, machine).await;
    let raft = raft.map_err(|error| group_error(&group.shard, &error))?;
    lead(options, &raft)
        .await
        .map_err(|error| group_error(&group.shard, &error))?;
    if group.raft.set(raft).is_err() {
        return Err(group_error(&group.shard, &"it was started twice"));
    }
    Ok(())
}

/// Sees to it that a good snapshot reaches up to where Raft's view of the log begins.
async fn mend_snapshot(
    id: GroupId,
    store: &Store,
    log_store: &LogStore,
    log: &GroupLog,
) -> io::Result<()> {
    let Some(floor) = log_store.floor()? else {
        return Ok(());
    };
    let (log, snapshots) = (log.clone(), store.snapshots(id));
    let mend = move || snapshot::mend(id, &log, &snapshots, floor);
    tokio::task::spawn_blocking(mend)
        .await
        .map_err(io::Error::other)?
}

pub(crate) async fn start_meta(
    options: &NodeOptions,
    store: &Store,
    config: &Arc<Config>,
    versions: watch::Sender<Versions>,
) -> Result<Raft<TypeConfig, MetaMachine>, StartError> {
    let log = store
        .log(META_GROUP)
        .map_err(|error| group_error(&"meta", &error))?;
    let machine = MetaMachine::new(versions, store.snapshots(META_GROUP));
    let raft = Raft::new(
        options.node_id,
        config.clone(),
        NoPeers,
        LogStore::new(log),
        machine,
    )
    .await;
    let raft = raft.map_err(|error| group_error(&"meta", &error))?;
    lead(options, &raft)
        .await
        .map_err(|error| group_error(&"meta", &error))?;
    Ok(raft)
}

/// Begins a new group of this node alone, or has a known one elect its leader without waiting for
/// the election timeout.
async fn lead<SM>(options: &NodeOptions, raft: &Raft<TypeConfig, SM>) -> Result<(), String>
where
    SM: openraft::storage::RaftStateMachine<TypeConfig>,
{
    if raft
        .is_initialized()
        .await
        .map_err(|error| error.to_string())?
    {
        return raft
            .trigger()
            .elect(false)
            .await
            .map_err(|error| error.to_string());
    }
    let members: std::collections::BTreeMap<u64, NodeInfo> =
        [(options.node_id, options.info.clone())].into();
    raft.initialize(members)
        .await
        .map_err(|error| error.to_string())
}

pub(crate) fn reader(store: &Store, group: &Arc<ShardGroup>) -> Result<FlowReader, StartError> {
    let log = store
        .log(GroupId(group.shard.0))
        .map_err(|error| group_error(&group.shard, &error))?;
    Ok(FlowReader {
        group: group.clone(),
        log,
    })
}

pub(crate) fn start_keepers(
    options: &NodeOptions,
    store: &Store,
    shards: &[Arc<ShardGroup>],
    flows: &[FlowReader],
    meta: &Raft<TypeConfig, MetaMachine>,
    policy: &PolicyCell,
) -> Vec<Task<()>> {
    let kept = shards.iter().zip(flows).filter_map(|(group, flows)| {
        let snapshots = store.snapshots(GroupId(group.shard.0));
        Some(Kept {
            raft: group.raft.get()?.clone(),
            snapshots,
            flows: Some(flows.clone()),
            log_bytes: group.log_bytes.clone(),
            snapshot_bytes: AtomicU64::new(0),
        })
    });
    let shards = run_keeper(kept.collect(), options.snapshot_entries, policy.clone());
    let meta = Kept {
        raft: meta.clone(),
        snapshots: store.snapshots(META_GROUP),
        flows: None,
        log_bytes: Arc::default(),
        snapshot_bytes: AtomicU64::new(0),
    };
    let meta = run_keeper(vec![meta], options.snapshot_entries, policy.clone());
    vec![tokio::spawn(shards), tokio::spawn(meta)]
}
