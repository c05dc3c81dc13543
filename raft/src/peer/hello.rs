//! The handshake: who speaks, to whom, of which life of which cluster, and for what.
//!
//! Invariant: no message passes between nodes of different clusters, of different incarnations of one
//! cluster (but those of recovery itself), or of protocols that do not know each other. So a node of an abandoned past, cut off when
//! the others were recovered without it, is heard by nobody.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use qiang_engine::codec;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::frame::{FrameWriter, read_frame};
use super::{Lane, Stream};

/// The version of the protocol between nodes, who speak with those of their own version only. Version 1 knew no shards that share a
/// log; in version 2 forwarded commands said how long their caller waits; in version 3 attempts at recovery had no number.
pub const PROTOCOL: u16 = 4;

/// First bytes of every handshake.
const MAGIC: [u8; 5] = *b"QIANG";

/// Bytes of a handshake at most: names are short.
const HELLO_BYTES_MAX: usize = 4096;

/// Who a node is to its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identified {
    /// The cluster; empty for a node that asks to learn it.
    pub cluster_id: String,
    /// Which life of the cluster.
    pub incarnation: u64,
    /// The node.
    pub node_id: u64,
}

/// What the dialling side says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    magic: [u8; 5],
    /// Its protocol.
    pub protocol: u16,
    /// Who it is.
    pub who: Identified,
    /// Whom it wants; `None` for whoever is there.
    pub to: Option<u64>,
    /// What for.
    pub lane: Lane,
}

/// What the accepting side says to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Yes(Identified),
    /// Not with you, for this reason.
    No {
        /// Why, for people.
        reason: String,
        /// Whether this is for good: the dialling node is fenced or removed.
        for_good: bool,
    },
}

/// What a node shows in handshakes, and whom it lets in. Clones share it.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<RwLock<State>>);

#[derive(Debug)]
struct State {
    who: Identified,
    /// Nodes that were removed: never spoken with again.
    removed: Vec<u64>,
    /// Why a peer said that this node is fenced, if one did.
    fenced: Option<String>,
}

impl Credentials {
    /// The credentials of a node.
    pub fn new(cluster_id: &str, incarnation: u64, node_id: u64) -> Self {
        let who = Identified {
            cluster_id: cluster_id.to_owned(),
            incarnation,
            node_id,
        };
        Credentials(Arc::new(RwLock::new(State {
            who,
            removed: Vec::new(),
            fenced: None,
        })))
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Who the node is.
    pub fn who(&self) -> Identified {
        self.read(|state| state.who.clone())
    }

    /// Begins the cluster's next life here.
    pub fn set_incarnation(&self, incarnation: u64) {
        self.write(|state| {
            state.who.incarnation = incarnation;
            state.fenced = None;
        });
    }

    /// Says which nodes were removed.
    pub fn set_removed(&self, removed: Vec<u64>) {
        self.write(|state| state.removed = removed);
    }

    /// Why this node is out of the cluster, if a peer has said so.
    pub fn fenced(&self) -> Option<String> {
        self.read(|state| state.fenced.clone())
    }

    fn set_fenced(&self, reason: &str) {
        self.write(|state| {
            if state.fenced.is_none() {
                tracing::error!(
                    reason,
                    "this node is fenced: the cluster goes on without it"
                );
                state.fenced = Some(reason.to_owned());
            }
        });
    }

    /// The answer to a hello.
    fn answer(&self, hello: &Hello) -> Welcome {
        self.read(|state| {
            let own = &state.who;
            let no = |reason: String, for_good: bool| Welcome::No { reason, for_good };
            if hello.protocol != PROTOCOL {
                return no(
                    format!(
                        "node {} speaks protocol {PROTOCOL}, not {}",
                        own.node_id, hello.protocol
                    ),
                    false,
                );
            }
            if hello.to.is_some_and(|to| to != own.node_id) {
                return no(format!("this is node {}", own.node_id), false);
            }
            if hello.who.cluster_id.is_empty() {
                return Welcome::Yes(own.clone());
            }
            if hello.who.cluster_id != own.cluster_id {
                return no(
                    format!(
                        "node {} belongs to cluster {}, not {}",
                        own.node_id, own.cluster_id, hello.who.cluster_id
                    ),
                    false,
                );
            }
            if hello.lane == Lane::Recovery {
                return Welcome::Yes(own.clone());
            }
            if hello.who.incarnation != own.incarnation {
                return no(
                    format!(
                        "node {} lives in incarnation {} of the cluster, not {}",
                        own.node_id, own.incarnation, hello.who.incarnation
                    ),
                    hello.who.incarnation < own.incarnation,
                );
            }
            if state.removed.contains(&hello.who.node_id) {
                return no(
                    format!("node {} was removed from the cluster", hello.who.node_id),
                    true,
                );
            }
            Welcome::Yes(own.clone())
        })
    }
}

/// Introduces this node to whom it has dialled.
pub async fn introduce(
    stream: &mut dyn Stream,
    credentials: &Credentials,
    to: Option<u64>,
    lane: Lane,
) -> io::Result<Identified> {
    let hello = Hello {
        magic: MAGIC,
        protocol: PROTOCOL,
        who: credentials.who(),
        to,
        lane,
    };
    send(stream, &hello).await?;
    match receive(stream).await? {
        Some(Welcome::Yes(who)) => Ok(who),
        Some(Welcome::No { reason, for_good }) => {
            if for_good {
                credentials.set_fenced(&reason);
            }
            Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Takes the introduction of whoever has dialled; `None` if it hung up without a word, as a probe of
/// the port does.
pub async fn receive_introduction(
    stream: &mut dyn Stream,
    credentials: &Credentials,
) -> io::Result<Option<Hello>> {
    let Some(hello) = receive::<Hello>(stream).await? else {
        return Ok(None);
    };
    if hello.magic != MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what was said is no handshake",
        ));
    }
    let answer = credentials.answer(&hello);
    let own = credentials.who();
    if hello.who.cluster_id == own.cluster_id
        && hello.who.incarnation > own.incarnation
        && hello.lane != Lane::Recovery
    {
        credentials.set_fenced(&format!(
            "node {} lives in incarnation {} of the cluster, this one in {}",
            hello.who.node_id, hello.who.incarnation, own.incarnation
        ));
    }
    send(stream, &answer).await?;
    match answer {
        Welcome::Yes(_) => Ok(Some(hello)),
        Welcome::No { reason, .. } => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("node {} was turned away: {reason}", hello.who.node_id),
        )),
    }
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin + ?Sized),
    what: &impl Serialize,
) -> io::Result<()> {
    let mut frame = FrameWriter::default();
    frame.push(0, 0, &codec::encode(what));
    stream.write_all(&frame.finish()).await?;
    stream.flush().await
}

async fn receive<T: serde::de::DeserializeOwned>(
    mut stream: &mut dyn Stream,
) -> io::Result<Option<T>> {
    let mut said = None;
    let more = read_frame(&mut stream, HELLO_BYTES_MAX, |message| {
        said = Some(message.payload);
    })
    .await?;
    if !more {
        return Ok(None);
    }
    let said =
        said.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an empty handshake"))?;
    let what = codec::decode(&said).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("what was said is no handshake: {error}"),
        )
    })?;
    Ok(Some(what))
}
