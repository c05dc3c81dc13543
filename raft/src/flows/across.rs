//! Flows over all nodes: a log is read as far as it goes, and then another's.
//!
//! Invariant: what is given out has no gap, and ends early only with an error. Whoever is asked for what another lacks has the
//! next entry, so every step goes further.

use std::collections::BTreeSet;
use std::time::Duration;

use qiang_engine::ShardId;

use super::{FIRST_ENTRY, Flow, FlowError, FlowQuery, Page, before};
use crate::node::Node;
use crate::rpc::{Kind, ShardRequest};

/// How long another node may take beyond what a reader is willing to wait.
const PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// Flows of a shard, those after the cursor 0 from the oldest that are left on any node that can be asked.
    pub async fn flows(
        &self,
        query: FlowQuery,
        stop: impl Fn() -> bool,
    ) -> Result<Vec<Flow>, FlowError> {
        if query.after > 0 {
            return self.flows_after(query, &stop).await;
        }
        let from = |after| FlowQuery {
            after,
            ..query.clone()
        };
        match self.flows_after(from(before(FIRST_ENTRY)), &stop).await {
            Err(
                FlowError::Forgotten { oldest }
                | FlowError::Unasked {
                    oldest: Some(oldest),
                    ..
                },
            ) => self.flows_after(from(oldest), &stop).await,
            answer => answer,
        }
    }

    /// Flows from this node's log as far as it goes, and from another's where it has a gap.
    async fn flows_after(
        &self,
        query: FlowQuery,
        stop: impl Fn() -> bool,
    ) -> Result<Vec<Flow>, FlowError> {
        let reader = self.flow_reader(query.shard)?;
        if self.groups().of(query.shard).raft().is_none() {
            return self.flows_elsewhere(query).await;
        }
        let Page { mut flows, gap } = match reader.query(&query, stop).await {
            Err(own @ FlowError::Forgotten { .. }) => {
                let elsewhere = self.flows_elsewhere(query).await;
                return elsewhere.map_err(|other| own.or(other));
            }
            page => page?,
        };
        let Some(gap) = gap else { return Ok(flows) };
        let rest = FlowQuery {
            after: query.after.max(before(gap)),
            limit: query.limit - flows.len(),
            wait: if flows.is_empty() {
                query.wait
            } else {
                Duration::ZERO
            },
            ..query
        };
        // Fewer would look as if there were no more.
        flows.extend(self.flows_elsewhere(rest).await?);
        Ok(flows)
    }

    /// Flows for a node that lacks the next of them, if this node's log has it.
    pub(crate) async fn flows_here(&self, query: FlowQuery) -> Result<Vec<Flow>, FlowError> {
        let reader = self.flow_reader(query.shard)?;
        let hosted = self.groups().of(query.shard).raft().is_some();
        if hosted && reader.goes_on_after(query.after)? {
            return self.flows_after(query, || self.is_draining()).await;
        }
        // What a node that has just started has in its log and has not applied yet, nobody may take for deleted.
        Err(if reader.may_have_after(query.after) {
            let (node, oldest) = (self.node_id(), None);
            FlowError::Unasked { node, oldest }
        } else {
            FlowError::Unavailable
        })
    }

    /// The other nodes that may have flows of a shard: those that should have it by the cluster's document, and those that are in its
    /// group, for the document may be ahead of the group, or not have come to this node yet.
    fn who_may_have(&self, shard: ShardId) -> BTreeSet<u64> {
        let mut nodes: BTreeSet<u64> = self.cluster().voters(shard.0).iter().copied().collect();
        self.groups().of(shard).look(|metrics| {
            let members = metrics.membership_config.nodes();
            nodes.extend(members.map(|(id, _)| *id));
        });
        nodes.remove(&self.node_id());
        nodes
    }

    /// Flows of a shard of which this node lacks the next.
    async fn flows_elsewhere(&self, query: FlowQuery) -> Result<Vec<Flow>, FlowError> {
        let patience = query.wait + PATIENCE;
        let mut failure = FlowError::Unavailable;
        for node in self.who_may_have(query.shard) {
            let request = ShardRequest::Flows {
                query: query.clone(),
            };
            let asked = self
                .ask_node::<Result<Vec<Flow>, FlowError>>(node, Kind::Shard, &request, patience)
                .await;
            let oldest = None;
            failure = match asked {
                Ok(Ok(flows)) => return Ok(flows),
                Ok(Err(error)) => failure.or(error),
                Err(_) => failure.or(FlowError::Unasked { node, oldest }),
            };
        }
        Err(failure)
    }
}
