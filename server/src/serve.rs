//! One node from start to stop. This file puts the parts together: listener, storage and groups,
//! service, courier, HTTP, and the signals that end it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use qiang_raft::peer::{Tls, TlsError};
use qiang_raft::{Begin, Node, NodeInfo, NodeOptions, StartError, Timing, World};
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

/// Entries that Raft keeps behind a snapshot, for followers that are a little behind: a few seconds of full load.
const ENTRIES_KEPT: u64 = 8192;

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
    /// Its certificate for peers cannot be used.
    #[error("no TLS between nodes: {0}")]
    Tls(#[from] TlsError),
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
            ServeError::NotLoopback { .. }
                | ServeError::Tls(_)
                | ServeError::Start(
                    StartError::NotBootstrapped { .. } | StartError::SameNode { .. }
                )
        )
    }
}

/// Runs a node until SIGTERM or SIGINT, its connections on `workers`. `begin` says what an empty data directory becomes.
pub async fn run(
    mut config: NodeConfig,
    begin: Begin,
    workers: http::Workers,
) -> Result<(), ServeError> {
    if !config.http.listen.ip().is_loopback() {
        let address = config.http.listen;
        return Err(ServeError::NotLoopback { address });
    }
    // The signals are caught before anything is started that they would have to stop.
    let told_to_stop = stop_signal()?;
    let listener = listen(&mut config.http.listen).await?;
    let peers = listen(&mut config.peer.listen).await?;
    let tls = config.peer_tls().as_ref().map(Tls::load).transpose()?;
    let node = Node::start(
        node_options(&config, begin),
        policy_of(&ClusterConfig::default()),
        World::secured(tls),
    )
    .await?;
    node.serve_peers(peers);
    let service = Service::new(
        node.clone(),
        Duration::from_millis(config.http.request_timeout_ms),
    );
    if let Some(jobs) = node.take_courier_jobs() {
        tokio::spawn(run_courier(service.clone(), jobs));
    }
    tracing::info!(
        node = config.node.id, dc = config.node.dc, http = %config.http.listen, peer = %config.peer.listen, data_dir = %config.node.data_dir.display(),
        cluster = node.store().identity().cluster_id, "serving; no tokens are configured, so only this machine is served"
    );
    let draining = node.clone();
    let shutdown = async move {
        told_to_stop.await;
        tracing::info!("told to stop: handing leaderships over, finishing what is under way");
        draining.drain().await;
        tokio::time::sleep(DRAIN_NOTICE).await;
    };
    let served = http::serve(
        listener,
        service,
        http::Settings::from(&config.http),
        workers,
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

/// Listens at `address`, which then has the port that the system chose for port 0.
async fn listen(address: &mut SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(*address).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (chosen, listener) = bound.map_err(|source| ServeError::Listen {
        address: *address,
        source,
    })?;
    *address = chosen;
    Ok(listener)
}

fn node_options(config: &NodeConfig, begin: Begin) -> NodeOptions {
    NodeOptions {
        node_id: config.node.id,
        info: NodeInfo {
            peer_address: config.peer_address(),
            http_address: config.http.listen.to_string(),
            dc: config.node.dc.clone(),
            name: config.node_name(),
        },
        data_dir: config.node.data_dir.clone(),
        begin,
        sharing: config
            .sharing()
            .expect("settings are checked before they are used"),
        snapshot_entries: config.storage.snapshot_entries,
        entries_kept: ENTRIES_KEPT,
        timing: Timing {
            election_ms_min: config.peer.election_timeout_ms,
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_the_system_chose_is_the_one_that_is_told() {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = listen(&mut address).await.unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(listener.local_addr().unwrap(), address);
    }
}
