//! The handshake: who speaks, to whom, of which life of which cluster, and for what.
//!
//! Invariant: no message passes between nodes of different clusters, of different incarnations of one
//! cluster (but those of recovery itself), or of protocols that do not know each other. So a node of an abandoned past, cut off when
//! the others were recovered without it, is heard by nobody.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use qiang_engine::codec;
use qiang_storage::Store;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::frame::{FrameWriter, read_frame};
use super::{Lane, Stream};

/// The version of the protocol between nodes, who speak with those of their own version only. Version 1 knew no shards that share a
/// log; in version 2 forwarded commands said how long their caller waits; in version 3 attempts at recovery had no number; in version 4
/// nobody was told by which incarnation it is outlived; in version 5 survivors did not say who votes in their groups.
pub const PROTOCOL: u16 = 6;

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
        /// If this is for good, why.
        out: Option<Out>,
    },
}

/// Why a node is out of the cluster for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Out {
    /// The cluster lives on in this incarnation, in which the node has no part.
    OutlivedBy(u64),
    /// It was removed.
    Removed,
}

/// What a node shows in handshakes, and whom it lets in. Clones share it.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    state: RwLock<State>,
    /// Has it written down which incarnation outlives this node.
    remember: Box<dyn Fn(u64) + Send + Sync>,
}

struct State {
    who: Identified,
    /// The nodes of the cluster.
    members: Vec<u64>,
    /// Nodes that were removed: never spoken with again.
    removed: Vec<u64>,
    /// Why this node is fenced, if it is, and in a peer's words.
    out: Option<(Out, String)>,
}

impl State {
    /// Why nobody may join under this number, if so: what the node of that number acknowledged and whom it voted for would be forgotten.
    fn why_taken(&self, number: u64) -> Option<String> {
        let is_member = self.members.contains(&number);
        if !is_member && !self.removed.contains(&number) {
            return None;
        }
        let taken = format!(
            "node {number} is, or was, in the cluster, and a number is never used twice: give this one another --node-id"
        );
        Some(if is_member {
            format!(
                "{taken}; if the data of node {number} is lost, remove it (qiang raft remove-node {number})"
            )
        } else {
            taken
        })
    }
}

impl Credentials {
    /// The credentials of a node.
    pub fn new(cluster_id: &str, incarnation: u64, node_id: u64) -> Self {
        Self::remembering(cluster_id, incarnation, node_id, Box::new(|_| {}))
    }

    /// Those of the node that a store belongs to; there it is written down which incarnation outlives it.
    pub fn of(store: &Store) -> Self {
        let (identity, store) = (store.identity(), store.clone());
        let remember = move |by| {
            if let Err(error) = store.set_outlived_by(by) {
                tracing::error!(%error, "that this node is outlived was not written down");
            }
        };
        let (incarnation, node_id) = (identity.incarnation, identity.node_id);
        Self::remembering(
            &identity.cluster_id,
            incarnation,
            node_id,
            Box::new(remember),
        )
    }

    fn remembering(
        cluster_id: &str,
        incarnation: u64,
        node_id: u64,
        remember: Box<dyn Fn(u64) + Send + Sync>,
    ) -> Self {
        let who = Identified {
            cluster_id: cluster_id.to_owned(),
            incarnation,
            node_id,
        };
        let state = RwLock::new(State {
            who,
            members: Vec::new(),
            removed: Vec::new(),
            out: None,
        });
        Credentials(Arc::new(Shared { state, remember }))
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let state = self.0.state.read();
        look(&state.unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let state = self.0.state.write();
        change(&mut state.unwrap_or_else(PoisonError::into_inner))
    }

    /// Who the node is.
    pub fn who(&self) -> Identified {
        self.read(|state| state.who.clone())
    }

    /// Begins the cluster's next life here.
    pub fn set_incarnation(&self, incarnation: u64) {
        self.write(|state| {
            state.who.incarnation = incarnation;
            state.out = None;
        });
    }

    /// Says which nodes are in the cluster, and which were removed.
    pub fn set_numbers(&self, members: Vec<u64>, removed: Vec<u64>) {
        self.write(|state| {
            state.members = members;
            state.removed = removed;
        });
    }

    /// Why this node is out of the cluster, if it is, in a peer's words.
    pub fn fenced(&self) -> Option<String> {
        self.read(|state| Some(state.out.as_ref()?.1.clone()))
    }

    /// Why this node is out of the cluster, if it is.
    pub fn out(&self) -> Option<Out> {
        self.read(|state| Some(state.out.as_ref()?.0))
    }

    fn set_out(&self, out: Out, reason: &str) {
        let is_news = self.write(|state| {
            // It may have begun that life meanwhile.
            let is_own = matches!(out, Out::OutlivedBy(by) if by <= state.who.incarnation);
            let known = state.out.as_ref().map(|(known, _)| *known);
            let is_news = !is_own && Some(out) > known;
            if is_news {
                state.out = Some((out, reason.to_owned()));
            }
            is_news
        });
        if is_news {
            tracing::error!(
                reason,
                "this node is fenced: the cluster goes on without it"
            );
            if let Out::OutlivedBy(by) = out {
                (self.0.remember)(by);
            }
        }
    }

    /// The answer to a hello.
    fn answer(&self, hello: &Hello) -> Welcome {
        self.read(|state| {
            let own = &state.who;
            let no = |reason: String, out: Option<Out>| Welcome::No { reason, out };
            if hello.protocol != PROTOCOL {
                return no(
                    format!(
                        "node {} speaks protocol {PROTOCOL}, not {}",
                        own.node_id, hello.protocol
                    ),
                    None,
                );
            }
            if hello.to.is_some_and(|to| to != own.node_id) {
                return no(format!("this is node {}", own.node_id), None);
            }
            if hello.who.cluster_id.is_empty() {
                return match state.why_taken(hello.who.node_id) {
                    Some(why) => no(why, None),
                    None => Welcome::Yes(own.clone()),
                };
            }
            if hello.who.cluster_id != own.cluster_id {
                return no(
                    format!(
                        "node {} belongs to cluster {}, not {}",
                        own.node_id, own.cluster_id, hello.who.cluster_id
                    ),
                    None,
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
                    (hello.who.incarnation < own.incarnation)
                        .then_some(Out::OutlivedBy(own.incarnation)),
                );
            }
            if state.removed.contains(&hello.who.node_id) {
                return no(
                    format!("node {} was removed from the cluster", hello.who.node_id),
                    Some(Out::Removed),
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
        Some(Welcome::No { reason, out }) => {
            if let Some(out) = out {
                credentials.set_out(out, &reason);
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
        let heard = format!(
            "node {} lives in incarnation {} of the cluster, this one in {}",
            hello.who.node_id, hello.who.incarnation, own.incarnation
        );
        credentials.set_out(Out::OutlivedBy(hello.who.incarnation), &heard);
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_outlives_a_node_is_written_down_once_and_only_if_it_is_not_its_own_life() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let write = written.clone();
        let remember = move |by| write.lock().expect("one thread").push(by);
        let node = Credentials::remembering("sale", 2, 1, Box::new(remember));
        node.set_out(Out::OutlivedBy(2), "its own life");
        assert_eq!(node.out(), None);
        for by in [4, 4, 3] {
            node.set_out(Out::OutlivedBy(by), "a later life");
        }
        assert_eq!(node.out(), Some(Out::OutlivedBy(4)));
        node.set_out(Out::Removed, "removed");
        node.set_out(Out::OutlivedBy(9), "removed all the same");
        assert_eq!(node.fenced().as_deref(), Some("removed"));
        node.set_incarnation(4);
        node.set_out(Out::OutlivedBy(4), "late word of the life it has begun");
        assert_eq!(node.fenced(), None);
        assert_eq!(*written.lock().expect("one thread"), [4]);
    }

    #[test]
    fn a_number_is_never_used_twice() {
        let node = Credentials::new("sale", 1, 1);
        node.set_numbers(vec![1, 2, 3], vec![4]);
        let joins = |node_id| Hello {
            magic: MAGIC,
            protocol: PROTOCOL,
            who: Credentials::new("", 0, node_id).who(),
            to: None,
            lane: Lane::Control,
        };
        for (node_id, is_member) in [(2, true), (4, false)] {
            let answer = node.answer(&joins(node_id));
            let Welcome::No { reason, out: None } = answer else {
                panic!("{node_id}: {answer:?}");
            };
            assert!(reason.contains("never used twice"), "{reason}");
            assert_eq!(reason.contains("remove-node 2"), is_member, "{reason}");
        }
        assert_eq!(node.answer(&joins(5)), Welcome::Yes(node.who()));
    }
}
