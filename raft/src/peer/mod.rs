//! The way between nodes: questions and answers over one connection per pair of nodes and lane.
//!
//! A connection begins with a handshake (`hello`), then carries frames (`frame`): many messages in one
//! frame, one checksum over all. Whoever dials asks (`peers`, with a `link` and its `dialler` for each lane), whoever accepts answers (`serve`);
//! questions are handed over in the order they came, answers go back as they are ready. A lane has a
//! connection of its own, so that a snapshot or a crowd of forwarded grabs never stands before a heartbeat.
//!
//! Invariants: a question is answered at most once and its caller always learns an end; `NotSent` is
//! told only of what certainly never left; every queue is bounded; nothing a stranger sends is more
//! than one log line.

mod dialler;
mod frame;
mod hello;
mod link;
mod peers;
mod serve;
mod tls;

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use frame::FRAME_BYTES_MAX;
pub use hello::{Credentials, Out, PROTOCOL};
pub use peers::{Call, CallError, Peers};
pub(crate) use serve::tell_dropped;
pub use serve::{Handler, Incoming, Responder, serve};
pub use tls::{Tls, TlsError, TlsFiles};

/// What a connection is for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Lane {
    /// Log entries.
    Log,
    /// Heartbeats, votes and everything small that must not wait.
    Control,
    /// Clients' commands on their way to a leader.
    Forward,
    /// Snapshots.
    Bulk,
    /// Recovery after the loss of a data centre, while nodes may live in different incarnations.
    Recovery,
}

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Opens connections: over TCP, with TLS or without, or through a simulated network.
pub trait Dial: Send + Sync + 'static {
    /// Opens a connection to `address`, `host:port`, for `lane`.
    fn dial(&self, address: &str, lane: Lane) -> BoxFuture<io::Result<Box<dyn Stream>>>;
}

/// Dials over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial(&self, address: &str, _: Lane) -> BoxFuture<io::Result<Box<dyn Stream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
