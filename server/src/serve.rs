//! One node from start to stop. This file puts the parts together: listener, storage and groups,
//! service, courier, HTTP, and the signals that end it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use qiang_raft::{Node, NodeInfo, NodeOptions, StartError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster_config::ClusterConfig;
use crate::courier::run_courier;
use crate::http;
use crate::node_config::NodeConfig;
use crate::service::{Service, policy_of};

/// How long a node that was told to stop still takes requests while it says that it is not ready, so
/// that whoever balances load stops sending them.
const DRAIN_NOTICE: Duration = Duration::from_millis(300);

/// Why a node did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It cannot listen.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// It may not listen there.
    #[error(
        "http.listen is {address}, which others can reach: without tokens only a loopback address such as 127.0.0.1:7400 is served"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The node cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refused something.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl ServeError {
    /// Whether the settings are wrong, rather than the machine.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            ServeError::NotLoopback { .. } | ServeError::Start(StartError::NotBootstrapped { .. })
        )
    }
}

/// Runs a node until SIGTERM or SIGINT. With `bootstrap`, an empty data directory becomes a new
/// cluster of this one node.
pub async fn run(config: NodeConfig, bootstrap: bool) -> Result<(), ServeError> {
    let address = config.http.listen;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback { address });
    }
    // The signals are caught before anything is started that they would have to stop.
    let told_to_stop = stop_signal()?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    let node = Node::start(
        node_options(&config, bootstrap),
        policy_of(&ClusterConfig::default()),
    )
    .await?;
    let service = Service::new(
        node.clone(),
        Duration::from_millis(config.http.request_timeout_ms),
    );
    if let Some(jobs) = node.take_courier_jobs() {
        tokio::spawn(run_courier(service.clone(), jobs));
    }
    tracing::info!(
        node = config.node.id, dc = config.node.dc, http = %address, data_dir = %config.node.data_dir.display(),
        cluster = node.store().identity().cluster_id, "serving; no tokens are configured, so only this machine is served"
    );
    let draining = service.clone();
    let shutdown = async move {
        told_to_stop.await;
        tracing::info!("told to stop: no longer ready, finishing what is under way");
        draining.set_draining();
        tokio::time::sleep(DRAIN_NOTICE).await;
    };
    let served = http::serve(
        listener,
        service,
        http::Settings::from(&config.http),
        shutdown,
    )
    .await;
    node.stop().await;
    tracing::info!("stopped");
    served.map_err(|source| ServeError::System {
        doing: "serve HTTP",
        source,
    })
}

fn node_options(config: &NodeConfig, bootstrap: bool) -> NodeOptions {
    NodeOptions {
        node_id: config.node.id,
        info: NodeInfo {
            peer_address: config.peer.listen.to_string(),
            http_address: config.http.listen.to_string(),
            dc: config.node.dc.clone(),
            name: config.node_name(),
        },
        data_dir: config.node.data_dir.clone(),
        bootstrap,
        actor_threads: config.actor_threads(),
        snapshot_entries: config.storage.snapshot_entries,
        storage: config.storage_options(),
    }
}

/// Ends when the process is told to stop, by SIGTERM or by Ctrl-C.
fn stop_signal() -> Result<impl Future<Output = ()>, ServeError> {
    let watch = |kind| {
        signal(kind).map_err(|source| ServeError::System {
            doing: "watch for signals",
            source,
        })
    };
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
