//! `POST /v1/cluster/snapshot`: a backup of the whole cluster, streamed while it is made.
//!
//! Invariant: what can be refused is refused before the first byte; what goes wrong afterwards breaks the answer off, and
//! a backup that broke off has no end and is no backup.

use qiang_raft::backup::TakeError;

use crate::http::Http;
use crate::http::orders::check_no_body;
use crate::http::problem::Problem;
use crate::http::query::Query;
use crate::http::response::{Media, Outcome, Reply};
use crate::http::streamed::stream;

/// Takes a backup and streams it.
pub(super) async fn take(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    check_no_body(body)?;
    // A caller that leaves meanwhile leaves nothing half done: nothing is changed.
    let begun = http.service.node().begin_backup().await;
    let backup = begun.map_err(|error| problem_of(&error))?;
    Ok(Reply::streamed(
        200,
        Media::Bytes,
        stream(move |out| backup.write(out)),
    ))
}

fn problem_of(error: &TakeError) -> Problem {
    let told = error.to_string();
    match error {
        TakeError::Busy | TakeError::NotHeld { .. } => {
            Problem::new(409, "snapshot_refused", "No snapshot from here", told)
        }
        TakeError::NotFounded
        | TakeError::NoLeader(_)
        | TakeError::Behind(_)
        | TakeError::Restless => Problem::new(503, "unavailable", "Unavailable", told),
        TakeError::Read { .. } => {
            tracing::error!(%error, "no backup could be begun");
            Problem::internal(told)
        }
    }
}
