//! Refusals as callers see them: RFC 9457 `application/problem+json`.
//!
//! Invariant: every code has one status and one title for ever; `code` is for programs, `detail` is for people.

use std::borrow::Cow;

use qiang_engine::PromotionId;
use serde::Serialize;

use super::order_view::write_number;
use super::response::{Media, Reply};

/// What a refusal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: Cow<'static, str>,
    field: String,
    promotion_id: Option<PromotionId>,
    remaining: Option<u64>,
    version: Option<u64>,
    oldest: Option<String>,
    shards: Vec<ShardProblem>,
    retry_after_s: Option<u64>,
    allow: Option<&'static str>,
    close: bool,
}

/// What is wrong with one shard, for a node that is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ShardProblem {
    /// The shard's number, or `meta`.
    pub(super) shard: String,
    /// Why it does not serve.
    pub(super) reason: String,
}

impl Problem {
    /// A refusal with what every one has.
    pub(super) fn new(
        status: u16,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Problem(Box::new(Parts {
            title,
            status,
            code,
            detail: detail.into(),
            field: String::new(),
            promotion_id: None,
            remaining: None,
            version: None,
            oldest: None,
            shards: Vec::new(),
            retry_after_s: None,
            allow: None,
            close: false,
        }))
    }

    /// 400: `field` (a path, or empty where there is none) is wrong as `what` says.
    pub(super) fn invalid(field: &str, what: &str) -> Self {
        let detail = match field {
            "" => what.to_owned(),
            _ => format!("{field}: {what}"),
        };
        let mut problem = Self::new(400, "invalid_request", "The request is wrong", detail);
        field.clone_into(&mut problem.0.field);
        problem
    }

    /// 400: the body is larger than `max` bytes; the connection is closed.
    pub(super) fn body_too_large(max: usize) -> Self {
        let detail = format!("a body may have {max} bytes: send several requests");
        Self::new(400, "body_too_large", "The body is too large", detail).closing()
    }

    /// 408: the body did not arrive in time; the connection is closed.
    pub(super) fn body_too_slow() -> Self {
        let detail = "the body did not arrive in time; nothing was done";
        Self::new(
            408,
            "request_timeout",
            "The request came too slowly",
            detail,
        )
        .closing()
    }

    /// 404: no such route.
    pub(super) fn no_route(path: &str) -> Self {
        let detail = format!("there is no route {path:?}");
        Self::new(404, "not_found", "No such route", detail)
    }

    /// 405: the route exists, the method does not.
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this route allows {allow}");
        let mut problem = Self::new(405, "method_not_allowed", "Method not allowed", detail);
        problem.0.allow = Some(allow);
        problem
    }

    /// 429: refused before anything was done.
    pub(super) fn overloaded(detail: &'static str) -> Self {
        Self::new(429, "overloaded", "Overloaded", detail).retrying(1)
    }

    /// 503: nothing was done.
    pub(super) fn unavailable() -> Self {
        Self::unavailable_since("no leader or quorum just now; nothing was done, try again")
    }

    /// 503: nothing was done, for this reason.
    pub(super) fn unavailable_since(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(503, "unavailable", "Unavailable", detail).retrying(1)
    }

    /// 503: this node should get no traffic.
    pub(super) fn not_ready(detail: String, shards: Vec<ShardProblem>) -> Self {
        let mut problem = Self::new(503, "not_ready", "This node is not ready", detail);
        problem.0.shards = shards;
        problem
    }

    /// 504: it may have been done.
    pub(super) fn outcome_unknown() -> Self {
        let detail = "sent for commit, but the answer was not learnt in time: repeat the request to learn it";
        Self::new(504, "outcome_unknown", "Outcome unknown", detail)
    }

    /// 500: what could not be done on this node.
    pub(super) fn internal(detail: String) -> Self {
        Self::new(500, "internal", "Internal error", detail)
    }

    /// 409: the configuration was changed meanwhile; `current` is its version now.
    pub(super) fn version_conflict(expected: u64, current: u64) -> Self {
        let detail = format!(
            "version {expected} was to be replaced, but {current} is in force: read it and decide again"
        );
        let mut problem = Self::new(409, "version_conflict", "Changed meanwhile", detail);
        problem.0.version = Some(current);
        problem
    }

    /// 404: no such version of the configuration is kept.
    pub(super) fn version_not_found(version: u64) -> Self {
        let detail = format!("version {version} is not in the history");
        Self::new(404, "version_not_found", "No such version", detail)
    }

    /// 410: the flows after the cursor were deleted by retention; all that is left follows `oldest`.
    pub(super) fn flows_forgotten(oldest: String) -> Self {
        let detail = format!(
            "the flows right after this cursor were deleted by retention; all that is left follows {oldest}"
        );
        let mut problem = Self::new(410, "flows_forgotten", "Flows were deleted", detail);
        problem.0.oldest = Some(oldest);
        problem
    }

    /// With `Retry-After`, in seconds.
    pub(super) fn retrying(mut self, after_s: u64) -> Self {
        self.0.retry_after_s = Some(after_s);
        self
    }

    /// With what remains of the promotion.
    pub(super) fn with_remaining(mut self, remaining: u64) -> Self {
        self.0.remaining = Some(remaining);
        self
    }

    /// With the promotion that it concerns.
    pub(super) fn about(mut self, promotion_id: Option<PromotionId>) -> Self {
        self.0.promotion_id = promotion_id;
        self
    }

    fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        self.0.code
    }

    /// Appends the problem document. Written by hand, for a stampede is answered with these: titles and codes need no escapes, and
    /// neither do ids, by their alphabet.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let parts = &*self.0;
        // Nothing resolves the type; a URN says so.
        out.extend_from_slice(b"{\"type\":\"urn:problem-type:qiang:");
        out.extend_from_slice(parts.code.as_bytes());
        out.extend_from_slice(b"\",\"title\":\"");
        out.extend_from_slice(parts.title.as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        write_number(parts.status.into(), out);
        out.extend_from_slice(b",\"code\":\"");
        out.extend_from_slice(parts.code.as_bytes());
        out.push(b'"');
        write_text("detail", &parts.detail, out);
        if !parts.field.is_empty() {
            write_member("field", &parts.field, out);
        }
        if let Some(promotion_id) = &parts.promotion_id {
            out.extend_from_slice(b",\"promotion_id\":\"");
            out.extend_from_slice(promotion_id.as_bytes());
            out.push(b'"');
        }
        if let Some(remaining) = parts.remaining {
            out.extend_from_slice(b",\"remaining\":");
            write_number(remaining, out);
        }
        if let Some(version) = parts.version {
            write_member("version", &version, out);
        }
        if let Some(oldest) = &parts.oldest {
            write_member("oldest", oldest, out);
        }
        if !parts.shards.is_empty() {
            write_member("shards", &parts.shards, out);
        }
        out.push(b'}');
    }

    /// The answer.
    pub(super) fn into_reply(self) -> Reply {
        let mut body = Vec::with_capacity(256);
        self.write(&mut body);
        Reply {
            status: self.0.status,
            code: self.0.code,
            media: Media::Problem,
            body: body.into(),
            streamed: None,
            retry_after_s: self.0.retry_after_s,
            allow: self.0.allow,
            close: self.0.close,
        }
    }
}

/// Appends a further member that is a text; most have nothing that needs an escape.
fn write_text(name: &str, text: &str, out: &mut Vec<u8>) {
    let needs_escape = |byte: u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    // All bytes are looked at, whatever the first ones say: that is done several at a time.
    if text
        .bytes()
        .fold(false, |any, byte| any | needs_escape(byte))
    {
        return write_member(name, &text, out);
    }
    for part in [",\"", name, "\":\"", text, "\""] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends a further member whose value may need escapes.
fn write_member(name: &str, value: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    serde_json::to_writer(out, value).expect("memory takes every byte, and all keys are texts");
}

#[cfg(test)]
impl Problem {
    pub(super) fn status(&self) -> u16 {
        self.0.status
    }

    pub(super) fn field(&self) -> &str {
        &self.0.field
    }

    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_wrong_member_is_named_twice_for_programs_and_for_people() {
        let mut out = Vec::new();
        Problem::invalid("items[0].quantity", "is missing").write(&mut out);
        let document: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            document,
            json!({"type": "urn:problem-type:qiang:invalid_request", "title": "The request is wrong", "status": 400,
                   "code": "invalid_request", "detail": "items[0].quantity: is missing", "field": "items[0].quantity"})
        );
    }

    #[test]
    fn every_member_is_written_where_there_is_one() {
        let read = |problem: &Problem| -> Value {
            let mut out = Vec::new();
            problem.write(&mut out);
            serde_json::from_slice(&out).unwrap()
        };
        let id = PromotionId::new("P-1").unwrap();
        let refused = Problem::overloaded("wait")
            .about(Some(id))
            .with_remaining(17);
        assert_eq!(
            read(&refused),
            json!({"type": "urn:problem-type:qiang:overloaded", "title": "Overloaded", "status": 429, "code": "overloaded",
                   "detail": "wait", "promotion_id": "P-1", "remaining": 17})
        );
        let nobody = Problem::no_route("/\"\n\u{7}");
        assert_eq!(
            read(&nobody)["detail"],
            "there is no route \"/\\\"\\n\\u{7}\""
        );
        assert_eq!(read(&Problem::version_conflict(2, 5))["version"], 5);
        assert_eq!(
            read(&Problem::flows_forgotten("3.7".to_owned()))["oldest"],
            "3.7"
        );
        let shard = ShardProblem {
            shard: "meta".to_owned(),
            reason: "it has no \"leader\"".to_owned(),
        };
        let not_ready = Problem::not_ready("not yet".to_owned(), vec![shard]);
        assert_eq!(
            read(&not_ready)["shards"],
            json!([{"shard": "meta", "reason": "it has no \"leader\""}])
        );
    }

    #[test]
    fn a_body_that_was_not_read_costs_the_connection() {
        assert!(Problem::body_too_large(1).into_reply().close);
        assert!(Problem::body_too_slow().into_reply().close);
        assert!(!Problem::unavailable().into_reply().close);
    }
}
