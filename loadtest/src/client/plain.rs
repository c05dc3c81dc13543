//! Ordinary requests with JSON: setting a sale up, readiness, flows, counters.
//!
//! Invariant: whatever goes wrong is a [`Failure`] of the right kind that names the node asked.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::Address;
use crate::failure::Failure;

/// How long connecting may take. A node of the same network answers in milliseconds or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take: above what a node itself allows a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an idle connection is kept: less than a node keeps one, so that no request meets its end.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// A client of one node.
#[derive(Debug, Clone)]
pub struct Plain {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    address: Address,
}

impl Plain {
    /// A client of the node at `address`; nothing is connected yet.
    pub fn new(address: Address) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Self { http, address }
    }

    /// The node asked.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// `GET`: the body of a success.
    ///
    /// # Errors
    /// No connection, no answer, or no success.
    pub async fn get(&self, path: &str) -> Result<Bytes, Failure> {
        self.send(Method::GET, path, None).await
    }

    /// `GET` of JSON.
    ///
    /// # Errors
    /// As [`Self::get`], or what came is not JSON.
    pub async fn get_json(&self, path: &str) -> Result<Value, Failure> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|error| {
            let address = &self.address;
            Failure::Server(format!(
                "{address} answered {path} with what is not JSON: {error}"
            ))
        })
    }

    /// `POST` of JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Bytes, Failure> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Usage(format!("cannot ask for {path}: {error}")))?;
        let address = &self.address;
        let exchange = async {
            let asked = self.http.request(request).await;
            let response = asked.map_err(|error| self.unsent(path, &error))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| {
                Failure::Server(format!("{address} broke off its answer to {path}: {error}"))
            })?;
            Ok::<_, Failure>((status, body.to_bytes()))
        };
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        let (status, body) = answered.map_err(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Failure::Server(format!(
                "{address} did not answer {path} within {seconds} s"
            ))
        })??;
        if status.is_success() {
            Ok(body)
        } else {
            let told = String::from_utf8_lossy(&body);
            Err(Failure::Server(format!(
                "{address} answered {path} with status {}: {told}",
                status.as_u16()
            )))
        }
    }

    fn unsent(&self, path: &str, error: &legacy::Error) -> Failure {
        let address = &self.address;
        let cause = innermost(error);
        if error.is_connect() {
            Failure::Connect(format!(
                "cannot connect to {address}: {cause}; is a node running there? Name another with --target"
            ))
        } else {
            Failure::Server(format!("{address} gave no answer to {path}: {cause}"))
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
