//! The HTTP client of the command line: one request, one answer, and the failure that an unhappy answer is.
//!
//! Invariant: whatever goes wrong is a [`Failure`] of the right kind that names the node asked.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::Failure;

/// How long connecting may take. A node of the same network answers in milliseconds or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take, above what the request itself asks the node to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a node listens: `host:port`, with or without `http://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerAddress(String);

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        if bare.starts_with("https://") {
            return Err("https is not spoken by this version; give host:port".to_owned());
        }
        let authority: hyper::http::uri::Authority = bare
            .parse()
            .map_err(|_| format!("{text:?} is not host:port"))?;
        if authority.port_u16().is_none() || authority.host().is_empty() {
            return Err(format!(
                "{text:?} has no port: give host:port, such as 127.0.0.1:7400"
            ));
        }
        Ok(Self(bare.to_owned()))
    }
}

/// A client of one node.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    server: String,
}

/// A successful answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The body as it came.
    pub body: Bytes,
    server: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Server(format!(
                "{} answered with what is not JSON: {error}",
                self.server
            ))
        })
    }

    /// The body as text.
    pub(crate) fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body).map_err(|error| {
            Failure::Server(format!(
                "{} answered with what is not text: {error}",
                self.server
            ))
        })
    }
}

impl Client {
    /// A client of the node at `server`; nothing is connected yet.
    pub(crate) fn new(server: ServerAddress) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Self {
            http,
            server: server.0,
        }
    }

    /// A client of the node that listens at `address`.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::new(ServerAddress(address.to_string()))
    }

    /// The node asked.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// `GET`.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, path, None, Duration::ZERO).await
    }

    /// `GET` of what the node may hold back for `wait`.
    pub(crate) async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Answer, Failure> {
        self.send(Method::GET, path, None, wait).await
    }

    /// `POST`, with or without a body.
    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        self.send(Method::POST, path, body, Duration::ZERO).await
    }

    /// `POST` of what may take the node as long as `wait`.
    pub(crate) async fn post_waiting(
        &self,
        path: &str,
        body: &Value,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        self.send(Method::POST, path, Some(body), wait).await
    }

    /// `PATCH`.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.send(Method::PATCH, path, Some(body), Duration::ZERO)
            .await
    }

    /// `PUT`.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.send(Method::PUT, path, Some(body), Duration::ZERO)
            .await
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::DELETE, path, None, Duration::ZERO).await
    }

    /// `POST` without a body, of what is answered with more than fits into memory: the body while it comes.
    pub(crate) async fn post_streamed(
        &self,
        path: &str,
        wait: Duration,
    ) -> Result<Incoming, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.server))
            .body(Full::new(Bytes::new()))
            .map_err(|error| Failure::Usage(format!("cannot ask for {path}: {error}")))?;
        let within = ANSWER_TIMEOUT + wait;
        let answered = tokio::time::timeout(within, self.http.request(request)).await;
        let response = answered.map_err(|_| {
            let (server, seconds) = (&self.server, within.as_secs());
            Failure::Server(format!("{server} did not answer within {seconds} s"))
        })?;
        let response = response.map_err(|error| self.unsent(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| self.broken_off(&error))?;
        Err(Failure::from_problem(status.as_u16(), &body.to_bytes()))
    }

    /// An answer ended before its end.
    pub(crate) fn broken_off(&self, error: &hyper::Error) -> Failure {
        Failure::Server(format!("{} broke off its answer: {error}", self.server))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Usage(format!("cannot ask for {path}: {error}")))?;
        let within = ANSWER_TIMEOUT + wait;
        let (status, body) = tokio::time::timeout(within, self.exchange(request))
            .await
            .map_err(|_| {
                let server = &self.server;
                Failure::Server(format!(
                    "{server} did not answer within {} s",
                    within.as_secs()
                ))
            })??;
        if status.is_success() {
            Ok(Answer {
                body,
                server: self.server.clone(),
            })
        } else {
            Err(Failure::from_problem(status.as_u16(), &body))
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(hyper::StatusCode, Bytes), Failure> {
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| self.unsent(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| self.broken_off(&error))?;
        Ok((status, body.to_bytes()))
    }

    fn unsent(&self, error: &legacy::Error) -> Failure {
        let server = &self.server;
        let cause = innermost(error);
        if error.is_connect() {
            Failure::Connect(format!(
                "cannot connect to {server}: {cause}; is a node running there? \
                 Name another with --server or QIANG_SERVER"
            ))
        } else {
            Failure::Server(format!("{server} gave no answer: {cause}"))
        }
    }
}

/// The first cause of an error: hyper's own messages only say where it arose.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_host_and_port_with_or_without_a_scheme() {
        let address = |text: &str| text.parse::<ServerAddress>();
        assert_eq!(
            address("127.0.0.1:7400"),
            Ok(ServerAddress("127.0.0.1:7400".into()))
        );
        assert_eq!(
            address("http://node:1/"),
            Ok(ServerAddress("node:1".into()))
        );
        assert_eq!(
            address("[::1]:7400"),
            Ok(ServerAddress("[::1]:7400".into()))
        );
        for wrong in [
            "",
            "node",
            "https://node:1",
            "node:x",
            "a b:1",
            "http://",
            ":7400",
            "n:1/v1",
        ] {
            assert!(address(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
