//! `/v1/promotions`: create, list, read, change, stop, resume, delete.
//!
//! Invariant: a promotion is shown in the state that it is in when it is shown.

use qiang_engine::command::Code;
use qiang_engine::promotion::{PromotionState, PromotionView};
use qiang_engine::{Command, PromotionId, Rejection};
use serde::Serialize;

use super::Http;
use super::orders::check_no_body;
use super::problem::Problem;
use super::promotion_body::{parse_change, parse_create};
use super::promotion_view::PromotionShape;
use super::query::{Query, path_id};
use super::response::{Outcome, Reply};

/// Promotions in one page of a list, at most.
const LIST_MAX: u64 = 1000;

/// Promotions in one page of a list, unless asked otherwise.
const LIST_DEFAULT: u64 = 100;

const STATES: [PromotionState; 6] = [
    PromotionState::Scheduled,
    PromotionState::Active,
    PromotionState::SoldOut,
    PromotionState::Stopped,
    PromotionState::Ended,
    PromotionState::Deleted,
];

/// A page of promotions in the order of their ids.
#[derive(Debug, Serialize)]
struct Page<'a> {
    promotions: Vec<PromotionShape<'a>>,
    /// What `after` asks for the next page with; null on the last.
    next: Option<&'a PromotionId>,
}

/// A promotion as a replica has it.
#[derive(Debug, Serialize)]
struct StalePromotionShape<'a> {
    #[serde(flatten)]
    promotion: PromotionShape<'a>,
    stale: StaleShape,
}

/// How far behind it may be.
#[derive(Debug, Serialize)]
struct StaleShape {
    applied_index: u64,
    lag_entries: u64,
    /// Null where the replica leads, or has heard nothing.
    leader_heard_ms: Option<u64>,
}

/// What a read of one promotion promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consistency {
    /// Everything that was acknowledged before the read is in it.
    Linearizable,
    /// It may be behind, and says how far.
    Stale,
}

/// What a list asks for.
#[derive(Debug, PartialEq, Eq)]
struct ListQuery {
    state: Option<PromotionState>,
    after: Option<PromotionId>,
    limit: usize,
}

/// Creates a promotion.
pub(super) async fn create(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let (promotion_id, command) = parse_create(body)?;
    let (view, created) = http.service.promotion(&promotion_id, command).await?;
    Ok(show(http, if created { 201 } else { 200 }, &view))
}

/// Reads a promotion: as it is, or, with `consistency=stale`, as a replica has it.
pub(super) async fn get(http: &Http, id: &str, query: Option<&str>) -> Outcome {
    let (promotion_id, consistency) = parse_get(id, query)?;
    if consistency == Consistency::Stale {
        return get_stale(http, &promotion_id).await;
    }
    run(
        http,
        &promotion_id.clone(),
        Command::GetPromotion { promotion_id },
    )
    .await
}

async fn get_stale(http: &Http, promotion_id: &PromotionId) -> Outcome {
    let unknown = || Rejection {
        code: Code::PromotionNotFound,
        promotion_id: Some(promotion_id.clone()),
    };
    let stale = http.service.node().stale_promotion(promotion_id).await;
    let stale = stale.ok_or_else(Problem::unavailable)?;
    let promotion = stale.promotion.ok_or_else(unknown)?;
    // Attempts are the leader's own count, which no replica has.
    let view = PromotionView {
        promotion,
        attempts: 0,
    };
    let shape = StalePromotionShape {
        promotion: PromotionShape::new(&view, http.service.now()),
        stale: StaleShape {
            applied_index: stale.applied_index,
            lag_entries: stale.lag_entries,
            leader_heard_ms: stale.leader_heard_ms,
        },
    };
    Ok(Reply::json(200, &shape))
}

/// Changes a promotion.
pub(super) async fn change(http: &Http, id: &str, query: Option<&str>, body: &[u8]) -> Outcome {
    let promotion_id = parse_named(id, query)?;
    let command = parse_change(promotion_id.clone(), body)?;
    run(http, &promotion_id, command).await
}

/// Stops a promotion, or resumes it.
pub(super) async fn stop(
    http: &Http,
    id: &str,
    stopped: bool,
    query: Option<&str>,
    body: &[u8],
) -> Outcome {
    let promotion_id = parse_named(id, query)?;
    check_no_body(body)?;
    run(
        http,
        &promotion_id.clone(),
        Command::StopPromotion {
            promotion_id,
            stopped,
        },
    )
    .await
}

/// Deletes a promotion.
pub(super) async fn delete(http: &Http, id: &str, query: Option<&str>) -> Outcome {
    let promotion_id = parse_named(id, query)?;
    run(
        http,
        &promotion_id.clone(),
        Command::DeletePromotion { promotion_id },
    )
    .await
}

/// Lists promotions in the order of their ids.
pub(super) async fn list(http: &Http, query: Option<&str>) -> Outcome {
    let ListQuery {
        state,
        after,
        limit,
    } = parse_list(query)?;
    // One more than asked says whether there is a next page.
    let mut views = http
        .service
        .list_promotions(state, after, limit + 1)
        .await?;
    let more = views.len() > limit;
    views.truncate(limit);
    let now = http.service.now();
    let page = Page {
        promotions: views
            .iter()
            .map(|view| PromotionShape::new(view, now))
            .collect(),
        next: views.last().filter(|_| more).map(|view| &view.promotion.id),
    };
    Ok(Reply::json(200, &page))
}

async fn run(http: &Http, promotion_id: &PromotionId, command: Command) -> Outcome {
    let (view, _) = http.service.promotion(promotion_id, command).await?;
    Ok(show(http, 200, &view))
}

fn show(http: &Http, status: u16, view: &PromotionView) -> Reply {
    Reply::json(status, &PromotionShape::new(view, http.service.now()))
}

fn parse_named(id: &str, query: Option<&str>) -> Result<PromotionId, Problem> {
    let promotion_id = path_id("promotion_id", id)?;
    Query::parse(query)?.finish()?;
    Ok(promotion_id)
}

fn parse_get(id: &str, query: Option<&str>) -> Result<(PromotionId, Consistency), Problem> {
    let promotion_id = path_id("promotion_id", id)?;
    let mut query = Query::parse(query)?;
    let consistency = match query.take("consistency").as_deref() {
        None => Consistency::Linearizable,
        Some("stale") => Consistency::Stale,
        Some(text) => {
            let what = format!("{text:?} is not known: leave it out, or say stale");
            return Err(Problem::invalid("consistency", &what));
        }
    };
    query.finish()?;
    Ok((promotion_id, consistency))
}

fn parse_list(query: Option<&str>) -> Result<ListQuery, Problem> {
    let mut query = Query::parse(query)?;
    let state = match query.take("state") {
        None => None,
        Some(text) => {
            let known = STATES.into_iter().find(|state| state.as_str() == text);
            let states = STATES.map(PromotionState::as_str).join(", ");
            let wrong = || Problem::invalid("state", &format!("{text:?} is none of {states}"));
            Some(known.ok_or_else(wrong)?)
        }
    };
    let after = query.take_id("after")?;
    let limit = query.take_number("limit", 1, LIST_MAX, LIST_DEFAULT)?;
    query.finish()?;
    let limit = usize::try_from(limit).expect("at most 1000");
    Ok(ListQuery {
        state,
        after,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_for_by_state_place_and_size() {
        let all = ListQuery {
            state: None,
            after: None,
            limit: 100,
        };
        assert_eq!(parse_list(None).unwrap(), all);
        let some = parse_list(Some("state=sold_out&after=A&limit=1000")).unwrap();
        let after = Some(PromotionId::new("A").unwrap());
        assert_eq!(
            some,
            ListQuery {
                state: Some(PromotionState::SoldOut),
                after,
                limit: 1000
            }
        );
    }

    #[test]
    fn wrong_parameters_of_a_list_are_named() {
        for (field, query) in [
            ("state", "state=asleep"),
            ("state", "state="),
            ("limit", "limit=0"),
            ("limit", "limit=1001"),
            ("limit", "limit=many"),
            ("after", "after=a%20b"),
            ("colour", "colour=red"),
        ] {
            assert_eq!(
                parse_list(Some(query)).unwrap_err().field(),
                field,
                "{query}"
            );
        }
        assert_eq!(parse_named("A", Some("x=1")).unwrap_err().field(), "x");
    }

    #[test]
    fn a_read_is_linearizable_unless_it_is_asked_to_be_stale() {
        let consistency = |query| parse_get("A", query).map(|(_, consistency)| consistency);
        assert_eq!(consistency(None), Ok(Consistency::Linearizable));
        assert_eq!(
            consistency(Some("consistency=stale")),
            Ok(Consistency::Stale)
        );
        for (field, query) in [
            ("consistency", "consistency="),
            ("consistency", "consistency=fresh"),
            ("colour", "consistency=stale&colour=red"),
        ] {
            assert_eq!(
                consistency(Some(query)).unwrap_err().field(),
                field,
                "{query}"
            );
        }
    }
}
