//! What nodes ask each other: the messages and their encoding. Every payload begins with the codec's
//! version byte.

use bytes::Bytes;
use openraft::raft::AppendEntriesRequest;
use openraft::type_config::alias::{SnapshotMetaOf, VoteOf};
use qiang_engine::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, ClusterChange};
use crate::flows::FlowQuery;
use crate::group::GroupStatus;
use crate::meta::ConfigVersion;
use crate::peer::{CallError, Out};
use crate::question::{Each, Outcome};
use crate::types::{LogId, NodeInfo, TypeConfig, decode_entry, encode_entry};

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Append`], to one group.
    Append = 1,
    /// openraft's `VoteRequest`, to one group.
    Vote = 2,
    /// The same, asking whether a vote would be granted.
    PreVote = 3,
    /// openraft's `TransferLeaderRequest`, to one group.
    TransferLeader = 4,
    /// [`SnapshotChunk`], to one group.
    SnapshotChunk = 5,
    /// [`SnapshotInstall`], to one group.
    SnapshotInstall = 6,
    /// [`Forwarded`]: clients' commands for a shard that is led there.
    Forward = 7,
    /// [`MetaRequest`]: for the leader of the meta group.
    Meta = 8,
    /// What is this node's state? Answered with a [`NodeReport`].
    Report = 9,
    /// Who is this? Answered with an [`Introduction`], also to strangers.
    Introduce = 10,
    /// [`ShardRequest`]: of any replica.
    Shard = 11,
    /// [`RecoverRequest`]: of a node that survived.
    Recover = 12,
    /// [`Beat`]: this node is there. Answered with another.
    Beat = 13,
    /// [`Quiesce`]: of a group's follower, by its leader. Answered with whether it does.
    Quiesce = 14,
}

impl Kind {
    /// The kind of a received message.
    pub fn from_u8(kind: u8) -> Option<Self> {
        [
            Kind::Append,
            Kind::Vote,
            Kind::PreVote,
            Kind::TransferLeader,
            Kind::SnapshotChunk,
            Kind::SnapshotInstall,
            Kind::Forward,
            Kind::Meta,
            Kind::Report,
            Kind::Introduce,
            Kind::Shard,
            Kind::Recover,
            Kind::Beat,
            Kind::Quiesce,
        ]
        .into_iter()
        .find(|known| *known as u8 == kind)
    }
}

/// A message to one group.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scoped<T> {
    /// The group.
    pub group: u16,
    /// The message.
    pub what: T,
}

/// openraft's `AppendEntriesRequest` with its entries as they are stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Append {
    vote: VoteOf<TypeConfig>,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    first_index: u64,
    entries: Vec<Bytes>,
}

impl Append {
    /// As a message.
    pub fn of(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Append {
            vote: request.vote,
            prev_log_id: request.prev_log_id,
            leader_commit: request.leader_commit,
            first_index: request
                .entries
                .first()
                .map_or(0, |entry| entry.log_id.index),
            entries: request.entries.iter().map(encode_entry).collect(),
        }
    }

    /// As openraft wants it.
    pub fn into_request(self) -> std::io::Result<AppendEntriesRequest<TypeConfig>> {
        let entries = self.entries.iter().zip(self.first_index..);
        let entries: std::io::Result<Vec<_>> = entries
            .map(|(bytes, index)| decode_entry(index, bytes))
            .collect();
        Ok(AppendEntriesRequest {
            vote: self.vote,
            prev_log_id: self.prev_log_id,
            leader_commit: self.leader_commit,
            entries: entries?,
        })
    }
}

/// A node is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Which of the node's processes speaks.
    pub boot: u64,
}

/// Stop your clock: you have all that your leader has, and it will say when there is more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiesce {
    /// The group.
    pub group: u16,
    /// The leader's term.
    pub term: u64,
    /// Where its log ends.
    pub last_index: u64,
}

/// A piece of a snapshot's file; the first, at offset 0, begins a new transfer.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// The snapshot's last log index.
    pub index: u64,
    /// Where the bytes belong.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// All pieces were sent: install the snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotInstall {
    /// The sending leader's vote.
    pub vote: VoteOf<TypeConfig>,
    /// What the snapshot reaches up to.
    pub meta: SnapshotMetaOf<TypeConfig>,
    /// Its last log index.
    pub index: u64,
    /// Its length.
    pub bytes: u64,
}

/// Clients' commands on their way to a leader. `C` is a list of commands, or on the asking side a reference to one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forwarded<C> {
    /// The shard.
    pub shard: u16,
    /// What is asked.
    pub commands: C,
}

/// What became of forwarded commands.
#[derive(Debug, Serialize, Deserialize)]
pub enum ForwardAnswer {
    /// The shard's answers, in the order of the commands.
    Decided(Each<Outcome>),
    /// This node does not lead the shard; nothing was done.
    Elsewhere {
        /// The node that does, if known.
        leader: Option<u64>,
    },
}

/// What the leader of the meta group is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MetaRequest {
    /// Put a configuration document in the place of version `expected`.
    PutConfig {
        /// The version that must be in force.
        expected: u64,
        /// The next.
        next: ConfigVersion,
    },
    /// Change the cluster.
    Change(ClusterChange),
}

/// What the leader of the meta group answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaAnswer {
    /// Done, in this version or revision.
    Done(u64),
    /// Another version is in force.
    Conflict(u64),
    /// It cannot be, for this reason; nothing was changed.
    Refused(String),
    /// This node does not lead the meta group.
    Elsewhere {
        /// The node that does, if known.
        leader: Option<u64>,
    },
    /// It was sent for commit and its outcome is not known.
    Unknown,
}

/// What a shard's replica is asked beside commands.
#[derive(Debug, Serialize, Deserialize)]
pub enum ShardRequest {
    /// Who are the voters and learners, as this node knows them?
    Members {
        /// The group.
        group: u16,
    },
    /// Flows of a shard from this node's log.
    Flows {
        /// Which.
        query: FlowQuery,
    },
    /// A promotion as this replica has it, which may be behind.
    Stale {
        /// The promotion.
        promotion_id: qiang_engine::PromotionId,
    },
}

/// The members of a group, as a replica knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Whether this node leads the group now, with a quorum behind it.
    pub leads: bool,
    /// Nodes that vote.
    pub voters: Vec<u64>,
    /// Nodes that only listen.
    pub learners: Vec<u64>,
}

/// Who a node is, for those who do not know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its number.
    pub node_id: u64,
    /// Its addresses, data centre and name.
    pub info: NodeInfo,
    /// Whether it has never been part of a group.
    pub fresh: bool,
    /// How many logs its cluster's shards share.
    pub logs: u16,
}

/// A node's state, as it tells others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its number.
    pub node_id: u64,
    /// Its addresses, data centre and name.
    pub info: NodeInfo,
    /// The cluster.
    pub cluster_id: String,
    /// Which life of it.
    pub incarnation: u64,
    /// The version of its binary.
    pub version: String,
    /// When it was started, in milliseconds of Unix time.
    pub started_at: u64,
    /// Whether it is about to stop.
    pub draining: bool,
    /// Why its store takes no more writes, if it does not.
    pub fault: Option<String>,
    /// Why it is out of the cluster, if it is.
    pub fenced: Option<String>,
    /// Every shard, in order, then `meta`, as this node has it.
    pub groups: Vec<GroupStatus>,
}

/// What a survivor of a lost data centre is asked, in this order.
/// The answers are [`SurvivorState`], [`Fenced`], and nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RecoverRequest {
    /// How do you see the cluster, and each of your groups?
    State,
    /// Stop your groups and begin this life of the cluster. Refused where that has begun already.
    Fence {
        /// The next incarnation.
        incarnation: u64,
        /// A number that no other attempt at recovery has.
        attempt: u64,
    },
    /// Go on with these groups, whose voters are now these. Refused unless they have stood still since this attempt stopped them.
    Resume {
        /// The attempt.
        attempt: u64,
        /// By group, its voters; those that this node begins anew, as the one with the longest log.
        groups: Vec<Resumption>,
    },
}

/// What a survivor knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SurvivorState {
    /// Its report.
    pub report: NodeReport,
    /// The cluster as it should be if all is committed that its disk has.
    pub cluster: Cluster,
    /// Where each of its groups ends.
    pub ends: Vec<GroupEnd>,
    /// The nodes that it hears.
    pub hears: Vec<u64>,
    /// Whether its groups stand still, for an attempt that did not end.
    pub stands_still: bool,
    /// Why it is out of the cluster, if it is.
    pub out: Option<Out>,
}

impl SurvivorState {
    /// The latest life of the cluster that it lives in or has heard of.
    pub fn newest_known(&self) -> u64 {
        match self.out {
            Some(Out::OutlivedBy(by)) => by.max(self.report.incarnation),
            _ => self.report.incarnation,
        }
    }
}

/// How a group goes on after recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// The group.
    pub group: u16,
    /// Its voters from now on.
    pub voters: Vec<(u64, NodeInfo)>,
    /// Whether the node asked has the longest log and writes the change of membership.
    pub begins: bool,
    /// Above every term that was used.
    pub term: u64,
}

/// Where a group ends on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEnd {
    /// The group.
    pub group: u16,
    /// Its last entry.
    pub last: Option<LogId>,
    /// The highest term it has voted in.
    pub term: u64,
    /// A majority of these has what may be committed; while voters are being changed, those before. Empty where that is not known.
    pub voters: Vec<u64>,
}

/// What a survivor has whose groups stand still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fenced {
    /// The cluster as it should be if all is committed that its disk has.
    pub cluster: Cluster,
    /// Where each of its groups ends.
    pub ends: Vec<GroupEnd>,
}

/// Why a question was not answered as hoped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It did not come through.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The other side could not.
    #[error("{0}")]
    Refused(String),
    /// What came back is not an answer to this.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
}

/// An answer as bytes: what was asked for, or why not.
pub fn encode_answer<T: Serialize>(answer: &Result<T, String>) -> Bytes {
    codec::encode(answer).into()
}

/// An answer from bytes.
pub fn answer<T: DeserializeOwned>(received: Result<Bytes, CallError>) -> Result<T, Error> {
    let answer: Result<T, String> =
        codec::decode(&received?).map_err(|error| Error::Malformed(error.to_string()))?;
    answer.map_err(Error::Refused)
}
