//! How a node comes up: the store is opened, actors are seated in their tasks, and every group that has
//! data here begins or goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use qiang_engine::routing::Sharing;
use qiang_storage::{Identity, Store};
use tokio::task::JoinHandle;

use crate::group::ShardGroup;
use crate::host::{Seat, Surroundings, run_clockwork, run_seat};
use crate::mailbox::Mailbox;
use crate::options::{Begin, NodeOptions, StartError, Timing, World};
use crate::peer::{Credentials, Peers};
use crate::rpc::{Introduction, Kind};
use crate::world::{blocking, random_u64, spawn};

/// Entries in one replication message at most.
const PAYLOAD_ENTRIES_MAX: u64 = 1024;

/// How long a node that joins waits for the node it asks.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn raft_config(options: &NodeOptions) -> Config {
    let timing = options.timing;
    let (min, max) = (timing.election_ms_min, timing.election_ms_max());
    Config {
        cluster_name: "qiang".to_owned(),
        heartbeat_interval: timing.heartbeat_ms(),
        election_timeout_min: min,
        election_timeout_max: max,
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.entries_kept,
        enable_pre_vote: Some(true),
        // Its like is in `quiesce`: openraft's would take quiescence for a lost quorum, and keep a leader that is roused silent.
        quorum_loss_probe_interval: None,
        // Leaders are handed over by this crate alone, with their actors standing still: an election that
        // passes over the lease must not find one that still decides.
        removed_leader_step_down: StepDownPolicy::Never,
        // A restored leader reuses its term and can overwrite what others committed without it.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

/// Opens the store: of the cluster that the directory belongs to, a new one, or the one to join.
pub(crate) async fn open_store(options: &NodeOptions, world: &World) -> Result<Store, StartError> {
    if let Some(store) = &world.store {
        return Ok(store.clone());
    }
    let identity = match (Identity::read(&options.data_dir)?, &options.begin) {
        (Some(known), _) => Identity {
            node_id: options.node_id,
            ..known
        },
        (None, Begin::Bootstrap) => {
            let cluster_id = format!("{:016x}", random_u64());
            Identity::new(cluster_id, options.node_id, options.sharing.logs())
        }
        (None, Begin::Join(address)) => join(options, world, address).await?,
        (None, Begin::Existing) => {
            return Err(StartError::NotBootstrapped {
                dir: options.data_dir.clone(),
            });
        }
    };
    let (dir, storage) = (options.data_dir.clone(), options.storage.clone());
    let opened = blocking(move || Store::open(&dir, &identity, &storage)).await;
    let panicked = |source| StartError::System {
        doing: "open the store",
        source,
    };
    Ok(opened.map_err(panicked)??)
}

/// Asks the node at `address` which cluster it belongs to.
async fn join(options: &NodeOptions, world: &World, address: &str) -> Result<Identity, StartError> {
    let stranger = Peers::new(Credentials::new("", 0, options.node_id), world.dial.clone());
    let asked = stranger
        .ask_stranger(address, Kind::Introduce as u8, &[], JOIN_TIMEOUT)
        .await;
    let wrong = |source: io::Error| StartError::Join {
        address: address.to_owned(),
        source,
    };
    let (who, introduction) = asked.map_err(wrong)?;
    let introduction: Introduction =
        crate::rpc::answer(Ok(introduction)).map_err(|error| wrong(io::Error::other(error)))?;
    if introduction.node_id == options.node_id {
        return Err(StartError::SameNode {
            address: address.to_owned(),
            node_id: options.node_id,
        });
    }
    tracing::info!(
        cluster = who.cluster_id,
        node = who.node_id,
        address,
        "joining a cluster"
    );
    Ok(Identity {
        cluster_id: who.cluster_id,
        node_id: options.node_id,
        incarnation: who.incarnation,
        outlived_by: None,
        logs: introduction.logs,
    })
}

/// How the shards of a store's cluster share logs.
pub(crate) fn sharing_of(store: &Store) -> Result<Sharing, StartError> {
    let logs = store.identity().logs;
    Sharing::over(logs).ok_or(StartError::UnknownSharing { logs })
}

/// Seats every log's actor in a task of its own, and starts the clockwork that has them look around.
pub(crate) fn seat_actors(
    around: &Surroundings,
    sharing: Sharing,
    timing: Timing,
    stop: &Arc<AtomicBool>,
) -> (Vec<Arc<ShardGroup>>, Vec<JoinHandle<()>>) {
    let group = |log| Arc::new(ShardGroup::new(log, sharing, Mailbox::new(), timing));
    let groups: Vec<Arc<ShardGroup>> = (0..sharing.logs()).map(group).collect();
    let seat = |group: &Arc<ShardGroup>| {
        let seat = Seat::new(group.clone(), around.clone());
        spawn(run_seat(seat, stop.clone()))
    };
    let tasks = groups.iter().map(seat).collect();
    spawn(run_clockwork(groups.clone(), stop.clone()));
    (groups, tasks)
}

/// Has every actor answer whoever waits, and waits for its end.
pub(crate) async fn stop_actors(
    stop: &AtomicBool,
    groups: &[Arc<ShardGroup>],
    tasks: Vec<JoinHandle<()>>,
) {
    stop.store(true, Ordering::Release);
    for group in groups {
        group.mailbox.wake();
    }
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "an actor did not end as it should");
        }
    }
}
