//! The HTTP client and what it got: every answer knows what was asked, so that a failed assertion tells the whole story.
//!
//! Invariant: a refusal is accepted only in the contract's form, `application/problem+json` with all its members.

use serde_json::Value;
use std::time::Duration;
use ureq::http::Request;

/// Far above every deadline of the contract: a request that takes longer hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Largest answer a test reads, in bytes: a full page of flows with room to spare.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A client of one node; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    address: String,
}

impl Client {
    /// A client of the node that listens at `address` (`127.0.0.1:7400`).
    pub fn new(address: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_TIMEOUT))
            .max_idle_connections_per_host(64)
            .proxy(None)
            .build()
            .into();
        Self {
            agent,
            address: address.to_owned(),
        }
    }

    /// The address asked, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `GET`; a panic where no answer comes.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        sent(self.try_call("GET", path, None), "GET", path)
    }

    /// `POST` of a JSON body; a panic where no answer comes.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        sent(self.try_post(path, body), "POST", path)
    }

    /// `POST` of a body that need not be JSON.
    #[track_caller]
    pub fn post_text(&self, path: &str, body: &str) -> Answer {
        sent(
            self.try_call("POST", path, Some(body.to_owned())),
            "POST",
            path,
        )
    }

    /// `PATCH` of a JSON body; a panic where no answer comes.
    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        sent(
            self.try_call("PATCH", path, Some(body.to_string())),
            "PATCH",
            path,
        )
    }

    /// `PUT` of a JSON body; a panic where no answer comes.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        sent(
            self.try_call("PUT", path, Some(body.to_string())),
            "PUT",
            path,
        )
    }

    /// `DELETE`; a panic where no answer comes.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        sent(self.try_call("DELETE", path, None), "DELETE", path)
    }

    /// `GET` that may fail: the node may be down.
    pub fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        self.try_call("GET", path, None)
    }

    /// `POST` that may fail: the node may die while it answers.
    pub fn try_post(&self, path: &str, body: &Value) -> Result<Answer, ureq::Error> {
        self.try_call("POST", path, Some(body.to_string()))
    }

    fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, ureq::Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        let asked = format!(
            "{method} {path} {}",
            shortened(body.as_deref().unwrap_or_default())
        );
        let mut response = match body {
            Some(body) => self.agent.run(
                request
                    .header("content-type", "application/json")
                    .body(body)?,
            )?,
            None => self.agent.run(request.body(())?)?,
        };
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.as_str().to_owned(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers,
            text,
            asked,
        })
    }
}

#[track_caller]
fn sent(result: Result<Answer, ureq::Error>, method: &str, path: &str) -> Answer {
    result.unwrap_or_else(|error| panic!("{method} {path}: no answer: {error}"))
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 600;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    format!(
        "{}… ({} bytes)",
        text.chars().take(SHOWN).collect::<String>(),
        text.len()
    )
}

/// One answer of the node.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Header names in lower case and their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub text: String,
    /// What was asked, for messages.
    pub asked: String,
}

impl Answer {
    /// The value of the header `name`, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    /// The JSON body of an answer with this status; a panic on another one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "expected {status}: {self}");
        let media = self.header("content-type").unwrap_or_default();
        assert!(
            media.starts_with("application/json"),
            "content-type is {media:?}: {self}"
        );
        self.json()
    }

    /// The problem document of a refusal with this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.problem(status);
        assert_eq!(problem["code"], code, "expected {status} {code}: {self}");
        problem
    }

    /// The problem document of a refusal with this status, whatever its code; all members of the contract are there.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "expected {status}: {self}");
        let media = self.header("content-type").unwrap_or_default();
        assert!(
            media.starts_with("application/problem+json"),
            "content-type is {media:?}: {self}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "the status inside: {self}");
        for member in ["type", "title", "code", "detail"] {
            let text = problem[member].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "member {member:?} is missing: {self}");
        }
        problem
    }

    /// The problem document of a `400` that names the offending `field` in its detail.
    #[track_caller]
    pub fn bad(&self, field: &str) -> Value {
        let problem = self.problem(400);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(
            detail.contains(field),
            "the detail does not name {field:?}: {self}"
        );
        problem
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n  → {} {}",
            self.asked,
            self.status,
            shortened(&self.text)
        )
    }
}
