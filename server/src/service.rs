//! What callers can ask of qiang, without HTTP: commands find their shard, carts find all of theirs,
//! and every call ends within its deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{join, join_all};
use qiang_engine::command::{Code, Grab, Granted};
use qiang_engine::promotion::{PromotionState, PromotionView};
use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::{Answer, Command, PromotionId, Refusal, ShardId, UnixMs};
use qiang_raft::{
    Board, Each, Flow, FlowError, Node, NodeReport, Outcome, Policy, Question, only_outcome,
};
use tokio::time::{Instant, timeout};

use crate::cart;
use crate::cluster_config::ClusterConfig;

pub use crate::orders::CancelOrder;
pub use qiang_raft::{ConfigRefusal, FlowQuery};

/// Everything a node does for its callers. Clones share it.
#[derive(Clone)]
pub struct Service {
    pub(crate) node: Node,
    shared: Arc<Shared>,
}

struct Shared {
    config: RwLock<Arc<ConfigVersion>>,
    /// Grabs let in at a time, as the configuration has it: what every grab asks for.
    grabs_max: AtomicU64,
    request_timeout: Duration,
}

impl Shared {
    fn config(&self) -> Arc<ConfigVersion> {
        self.config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts the newest configuration this node knows in force.
    fn put_in_force(&self, node: &Node) -> Arc<ConfigVersion> {
        // Looked up under the lock, so that of two at once the later never puts an older one in force.
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let newest = Arc::new(newest_config(node));
        node.set_policy(policy_of(&newest.document));
        let grabs_max = newest.document.grab_concurrency_in_force();
        self.grabs_max.store(grabs_max, Ordering::Relaxed);
        *config = newest.clone();
        newest
    }
}

/// One version of the cluster's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigVersion {
    /// Grows by one with every change; 0 is the default, before the first.
    pub version: u64,
    /// When it was put.
    pub at: UnixMs,
    /// The document.
    pub document: ClusterConfig,
}

impl Service {
    /// The service of a running node. A call that has not ended after `request_timeout` is answered
    /// with what is then known.
    pub fn new(node: Node, request_timeout: Duration) -> Self {
        let config = newest_config(&node);
        let shared = Shared {
            grabs_max: AtomicU64::new(config.document.grab_concurrency_in_force()),
            config: RwLock::new(Arc::new(config)),
            request_timeout,
        };
        let service = Service {
            node,
            shared: Arc::new(shared),
        };
        service.follow_config();
        service
    }

    /// Grabs: all items or none.
    pub async fn grab(&self, grab: Grab) -> Result<Granted, Refusal> {
        self.grab_by(grab, self.deadline()).await
    }

    /// The same, by this deadline.
    async fn grab_by(&self, grab: Grab, deadline: Instant) -> Result<Granted, Refusal> {
        let Some(shard) = only_shard(&grab) else {
            return cart::grab(self, grab, deadline).await;
        };
        let mut question = Question::new([Command::Grab(grab)]);
        loop {
            let outcomes = self.node.ask_many(shard, &question, deadline).await;
            match granted_of(only_outcome(outcomes)) {
                Err(refusal) if is_in_doubt(&refusal) => cart::wait_for_other_try(deadline).await?,
                outcome => return outcome,
            }
            question = Question::new(question.commands().to_vec());
        }
    }

    /// Independent grabs, answered in their order. Those of one shard go to it together; carts go alone.
    pub async fn grab_batch(
        &self,
        grabs: Vec<Grab>,
    ) -> impl Iterator<Item = Result<Granted, Refusal>> + use<> {
        let deadline = self.deadline();
        let mut ways = Vec::with_capacity(grabs.len());
        // With room for more than an even share, so that few grow.
        let room = 2 * grabs.len() / usize::from(SHARDS);
        let mut of_shard: Vec<Vec<Command>> = shards().map(|_| Vec::with_capacity(room)).collect();
        let mut alone = Vec::new();
        for grab in grabs {
            let way = only_shard(&grab).map(|shard| usize::from(shard.0));
            ways.push(way);
            match way {
                Some(shard) => of_shard[shard].push(Command::Grab(grab)),
                None => alone.push(grab),
            }
        }
        let together = shards().zip(of_shard);
        let together =
            together.map(|(shard, commands)| self.grab_together(shard, commands, deadline));
        let alone = alone.into_iter().map(|grab| self.grab_by(grab, deadline));
        let (together, alone) = join(join_all(together), join_all(alone)).await;
        // Each way has its outcomes in the order of its grabs.
        let mut of_shard: Vec<_> = together.into_iter().map(Each::into_iter).collect();
        let mut alone = alone.into_iter();
        ways.into_iter().map(move |way| {
            let outcome = match way {
                Some(shard) => of_shard[shard].next().map(granted_of),
                None => alone.next(),
            };
            outcome.unwrap_or(Err(Refusal::OutcomeUnknown))
        })
    }

    /// Grabs that go to one shard, in their order.
    async fn grab_together(
        &self,
        shard: ShardId,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Each<Outcome> {
        if commands.is_empty() {
            return Each::new();
        }
        let question = Question::new(commands);
        let mut outcomes = self.node.ask_many(shard, &question, deadline).await;
        let in_doubt = outcomes.iter_mut().zip(question.commands());
        let again = in_doubt.filter_map(|(outcome, command)| match (&*outcome, command) {
            (Err(refusal), Command::Grab(grab)) if is_in_doubt(refusal) => Some(async {
                *outcome = self
                    .grab_by(grab.clone(), deadline)
                    .await
                    .map(Answer::Granted);
            }),
            _ => None,
        });
        join_all(again).await;
        outcomes
    }

    /// Creates, changes, stops, resumes, deletes or reads a promotion; whether it was created by this.
    pub async fn promotion(
        &self,
        promotion_id: &PromotionId,
        command: Command,
    ) -> Result<(PromotionView, bool), Refusal> {
        match self
            .ask(shard_of(promotion_id), command, self.deadline())
            .await?
        {
            Answer::Promotion { view, created } => Ok((*view, created)),
            _ => Err(Refusal::OutcomeUnknown),
        }
    }

    /// Up to `limit` promotions after `after` in the order of their ids.
    pub async fn list_promotions(
        &self,
        state: Option<PromotionState>,
        after: Option<PromotionId>,
        limit: usize,
    ) -> Result<Vec<PromotionView>, Refusal> {
        let deadline = self.deadline();
        let ask = |shard| {
            self.ask(
                shard,
                Command::ListPromotions {
                    state,
                    after: after.clone(),
                    limit,
                },
                deadline,
            )
        };
        let mut views = Vec::new();
        for answer in join_all(shards().map(ask)).await {
            match answer.map_err(as_read)? {
                Answer::Promotions(found) => views.extend(found),
                _ => return Err(Refusal::Unavailable),
            }
        }
        views.sort_by(|a, b| a.promotion.id.cmp(&b.promotion.id));
        views.truncate(limit);
        Ok(views)
    }

    /// Flows in commit order.
    pub async fn flows(&self, query: FlowQuery) -> Result<Vec<Flow>, FlowError> {
        self.node.flows(query, || self.draining()).await
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<ConfigVersion> {
        let known = self.shared.config();
        if self.node.config_version() == known.version {
            return known;
        }
        self.shared.put_in_force(&self.node)
    }

    /// How many grabs the configuration in force lets in at a time.
    pub fn grabs_max(&self) -> u64 {
        self.shared.grabs_max.load(Ordering::Relaxed)
    }

    /// Puts a configuration in the place of version `expected_version`.
    pub async fn put_config(
        &self,
        expected_version: u64,
        document: ClusterConfig,
    ) -> Result<ConfigVersion, ConfigRefusal> {
        let text = serde_json::to_string(&document).map_err(|_| ConfigRefusal::Unavailable)?;
        let put = self.node.put_config(expected_version, text);
        let put = timeout(self.shared.request_timeout, put)
            .await
            .map_err(|_| ConfigRefusal::OutcomeUnknown)??;
        // In force here before anybody is told that it is.
        self.config();
        Ok(ConfigVersion {
            version: put.version,
            at: put.at,
            document,
        })
    }

    /// The versions of the configuration that are kept, newest first.
    pub fn config_history(&self) -> Vec<ConfigVersion> {
        self.node
            .meta_state()
            .borrow()
            .versions
            .iter()
            .rev()
            .map(parse_config)
            .collect()
    }

    /// The clock that states are shown by.
    pub fn now(&self) -> UnixMs {
        self.node.now()
    }

    /// The node and its groups.
    pub fn status(&self) -> NodeReport {
        self.node.report()
    }

    /// The node behind this service, for what operators ask of the cluster.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What the store has done since it was opened.
    pub fn storage_stats(&self) -> qiang_storage::Stats {
        self.node.store().stats()
    }

    /// The committed counters of all promotions.
    pub fn board(&self) -> &Board {
        self.node.board()
    }

    /// Whether the node is about to stop.
    pub fn draining(&self) -> bool {
        self.node.is_draining()
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.request_timeout
    }

    /// Asks one shard, wherever it is led; past the deadline the outcome is unknown.
    pub(crate) async fn ask(
        &self,
        shard: ShardId,
        command: Command,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        self.node.ask(shard, command, deadline).await
    }

    /// Puts every new configuration in force as soon as this node learns of it.
    fn follow_config(&self) {
        let mut state = self.node.meta_state();
        let (node, shared) = (self.node.clone(), self.shared.clone());
        qiang_raft::world::spawn(async move {
            loop {
                shared.put_in_force(&node);
                if !state.next().await {
                    return;
                }
            }
        });
    }
}

/// All shards.
pub(crate) fn shards() -> impl Iterator<Item = ShardId> {
    (0..SHARDS).map(ShardId)
}

/// The shard of all of a grab's items, if they have one shard.
fn only_shard(grab: &Grab) -> Option<ShardId> {
    let mut shards = grab.items.iter().map(|item| shard_of(&item.promotion_id));
    let first = shards.next()?;
    shards.all(|shard| shard == first).then_some(first)
}

fn granted_of(outcome: Outcome) -> Result<Granted, Refusal> {
    match outcome {
        Ok(Answer::Granted(granted)) => Ok(granted),
        Ok(_) => Err(Refusal::OutcomeUnknown),
        Err(refusal) => Err(refusal),
    }
}

/// Whether another try of the same order is under way.
fn is_in_doubt(refusal: &Refusal) -> bool {
    is_code(refusal, |code| matches!(code, Code::InDoubt))
}

pub(crate) fn is_code(refusal: &Refusal, is: impl Fn(&Code) -> bool) -> bool {
    matches!(refusal, Refusal::Rejected(rejection) if is(&rejection.code))
}

/// A read whose answer did not come in time did nothing.
pub(crate) fn as_read(refusal: Refusal) -> Refusal {
    if refusal == Refusal::OutcomeUnknown {
        Refusal::Unavailable
    } else {
        refusal
    }
}

/// What a configuration asks of shards.
pub fn policy_of(config: &ClusterConfig) -> Policy {
    Policy {
        default_rate: config.rate,
        rate_percent: if config.degraded {
            config.degraded_percent
        } else {
            100
        },
        order_retention_ms: config.order_retention_ms,
        flow_retention_ms: config.flow_retention_ms,
    }
}

fn newest_config(node: &Node) -> ConfigVersion {
    let versions = node.meta_state().borrow().versions.clone();
    let default = || ConfigVersion {
        version: 0,
        at: UnixMs(0),
        document: ClusterConfig::default(),
    };
    versions.last().map_or_else(default, parse_config)
}

/// The version as stored; a document of a newer binary falls back to the defaults, loudly.
fn parse_config(stored: &qiang_raft::ConfigVersion) -> ConfigVersion {
    let document = if stored.document.is_empty() {
        ClusterConfig::default()
    } else {
        serde_json::from_str(&stored.document).unwrap_or_else(|error| {
            tracing::error!(version = stored.version, %error, "the stored configuration cannot be read: the defaults are in force");
            ClusterConfig::default()
        })
    };
    ConfigVersion {
        version: stored.version,
        at: stored.at,
        document,
    }
}
