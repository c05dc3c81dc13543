//! Leaderships on their way from this node to another, because the document wants it or because this node stops.
//!
//! Invariant: the actor stands still from before the transfer until the other leads or has failed to; nothing is decided that
//! the next leader might lack, and no lease of the term that was given away counts any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use qiang_storage::GroupId;
use tokio::time::{Instant, sleep};

use crate::any_raft::AnyRaft;
use crate::cluster::Member;
use crate::groups::name;
use crate::node::Node;
use crate::world::spawn;

/// How long a leader waits until all it has proposed is committed and the next leader has it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the next leader may take to take over.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two looks while a leadership is handed over.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Node {
    /// Hands a group over to whoever should lead it.
    pub(crate) fn hand_over_as_planned(
        &self,
        group: GroupId,
        raft: &AnyRaft,
        planned: Option<u64>,
    ) {
        let Some(planned) = planned else {
            return;
        };
        if !self.is_well(raft, planned) || !self.begin_change(group) {
            return;
        }
        let node = self.clone();
        spawn(async move {
            if let Err(error) = node.hand_over(group, planned).await {
                tracing::debug!(
                    group = name(group),
                    to = planned,
                    error,
                    "a leadership was not handed over"
                );
            }
            node.end_change(group);
        });
    }

    /// Hands the leadership of a group to `to`: nothing new is decided, what is pending is committed, the
    /// next leader has all of it and takes over. Commands wait meanwhile and follow it.
    pub(crate) async fn hand_over(&self, group: GroupId, to: u64) -> Result<(), String> {
        let raft = self
            .groups()
            .raft(group)
            .ok_or("the group does not run here")?;
        if !raft.is_leader() {
            return Err("this node does not lead it".to_owned());
        }
        if to == self.node_id() {
            return Ok(());
        }
        let votes = raft.look(|metrics| {
            metrics
                .membership_config
                .voter_ids()
                .any(|voter| voter == to)
        });
        if !votes {
            return Err(format!("node {to} does not vote in it"));
        }
        self.groups().roused(group).await;
        let shard = self.groups().shards.get(usize::from(group.0));
        if let Some(shard) = shard {
            shard.paused.store(true, Ordering::Release);
            shard.deciding.store(false, Ordering::Release);
        }
        let handed = self.hand_over_quietly(group, &raft, to).await;
        if let Some(shard) = shard {
            shard.paused.store(false, Ordering::Release);
            shard.mailbox.wake();
        }
        handed
    }

    async fn hand_over_quietly(
        &self,
        group: GroupId,
        raft: &AnyRaft,
        to: u64,
    ) -> Result<(), String> {
        let until = Instant::now() + HAND_OVER_TIMEOUT;
        while !self.is_settled(group, raft, to) {
            if Instant::now() >= until {
                return Err(format!("node {to} does not have everything"));
            }
            sleep(LOOK_EVERY).await;
        }
        // Word of it may come to the other after this node has given up waiting for it.
        if let Some(shard) = self.groups().shards.get(usize::from(group.0)) {
            shard.give_away(raft.look(|metrics| metrics.current_term));
        }
        raft.transfer_leader(to)
            .await
            .map_err(|error| error.to_string())?;
        let until = Instant::now() + TAKE_OVER_TIMEOUT;
        while raft.is_leader() {
            if Instant::now() >= until {
                return Err(format!("node {to} has not taken over"));
            }
            sleep(LOOK_EVERY).await;
        }
        tracing::info!(group = name(group), to, "handed the leadership over");
        Ok(())
    }

    /// Whether nothing is pending and the next leader has the whole log.
    fn is_settled(&self, group: GroupId, raft: &AnyRaft, to: u64) -> bool {
        let pending = self
            .groups()
            .shards
            .get(usize::from(group.0))
            .is_some_and(|shard| shard.pending.load(Ordering::Acquire) > 0);
        let has_all = raft.look(|metrics| {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|progress| *progress.get(&to)?);
            matched.map(|matched| matched.index) == metrics.last_log_index
        });
        !pending && has_all
    }

    /// Hands every leadership to others; for a node that is about to stop.
    pub async fn hand_over_all(&self) {
        let led = self.groups().all().filter_map(|group| {
            let raft = self.groups().raft(group).filter(AnyRaft::is_leader)?;
            let voters =
                raft.look(|metrics| metrics.membership_config.voter_ids().collect::<Vec<u64>>());
            let cluster = self.cluster();
            let can_lead = |id: &u64| cluster.nodes.get(id).is_some_and(Member::leads);
            let own_dc = &self.groups().info.dc;
            let mut candidates: Vec<u64> = voters
                .into_iter()
                .filter(|id| *id != self.node_id() && can_lead(id) && self.is_well(&raft, *id))
                .collect();
            candidates.sort_by_key(|id| {
                (
                    cluster.nodes[id].info.dc != *own_dc,
                    (u64::from(group.0) + id) % 7,
                    *id,
                )
            });
            Some((group, candidates))
        });
        let all = led.map(|(group, candidates)| async move {
            for to in candidates {
                match self.hand_over(group, to).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(
                        group = name(group),
                        to,
                        error,
                        "a leadership was not handed over"
                    ),
                }
            }
        });
        futures::future::join_all(all).await;
    }
}
