//! `/v1/orders/{order_id}`: read, confirm, cancel.
//!
//! Invariant: an order that is still being decided over several shards is shown to nobody.

use qiang_engine::command::{Code, Rejection};
use qiang_engine::limits::ITEMS_MAX;
use qiang_engine::order::{Order, OrderState, ReturnReason};
use qiang_engine::{OrderId, PromotionId};
use serde::de::{Deserialize, Deserializer, Error, Unexpected};

use super::Http;
use super::json::{List, Object, parse, present};
use super::order_view::OrderShape;
use super::problem::Problem;
use super::query::{Query, path_id};
use super::response::{Outcome, Reply};
use crate::service::CancelOrder;

/// A body without members: absent, or `{}`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    reason: Reason,
    #[serde(default)]
    refund: bool,
    #[serde(default, deserialize_with = "present")]
    promotion_ids: Option<List<PromotionId, 0, ITEMS_MAX>>,
}

/// The reasons that callers may give; `expired` is the engine's own.
#[derive(Debug, Clone, Copy)]
struct Reason(ReturnReason);

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const KNOWN: [ReturnReason; 3] = [
            ReturnReason::User,
            ReturnReason::Stock,
            ReturnReason::Downstream,
        ];
        let text = String::deserialize(deserializer)?;
        let known = KNOWN.into_iter().find(|known| known.as_str() == text);
        known.map(Reason).ok_or_else(|| {
            let expected = "one of \"user\", \"stock\", \"downstream\"";
            D::Error::invalid_value(Unexpected::Str(&text), &expected)
        })
    }
}

/// Reads an order.
pub(super) async fn get(http: &Http, id: &str, query: Option<&str>) -> Outcome {
    let (order_id, promotion_id) = parse_named(id, query)?;
    let order = http
        .service
        .get_order(&order_id, promotion_id.as_ref())
        .await?;
    show(&order)
}

/// It was paid.
pub(super) async fn confirm(http: &Http, id: &str, query: Option<&str>, body: &[u8]) -> Outcome {
    let (order_id, promotion_id) = parse_named(id, query)?;
    check_no_body(body)?;
    let order = http
        .service
        .confirm_order(&order_id, promotion_id.as_ref())
        .await?;
    show(&order)
}

/// Gives it back.
pub(super) async fn cancel(http: &Http, id: &str, query: Option<&str>, body: &[u8]) -> Outcome {
    let (order_id, promotion_id) = parse_named(id, query)?;
    let cancel = parse_cancel(order_id, promotion_id, body)?;
    let order = http.service.cancel_order(cancel).await?;
    show(&order)
}

/// Checks that a route without a body got none.
///
/// # Errors
/// 400 naming the first member.
pub(super) fn check_no_body(body: &[u8]) -> Result<(), Problem> {
    if body.is_empty() {
        return Ok(());
    }
    parse::<Object<Nothing>>(body).map(|_| ())
}

fn parse_named(id: &str, query: Option<&str>) -> Result<(OrderId, Option<PromotionId>), Problem> {
    let order_id = path_id("order_id", id)?;
    let mut query = Query::parse(query)?;
    let promotion_id = query.take_id("promotion_id")?;
    query.finish()?;
    Ok((order_id, promotion_id))
}

fn parse_cancel(
    order_id: OrderId,
    promotion_id: Option<PromotionId>,
    body: &[u8],
) -> Result<CancelOrder, Problem> {
    let Object(body) = parse::<Object<CancelBody>>(body)?;
    Ok(CancelOrder {
        order_id,
        reason: body.reason.0,
        refund: body.refund,
        promotion_ids: body.promotion_ids.map(|ids| ids.0).unwrap_or_default(),
        promotion_id,
    })
}

fn show(order: &Order) -> Outcome {
    if order.state == OrderState::Tentative {
        let rejection = Rejection {
            code: Code::OrderNotFound,
            promotion_id: None,
        };
        return Err(rejection.into());
    }
    Ok(Reply::json(200, &OrderShape::from(order)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancelled(body: &str) -> Result<CancelOrder, Problem> {
        parse_cancel(OrderId::new("o-1").unwrap(), None, body.as_bytes())
    }

    #[test]
    fn a_cancel_needs_only_its_reason() {
        let cancel = cancelled(r#"{"reason":"stock"}"#).unwrap();
        assert_eq!(
            (cancel.reason, cancel.refund, cancel.promotion_ids.len()),
            (ReturnReason::Stock, false, 0)
        );
        let whole =
            cancelled(r#"{"reason":"user","refund":true,"promotion_ids":["A","B"]}"#).unwrap();
        assert_eq!((whole.refund, whole.promotion_ids.len()), (true, 2));
    }

    #[test]
    fn each_wrong_member_of_a_cancel_is_named() {
        let many = format!(
            r#"{{"reason":"user","promotion_ids":["A"{}]}}"#,
            r#","A""#.repeat(32)
        );
        for (field, body) in [
            ("reason", r#"{"reason":"whim"}"#),
            ("reason", r#"{"reason":"expired"}"#),
            ("reason", "{}"),
            ("refund", r#"{"reason":"user","refund":"yes"}"#),
            ("refund", r#"{"reason":"user","refund":null}"#),
            ("promotion_ids", r#"{"reason":"user","promotion_ids":"A"}"#),
            (
                "promotion_ids[0]",
                r#"{"reason":"user","promotion_ids":["a b"]}"#,
            ),
            ("promotion_ids", many.as_str()),
            ("why", r#"{"reason":"user","why":"so"}"#),
            ("", ""),
        ] {
            let problem = cancelled(body).unwrap_err();
            assert_eq!(problem.field(), field, "{body}: {}", problem.detail());
        }
    }

    #[test]
    fn a_body_where_none_belongs_is_refused_unless_it_says_nothing() {
        check_no_body(b"").unwrap();
        check_no_body(b"{}").unwrap();
        assert_eq!(
            check_no_body(br#"{"paid":true}"#).unwrap_err().field(),
            "paid"
        );
        assert!(check_no_body(b"[]").is_err());
    }

    #[test]
    fn ids_of_path_and_query_are_named() {
        assert_eq!(parse_named("a%20b", None).unwrap_err().field(), "order_id");
        assert_eq!(
            parse_named("o-1", Some("promotion_id=a%20b"))
                .unwrap_err()
                .field(),
            "promotion_id"
        );
        assert_eq!(
            parse_named("o-1", Some("promotion=A")).unwrap_err().field(),
            "promotion"
        );
    }
}
