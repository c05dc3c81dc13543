//! Taking a backup on a node that holds every group: the cut is chosen, then each shard is folded up to it from its newest
//! snapshot and its log, one after the other, and written. Actors are not involved and nothing pauses.
//!
//! Invariants: what was committed anywhere before the backup was asked for is in it; at most the state of the shards of one log is in
//! memory at a time; at most one backup is taken on a node at a time.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use qiang_storage::{GroupId, SnapshotReader};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::cut::{Step, close};
use super::format::{Cut, Header, Writer};
use super::source::{Source, steps_in};
use crate::group::GroupStatus;
use crate::groups::{Groups, META_GROUP, name};
use crate::keeper::make_snapshot;
use crate::node::Node;
use crate::snapshot;
use crate::types::LogId;
use crate::world::blocking;

/// How long this node may take to hear of what leaders have committed.
const CATCH_UP_WAIT: Duration = Duration::from_secs(10);

/// The pause between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How often the cut is closed again. The second time finds nothing, unless carts are closed all the while.
const ROUNDS_MAX: usize = 50;

/// Why no backup was begun; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another one is being taken here.
    #[error("a backup is being taken from this node already: wait for its end")]
    Busy,
    /// There is no cluster yet.
    #[error("the cluster's first revision is not written yet: try again in a moment")]
    NotFounded,
    /// Groups have no replica here.
    #[error(
        "this node holds no replica of {}, and a backup is taken from one node: ask one that holds every group{}",
        .missing.join(", "), who(.others)
    )]
    NotHeld {
        /// The groups, such as `shard 3`.
        missing: Vec<String>,
        /// Nodes that hold all of them, as planned.
        others: Vec<u64>,
    },
    /// Nobody knows what was committed last.
    #[error("{0} has no leader with a quorum just now: try again")]
    NoLeader(String),
    /// This node is behind.
    #[error("this node is behind in {0} and does not catch up: ask another node, or try again")]
    Behind(String),
    /// Carts are decided faster than they can be looked at.
    #[error("no moment was found that tears no order over several shards: try again")]
    Restless,
    /// A log or snapshot could not be read.
    #[error("{group}: {source}")]
    Read {
        /// The group, such as `shard 3`.
        group: String,
        /// Why.
        source: io::Error,
    },
}

fn who(others: &[u64]) -> String {
    let others: Vec<String> = others.iter().map(u64::to_string).collect();
    if others.is_empty() {
        String::new()
    } else {
        format!(" (node {})", others.join(" or "))
    }
}

/// What people call a group in a sentence.
fn called(group: GroupId) -> String {
    if group == META_GROUP {
        "the meta group".to_owned()
    } else {
        format!("shard {}", name(group))
    }
}

fn unreadable(group: GroupId, source: impl Into<io::Error>) -> TakeError {
    TakeError::Read {
        group: called(group),
        source: source.into(),
    }
}

/// A backup whose cut is chosen and whose files are open; it stays the same however long it waits to be written.
pub struct Backup {
    header: Header,
    shards: Vec<Source>,
    meta: SnapshotReader,
    _only_one: OwnedSemaphorePermit,
}

impl Node {
    /// Chooses where every group is cut, and opens what the backup is made of.
    ///
    /// # Errors
    /// See [`TakeError`].
    pub async fn begin_backup(&self) -> Result<Backup, TakeError> {
        let only_one = self.groups().backups.clone().try_acquire_owned();
        let only_one = only_one.map_err(|_| TakeError::Busy)?;
        let until = Instant::now() + CATCH_UP_WAIT;
        while self.cluster().revision == 0 {
            if Instant::now() >= until {
                return Err(TakeError::NotFounded);
            }
            sleep(LOOK_EVERY).await;
        }
        self.check_holds_all()?;
        let known = self.committed()?;
        let mut reached = self.catch_up().await?;
        let mut cut = self.committed()?;
        let mut rounds = 0;
        loop {
            reached = self.catch_up().await?.max(reached);
            let mut to = reached.0.clone();
            for (to, cut) in to.iter_mut().zip(&cut) {
                *to = (*cut).max(*to);
            }
            let (groups, from) = (self.groups().clone(), known.clone());
            let steps = blocking(move || steps_between(&groups, &from, &to)).await;
            let steps = steps.map_err(|error| unreadable(META_GROUP, error))??;
            if !close(&mut cut, &steps) {
                break;
            }
            rounds += 1;
            if rounds == ROUNDS_MAX {
                return Err(TakeError::Restless);
            }
        }
        let meta = self.meta_snapshot(reached.of_meta()).await?;
        let groups = self.groups().clone();
        let shards = move || -> Result<Vec<Source>, TakeError> {
            let shards = groups.all().filter(|group| *group != META_GROUP);
            shards
                .zip(cut)
                .map(|(group, cut)| {
                    let source = Source::open(&groups, group, cut);
                    source.map_err(|error| unreadable(group, error))
                })
                .collect()
        };
        let shards = blocking(shards).await;
        let shards = shards.map_err(|error| unreadable(META_GROUP, error))??;
        let meta_cut = snapshot::read_meta(&meta)
            .map_err(|error| unreadable(META_GROUP, error))?
            .last_log_id
            .ok_or_else(|| unreadable(META_GROUP, io::Error::other("its snapshot is empty")))?;
        let mut cuts: Vec<Cut> = shards
            .iter()
            .map(|source| cut_of(source.group, source.cut))
            .collect();
        cuts.push(cut_of(META_GROUP, meta_cut));
        let identity = self.store().identity();
        Ok(Backup {
            header: Header {
                cluster_id: identity.cluster_id,
                incarnation: identity.incarnation,
                node_id: identity.node_id,
                version: self.options().version.clone(),
                at: self.now(),
                cuts,
            },
            shards,
            meta,
            _only_one: only_one,
        })
    }

    fn check_holds_all(&self) -> Result<(), TakeError> {
        let missing: Vec<GroupId> = self
            .groups()
            .all()
            .filter(|group| self.groups().raft(*group).is_none())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let cluster = self.cluster();
        let holds_all = |node: &u64| {
            let logs = &cluster.placement.logs;
            logs.iter().all(|place| place.voters.contains(node))
        };
        Err(TakeError::NotHeld {
            missing: missing.into_iter().map(called).collect(),
            others: cluster.nodes.keys().copied().filter(holds_all).collect(),
        })
    }

    /// Up to where this node knows every log of shards to be committed.
    fn committed(&self) -> Result<Vec<u64>, TakeError> {
        let shards = self.groups().all().filter(|group| *group != META_GROUP);
        shards.map(|group| self.committed_in(group)).collect()
    }

    fn committed_in(&self, group: GroupId) -> Result<u64, TakeError> {
        let raft = self.groups().raft(group);
        let raft = raft.ok_or_else(|| TakeError::Behind(called(group)))?;
        Ok(raft.look(|metrics| {
            metrics
                .local_committed
                .map_or(0, |committed| committed.index)
        }))
    }

    /// Asks every group's leader up to where it is committed, and waits until this node knows that, too.
    async fn catch_up(&self) -> Result<Reached, TakeError> {
        let until = Instant::now() + CATCH_UP_WAIT;
        let mut reached = Vec::new();
        for (group, led) in self.groups().all().zip(self.ask_leaders(until).await?) {
            while self.committed_in(group)? < led {
                if Instant::now() >= until {
                    return Err(TakeError::Behind(called(group)));
                }
                sleep(LOOK_EVERY).await;
            }
            reached.push(led);
        }
        Ok(Reached(reached))
    }

    /// Up to where every group is committed, as its leader says: one that decides has committed an entry of its own term,
    /// and so knows of everything that was committed before.
    async fn ask_leaders(&self, until: Instant) -> Result<Vec<u64>, TakeError> {
        loop {
            let survey = self.survey().await;
            let mut led: BTreeMap<GroupId, u64> = BTreeMap::new();
            for report in survey.into_values().filter_map(|(_, report)| report) {
                for (group, status) in self.by_group(&report.groups) {
                    if status.leads && status.has_quorum && status.deciding {
                        let index = led.entry(group).or_default();
                        *index = status.committed_index.max(*index);
                    }
                }
            }
            let Some(without) = self.groups().all().find(|group| !led.contains_key(group)) else {
                return Ok(led.into_values().collect());
            };
            if Instant::now() >= until {
                return Err(TakeError::NoLeader(called(without)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What a node says of each group: of the first of its shards, which has its number.
    fn by_group<'a>(
        &self,
        statuses: &'a [GroupStatus],
    ) -> impl Iterator<Item = (GroupId, &'a GroupStatus)> + use<'a> {
        let status = |group: GroupId| Some((group, statuses.get(usize::from(group.0))?));
        self.groups().all().filter_map(status)
    }

    /// A snapshot of the cluster's own state that reaches up to `index` at least.
    async fn meta_snapshot(&self, index: u64) -> Result<SnapshotReader, TakeError> {
        let behind = || TakeError::Behind(called(META_GROUP));
        let raft = self.groups().raft(META_GROUP).ok_or_else(behind)?;
        let applied = || raft.look(|metrics| metrics.last_applied.map_or(0, |last| last.index));
        let until = Instant::now() + CATCH_UP_WAIT;
        while applied() < index {
            if Instant::now() >= until {
                return Err(behind());
            }
            sleep(LOOK_EVERY).await;
        }
        let made = make_snapshot(&raft, index).await;
        made.map_err(|error| unreadable(META_GROUP, io::Error::other(error)))?;
        let snapshots = self.store().snapshots(META_GROUP);
        let newest = blocking(move || snapshots.newest_good()).await;
        let newest = newest.map_err(|error| unreadable(META_GROUP, error))?;
        let newest = newest.map_err(|error| unreadable(META_GROUP, io::Error::other(error)))?;
        let reaches = newest.filter(|snapshot| snapshot.index() >= index);
        reaches.ok_or_else(|| unreadable(META_GROUP, io::Error::other("its snapshot is gone")))
    }
}

/// Up to where every group was committed on its leader, in their order, the meta group's last.
struct Reached(Vec<u64>);

impl Reached {
    fn of_meta(&self) -> u64 {
        *self.0.last().expect("every group was asked")
    }

    fn max(mut self, other: Reached) -> Self {
        for (index, other) in self.0.iter_mut().zip(other.0) {
            *index = other.max(*index);
        }
        self
    }
}

/// The steps that shards have committed after `from` up to `to`, by shard.
fn steps_between(groups: &Groups, from: &[u64], to: &[u64]) -> Result<Vec<Step>, TakeError> {
    let mut steps = Vec::new();
    for (group, (from, to)) in groups.all().zip(from.iter().zip(to)) {
        let log = groups.store.log(group);
        let log = log.map_err(|error| unreadable(group, io::Error::other(error)))?;
        steps_in(&log, groups.sharing, *from, *to, &mut steps)
            .map_err(|error| unreadable(group, error))?;
    }
    Ok(steps)
}

fn cut_of(group: GroupId, log_id: LogId) -> Cut {
    Cut {
        group: group.0,
        index: log_id.index,
        term: log_id.leader_id.term,
        leader: log_id.leader_id.node_id,
    }
}

impl Backup {
    /// Writes the whole backup. Blocks, on the disk and on `out`.
    ///
    /// # Errors
    /// If a log or snapshot cannot be read or `out` does not take it; what was written then is no backup.
    pub fn write(mut self, out: impl Write) -> io::Result<()> {
        let mut writer = Writer::begin(out, &self.header)?;
        for source in self.shards {
            let shard = called(source.group);
            source
                .write(&mut writer)
                .map_err(|error| io::Error::new(error.kind(), format!("{shard}: {error}")))?;
            writer.end_group()?;
        }
        io::copy(&mut self.meta, &mut writer)?;
        writer.end_group()?;
        writer.finish()?;
        Ok(())
    }
}
