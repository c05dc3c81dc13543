//! Reading a request's body.
//!
//! Invariant: no more than [`BODY_BYTES_MAX`] of a body are ever in memory, and none waits longer than its timeout.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::poll;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use tokio::time::timeout;

use super::problem::Problem;

/// Most bytes of a body (the public contract): a batch of 8,192 short grabs fits.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes of a refused body that are still read and thrown away: closing on a sender would reset the connection, and the
/// reset would overtake the answer.
const DISCARD_BYTES_MAX: usize = 16 << 20;

/// How long a refused body is still read.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Reads the whole body.
///
/// # Errors
/// 400 `body_too_large` before it is read where its length says so, otherwise when it passes the bound; 408 where it is
/// too slow; 400 where the connection breaks off.
pub(super) async fn read_body(mut body: Incoming, within: Duration) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let declared = body.size_hint().lower();
    if declared > BODY_BYTES_MAX as u64 {
        return Err(refuse(body));
    }
    let collected = {
        let mut collecting = pin!(collect(&mut body));
        // Most bodies come with their head: those need no timer.
        match poll!(collecting.as_mut()) {
            Poll::Ready(collected) => Ok(collected),
            Poll::Pending => timeout(within, collecting).await,
        }
    };
    match collected {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(refuse(body)),
        Ok(Err(error)) => {
            let what = format!("the body broke off: {error}");
            Err(Problem::invalid("", &what))
        }
        Err(_) => Err(Problem::body_too_slow()),
    }
}

/// The body, or `None` when it passes the bound.
async fn collect(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    // As it says itself; no more is taken than the bound, whatever it says.
    let expected =
        usize::try_from(body.size_hint().lower()).map_or(0, |bytes| bytes.min(BODY_BYTES_MAX));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if first.len().max(whole.len()) + data.len() > BODY_BYTES_MAX {
            return Ok(None);
        }
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(expected);
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&data);
    }
    if whole.is_empty() {
        Ok(Some(first))
    } else {
        Ok(Some(whole.into()))
    }
}

/// The problem, while the rest of the body is thrown away for a moment.
fn refuse(mut body: Incoming) -> Problem {
    tokio::spawn(async move {
        let until = Instant::now() + DISCARD_TIME;
        let mut discarded = 0;
        while discarded < DISCARD_BYTES_MAX {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(Some(Ok(frame))) = timeout(left, body.frame()).await else {
                return;
            };
            discarded += frame.data_ref().map_or(0, Bytes::len);
        }
    });
    Problem::body_too_large(BODY_BYTES_MAX)
}
