//! A simulated machine: a disk and a clock that outlive processes, and the process that runs on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qiang_engine::routing::Sharing;
use qiang_raft::backup::{RestoreOptions, fill};
use qiang_raft::world::{Clock, Life, Random};
use qiang_raft::{Begin, Node, NodeInfo, NodeOptions, Timing, World};
use qiang_server::courier::run_courier;
use qiang_server::service::{Service, policy_of};
use qiang_storage::{Identity, Options, SimulatedDisk, Store};
use rand::RngExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::net::Net;
use crate::retention::Retention;

/// The time at which every run begins.
const BEGAN_AT: qiang_engine::UnixMs = qiang_engine::UnixMs(1_781_740_800_000);

/// How long a request may take on a node.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Few, so that snapshots are made, logs purged and followers brought up by snapshots all the time.
const SNAPSHOT_ENTRIES: u64 = 60;
const ENTRIES_KEPT: u64 = 20;

/// Shortest and longest time of a sync, in microseconds.
const SYNC_US: (u64, u64) = (80, 4_000);

/// One of so many syncs is slow, and takes up to so many microseconds.
const SLOW_SYNC_ONE_IN: u32 = 400;
const SLOW_SYNC_US_MAX: u64 = 400_000;

/// How fast the slowest and the fastest machine's own clock runs, in thousandths of true time: 1.35 seconds of the fastest are one
/// of the slowest, and followers trust a leader for 1.5 times as long as it trusts its lease.
pub const SLOWEST: u64 = 850;
pub const FASTEST: u64 = 1_150;

/// The cluster that all machines belong to.
const CLUSTER: &str = "simulated";

/// A machine. It has one number for ever.
pub struct Machine {
    pub id: u64,
    pub dc: &'static str,
    pub clock: Clock,
    /// The cluster's life in which it comes.
    pub incarnation: u64,
    timing: Timing,
    sharing: Sharing,
    retention: Retention,
    dir: PathBuf,
    disk: SimulatedDisk,
    /// How much longer each sync takes than usual, in microseconds.
    stall_us: Arc<AtomicU64>,
    /// Whether nothing could be written since the process started, so that it may have given up.
    is_full: bool,
    process: Option<Process>,
}

/// What runs on a machine.
#[derive(Clone)]
pub struct Process {
    pub life: Life,
    pub node: Node,
    pub service: Service,
    /// How long it waits for others, in true time.
    pub timing: Timing,
}

impl Machine {
    /// A machine of the world that began at `began`: whenever it comes, its wall clock is right until it is set otherwise. With its
    /// other clock, of this speed, it measures nothing but its waits, so how long those truly are is all that the speed means.
    pub fn new(
        id: u64,
        dc: &'static str,
        sharing: Sharing,
        retention: Retention,
        speed: u64,
        home: &Path,
        began: Instant,
    ) -> Self {
        let election_ms_min = Timing::default().election_ms_min * 1_000 / speed;
        Machine {
            id,
            dc,
            clock: right_clock(began),
            incarnation: 1,
            timing: Timing { election_ms_min },
            sharing,
            retention,
            dir: home.join(id.to_string()),
            disk: SimulatedDisk::new(),
            stall_us: Arc::default(),
            is_full: false,
            process: None,
        }
    }

    /// The process, while one runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Puts a backup on a disk that is blank.
    pub fn restore(&self, backup: &Path) -> Result<(), String> {
        let store = self.open()?;
        let options = RestoreOptions {
            data_dir: self.dir.clone(),
            node_id: self.id,
            info: self.info(),
            storage: storage(),
        };
        let filled = std::thread::scope(|scope| {
            let filling = scope.spawn(|| fill(&store, backup, &options));
            // It waits for the disk, which has no thread of its own here.
            while !filling.is_finished() {
                while let Some(written) = store.simulated_write() {
                    store.simulated_sync(&written);
                }
                std::thread::yield_now();
            }
            filling.join().expect("a restore does not panic")
        });
        store.close();
        filled
            .map(drop)
            .map_err(|error| format!("machine {}: {error}", self.id))
    }

    fn open(&self) -> Result<Store, String> {
        let identity = Identity {
            incarnation: self.incarnation,
            ..Identity::new(CLUSTER, self.id, self.sharing.logs())
        };
        Store::open_simulated(&self.dir, &self.disk, &identity, &storage())
            .map_err(|error| format!("machine {}: {error}", self.id))
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            peer_address: Net::address(self.id),
            http_address: format!("node-{}:7400", self.id),
            dc: self.dc.to_owned(),
            name: format!("node-{}", self.id),
        }
    }

    /// Starts a process on what is on the disk.
    pub async fn start(&mut self, net: &Net, bootstrap: bool) -> Result<(), String> {
        let store = self.open()?;
        let life = Life::default();
        life.spawn(run_disk(store.clone(), self.stall_us.clone()));
        let options = NodeOptions {
            node_id: self.id,
            info: self.info(),
            data_dir: self.dir.clone(),
            begin: if bootstrap {
                Begin::Bootstrap
            } else {
                Begin::Existing
            },
            sharing: self.sharing,
            snapshot_entries: SNAPSHOT_ENTRIES,
            entries_kept: ENTRIES_KEPT,
            timing: self.timing,
            version: "simulated".to_owned(),
            storage: storage(),
        };
        let world = World {
            dial: net.dialer(self.id),
            clock: self.clock.clone(),
            tls: None,
            store: Some(store),
        };
        let policy = policy_of(&self.retention.config());
        let starting = life.spawn(async move {
            let node = Node::start(options, policy, world).await?;
            let service = Service::new(node.clone(), REQUEST_TIMEOUT);
            if let Some(jobs) = node.take_courier_jobs() {
                qiang_raft::world::spawn(run_courier(service.clone(), jobs));
            }
            Ok::<_, qiang_raft::StartError>((node, service))
        });
        let started = starting
            .await
            .map_err(|error| format!("machine {}: {error}", self.id))?;
        let (node, service) = started.map_err(|error| format!("machine {}: {error}", self.id))?;
        net.listen(self.id, life.clone(), node.clone());
        self.process = Some(Process {
            life,
            node,
            service,
            timing: self.timing,
        });
        Ok(())
    }

    /// From now on each sync takes so much longer.
    pub fn stall_disk(&self, by: Duration) {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.stall_us.store(by_us, Ordering::Relaxed);
    }

    /// From now on nothing can be written, nor synced, until the process is gone and somebody has made space.
    pub fn fill_disk(&mut self) {
        self.is_full = true;
        self.disk.set_full(true);
    }

    /// Whether the disk is full: groups that want to write stop.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// `kill -9`, or a power failure: of what was written and not synced, a prefix is left.
    pub fn crash(&mut self, net: &Net) {
        net.hang_up(self.id);
        self.stall_disk(Duration::ZERO);
        self.is_full = false;
        self.disk.set_full(false);
        if let Some(process) = self.process.take() {
            process.life.kill();
        }
        self.disk
            .crash(|unsynced| Random.random_range(0..=unsynced));
    }
}

/// A clock of the world that began at `began`, as long as nobody sets it.
pub fn right_clock(began: Instant) -> Clock {
    Clock::simulated(began, BEGAN_AT)
}

/// How every machine's store is opened.
fn storage() -> Options {
    Options {
        wal_warm_bytes: 0,
        ..Options::default()
    }
}

/// Some machine's speed.
pub fn any_speed() -> u64 {
    Random.random_range(SLOWEST..=FASTEST)
}

/// Writes and syncs what waits, with the delays of a disk.
async fn run_disk(store: Store, stall_us: Arc<AtomicU64>) {
    let work = Arc::new(Notify::new());
    let told = work.clone();
    store.on_simulated_work(Box::new(move || told.notify_one()));
    loop {
        work.notified().await;
        while let Some(written) = store.simulated_write() {
            if written.awaits_sync() {
                let stall = Duration::from_micros(stall_us.load(Ordering::Relaxed));
                sleep(sync_time() + stall).await;
            }
            store.simulated_sync(&written);
        }
    }
}

fn sync_time() -> Duration {
    let slow = Random.random_range(0..SLOW_SYNC_ONE_IN) == 0;
    let (shortest, longest) = SYNC_US;
    Duration::from_micros(
        Random.random_range(shortest..if slow { SLOW_SYNC_US_MAX } else { longest }),
    )
}
