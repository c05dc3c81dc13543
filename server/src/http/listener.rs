//! Connections: accepted up to a bound, served one request after the other, and closed in order when the node stops.
//!
//! Invariant: a request whose head was read before the end is answered, unless it takes longer than the drain timeout.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::body::read_body;
use super::connections::{Answering, Connections, Ended, Line};
use super::gate::GrabGate;
use super::problem::Problem;
use super::router::{Asked, Route, answer};
use super::streamed::ReplyBody;
use super::workers::Workers;
use super::{Http, Phase, Settings, past};
use crate::metrics::Metrics;
use crate::service::Service;

/// Bytes of a request's head, and of what is read ahead of a body.
const BUFFER_BYTES: usize = 64 << 10;

/// How long a connection without a request yet is given when the node stops: its first may be under way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(250);

/// How long to wait after the system refused a connection, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections on `workers` until `shutdown` ends; then finishes what is in flight, at most for the drain timeout.
///
/// # Errors
/// The listener's address is not of this machine alone: this version knows no tokens.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    settings: Settings,
    workers: Workers,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        let message = format!(
            "{address} can be reached by others: without tokens only a loopback address is served"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let gate = GrabGate::default();
    let phase = watch::Sender::new(Phase::Serving);
    let connections = Arc::new(Semaphore::new(
        settings.connections_max.min(Semaphore::MAX_PERMITS),
    ));
    let most = connections.available_permits();
    let metrics = Metrics::new(service.clone(), gate.clone(), connections.clone());
    let http = Arc::new(Http {
        service,
        metrics,
        gate,
        settings,
        connections: Connections::new(settings.header_timeout),
        phase: phase.subscribe(),
    });
    let mut look = interval(http.connections.look_interval());
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => on_accept(accepted, &http, &connections, &workers).await,
            _ = look.tick() => http.connections.look(),
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    phase.send_replace(Phase::Draining);
    http.connections.drain();
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    if timeout(settings.drain_timeout, connections.acquire_many(all))
        .await
        .is_err()
    {
        let left = most - connections.available_permits();
        tracing::warn!(
            connections = left,
            "the drain timeout has passed: closing connections with requests in flight"
        );
        phase.send_replace(Phase::Closing);
    }
    Ok(())
}

async fn on_accept(
    accepted: io::Result<(TcpStream, std::net::SocketAddr)>,
    http: &Arc<Http>,
    connections: &Arc<Semaphore>,
    workers: &Workers,
) {
    match accepted {
        Ok((stream, _)) => match connections.clone().try_acquire_owned() {
            Ok(permit) => {
                let line = http.connections.open();
                // Its worker watches over it from here on.
                let stream = stream.into_std();
                workers.spawn(run_connection(stream, http.clone(), line, permit));
            }
            Err(_) => http.metrics.on_connection_refused(),
        },
        Err(error) if of_one_connection(&error) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection; trying again");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Whether only the connection that was to be accepted is gone.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn run_connection(
    stream: io::Result<std::net::TcpStream>,
    http: Arc<Http>,
    line: Arc<Line>,
    permit: OwnedSemaphorePermit,
) {
    let stream = match stream.and_then(TcpStream::from_std) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "cannot serve a connection; closing it"),
    };
    // A reply must not wait for the acknowledgement of the one before it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let asked = AtomicBool::new(false);
    let http = &*http;
    let respond = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        let under_way = line.begin();
        async move {
            let response = respond(http, request).await;
            Ok::<_, Infallible>(response.map(|body| Answering {
                body,
                _under_way: under_way,
            }))
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(true)
        .pipeline_flush(true)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), respond);
    tokio::pin!(connection);
    // How a connection ends is the client's affair: what matters of it was answered and counted.
    match line.drive(connection.as_mut()).await {
        Ended::Itself | Ended::Late => return drop(permit),
        Ended::Draining => connection.as_mut().graceful_shutdown(),
    }
    let mut phase = http.phase.clone();
    let unasked = async {
        sleep(FIRST_REQUEST_GRACE).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = connection.as_mut() => {}
        () = unasked => {}
        () = past(&mut phase, Phase::Draining) => {}
    }
    drop(permit);
}

async fn respond(http: &Http, request: Request<Incoming>) -> Response<ReplyBody> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let route = Route::of(path);
    let outcome = match read_body(body, http.settings.body_timeout).await {
        Ok(body) => {
            let asked = Asked {
                method: &head.method,
                path,
                query: head.uri.query(),
                body: &body,
            };
            answer(http, route, asked).await
        }
        Err(problem) => Err(problem),
    };
    let reply = outcome.unwrap_or_else(Problem::into_reply);
    http.metrics
        .on_request(route.name(), reply.status, reply.code, started.elapsed());
    reply.into_response()
}
