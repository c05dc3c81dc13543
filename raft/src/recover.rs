//! Recovery after a data centre is lost for good: what is left of each group goes on alone.
//!
//! Of four replicas two are left, which is no majority. But every commit had three, so at least one of the two has it, and of two logs
//! the one with the greater last log id has every commit. (Were there five, and two are left, it may not be so, and recovery is
//! refused unless it is forced.) One node leads the recovery, which is here: it has every survivor stop its groups and begin the
//! cluster's next incarnation, learns where each group ends on each, and has the one with the longest log of each group write a
//! membership of the survivors alone. Then the groups start again. What each survivor does is in `survivor`.
//!
//! Invariants: nothing is changed before it is sure that no group has a quorum that needs the lost nodes, that nobody of the lost data
//! centre answers or is heard by a survivor, and that every survivor does. Survivors are all of the data centre that any of them has in
//! its log of the document: whoever votes somewhere is named by a document that a majority had, one of them at least, though it may not
//! have heard that it was committed. From the first `Fence` on, nodes of the past are heard by nobody who has taken part. A group goes on
//! where its log ended when the plan was made: what a survivor is told to resume has stood still since the same attempt stopped it, or
//! nothing is done. Whatever dies in between, the same command run again ends it.

mod survivor;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use qiang_engine::codec;
use qiang_engine::routing::Sharing;
use qiang_storage::GroupId;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, ClusterChange};
use crate::group::GroupStatus;
use crate::groups::{META_GROUP, all, name};
use crate::node::Node;
use crate::peer::{Lane, Out};
use crate::placement::WITNESS_DC;
use crate::rpc::{
    self, Fenced, GroupEnd, Kind, MetaAnswer, RecoverRequest, Resumption, SurvivorState,
};
use crate::types::{LogId, NodeInfo};
use crate::world::random_u64;

/// How long a node is asked whether it lives.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(700);

/// How long one step may take on a survivor.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the recovered meta group may take to have a leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Added to the highest term seen: far above what nodes that cannot be asked may have reached.
const TERMS_SKIPPED: u64 = 1000;

/// What recovery came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recovered {
    /// The cluster's life that began.
    pub incarnation: u64,
    /// The nodes that go on.
    pub survivors: Vec<u64>,
    /// The nodes that are out of the cluster.
    pub abandoned: Vec<u64>,
    /// Shards that were brought back, and the meta group.
    pub groups: usize,
}

/// Why recovery was refused, or where it stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// It is not needed or not possible; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It was begun and not ended; the same command goes on from there.
    #[error("{0}; run the same command again to go on")]
    Interrupted(String),
}

fn refused<T>(why: impl Into<String>) -> Result<T, RecoverError> {
    Err(RecoverError::Refused(why.into()))
}

impl Node {
    /// Brings every group back on the nodes of data centre `dc`, the others being lost for good; by `force` also where that loses what was
    /// acknowledged: where the lost nodes were a majority, or a later life of the cluster, that these have heard of, is lost, too.
    pub async fn recover(&self, dc: &str, force: bool) -> Result<Recovered, RecoverError> {
        let mut roll = self.call_roll().await;
        let mut checked = self.check_recovery(&roll, dc, force);
        // What survivors hear and lead may be of just before the others were lost.
        if checked.is_err() && roll.is_silent_outside(dc) {
            sleep(self.timing().trust()).await;
            roll = self.call_roll().await;
            checked = self.check_recovery(&roll, dc, force);
        }
        let survivors = checked?;
        let incarnation = roll.newest_known() + 1;
        let attempt = random_u64();
        let fence = RecoverRequest::Fence {
            incarnation,
            attempt,
        };
        let mut ends = BTreeMap::new();
        for node in &survivors {
            let fenced: Fenced = self.step(*node, &fence).await?;
            roll.take_in(&fenced.cluster);
            ends.insert(*node, fenced.ends);
        }
        check_standstill(&roll, &ends, dc, force).map_err(RecoverError::Interrupted)?;
        // Should a leader of the past still run somewhere, one of them may have answered it just before, and trusts it for so long.
        sleep(self.timing().trust()).await;
        let plan = plan(&roll, self.groups().sharing, &ends)?;
        // Whoever begins a group finds the others already up.
        let begins = |node: &u64| plan[node].iter().filter(|group| group.begins).count();
        let mut order: Vec<u64> = survivors.iter().copied().collect();
        order.sort_by_key(begins);
        for node in order {
            let groups = plan[&node].clone();
            let resume = RecoverRequest::Resume { attempt, groups };
            self.step::<()>(node, &resume).await?;
        }
        let change = ClusterChange::Recovered { dc: dc.to_owned() };
        self.record_recovery(change).await?;
        let held: BTreeSet<u16> = ends.values().flatten().map(|end| end.group).collect();
        let shards = |group| match GroupId(group) {
            META_GROUP => 1,
            _ => self.groups().sharing.shards_per_log(),
        };
        let abandoned = roll.nodes.keys();
        let abandoned = abandoned.filter(|id| !survivors.contains(id));
        Ok(Recovered {
            incarnation,
            survivors: survivors.iter().copied().collect(),
            abandoned: abandoned.copied().collect(),
            groups: held.into_iter().map(shards).sum(),
        })
    }

    /// Asks all nodes of the cluster for their state, beginning with this one: those that it knows, and those that whoever answers knows. Who
    /// was away when a node joined may not have heard of it.
    async fn call_roll(&self) -> Roll {
        let (groups, own) = (self.groups(), self.node_id());
        let mut roll = Roll::default();
        roll.nodes.insert(own, groups.info.clone());
        loop {
            let is_new = |id: &u64| !roll.answers.contains_key(id);
            let new: Vec<u64> = roll.nodes.keys().copied().filter(is_new).collect();
            if new.is_empty() {
                return roll;
            }
            for id in &new {
                let address = &roll.nodes[id].peer_address;
                groups.peers.set_address(*id, address);
            }
            let asked = new.into_iter().map(|id| async move {
                let state = RecoverRequest::State;
                (id, self.ask_survivor(id, &state, ALIVE_TIMEOUT).await)
            });
            let answers: Vec<(u64, Result<SurvivorState, rpc::Error>)> = join_all(asked).await;
            for (id, answer) in answers {
                if let Ok(state) = &answer {
                    roll.take_in(&state.cluster);
                }
                roll.answers.insert(id, answer);
            }
        }
    }

    /// Makes sure that recovery is needed and can succeed.
    fn check_recovery(
        &self,
        roll: &Roll,
        dc: &str,
        force: bool,
    ) -> Result<BTreeSet<u64>, RecoverError> {
        let in_dc = |id: &u64| roll.nodes.get(id).is_some_and(|info| info.dc == dc);
        let own = self.node_id();
        if roll.removed.contains(&own) {
            return refused(format!(
                "node {own} was removed from the cluster: ask one that is in it"
            ));
        }
        for id in roll.nodes.keys() {
            if let Err(rpc::Error::Refused(why)) = &roll.answers[id] {
                return refused(format!("node {id} cannot say what it has: {why}"));
            }
        }
        if dc == WITNESS_DC || !roll.nodes.keys().any(in_dc) {
            return refused(format!(
                "the cluster has no data centre {dc:?} that could go on"
            ));
        }
        if !in_dc(&own) {
            return refused(format!(
                "this node is not in data centre {dc:?}: ask one that is"
            ));
        }
        let mut survivors = BTreeMap::new();
        for (id, info) in &roll.nodes {
            match (in_dc(id), &roll.answers[id]) {
                (true, Ok(state)) => {
                    survivors.insert(*id, state);
                }
                (true, Err(_)) => {
                    return refused(format!(
                        "node {id} of data centre {dc:?} does not answer: recovery needs every node that is left, because each may have the longest log of a group"
                    ));
                }
                (false, answer) if is_present(answer) => {
                    return refused(format!(
                        "node {id} of data centre {:?} answers: it is not lost. Stop it, or use move-leaders",
                        info.dc
                    ));
                }
                (false, _) => {}
            }
        }
        // Nodes of the past answer: those that live in it with them still hear them.
        let is_silent = |id: &&u64| roll.nodes.contains_key(*id) && roll.answers[*id].is_err();
        for (id, state) in &survivors {
            if let Some(lost) = state.hears.iter().find(is_silent) {
                return refused(format!(
                    "node {id} hears node {lost} of data centre {:?}: it is not lost. Stop it, or use move-leaders",
                    roll.nodes[lost].dc
                ));
            }
        }
        self.check_survivors(roll, &survivors, dc, force)?;
        Ok(survivors.into_keys().collect())
    }

    /// Makes sure that those who are left are a part of the cluster that cannot go on by itself, and have all of it.
    fn check_survivors(
        &self,
        roll: &Roll,
        survivors: &BTreeMap<u64, &SurvivorState>,
        dc: &str,
        force: bool,
    ) -> Result<(), RecoverError> {
        let lives = survivors.values().map(|state| state.report.incarnation);
        let newest = lives.max().unwrap_or_default();
        for (id, state) in survivors {
            match state.out {
                Some(Out::Removed) => {
                    return refused(format!("node {id} was removed from the cluster"));
                }
                // An attempt that did not end may have begun the next one on a survivor alone.
                Some(Out::OutlivedBy(by)) if by > newest && !force => {
                    return refused(format!(
                        "node {id} has heard of incarnation {by} of the cluster, which goes on without it: ask a node of that, or use --force if it is gone, too"
                    ));
                }
                _ => {}
            }
        }
        let is_lost = |voter: &u64| !survivors.contains_key(voter);
        let needs_lost = |group: &GroupStatus| group.voters.iter().any(is_lost);
        for (id, state) in survivors {
            if let Some(fault) = &state.report.fault {
                return refused(format!("node {id} cannot write: {fault}"));
            }
            // One that survivors alone vote in was brought back by an attempt that did not end.
            let led =
                state.report.groups.iter().find(|group| {
                    group.leader == Some(*id) && group.has_quorum && needs_lost(group)
                });
            if let Some(led) = led {
                return refused(format!(
                    "group {} has a quorum, led by node {id}: nothing is lost",
                    led.group
                ));
            }
        }
        // After an attempt that did not end the document still has the lost vote, or not all are in the same life of the cluster, or they stand still.
        let is_needed = survivors.values().any(|state| {
            let mut groups = state.report.groups.iter();
            state.stands_still
                || state.report.incarnation != newest
                || groups.any(needs_lost)
                || state.cluster.placement.voters().any(is_lost)
        });
        if !is_needed {
            return refused(if roll.nodes.keys().all(|id| !is_lost(id)) {
                format!("every node is in data centre {dc:?}: there is nothing to recover from")
            } else {
                format!(
                    "no node outside of data centre {dc:?} votes in any group: nothing is lost. Use remove-node"
                )
            });
        }
        if !force {
            let ends = survivors.values().flat_map(|state| &state.ends);
            check_majorities(ends, is_lost).or_else(refused)?;
        }
        let held: BTreeSet<&str> = survivors
            .values()
            .flat_map(|state| state.report.groups.iter().filter(|group| group.hosted))
            .map(|group| group.group.as_str())
            .collect();
        if let Some(missing) = self
            .groups()
            .all()
            .map(name)
            .find(|group| !held.contains(group.as_str()))
        {
            return refused(format!("no node that is left has group {missing}"));
        }
        Ok(())
    }

    async fn step<T: DeserializeOwned>(
        &self,
        node: u64,
        request: &RecoverRequest,
    ) -> Result<T, RecoverError> {
        self.ask_survivor(node, request, STEP_TIMEOUT)
            .await
            .map_err(|error| RecoverError::Interrupted(format!("node {node}: {error}")))
    }

    async fn ask_survivor<T: DeserializeOwned>(
        &self,
        node: u64,
        request: &RecoverRequest,
        patience: Duration,
    ) -> Result<T, rpc::Error> {
        let payload = codec::encode(request);
        let call = self
            .groups()
            .peers
            .call(node, Lane::Recovery, Kind::Recover as u8, &payload);
        rpc::answer(call.within(patience).await)
    }

    /// Once the meta group decides again: only the survivors are left.
    async fn record_recovery(&self, change: ClusterChange) -> Result<(), RecoverError> {
        let until = Instant::now() + LEADER_TIMEOUT;
        loop {
            let why = match self.change_cluster(change.clone()).await {
                Ok(_) => return Ok(()),
                Err(MetaAnswer::Refused(why)) => why,
                Err(answer) => format!("{answer:?}"),
            };
            if Instant::now() >= until {
                return Err(RecoverError::Interrupted(format!(
                    "the meta group does not decide yet: {why}"
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Makes sure that the lost are a majority of no group: what they committed would be nowhere else. Who votes, the longest log says: had others been
/// made voters since, a majority had agreed, and whoever of them is left had that in its log.
fn check_majorities<'a>(
    ends: impl Iterator<Item = &'a GroupEnd>,
    is_lost: impl Fn(&u64) -> bool,
) -> Result<(), String> {
    let mut longest: BTreeMap<u16, &GroupEnd> = BTreeMap::new();
    for end in ends {
        let known = longest.entry(end.group).or_insert(end);
        if end.last > known.last {
            *known = end;
        }
    }
    for end in longest.values() {
        let lost = end.voters.iter().filter(|id| is_lost(id));
        let lost: Vec<String> = lost.map(u64::to_string).collect();
        if 2 * lost.len() > end.voters.len() {
            return Err(format!(
                "lost are nodes {}, a majority of those that vote in group {}: what was acknowledged may be on them alone. Start one of them that can be started, or use --force to go on without what only they have",
                lost.join(", "),
                name(GroupId(end.group))
            ));
        }
    }
    Ok(())
}

/// Makes sure that those who stand still now are all who should, by what they have learnt since they were asked for their state.
fn check_standstill(
    roll: &Roll,
    ends: &BTreeMap<u64, Vec<GroupEnd>>,
    dc: &str,
    force: bool,
) -> Result<(), String> {
    let is_lost = |id: &u64| !ends.contains_key(id);
    let late = roll
        .nodes
        .iter()
        .find(|(id, info)| info.dc == dc && is_lost(id));
    if let Some((id, _)) = late {
        return Err(format!("node {id} has joined meanwhile"));
    }
    if force {
        return Ok(());
    }
    check_majorities(ends.values().flatten(), is_lost)
}

/// Whether this is the answer of a node that lives, and not in the cluster's past.
fn is_present(answer: &Result<SurvivorState, rpc::Error>) -> bool {
    answer
        .as_ref()
        .is_ok_and(|state| state.report.fenced.is_none())
}

/// Who may be in the cluster, and what each answers.
#[derive(Default)]
struct Roll {
    /// The newest document.
    cluster: Cluster,
    /// The nodes that any document names.
    nodes: BTreeMap<u64, NodeInfo>,
    /// Those that one says were removed: they had nothing left then.
    removed: BTreeSet<u64>,
    answers: BTreeMap<u64, Result<SurvivorState, rpc::Error>>,
}

impl Roll {
    /// The latest life of the cluster that anybody who answers lives in or has heard of.
    fn newest_known(&self) -> u64 {
        let states = self.answers.values().flatten();
        states.map(SurvivorState::newest_known).max().unwrap_or(0)
    }

    /// Whether no node but those of data centre `dc` is there.
    fn is_silent_outside(&self, dc: &str) -> bool {
        let mut outside = self.nodes.iter().filter(|(_, info)| info.dc != dc);
        outside.all(|(id, _)| !is_present(&self.answers[id]))
    }

    /// Takes in what a document says.
    fn take_in(&mut self, cluster: &Cluster) {
        let is_newest = cluster.revision >= self.cluster.revision;
        for (id, member) in &cluster.nodes {
            if is_newest || !self.nodes.contains_key(id) {
                self.nodes.insert(*id, member.info.clone());
            }
        }
        if is_newest {
            self.cluster = cluster.clone();
        }
        self.removed.extend(&cluster.removed);
        self.nodes.retain(|id, _| !self.removed.contains(id));
    }
}

/// How every group goes on, by node: the survivors that have it vote, the longest log begins.
fn plan(
    roll: &Roll,
    sharing: Sharing,
    ends: &BTreeMap<u64, Vec<GroupEnd>>,
) -> Result<BTreeMap<u64, Vec<Resumption>>, RecoverError> {
    let term = ends
        .values()
        .flatten()
        .map(|end| end.term.max(end.last.map_or(0, |last| last.leader_id.term)))
        .max();
    let term = term.unwrap_or(0) + TERMS_SKIPPED;
    let mut plan: BTreeMap<u64, Vec<Resumption>> =
        ends.keys().map(|node| (*node, Vec::new())).collect();
    for group in all(sharing) {
        let holders: Vec<(u64, Option<LogId>)> = ends
            .iter()
            .filter_map(|(node, ends)| {
                let end = ends.iter().find(|end| end.group == group.0)?;
                Some((*node, end.last))
            })
            .collect();
        // The meta group's listeners vote from now on only where they should have, or have the longest log.
        let votes = |node: &u64| group != META_GROUP || roll.cluster.placement.meta.contains(node);
        let longest = holders
            .iter()
            .max_by_key(|(node, last)| (*last, votes(node), std::cmp::Reverse(*node)));
        let Some((best, _)) = longest else {
            return Err(RecoverError::Interrupted(format!(
                "no survivor has group {}",
                name(group)
            )));
        };
        let voters = holders.iter().map(|(node, _)| node);
        let voters: Vec<(u64, NodeInfo)> = voters
            .filter(|node| votes(node) || *node == best)
            .filter_map(|node| Some((*node, roll.nodes.get(node)?.clone())))
            .collect();
        for (node, _) in &holders {
            if let Some(groups) = plan.get_mut(node) {
                groups.push(Resumption {
                    group: group.0,
                    voters: voters.clone(),
                    begins: node == best,
                    term,
                });
            }
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests;
