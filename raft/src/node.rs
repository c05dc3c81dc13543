//! A node as the rest of the process uses it: commands, flows, the board, the configuration, the cluster,
//! and its end.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use qiang_engine::routing::SHARDS;
use qiang_engine::shard::Tell;
use qiang_engine::{Answer, Command, OrderId, PromotionId, Refusal, ShardId, TryId, UnixMs};
use qiang_storage::{GroupId, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle as Task;
use tokio::time::Instant;

use crate::answers::Answers;
use crate::board::Board;
use crate::closings::Closings;
use crate::cluster::Cluster;
use crate::early::Early;
use crate::flows::{FlowError, FlowReader};
use crate::groups::{Groups, group_error, name};
use crate::host::Surroundings;
use crate::keeper::run_keeper;
use crate::liveness::run_beats;
use crate::meta::MetaState;
use crate::options::{Begin, NodeOptions, Policy, PolicyCell, StartError, Timing, World};
use crate::peer::{Credentials, Handler, Peers, Stream, Tls, serve, tell_dropped};
use crate::question::{Each, Outcome, Question, only_outcome};
use crate::reconcile::run_reconciler;
use crate::router::Router;
use crate::start::{open_store, raft_config, seat_actors, sharing_of, stop_actors};
use crate::world::{Clock, blocking, room, spawn, watch};

mod report;

/// Jobs that may wait for the courier; more are asked for again later.
const COURIER_JOBS_MAX: usize = 8192;

/// Connections of peers at a time: four lanes of every other node, and room for those that reconnect.
const PEER_CONNECTIONS_MAX: usize = 1024;

/// The pause after a connection that could not be accepted: there may be too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// Ask when a promotion was closed, and [note](Node::note_closing) it.
    Closing {
        /// Which.
        promotion_id: PromotionId,
    },
}

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    clock: Clock,
    tls: Option<Tls>,
    groups: Arc<Groups>,
    router: Router,
    flows: Vec<FlowReader>,
    board: Board,
    policy: PolicyCell,
    closings: Closings,
    courier: Mutex<Option<mpsc::Receiver<CourierJob>>>,
    /// Groups whose membership or leadership is being changed.
    changing: Mutex<BTreeSet<GroupId>>,
    draining: AtomicBool,
    started_at: UnixMs,
    stop: Arc<AtomicBool>,
    stopped: watch::Sender<bool>,
    actors: Mutex<Vec<Task<()>>>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl Node {
    /// Opens the data directory and starts every group that has data in it. Returns when they run; they
    /// decide as soon as each has a leader.
    pub async fn start(
        options: NodeOptions,
        policy: Policy,
        world: World,
    ) -> Result<Self, StartError> {
        let store = open_store(&options, &world).await?;
        let policy = PolicyCell::new(policy);
        let board = Board::default();
        let (courier, jobs) = mpsc::channel(room(COURIER_JOBS_MAX));
        let closings = Closings::default();
        let around = Surroundings {
            board: board.clone(),
            policy: policy.clone(),
            closings: closings.clone(),
            courier,
            lease: options.timing.lease(),
            clock: world.clock.clone(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let sharing = sharing_of(&store)?;
        let (shards, actors) = seat_actors(&around, sharing, options.timing, &stop);
        let groups = Arc::new(Groups::new(
            options.node_id,
            options.info.clone(),
            store.clone(),
            Peers::new(Credentials::of(&store), world.dial.clone()),
            shards,
            Arc::new(raft_config(&options)),
            options.timing,
        ));
        let begun = async {
            start_groups(&groups, options.begin == Begin::Bootstrap).await?;
            let readers = (0..SHARDS).map(|shard| reader(&groups, ShardId(shard)));
            readers.collect::<Result<Vec<_>, _>>()
        };
        let flows = match begun.await {
            Ok(flows) => flows,
            Err(error) => {
                groups.stop_all().await;
                stop_actors(&stop, &groups.shards, actors).await;
                return Err(error);
            }
        };
        let keeper = run_keeper(
            groups.clone(),
            options.snapshot_entries,
            policy.clone(),
            world.clock.clone(),
        );
        let tasks = vec![spawn(keeper)];
        let early = Early {
            board: board.clone(),
            policy: policy.clone(),
            clock: world.clock.clone(),
            lease: options.timing.lease(),
        };
        let inner = Inner {
            router: Router::new(groups.clone(), early),
            started_at: world.clock.now(),
            clock: world.clock,
            tls: world.tls,
            options,
            groups,
            flows,
            board,
            policy,
            closings,
            courier: Mutex::new(Some(jobs)),
            changing: Mutex::default(),
            draining: AtomicBool::new(false),
            stop,
            stopped: watch::Sender::new(false),
            actors: Mutex::new(actors),
            tasks: Mutex::new(tasks),
        };
        let node = Node {
            inner: Arc::new(inner),
        };
        node.add_task(spawn(run_reconciler(node.clone())));
        node.add_task(spawn(run_beats(node.clone())));
        Ok(node)
    }

    /// Answers peers that connect to `listener` until the node stops.
    pub fn serve_peers(&self, listener: TcpListener) {
        let node = self.clone();
        let places = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
        self.add_task(spawn(async move {
            let answers = node.peer_answers();
            loop {
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%error, "a peer's connection ended");
                            continue;
                        }
                        let (node, answers) = (node.clone(), answers.clone());
                        spawn(async move {
                            match node.secured(stream).await {
                                Ok(stream) => node.serve_peer(stream, answers).await,
                                Err(error) => tell_dropped(&error),
                            }
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a peer's connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }));
    }

    /// A connection with what stands in front of it.
    async fn secured(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
        match &self.inner.tls {
            Some(tls) => tls.accept(stream).await,
            None => Ok(Box::new(stream)),
        }
    }

    /// What answers this node's peers.
    pub fn peer_answers(&self) -> Arc<dyn Handler> {
        Arc::new(Answers::new(self.clone()))
    }

    /// Answers the peer behind one connection until it ends or the node stops.
    pub fn serve_peer(
        &self,
        stream: Box<dyn Stream>,
        answers: Arc<dyn Handler>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let credentials = self.inner.groups.peers.credentials().clone();
        let mut stopped = self.inner.stopped.subscribe();
        async move {
            tokio::select! {
                biased;
                () = serve(stream, credentials, answers) => {}
                // Whether told or because nobody is left to tell.
                _ = stopped.wait_until(|stopped| *stopped) => {}
            }
        }
    }

    fn add_task(&self, task: Task<()>) {
        let mut tasks = self
            .inner
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tasks.push(task);
    }

    /// Has the leader of `shard` answer `command`, wherever it is; waits for one until `deadline`.
    pub async fn ask(
        &self,
        shard: ShardId,
        command: Command,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        let question = Question::new([command]);
        only_outcome(self.ask_many(shard, &question, deadline).await)
    }

    /// Has the leader of `shard` answer each command of `question`, as [`Node::ask`] would.
    pub async fn ask_many(
        &self,
        shard: ShardId,
        question: &Arc<Question>,
        deadline: Instant,
    ) -> Each<Outcome> {
        self.inner.router.ask(shard, question, deadline).await
    }

    /// The time by this node's clock.
    pub fn now(&self) -> UnixMs {
        self.inner.clock.now()
    }

    /// How long it waits for others.
    pub(crate) fn timing(&self) -> Timing {
        self.inner.options.timing
    }

    /// Its number in the cluster.
    pub fn node_id(&self) -> u64 {
        self.inner.options.node_id
    }

    /// Numbers of the cluster's other nodes, as far as this node knows, ascending.
    pub(crate) fn other_nodes(&self) -> Vec<u64> {
        let state = self.inner.groups.meta_state.borrow();
        let nodes = state.cluster.nodes.keys().copied();
        nodes.filter(|id| *id != self.node_id()).collect()
    }

    pub(crate) fn groups(&self) -> &Arc<Groups> {
        &self.inner.groups
    }

    pub(crate) fn router(&self) -> &Router {
        &self.inner.router
    }

    /// The committed counters of all promotions that have a replica here.
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

    /// Notes when a promotion was closed, for shards that have it in carts.
    pub fn note_closing(&self, promotion_id: PromotionId, at: UnixMs) {
        self.inner.closings.note(promotion_id, at);
    }

    /// Puts a policy in force.
    pub fn set_policy(&self, policy: Policy) {
        self.inner.policy.set(policy);
    }

    /// The configuration's versions and the cluster as it should be, and word of changes.
    pub fn meta_state(&self) -> watch::Receiver<MetaState> {
        self.inner.groups.meta_state.subscribe()
    }

    /// The version of the configuration that this node knows.
    pub fn config_version(&self) -> u64 {
        self.inner.groups.meta_state.borrow().config_version()
    }

    /// The cluster as it should be, as far as this node knows.
    pub fn cluster(&self) -> Cluster {
        self.inner
            .groups
            .meta_state
            .borrow()
            .cluster
            .as_ref()
            .clone()
    }

    /// Reads the flows that this node's log has of a shard.
    pub(crate) fn flow_reader(&self, shard: ShardId) -> Result<&FlowReader, FlowError> {
        let reader = self.inner.flows.get(usize::from(shard.0));
        reader.ok_or(FlowError::Unavailable)
    }

    /// Begins to change a group, unless it is being changed already.
    pub(crate) fn begin_change(&self, group: GroupId) -> bool {
        let mut changing = self
            .inner
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        changing.insert(group)
    }

    pub(crate) fn is_changing(&self, group: GroupId) -> bool {
        let changing = self
            .inner
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        changing.contains(&group)
    }

    pub(crate) fn end_change(&self, group: GroupId) {
        let mut changing = self
            .inner
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        changing.remove(&group);
    }

    /// Takes in what the cluster's document says of nodes.
    pub(crate) fn learn(&self, cluster: &Cluster) {
        let peers = &self.inner.groups.peers;
        for (id, member) in &cluster.nodes {
            peers.set_address(*id, &member.info.peer_address);
        }
        let members = cluster.nodes.keys().copied().collect();
        let removed = cluster.removed.iter().copied().collect();
        peers.credentials().set_numbers(members, removed);
    }

    /// How the node was started.
    pub fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    /// The node's store.
    pub fn store(&self) -> &Store {
        &self.inner.groups.store
    }

    /// The node is about to stop: it says so, and its leaders go to others.
    pub async fn drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.hand_over_all().await;
    }

    /// Whether the node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Stops every group and actor, then closes the store. Whoever still waits is answered.
    pub async fn stop(&self) {
        for task in std::mem::take(
            &mut *self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        ) {
            task.abort();
        }
        self.inner
            .stopped
            .send_if_modified(|stopped| !std::mem::replace(stopped, true));
        self.inner.groups.stop_all().await;
        self.inner.groups.peers.close();
        let actors = std::mem::take(
            &mut *self
                .inner
                .actors
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let groups = &self.inner.groups;
        stop_actors(&self.inner.stop, &groups.shards, actors).await;
        let store = groups.store.clone();
        if let Err(error) = blocking(move || store.close()).await {
            tracing::error!(%error, "closing the store panicked");
        }
    }
}

async fn start_groups(groups: &Arc<Groups>, bootstrap: bool) -> Result<(), StartError> {
    let mut present = groups.held()?;
    if bootstrap && present.is_empty() {
        present = groups.all().collect();
    }
    for group in &present {
        groups.start(*group).await?;
    }
    for group in &present {
        groups.lead_alone(*group, bootstrap).await?;
    }
    Ok(())
}

fn reader(groups: &Groups, shard: ShardId) -> Result<FlowReader, StartError> {
    let group = groups.of(shard).clone();
    let log = groups.store.log(group.id);
    let log = log.map_err(|error| group_error(&name(group.id), &error))?;
    let place = groups.sharing.place_of(shard);
    Ok(FlowReader { group, place, log })
}
