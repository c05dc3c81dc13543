//! openraft's way to peers: its questions as messages of one group on the node's links.
//!
//! Invariant: `stream_append` takes its first request before it can fail, because openraft's backoff
//! waits inside the stream of requests; a node that is down would otherwise be asked without pause.

use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory};
use qiang_engine::codec;
use qiang_storage::GroupId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::contacts::Contacts;
use crate::peer::{Call, CallError, Lane, Peers};
use crate::rpc::{self, Kind, Scoped};
use crate::snapshot::SnapshotFile;
use crate::types::{NodeInfo, TypeConfig};
use crate::world::{blocking, room};

/// Appends on their way to one follower of one group. openraft's receiving side holds as many.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// How long word of a commit waits for entries that it can go with: where entries follow one another closely they take half the
/// messages by that. What a follower shows, which is only what may be stale, is older by so much at most.
const COMMIT_WAIT: Duration = Duration::from_millis(5);

/// How long an append may take: more than a slow sync, and as long as a silent connection is kept.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause before a follower that could not be reached is asked again. A link that is down answers at once,
/// so this is all there is between two tries.
const BACKOFF: Duration = Duration::from_millis(50);

/// KiB of a snapshot sent at once; the next are sent when they have arrived.
const SNAPSHOT_CHUNK_KIB: usize = 1024;

/// How long one piece of a snapshot may take.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the installation of a snapshot may take on the other side: it is read whole.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_mins(2);

/// Makes the connections of one group.
#[derive(Clone)]
pub struct Network {
    pub group: GroupId,
    pub peers: Peers,
    pub contacts: Arc<Contacts>,
}

/// One group's connection to one peer, on one lane.
pub struct Connection {
    group: GroupId,
    peers: Peers,
    contacts: Arc<Contacts>,
    target: u64,
    lane: Lane,
}

impl Network {
    fn connection(&self, target: u64, node: &NodeInfo, lane: Lane) -> Connection {
        self.peers.set_address(target, &node.peer_address);
        Connection {
            group: self.group,
            peers: self.peers.clone(),
            contacts: self.contacts.clone(),
            target,
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Connection {
        self.connection(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> Connection {
        self.connection(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeInfo) -> Connection {
        self.connection(target, node, Lane::Bulk)
    }
}

/// Every failure is `Unreachable`, for which openraft waits before it asks again.
fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(error.to_string())))
}

fn rpc_error(error: &CallError) -> RPCError<TypeConfig> {
    match error {
        CallError::NotSent(_) => unreachable(error),
        CallError::Broken | CallError::TimedOut => RPCError::Network(NetworkError::new(error)),
    }
}

/// Reads an answer: what was asked for, or why the other side could not.
fn answer<T: DeserializeOwned>(
    received: Result<Bytes, CallError>,
) -> Result<T, RPCError<TypeConfig>> {
    rpc::answer(received).map_err(|error| match error {
        rpc::Error::Call(error) => rpc_error(&error),
        rpc::Error::Refused(_) | rpc::Error::Malformed(_) => unreachable(&error),
    })
}

impl Connection {
    fn call(&self, lane: Lane, kind: Kind, what: &impl Serialize) -> Call {
        let payload = codec::encode(&Scoped {
            group: self.group.0,
            what,
        });
        self.peers.call(self.target, lane, kind as u8, &payload)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        kind: Kind,
        what: &impl Serialize,
        patience: Duration,
    ) -> Result<T, RPCError<TypeConfig>> {
        answer(self.call(self.lane, kind, what).within(patience).await)
    }

    fn append(&self, request: &AppendEntriesRequest<TypeConfig>) -> SentAppend {
        SentAppend {
            at: Instant::now(),
            to: self.target,
            contacts: self.contacts.clone(),
            call: self.call(self.lane, Kind::Append, &rpc::Append::of(request)),
        }
    }
}

/// An append on its way.
struct SentAppend {
    at: Instant,
    to: u64,
    contacts: Arc<Contacts>,
    call: Call,
}

impl SentAppend {
    /// Its answer. Whoever gives one that names no higher vote took this node for the leader when the append had come.
    async fn answer(
        self,
        patience: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let response = answer(self.call.within(patience).await)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.contacts.answered(self.to, self.at);
        }
        Ok(response)
    }
}

/// One of a stream of appends, and the answer openraft wants for it.
struct Appending {
    prev: Option<crate::types::LogId>,
    last: Option<crate::types::LogId>,
    sent: SentAppend,
}

impl Appending {
    async fn end(
        self,
        patience: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let response = self.sent.answer(patience).await?;
        Ok(match response {
            // What is in conflict with nothing before it says only that nothing matched.
            AppendEntriesResponse::Conflict if self.prev.is_none() => {
                return Err(unreachable(&std::io::Error::other(
                    "a follower refused entries that follow nothing",
                )));
            }
            response => response.into_stream_result(self.prev, self.last),
        })
    }
}

/// The requests of `input`, but one without entries only if none follows it within [`COMMIT_WAIT`]: the next one tells of
/// the same commits or of more, and openraft takes an answer for what came before as well.
fn carrying_commits(
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> {
    stream::unfold(input.fuse(), |mut input| async move {
        let mut request = input.next().await?;
        let until = Instant::now() + COMMIT_WAIT;
        while request.entries.is_empty() {
            match timeout_at(until, input.next()).await {
                Ok(Some(next)) => request = next,
                Ok(None) | Err(_) => break,
            }
        }
        Some((request, input))
    })
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.append(&request).answer(option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // A heartbeat is late after an interval; entries are not, as long as they come.
        let patience = match self.lane {
            Lane::Log => APPEND_TIMEOUT,
            _ => option.soft_ttl(),
        };
        let requests = Box::pin(carrying_commits(input).fuse());
        let state = Some((&*self, requests, FuturesOrdered::new()));
        let answers = stream::unfold(state, move |state| async move {
            let (connection, mut input, mut under_way) = state?;
            loop {
                let room = under_way.len() < APPENDS_IN_FLIGHT_MAX;
                tokio::select! {
                    biased;
                    Some(answer) = under_way.next(), if !under_way.is_empty() => {
                        let ended = !matches!(answer, Ok(Ok(_)));
                        let next = (!ended).then_some((connection, input, under_way));
                        return Some((answer, next));
                    }
                    request = input.next(), if room => {
                        let Some(request) = request else {
                            let answer = under_way.next().await?;
                            let ended = !matches!(answer, Ok(Ok(_)));
                            return Some((answer, (!ended).then_some((connection, input, under_way))));
                        };
                        let appending = Appending {
                            prev: request.prev_log_id,
                            last: request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id),
                            sent: connection.append(&request),
                        };
                        under_way.push_back(appending.end(patience));
                    }
                }
            }
        });
        Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, _>) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.lane = Lane::Control;
        self.ask(Kind::Vote, &request, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.lane = Lane::Control;
        self.ask(Kind::PreVote, &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.lane = Lane::Control;
        self.ask(Kind::TransferLeader, &request, option.soft_ttl())
            .await
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }
}

impl Connection {
    /// Sends a snapshot's file piece by piece, each when the one before has arrived, and has it installed.
    async fn send_snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let path = snapshot.snapshot.path.clone();
        let broken = |error: std::io::Error| StreamingError::from(NetworkError::new(&error));
        let opened = blocking(move || std::fs::File::open(path)).await;
        let file = Arc::new(opened.and_then(|opened| opened).map_err(broken)?);
        let index = snapshot.snapshot.index;
        let chunk_bytes = room(SNAPSHOT_CHUNK_KIB) << 10;
        let mut offset = 0;
        loop {
            let reading = file.clone();
            let read = blocking(move || -> std::io::Result<Vec<u8>> {
                let mut bytes = Vec::with_capacity(chunk_bytes);
                (&*reading)
                    .take(chunk_bytes as u64)
                    .read_to_end(&mut bytes)?;
                Ok(bytes)
            });
            let bytes = read.await.and_then(|read| read).map_err(broken)?;
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len() as u64;
            let chunk = rpc::SnapshotChunk {
                index,
                offset,
                bytes: bytes.into(),
            };
            self.ask::<()>(Kind::SnapshotChunk, &chunk, SNAPSHOT_CHUNK_TIMEOUT)
                .await
                .map_err(streaming)?;
            offset += length;
        }
        let install = rpc::SnapshotInstall {
            vote,
            meta: snapshot.meta,
            index,
            bytes: offset,
        };
        self.ask(Kind::SnapshotInstall, &install, SNAPSHOT_INSTALL_TIMEOUT)
            .await
            .map_err(streaming)
    }
}

fn streaming(error: RPCError<TypeConfig>) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(error) => StreamingError::from(NetworkError::new(&error)),
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use openraft::entry::RaftEntry;
    use openraft::impls::Vote;
    use openraft::impls::leader_id_adv::LeaderId;

    use super::*;
    use crate::types::{Entry, LogId};

    /// A request after entry `prev`, with `entries` of them, that tells of the commit of `commit`.
    fn request(prev: u64, entries: u64, commit: u64) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| {
            LogId::new(
                LeaderId {
                    term: 1,
                    node_id: 1,
                },
                index,
            )
        };
        AppendEntriesRequest {
            vote: Vote {
                leader_id: LeaderId {
                    term: 1,
                    node_id: 1,
                },
                committed: true,
            },
            prev_log_id: Some(id(prev)),
            entries: (1..=entries)
                .map(|after| Entry::new_blank(id(prev + after)))
                .collect(),
            leader_commit: Some(id(commit)),
        }
    }

    fn committed(request: &AppendEntriesRequest<TypeConfig>) -> (usize, u64) {
        let commit = request.leader_commit.map_or(0, |commit| commit.index);
        (request.entries.len(), commit)
    }

    #[tokio::test]
    async fn word_of_a_commit_goes_with_the_entries_that_follow_it_closely() {
        let (input, requests) = mpsc::unbounded();
        let mut sent = Box::pin(carrying_commits(requests));
        for request in [
            request(1, 1, 0),
            request(2, 0, 1),
            request(2, 0, 2),
            request(2, 2, 2),
        ] {
            input.unbounded_send(request).expect("open");
        }
        assert_eq!(sent.next().await.as_ref().map(committed), Some((1, 0)));
        assert_eq!(sent.next().await.as_ref().map(committed), Some((2, 2)));
    }

    #[tokio::test]
    async fn word_of_a_commit_goes_alone_when_nothing_follows() {
        let (input, requests) = mpsc::unbounded();
        let mut sent = Box::pin(carrying_commits(requests));
        input.unbounded_send(request(2, 0, 1)).expect("open");
        assert_eq!(sent.next().await.as_ref().map(committed), Some((0, 1)));
        input.unbounded_send(request(2, 1, 2)).expect("open");
        assert_eq!(sent.next().await.as_ref().map(committed), Some((1, 2)));
        input.unbounded_send(request(3, 0, 2)).expect("open");
        drop(input);
        assert_eq!(sent.next().await.as_ref().map(committed), Some((0, 2)));
        assert!(sent.next().await.is_none());
    }
}
