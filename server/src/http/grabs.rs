//! `POST /v1/grabs` and `POST /v1/grabs/batch`.
//!
//! Invariant: every grab that is let in passes the gate first and is counted once in metrics by its outcome.

use qiang_engine::Refusal;
use qiang_engine::command::Granted;

use super::Http;
use super::gate::Permit;
use super::grab_body::{parse_batch, parse_grab};
use super::order_view::{granted_body, write_granted};
use super::problem::Problem;
use super::query::Query;
use super::response::{Media, Outcome, Reply};

/// Bytes of one result in the answer to a batch, roughly: what the buffer starts with.
const RESULT_BYTES: usize = 256;

/// One grab.
pub(super) async fn grab(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    let outcome = grant(http, query, body).await;
    http.metrics.on_grab(match &outcome {
        Ok(reply) => reply.code,
        Err(problem) => problem.code(),
    });
    outcome
}

async fn grant(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let grab = parse_grab(body)?;
    let _permit = enter(http, 1)?;
    let granted = http.service.grab(grab).await?;
    let mut reply = Reply::new(200, Media::Json, granted_body(&granted));
    reply.code = word(&granted);
    Ok(reply)
}

/// Up to 8,192 independent grabs.
pub(super) async fn grab_batch(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let batch = parse_batch(body)?;
    let _permit = enter(http, batch.grabs.len())?;
    let count = batch.len();
    let mut wrong = batch.wrong.into_iter().peekable();
    let mut results = http.service.grab_batch(batch.grabs).await;
    let mut out = Vec::with_capacity(16 + RESULT_BYTES * count);
    out.extend_from_slice(b"{\"results\":[");
    for position in 0..count {
        if position > 0 {
            out.push(b',');
        }
        let result = match wrong.next_if(|(at, _)| *at == position) {
            Some((_, problem)) => Err(problem),
            None => result_of(results.next()),
        };
        http.metrics.on_grab(write_result(result, &mut out));
    }
    out.extend_from_slice(b"]}");
    Ok(Reply::new(200, Media::Json, out))
}

fn result_of(result: Option<Result<Granted, Refusal>>) -> Result<Granted, Problem> {
    result
        .unwrap_or(Err(Refusal::OutcomeUnknown))
        .map_err(Problem::from)
}

/// Appends one result of a batch; returns what metrics count it as.
fn write_result(result: Result<Granted, Problem>, out: &mut Vec<u8>) -> &'static str {
    match result {
        Ok(granted) => {
            out.extend_from_slice(b"{\"status\":200,");
            write_granted(&granted, out);
            word(&granted)
        }
        Err(problem) => {
            problem.write(out);
            problem.code()
        }
    }
}

fn word(granted: &Granted) -> &'static str {
    if granted.replayed {
        "replayed"
    } else {
        "granted"
    }
}

fn enter(http: &Http, grabs: usize) -> Result<Permit<'_>, Problem> {
    let detail =
        "as many grabs are in flight on this node as its configuration allows; nothing was done";
    http.gate
        .enter(grabs as u64, http.service.grabs_max())
        .ok_or_else(|| Problem::overloaded(detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiang_engine::order::GrantedItem;
    use qiang_engine::{OrderId, PromotionId, UnixMs};
    use serde_json::Value;

    #[test]
    fn results_of_a_batch_say_their_status_themselves() {
        let item = GrantedItem {
            promotion_id: PromotionId::new("A").unwrap(),
            quantity: 1,
            remaining: 9,
        };
        let granted = Granted {
            order_id: OrderId::new("o-1").unwrap(),
            replayed: true,
            pay_by: UnixMs(0),
            items: vec![item].into(),
        };
        let mut out = Vec::new();
        assert_eq!(write_result(Ok(granted), &mut out), "replayed");
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (&read["status"], &read["order_id"], &read["replayed"]),
            (&200.into(), &"o-1".into(), &true.into())
        );
        out.clear();
        assert_eq!(write_result(result_of(None), &mut out), "outcome_unknown");
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (&read["status"], &read["code"]),
            (&504.into(), &"outcome_unknown".into())
        );
    }
}
