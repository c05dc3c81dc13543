//! `GET /v1/flows`: the committed changes of one shard, one line of JSON each.
//!
//! Invariant: a reader that keeps the last cursor misses none and sees none twice; a waiting reader never holds up the end
//! of the node.

use std::time::Duration;

use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::{OrderId, PromotionId, ShardId};
use qiang_raft::FlowError;

use super::flow_lines::{Cursor, write_flow};
use super::problem::Problem;
use super::query::{Query, parse_number};
use super::response::{Media, Outcome, Reply};
use super::{Http, Phase, past};
use crate::service::FlowQuery;

/// Flows in one answer, at most: it is built in memory.
const FLOWS_MAX: u64 = 10_000;

/// Flows in one answer, unless asked otherwise.
const FLOWS_DEFAULT: u64 = 1000;

/// Longest wait for the first flow, in milliseconds: shorter than what proxies allow an answer.
const WAIT_MS_MAX: u64 = 60_000;

/// Bytes of a line, roughly: what the buffer starts with.
const LINE_BYTES: usize = 256;

/// Reads flows, and waits for the first one where asked.
pub(super) async fn read(http: &Http, query: Option<&str>) -> Outcome {
    let query = parse_flows(query)?;
    let mut phase = http.phase.clone();
    let at_once = FlowQuery {
        wait: Duration::ZERO,
        ..query.clone()
    };
    let flows = tokio::select! {
        flows = http.service.flows(query) => flows,
        () = past(&mut phase, Phase::Serving) => http.service.flows(at_once).await,
    };
    let flows = flows.map_err(problem_of)?;
    let mut out = Vec::with_capacity(LINE_BYTES * flows.len());
    for flow in &flows {
        write_flow(flow, &mut out);
    }
    Ok(Reply::new(200, Media::Ndjson, out))
}

fn parse_flows(query: Option<&str>) -> Result<FlowQuery, Problem> {
    let mut query = Query::parse(query)?;
    let promotion_id: Option<PromotionId> = query.take_id("promotion_id")?;
    let order_id: Option<OrderId> = query.take_id("order_id")?;
    let shard = match (query.take("shard"), &promotion_id) {
        (Some(text), _) => {
            let number = parse_number("shard", &text, 0, u64::from(SHARDS) - 1)?;
            ShardId(u16::try_from(number).expect("at most the number of shards"))
        }
        (None, Some(promotion_id)) => shard_of(promotion_id),
        (None, None) => {
            let what = "is missing: name a shard from 0 to 15, or a promotion_id, whose shard is then read";
            return Err(Problem::invalid("shard", what));
        }
    };
    let after = query.take_number("after", 0, u64::MAX, 0)?;
    let limit = query.take_number("limit", 1, FLOWS_MAX, FLOWS_DEFAULT)?;
    let wait_ms = query.take_number("wait_ms", 0, WAIT_MS_MAX, 0)?;
    query.finish()?;
    Ok(FlowQuery {
        shard,
        after,
        limit: usize::try_from(limit).expect("at most 10,000"),
        wait: Duration::from_millis(wait_ms),
        promotion_id,
        order_id,
    })
}

fn problem_of(error: FlowError) -> Problem {
    match error {
        FlowError::Forgotten { oldest } => Problem::flows_forgotten(Cursor(oldest).to_string()),
        FlowError::Unavailable => Problem::unavailable(),
        FlowError::Unasked { .. } => Problem::unavailable_since(error.to_string()),
        FlowError::Storage(detail) => {
            tracing::error!(detail, "reading flows for a caller failed");
            Problem::internal(format!("the flows cannot be read: {detail}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_asked_for_by_shard_or_by_promotion() {
        let query = parse_flows(Some("shard=3")).unwrap();
        assert_eq!(
            (query.shard, query.after, query.limit, query.wait),
            (ShardId(3), 0, 1000, Duration::ZERO)
        );
        let whole = "shard=15&after=00000000000000196608&limit=10000&wait_ms=60000&promotion_id=A&order_id=o-1";
        let query = parse_flows(Some(whole)).unwrap();
        assert_eq!(
            (query.after, query.limit, query.wait),
            (3 << 16, 10_000, Duration::from_mins(1))
        );
        assert!(query.promotion_id.is_some() && query.order_id.is_some());
        let promotion = PromotionId::new("A").unwrap();
        assert_eq!(
            parse_flows(Some("promotion_id=A")).unwrap().shard,
            shard_of(&promotion)
        );
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (field, query) in [
            ("shard", ""),
            ("shard", "order_id=o-1"),
            ("shard", "shard=16"),
            ("shard", "shard=one"),
            ("shard", "shard=3&shard=3"),
            ("after", "shard=0&after=soon"),
            ("limit", "shard=0&limit=0"),
            ("limit", "shard=0&limit=10001"),
            ("wait_ms", "shard=0&wait_ms=-1"),
            ("wait_ms", "shard=0&wait_ms=60001"),
            ("promotion_id", "shard=0&promotion_id=a%20b"),
            ("order_id", "shard=0&order_id="),
            ("colour", "shard=0&colour=red"),
        ] {
            assert_eq!(
                parse_flows(Some(query)).unwrap_err().field(),
                field,
                "{query}"
            );
        }
        assert!(
            parse_flows(None)
                .unwrap_err()
                .detail()
                .contains("promotion_id")
        );
    }

    #[test]
    fn a_forgotten_cursor_is_told_where_to_go_on() {
        let problem = problem_of(FlowError::Forgotten { oldest: 1 << 16 });
        assert_eq!((problem.status(), problem.code()), (410, "flows_forgotten"));
        assert!(problem.detail().contains("00000000000000065536"));
    }
}
