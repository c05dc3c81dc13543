//! What the engine refuses, as problems: the contract's tables of statuses and codes.
//!
//! Invariant: a code that shards use among themselves reaches no caller under its own name.

use qiang_engine::command::Code;
use qiang_engine::{PromotionId, Refusal, Rejection};

use super::problem::Problem;

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(rejection) => rejection.into(),
            Refusal::Overloaded => {
                Problem::overloaded("the shard has as much to do as it can hold; nothing was done")
            }
            Refusal::Unavailable => Problem::unavailable(),
            Refusal::OutcomeUnknown => Problem::outcome_unknown(),
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let Rejection { code, promotion_id } = rejection;
        let name = promotion_id.as_ref().map_or("", PromotionId::as_str);
        let problem = of_code(code, name);
        match code {
            Code::RateLimited { retry_after_ms } => {
                problem.retrying(retry_after_ms.div_ceil(1000).max(1))
            }
            Code::SoldOut { remaining } | Code::InsufficientRemaining { remaining } => {
                problem.with_remaining(remaining)
            }
            _ => problem,
        }
        .about(promotion_id)
    }
}

/// The refusals of the contract's tables.
fn of_code(code: Code, promotion: &str) -> Problem {
    let about = |what: &str| match promotion {
        "" => what.to_owned(),
        _ => ["promotion ", promotion, ": ", what].concat(),
    };
    match code {
        Code::PromotionNotFound => Problem::new(
            404,
            "promotion_not_found",
            "No such promotion",
            about("there is none of this id"),
        ),
        Code::NotStarted => Problem::new(
            409,
            "not_started",
            "Not started",
            about("it has not started"),
        ),
        Code::Ended => Problem::new(409, "ended", "Ended", about("it has ended")),
        Code::Stopped => Problem::new(409, "stopped", "Stopped", about("it is stopped")),
        Code::Deleted => Problem::new(409, "deleted", "Deleted", about("it was deleted")),
        Code::ChannelClosed => Problem::new(
            409,
            "channel_closed",
            "Channel closed",
            about("it is not sold on this channel"),
        ),
        Code::RateLimited { retry_after_ms } => {
            let detail = about(&format!(
                "the attempts of this window are used up; the next begins in {retry_after_ms} ms"
            ));
            Problem::new(429, "rate_limited", "Too many attempts", detail)
        }
        Code::OrderMismatch => {
            let detail = "this order id was used with other content: a grab is repeated with the same content";
            Problem::new(422, "order_mismatch", "Other content", detail)
        }
        Code::OrderReturned => {
            let detail = "this order was cancelled or expired, or its cancel came first: it never grabs again";
            Problem::new(409, "order_returned", "Order returned", detail)
        }
        Code::OrderLimit => Problem::new(
            409,
            "order_limit",
            "Limit per order",
            about("more units than one order may take"),
        ),
        Code::PinLimit => Problem::new(
            409,
            "pin_limit",
            "Limit per pin",
            about("more units than one pin may take"),
        ),
        Code::IpLimit => Problem::new(
            409,
            "ip_limit",
            "Limit per ip",
            about("more units than one ip may take"),
        ),
        Code::SoldOut { remaining } => {
            // A stampede is answered with these: formatting would cost as much as the rest of the document.
            let remaining = remaining.to_string();
            let detail = about(&["fewer units remain than asked for: ", &remaining].concat());
            Problem::new(409, "sold_out", "Sold out", detail)
        }
        Code::OrderNotFound => Problem::new(
            404,
            "order_not_found",
            "No such order",
            "there is no order of this id",
        ),
        Code::OrderConfirmed => {
            let detail = "this order was paid: it is given back only with \"refund\": true";
            Problem::new(409, "order_confirmed", "Order confirmed", detail)
        }
        Code::PromotionExists => {
            let detail = about("one of this id exists with other content: change it with PATCH");
            Problem::new(409, "promotion_exists", "Promotion exists", detail)
        }
        Code::InsufficientRemaining { remaining } => {
            let detail = about(&format!(
                "more units to take away than the {remaining} that remain"
            ));
            Problem::new(409, "insufficient_remaining", "Too few remain", detail)
        }
        Code::QuantityTooLarge => {
            let most = qiang_engine::limits::QUANTITY_MAX;
            Problem::invalid(
                "add_quantity",
                &format!("a promotion offers at most {most} units in all"),
            )
        }
        Code::EndBeforeStart => Problem::invalid("ends_at", "must be later than starts_at"),
        Code::ShardFull => {
            Problem::overloaded("the shard holds as many orders as it can; nothing was done")
        }
        Code::AmbiguousOrder => {
            let detail = "two shards know different orders of this id: name a promotion of the one meant with \
                          ?promotion_id=";
            Problem::new(409, "ambiguous_order", "Ambiguous order", detail)
        }
        // Between shards only; what they mean for a caller, should one ever come through.
        Code::InDoubt => Problem::outcome_unknown(),
        Code::TryUndone | Code::NotHome => Problem::unavailable(),
    }
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod tests;
