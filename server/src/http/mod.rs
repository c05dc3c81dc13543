//! The public interface: HTTP/1.1 in, commands to the [`Service`] and back.
//!
//! A request goes through these files in this order: `listener` (connections, watched over by `connections` and driven by `workers`), `body` (bounded reading), `router` (which
//! route and method), one file per family of routes (`grabs`, `orders`, `promotions`, `flows`, `config`, `cluster`, `health`) with
//! its parsing (`*_body`) and its shapes (`*_view`, `*_lines`), and `response`.
//!
//! Invariant: every request is answered with one of the contract's statuses, whatever was sent, and costs the node no more
//! than its bounds.

mod body;
mod cluster;
mod config;
mod connections;
mod flow_lines;
mod flows;
mod gate;
mod grab_body;
mod grabs;
mod health;
mod json;
mod listener;
mod order_view;
mod orders;
mod problem;
mod promotion_body;
mod promotion_view;
mod promotions;
mod query;
mod refusals;
mod response;
mod router;
mod streamed;
mod time;
mod workers;

use std::time::Duration;

use tokio::sync::watch;

pub(crate) use flow_lines::write_flow;
pub(crate) use gate::GrabGate;
pub use listener::serve;
pub use workers::Workers;

use self::connections::Connections;
use crate::metrics::Metrics;
use crate::node_config::HttpSection;
use crate::service::Service;

/// The bounds of the public interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Connections served at a time; further ones are closed at once.
    pub connections_max: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// How long requests in flight are given when the node stops.
    pub drain_timeout: Duration,
}

impl From<&HttpSection> for Settings {
    fn from(section: &HttpSection) -> Self {
        Settings {
            connections_max: section.connections_max,
            header_timeout: Duration::from_millis(section.header_timeout_ms),
            body_timeout: Duration::from_millis(section.request_timeout_ms),
            drain_timeout: Duration::from_millis(section.drain_timeout_ms),
        }
    }
}

/// How far the end of this interface has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No new connections; what is in flight is finished.
    Draining,
    /// What is still in flight is given up.
    Closing,
}

/// What every request needs.
struct Http {
    service: Service,
    metrics: Metrics,
    gate: GrabGate,
    settings: Settings,
    connections: Connections,
    phase: watch::Receiver<Phase>,
}

/// Ends when `phase` is past the given one.
async fn past(phase: &mut watch::Receiver<Phase>, than: Phase) {
    // The sender is dropped after the last phase.
    let _ = phase.wait_for(|now| *now > than).await;
}
