//! Asking peers: one link for each lane to each node.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::dialler::Dialler;
use super::frame::{FRAME_BYTES_MAX, FrameWriter, read_frame};
use super::hello::{Credentials, Identified, introduce};
use super::link::Link;
use super::{Dial, Lane, Stream};
use crate::world::{Home, spawn};

/// How long a connection and its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It certainly never left this node.
    #[error("not sent: {0}")]
    NotSent(Arc<str>),
    /// It was sent, and the connection broke before the answer.
    #[error("the connection broke before the answer")]
    Broken,
    /// It was sent, and no answer came in time.
    #[error("no answer in time")]
    TimedOut,
}

/// A question on its way. Dropping it gives the answer up, not the question.
pub struct Call(oneshot::Receiver<Result<Bytes, CallError>>);

impl Call {
    /// Waits for the answer, at most for `patience`.
    pub async fn within(self, patience: Duration) -> Result<Bytes, CallError> {
        timeout(patience, self)
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }
}

impl Future for Call {
    type Output = Result<Bytes, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|received| received.unwrap_or(Err(CallError::Broken)))
    }
}

/// All links of a node. Clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    credentials: Credentials,
    dial: Arc<dyn Dial>,
    home: Home,
    addresses: RwLock<BTreeMap<u64, String>>,
    links: Mutex<BTreeMap<(u64, Lane), Arc<Link>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn close(&self) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let links = std::mem::take(&mut *links);
        for link in links.values() {
            link.close();
        }
    }
}

impl Peers {
    /// Links that introduce themselves with `credentials`, and run where this is called.
    pub fn new(credentials: Credentials, dial: Arc<dyn Dial>) -> Self {
        Peers(Arc::new(Inner {
            credentials,
            dial,
            home: Home::here(),
            addresses: RwLock::default(),
            links: Mutex::default(),
        }))
    }

    /// What this node shows in handshakes.
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Says where a node is found; the next connection goes there.
    pub fn set_address(&self, node: u64, address: &str) {
        let mut addresses = self
            .0
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if addresses.get(&node).map(String::as_str) != Some(address) {
            addresses.insert(node, address.to_owned());
        }
    }

    fn address(&self, node: u64) -> Option<String> {
        let addresses = self
            .0
            .addresses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.get(&node).cloned()
    }

    /// Asks a node. The question is handed over before this returns: questions on one lane leave in the
    /// order of the calls.
    pub fn call(&self, node: u64, lane: Lane, kind: u8, payload: &[u8]) -> Call {
        let (caller, call) = oneshot::channel();
        self.link(node, lane).ask(kind, payload, caller);
        Call(call)
    }

    fn link(&self, node: u64, lane: Lane) -> Arc<Link> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.get(&(node, lane)).filter(|link| !link.is_closed());
        if let Some(link) = known {
            return link.clone();
        }
        let link = Arc::new(Link::default());
        let peers = WeakPeers(Arc::downgrade(&self.0));
        let dialler = Dialler::new(peers, node, lane, link.clone());
        self.0.home.host(|| spawn(dialler.run()));
        links.insert((node, lane), link.clone());
        link
    }

    /// Asks whoever listens at `address`, over a connection of its own: for nodes not yet known by number.
    pub async fn ask_stranger(
        &self,
        address: &str,
        kind: u8,
        payload: &[u8],
        patience: Duration,
    ) -> io::Result<(Identified, Bytes)> {
        let asked = async {
            let mut stream = self.0.dial.dial(address, Lane::Control).await?;
            let who = introduce(stream.as_mut(), &self.0.credentials, None, Lane::Control).await?;
            let mut frame = FrameWriter::default();
            frame.push(1, kind, payload);
            stream.write_all(&frame.finish()).await?;
            stream.flush().await?;
            let mut answer = None;
            read_frame(&mut stream, FRAME_BYTES_MAX, |message| {
                answer = Some(message.payload);
            })
            .await?;
            let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok((who, answer))
        };
        timeout(patience, asked)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
    }

    /// Ends every link: questions under way are `Broken`.
    pub fn close(&self) {
        self.0.close();
    }
}

/// The links of a node, for whoever does not keep them.
pub struct WeakPeers(Weak<Inner>);

impl WeakPeers {
    /// A connection to `node`, of which both sides know what it is for.
    pub async fn connect(&self, node: u64, lane: Lane) -> io::Result<Box<dyn Stream>> {
        let inner = self.0.upgrade();
        let peers = Peers(inner.ok_or(io::ErrorKind::ConnectionAborted)?);
        let address = peers
            .address(node)
            .ok_or_else(|| io::Error::other("its address is not known"))?;
        let connected = async {
            let mut stream = peers.0.dial.dial(&address, lane).await?;
            introduce(stream.as_mut(), peers.credentials(), Some(node), lane).await?;
            Ok(stream)
        };
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{address} does not answer"),
            )
        };
        timeout(CONNECT_TIMEOUT, connected)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
