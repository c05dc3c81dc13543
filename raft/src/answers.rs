//! What peers ask, and who on this node answers. One arm for each kind of message.
//!
//! Invariant: a message is decoded, and an append handed to its group, in the first poll of its answer:
//! appends of one connection reach their groups in the order they were sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use openraft::Snapshot;
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use qiang_engine::codec;
use qiang_storage::GroupId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::node::Node;
use crate::peer::{Handler, Incoming, Lane, Responder};
use crate::rpc::{
    Append, Beat, ForwardAnswer, Introduction, Kind, MetaRequest, RecoverRequest, Scoped,
    ShardRequest, SnapshotChunk, SnapshotInstall, encode_answer,
};
use crate::snapshot::SnapshotFile;
use crate::types::TypeConfig;
use crate::world::blocking;

/// Snapshots that are being received, by sender and group.
type Transfers = Arc<Mutex<BTreeMap<(u64, u16), Arc<Receiving>>>>;

/// A snapshot file that is being received.
struct Receiving {
    path: PathBuf,
    index: u64,
    written: Mutex<(File, u64)>,
}

/// Answers peers for a node.
pub struct Answers {
    node: Node,
    transfers: Transfers,
}

impl Answers {
    pub fn new(node: Node) -> Self {
        Answers {
            node,
            transfers: Transfers::default(),
        }
    }
}

impl Handler for Answers {
    fn handle(&self, from: Incoming, kind: u8, payload: Bytes, to: Responder) {
        let Some(kind) = Kind::from_u8(kind) else {
            tracing::warn!(from = from.from, kind, "a message of an unknown kind");
            return to.hang_up();
        };
        let allowed = match kind {
            Kind::Introduce => true,
            Kind::Recover => from.is_member && from.lane == Lane::Recovery,
            _ => from.is_member && from.lane != Lane::Recovery,
        };
        if !allowed {
            tracing::warn!(
                from = from.from,
                ?kind,
                "a message that its sender may not send"
            );
            return to.hang_up();
        }
        let (node, transfers) = (self.node.clone(), self.transfers.clone());
        let from = from.from;
        match kind {
            Kind::Forward => forwarded(&node, &payload, to),
            Kind::Report => to.answer(&reply(&Ok(node.report()))),
            Kind::Introduce => to.answer(&reply::<Introduction>(&Ok(node.introduction()))),
            Kind::Beat => to.answer(&reply(&beat(&node, from, &payload))),
            Kind::Quiesce => to.answer(&reply(&quiesce(&node, from, &payload))),
            Kind::Append => to.answer_with(async move { reply(&append(&node, &payload).await) }),
            Kind::Vote => to.answer_with(async move { reply(&vote(&node, &payload, false).await) }),
            Kind::PreVote => {
                to.answer_with(async move { reply(&vote(&node, &payload, true).await) });
            }
            Kind::TransferLeader => {
                to.answer_with(async move { reply(&transfer_leader(&node, &payload).await) });
            }
            Kind::SnapshotChunk => to.answer_with(async move {
                reply(&receive_chunk(&node, transfers, from, &payload).await)
            }),
            Kind::SnapshotInstall => {
                to.answer_with(
                    async move { reply(&install(&node, &transfers, from, &payload).await) },
                );
            }
            Kind::Meta => to.answer_with(async move { reply(&meta(&node, &payload).await) }),
            Kind::Shard => to.answer_with(async move { shard(&node, &payload).await }),
            Kind::Recover => to.answer_with(async move { recover(&node, &payload).await }),
        }
    }
}

fn reply<T: Serialize>(answer: &Result<T, String>) -> Bytes {
    encode_answer(answer)
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    codec::decode(payload).map_err(|error| format!("the question cannot be read: {error}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn append(node: &Node, payload: &[u8]) -> Result<AppendEntriesResponse<TypeConfig>, String> {
    let Scoped { group, what } = decode::<Scoped<Append>>(payload)?;
    let request = what.into_request().map_err(text)?;
    let raft = match node.groups().raft(GroupId(group)) {
        Some(raft) => raft,
        None => node.groups().called(GroupId(group)).await.map_err(text)?,
    };
    let appended = raft.append(request).await.map_err(text)?;
    if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
        node.groups().note_heard(GroupId(group));
    }
    rouse(node, group);
    Ok(appended)
}

async fn vote(
    node: &Node,
    payload: &[u8],
    pre: bool,
) -> Result<openraft::raft::VoteResponse<TypeConfig>, String> {
    let Scoped { group, what } = decode::<Scoped<VoteRequest<TypeConfig>>>(payload)?;
    let quiescence = node.groups().quiescence(GroupId(group));
    if quiescence.is_some_and(|it| it.trusts_its_leader(&node.groups().liveness)) {
        return Err("the group is quiescent, and its leader's node is alive".to_owned());
    }
    let raft = node
        .groups()
        .raft(GroupId(group))
        .ok_or("the group does not run here")?;
    // Asked last: an instance that has begun anew meanwhile has nothing, and the tombstone is there by then.
    let outlives = node.groups().outlives(GroupId(group), what.last_log_id);
    if outlives.map_err(text)? {
        return Err("the group has gone on since this node was a part of it".to_owned());
    }
    let voted = if pre {
        raft.pre_vote(what).await
    } else {
        raft.vote(what).await
    };
    voted.map_err(text)
}

async fn transfer_leader(
    node: &Node,
    payload: &[u8],
) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, String> {
    let Scoped { group, what } = decode::<Scoped<TransferLeaderRequest<TypeConfig>>>(payload)?;
    let raft = node
        .groups()
        .raft(GroupId(group))
        .ok_or("the group does not run here")?;
    rouse(node, group);
    raft.handle_transfer_leader(what).await.map_err(text)
}

async fn receive_chunk(
    node: &Node,
    transfers: Transfers,
    from: u64,
    payload: &[u8],
) -> Result<(), String> {
    let Scoped { group, what } = decode::<Scoped<SnapshotChunk>>(payload)?;
    let dir = node.groups().store.dir().join("incoming");
    let take = move || take_chunk(&dir, &transfers, (from, group), &what);
    blocking(take).await.and_then(|taken| taken).map_err(text)
}

fn take_chunk(
    dir: &Path,
    transfers: &Transfers,
    key: (u64, u16),
    chunk: &SnapshotChunk,
) -> io::Result<()> {
    let lock = || transfers.lock().unwrap_or_else(PoisonError::into_inner);
    if chunk.offset == 0 {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{}.part", key.0, key.1));
        let written = Mutex::new((File::create(&path)?, 0));
        lock().insert(
            key,
            Arc::new(Receiving {
                path,
                index: chunk.index,
                written,
            }),
        );
    }
    let receiving = lock().get(&key).cloned();
    let receiving = receiving
        .filter(|receiving| receiving.index == chunk.index)
        .ok_or_else(|| io::Error::other("no such snapshot is being received"))?;
    let mut written = receiving
        .written
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if written.1 != chunk.offset {
        return Err(io::Error::other(format!(
            "byte {} was expected, not {}",
            written.1, chunk.offset
        )));
    }
    written.0.write_all(&chunk.bytes)?;
    written.1 += chunk.bytes.len() as u64;
    Ok(())
}

async fn install(
    node: &Node,
    transfers: &Transfers,
    from: u64,
    payload: &[u8],
) -> Result<openraft::raft::SnapshotResponse<TypeConfig>, String> {
    let Scoped { group, what } = decode::<Scoped<SnapshotInstall>>(payload)?;
    let received = {
        let mut transfers = transfers.lock().unwrap_or_else(PoisonError::into_inner);
        transfers.remove(&(from, group))
    };
    let complete = |receiving: &Arc<Receiving>| {
        let written = receiving
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        receiving.index == what.index && written.1 == what.bytes
    };
    let received = received
        .filter(complete)
        .ok_or("the snapshot was not received whole")?;
    let raft = node.groups().called(GroupId(group)).await.map_err(text)?;
    let snapshot = SnapshotFile {
        index: what.index,
        path: received.path.clone(),
    };
    let snapshot = Snapshot {
        meta: what.meta,
        snapshot,
    };
    let leader = what.vote;
    let installed = raft.install(what.vote, snapshot).await.map_err(text)?;
    if installed.vote == leader {
        node.groups().note_heard(GroupId(group));
    }
    rouse(node, group);
    Ok(installed)
}

/// A quiescent group minds its clock when its leader has spoken, and not before: it would take the long silence for the
/// leader's death.
fn rouse(node: &Node, group: u16) {
    if let Some(quiescence) = node.groups().quiescence(GroupId(group)) {
        quiescence.rouse();
    }
}

fn beat(node: &Node, from: u64, payload: &[u8]) -> Result<Beat, String> {
    let beat: Beat = decode(payload)?;
    let liveness = &node.groups().liveness;
    liveness.note(from, &beat, Instant::now());
    match node.store().fault() {
        Some(fault) => Err(fault),
        None => Ok(liveness.own_beat()),
    }
}

fn quiesce(node: &Node, from: u64, payload: &[u8]) -> Result<bool, String> {
    Ok(node.stop_clock(from, &decode(payload)?))
}

fn forwarded(node: &Node, payload: &[u8], to: Responder) {
    match decode(payload) {
        Ok(forwarded) => node.router().answer_forwarded(forwarded, to),
        Err(error) => to.answer(&reply::<ForwardAnswer>(&Err(error))),
    }
}

async fn meta(node: &Node, payload: &[u8]) -> Result<crate::rpc::MetaAnswer, String> {
    let request: MetaRequest = decode(payload)?;
    Ok(node.answer_meta(request).await)
}

async fn shard(node: &Node, payload: &[u8]) -> Bytes {
    let request: ShardRequest = match decode(payload) {
        Ok(request) => request,
        Err(error) => return reply::<()>(&Err(error)),
    };
    match request {
        ShardRequest::Members { group } => reply(&node.members(GroupId(group)).await),
        ShardRequest::Flows { query } => reply(&Ok(node.flows_here(query).await)),
        ShardRequest::Stale { promotion_id } => reply(&Ok(node.stale_here(&promotion_id))),
    }
}

async fn recover(node: &Node, payload: &[u8]) -> Bytes {
    let request: RecoverRequest = match decode(payload) {
        Ok(request) => request,
        Err(error) => return reply::<()>(&Err(error)),
    };
    match request {
        RecoverRequest::State => reply(&node.survivor_state().await),
        RecoverRequest::Fence {
            incarnation,
            attempt,
        } => reply(&node.fence(incarnation, attempt).await),
        RecoverRequest::Resume { attempt, groups } => reply(&node.resume(attempt, groups).await),
    }
}
