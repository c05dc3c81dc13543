//! What each survivor of a lost data centre does in a recovery: it says what it has, stops its groups, and starts them again as it is told.
//!
//! Invariant: from when it has said where its groups end until it is told how to go on, nothing is written to them.

use std::io;

use openraft::impls::Vote;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EntryPayload, Membership};
use qiang_engine::codec;
use qiang_storage::GroupId;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

use crate::any_raft::AnyRaft;
use crate::cluster::Cluster;
use crate::groups::{META_GROUP, Standstill, Voters, name};
use crate::log_store::LogStore;
use crate::meta::MetaState;
use crate::node::Node;
use crate::peer::Out;
use crate::rpc::{Fenced, GroupEnd, Resumption, SurvivorState};
use crate::types::{Entry, LogId, NodeInfo, encode_entry};
use crate::world::blocking;

impl Node {
    /// What this node knows, for whoever leads a recovery.
    pub(crate) async fn survivor_state(&self) -> Result<SurvivorState, String> {
        let cluster = self.document_on_disk().await?;
        let standstill = self.groups().standstill.lock().await;
        let ends = match &*standstill {
            Some(standstill) => self.ends(&standstill.voters)?,
            None => self.ends(&voters_of(&self.running()))?,
        };
        // Until somebody says so again, a node that was started anew is not fenced, but it remembers.
        let outlived = self.groups().store.identity().outlived_by;
        let outlived = outlived.map(Out::OutlivedBy);
        Ok(SurvivorState {
            report: self.report(),
            cluster,
            ends,
            hears: self.groups().liveness.alive(),
            stands_still: standstill.is_some(),
            out: outlived.max(self.groups().peers.credentials().out()),
        })
    }

    async fn document_on_disk(&self) -> Result<Cluster, String> {
        let on_disk = self.meta_on_disk().await;
        let on_disk = on_disk.map_err(|error| format!("group {}: {error}", name(META_GROUP)))?;
        Ok(on_disk.cluster.as_ref().clone())
    }

    async fn meta_on_disk(&self) -> io::Result<MetaState> {
        let store = &self.groups().store;
        let log = store.log(META_GROUP).map_err(io::Error::other)?;
        let snapshots = store.snapshots(META_GROUP);
        blocking(move || MetaState::on_disk(&log, &snapshots)).await?
    }

    /// Begins the cluster's next life here: every group stops, until this attempt has them go on, and nodes of the past are no longer heard.
    pub(crate) async fn fence(&self, incarnation: u64, attempt: u64) -> Result<Fenced, String> {
        let groups = self.groups();
        let mut standstill = groups.standstill.lock().await;
        // Whoever asks has stood still while another was faster, and knows nothing of what came then.
        let own = groups.store.identity().incarnation;
        if incarnation <= own {
            return Err(format!("incarnation {own} has begun meanwhile"));
        }
        groups
            .store
            .set_incarnation(incarnation)
            .map_err(|error| error.to_string())?;
        groups.peers.credentials().set_incarnation(incarnation);
        tracing::warn!(
            incarnation,
            "recovery: every group stops, the cluster's next incarnation begins"
        );
        let running = self.running();
        groups.stop_all().await;
        // Those that ran, by what they showed last; those that stood still before, as noted then.
        let before = standstill.take().map(|before| before.voters);
        let mut voters = before.unwrap_or_default();
        voters.extend(voters_of(&running));
        let Standstill { voters, .. } = standstill.insert(Standstill { attempt, voters });
        Ok(Fenced {
            cluster: self.document_on_disk().await?,
            ends: self.ends(voters)?,
        })
    }

    /// The groups that run here.
    fn running(&self) -> Vec<(GroupId, AnyRaft)> {
        let groups = self.groups();
        let running = groups.all().filter_map(|id| Some((id, groups.raft(id)?)));
        running.collect()
    }

    /// Where each group ends that this node holds, of which these vote.
    fn ends(&self, voters: &Voters) -> Result<Vec<GroupEnd>, String> {
        let held = self.groups().held().map_err(|error| error.to_string())?;
        let end_of = |group: GroupId| {
            let voters = voters.get(&group.0).cloned();
            self.end_of(group, voters.unwrap_or_default())
        };
        held.into_iter().map(end_of).collect()
    }

    fn end_of(&self, group: GroupId, voters: Vec<u64>) -> Result<GroupEnd, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("group {}: {error}", name(group));
        let log = self.groups().store.log(group);
        let store = LogStore::new(log.map_err(|error| wrong(&error))?);
        let last = store.last().map_err(|error| wrong(&error))?;
        let voted = store.vote().map_err(|error| wrong(&error))?;
        Ok(GroupEnd {
            group: group.0,
            last,
            term: voted.map_or(0, |vote| vote.leader_id.term),
            voters,
        })
    }

    /// Starts the groups again as this attempt has decided.
    pub(crate) async fn resume(
        &self,
        attempt: u64,
        resumed: Vec<Resumption>,
    ) -> Result<(), String> {
        let groups = self.groups();
        let mut standstill = groups.standstill.lock().await;
        // Logs may end elsewhere by now than where they were said to.
        if standstill
            .take_if(|still| still.attempt == attempt)
            .is_none()
        {
            return Err(
                "it was started, or told otherwise, since it said where its logs end".to_owned(),
            );
        }
        for group in resumed.iter().filter(|group| group.begins) {
            self.write_new_membership(group).await?;
        }
        groups.reopen().await;
        for group in &resumed {
            groups
                .start(GroupId(group.group))
                .await
                .map_err(|error| error.to_string())?;
        }
        for group in resumed.iter().filter(|group| group.begins) {
            if let Some(raft) = groups.raft(GroupId(group.group)) {
                raft.elect().await.map_err(|error| error.to_string())?;
            }
        }
        tracing::warn!(groups = resumed.len(), "recovery: the groups run again");
        Ok(())
    }

    /// Ends a stopped group's log with a membership of the survivors, in a term above all others.
    async fn write_new_membership(&self, group: &Resumption) -> Result<(), String> {
        let id = GroupId(group.group);
        let wrong = |error: &dyn std::fmt::Display| format!("group {}: {error}", name(id));
        let log = self.groups().store.log(id).map_err(|error| wrong(&error))?;
        let store = LogStore::new(log.clone());
        let last = store.last().map_err(|error| wrong(&error))?;
        let leader_id = LeaderId {
            term: group.term,
            node_id: self.node_id(),
        };
        let voters: BTreeSet<u64> = group.voters.iter().map(|(id, _)| *id).collect();
        let nodes: BTreeMap<u64, NodeInfo> = group.voters.iter().cloned().collect();
        let membership = Membership::new(vec![voters], nodes).map_err(|error| wrong(&error))?;
        let log_id = LogId {
            leader_id,
            index: last.map_or(0, |last| last.index + 1),
        };
        let entry = Entry {
            log_id,
            payload: EntryPayload::Membership(membership),
        };
        let vote: Vote<LeaderId<u64, u64>> = Vote {
            leader_id,
            committed: false,
        };
        let (saved, vote_saved) = oneshot::channel();
        log.save_vote(
            codec::encode(&vote).into(),
            Box::new(|result| drop(saved.send(result))),
        );
        let (appended, entry_appended) = oneshot::channel();
        log.append(
            log_id.index,
            vec![encode_entry(&entry)],
            Box::new(|result| drop(appended.send(result))),
        );
        for written in [vote_saved, entry_appended] {
            written
                .await
                .map_err(|error| wrong(&error))?
                .map_err(|error| wrong(&error))?;
        }
        Ok(())
    }
}

/// Who votes in these instances; where that is being changed, who did before.
fn voters_of(running: &[(GroupId, AnyRaft)]) -> Voters {
    let voters = |raft: &AnyRaft| {
        raft.look(|metrics| {
            let membership = metrics.membership_config.membership();
            let before = membership.get_joint_config().first().cloned();
            before.into_iter().flatten().collect()
        })
    };
    running
        .iter()
        .map(|(id, raft)| (id.0, voters(raft)))
        .collect()
}
