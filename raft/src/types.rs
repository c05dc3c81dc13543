//! The types that openraft is instantiated with, and how an entry becomes bytes.
//!
//! A stored entry is `[version][term u64][node u64][kind][payload]`, little-endian; its index is its
//! key. The version byte comes first, so that the layout can change.

use std::fmt;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::impls::{BoxedErrorSource, InlineBatch, Vote};
use openraft::raft::responder::Responder;
use openraft::type_config::alias::{EntryOf, LogIdOf, StoredMembershipOf};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};
use qiang_engine::codec;
use serde::{Deserialize, Serialize};

use crate::world::Runtime;

/// A node as every member of the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Address for peers, `host:port`.
    pub peer_address: String,
    /// Address for clients, `host:port`.
    pub http_address: String,
    /// Data centre.
    pub dc: String,
    /// What operators call it.
    pub name: String,
}

impl fmt::Display for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, dc {})", self.name, self.peer_address, self.dc)
    }
}

/// The bytes of one normal entry: an encoded batch of a shard, or a command of the meta group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry came to, for whoever proposed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect: in this version of the configuration or revision of the cluster; for a shard's
    /// entry, and others, at this log index.
    Done(u64),
    /// Another version or revision than the one it was decided on is in force.
    Conflict(u64),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// openraft as qiang uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Outcome;
    type NodeId = u64;
    type Node = NodeInfo;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, NodeInfo>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = OnEnd<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A proposal's end, told exactly once: with its result, or with `None` when nobody is left to say.
pub struct OnEnd<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> OnEnd<T> {
    /// Calls `tell` when the proposal has ended.
    pub fn new(tell: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        OnEnd(Some(Box::new(tell)))
    }

    fn tell(&mut self, result: Option<T>) {
        if let Some(tell) = self.0.take() {
            tell(result);
        }
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for OnEnd<T> {
    fn on_complete(mut self, result: T) {
        self.tell(Some(result));
    }
}

impl<T> Drop for OnEnd<T> {
    fn drop(&mut self) {
        self.tell(None);
    }
}

pub type LogId = LogIdOf<TypeConfig>;
pub type Entry = EntryOf<TypeConfig>;
pub type StoredMembership = StoredMembershipOf<TypeConfig>;

const HEADER_BYTES: usize = 18;

/// The layout of stored entries written today.
const ENTRY_VERSION: u8 = 1;

fn malformed(what: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a stored log entry {what}"),
    )
}

/// Encodes an entry for storage.
pub fn encode_entry(entry: &Entry) -> Bytes {
    let (leader, _) = entry.log_id_parts();
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (0, None),
        EntryPayload::Normal(payload) => (1, Some(payload.0.clone())),
        EntryPayload::Membership(membership) => (2, Some(Bytes::from(codec::encode(membership)))),
    };
    let payload = payload.unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    bytes.put_u8(ENTRY_VERSION);
    bytes.put_u64_le(leader.term);
    bytes.put_u64_le(leader.node_id);
    bytes.put_u8(kind);
    bytes.put_slice(&payload);
    bytes.freeze()
}

/// The log id of the stored entry at `index`.
pub fn decode_log_id(index: u64, bytes: &[u8]) -> io::Result<LogId> {
    if bytes.len() < HEADER_BYTES {
        return Err(malformed("is shorter than its header"));
    }
    if bytes[0] != ENTRY_VERSION {
        return Err(malformed(format_args!(
            "has version {}, this binary knows {ENTRY_VERSION}: use a newer one",
            bytes[0]
        )));
    }
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let leader_id = LeaderId {
        term: number(1),
        node_id: number(9),
    };
    Ok(LogId { leader_id, index })
}

/// Decodes the stored entry at `index`.
pub fn decode_entry(index: u64, bytes: &Bytes) -> io::Result<Entry> {
    let log_id = decode_log_id(index, bytes)?;
    let payload = match bytes[HEADER_BYTES - 1] {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(Payload(bytes.slice(HEADER_BYTES..))),
        2 => EntryPayload::Membership(codec::decode(&bytes[HEADER_BYTES..]).map_err(malformed)?),
        kind => return Err(malformed(format_args!("is of the unknown kind {kind}"))),
    };
    Ok(Entry { log_id, payload })
}

/// The encoded batch in the stored entry at `index`, if it is a normal one.
pub fn batch_in(index: u64, bytes: &Bytes) -> io::Result<Option<Bytes>> {
    decode_log_id(index, bytes)?;
    Ok((bytes[HEADER_BYTES - 1] == 1).then(|| bytes.slice(HEADER_BYTES..)))
}

/// The membership in the stored entry at `index`, if it is one.
pub fn membership_in(index: u64, bytes: &Bytes) -> io::Result<Option<StoredMembership>> {
    let entry = decode_entry(index, bytes)?;
    let log_id = entry.log_id;
    Ok(entry
        .get_membership()
        .map(|membership| StoredMembership::new(Some(log_id), membership)))
}
