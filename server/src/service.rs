//! What callers can ask of qiang, without HTTP: commands find their shard, carts find all of theirs,
//! and every call ends within its deadline.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use qiang_engine::command::{Code, Grab, Granted};
use qiang_engine::promotion::{PromotionState, PromotionView};
use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::{Answer, Command, PromotionId, Refusal, ShardId, UnixMs};
use qiang_raft::{Board, Flow, FlowError, Node, NodeReport, Policy};
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
        let newest = Arc::new(newest_config(node));
        node.set_policy(policy_of(&newest.document));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = newest.clone();
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
        let shared = Shared {
            config: RwLock::new(Arc::new(newest_config(&node))),
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
        let deadline = self.deadline();
        let home = shard_of(&grab.items[0].promotion_id);
        if grab
            .items
            .iter()
            .any(|item| shard_of(&item.promotion_id) != home)
        {
            return cart::grab(self, grab, deadline).await;
        }
        let command = Command::Grab(grab);
        loop {
            match self.ask(home, command.clone(), deadline).await {
                Ok(Answer::Granted(granted)) => return Ok(granted),
                Err(refusal) if is_code(&refusal, |code| matches!(code, Code::InDoubt)) => {
                    cart::wait_for_other_try(deadline).await?;
                }
                Err(refusal) => return Err(refusal),
                Ok(_) => return Err(Refusal::OutcomeUnknown),
            }
        }
    }

    /// Independent grabs, answered in their order.
    pub async fn grab_batch(&self, grabs: Vec<Grab>) -> Vec<Result<Granted, Refusal>> {
        join_all(grabs.into_iter().map(|grab| self.grab(grab))).await
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
        if self.node.meta_state().borrow().config_version() == known.version {
            return known;
        }
        self.shared.put_in_force(&self.node)
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
                if state.changed().await.is_err() {
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
