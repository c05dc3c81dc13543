//! A bare hyper server that answers every request alike: the ceiling of what any HTTP/1.1 server on this machine and in this
//! language reaches. Invariant: it reads each request whole and does nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::failure::Failure;

/// As long as the answer to a grab.
const BODY: &[u8] = br#"{"order_id":"o-1234567-1234567","outcome":"granted","replayed":false,"pay_by":"2026-06-18T00:20:00.000Z","items":[{"promotion_id":"A-1234567","quantity":1,"remaining":99}]}"#;

/// Serves until the process is ended; prints its address first.
pub fn serve() -> Result<(), Failure> {
    let runtime = Builder::new_multi_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(accept()));
    served.map_err(|error| Failure::Server(format!("the bare server cannot serve: {error}")))
}

async fn accept() -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(run_connection(stream));
    }
}

async fn run_connection(stream: TcpStream) {
    let connection = http1::Builder::new()
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // How it ends is the client's affair.
    drop(connection.await);
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    drop(request.into_body().collect().await);
    let response = Response::builder().header(CONTENT_TYPE, "application/json");
    let body = Full::new(Bytes::from_static(BODY));
    Ok(response.body(body).expect("the header is valid"))
}
