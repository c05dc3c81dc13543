//! Answers on their way out: status, body and the few headers that the contract knows.
//!
//! Invariant: every answer but a streamed one has its whole body in memory and therefore a content-length.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use super::problem::Problem;
use super::streamed::{Block, ReplyBody};

/// What a route answers.
pub(super) type Outcome = Result<Reply, Problem>;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Problem,
    Ndjson,
    OpenMetrics,
    Text,
    Bytes,
}

impl Media {
    fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Problem => "application/problem+json",
            Media::Ndjson => "application/x-ndjson",
            Media::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Media::Text => "text/plain; charset=utf-8",
            Media::Bytes => "application/octet-stream",
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// What metrics count it as: a problem's code, or a word for success.
    pub(super) code: &'static str,
    pub(super) media: Media,
    pub(super) body: Bytes,
    /// A body that is still being made, in the place of `body`.
    pub(super) streamed: Option<mpsc::Receiver<Block>>,
    pub(super) retry_after_s: Option<u64>,
    pub(super) allow: Option<&'static str>,
    /// The connection is closed after it.
    pub(super) close: bool,
}

impl Reply {
    /// An answer with `body` as it is.
    pub(super) fn new(status: u16, media: Media, body: impl Into<Bytes>) -> Self {
        Reply {
            status,
            code: "ok",
            media,
            body: body.into(),
            streamed: None,
            retry_after_s: None,
            allow: None,
            close: false,
        }
    }

    /// An answer whose body is still being made.
    pub(super) fn streamed(status: u16, media: Media, body: mpsc::Receiver<Block>) -> Self {
        Reply {
            streamed: Some(body),
            ..Self::new(status, media, Bytes::new())
        }
    }

    /// `value` as JSON.
    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        let body =
            serde_json::to_vec(value).expect("memory takes every byte, and all keys are texts");
        Self::new(status, Media::Json, body)
    }

    /// The answer in HTTP's own types.
    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let body = match self.streamed {
            Some(streamed) => ReplyBody::Streamed(streamed),
            None => ReplyBody::Whole(Full::new(self.body)),
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(self.media.content_type()),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
