//! Every refusal has the status, code, extras and headers of the contract.

use super::*;
use serde_json::Value;

fn document(problem: &Problem) -> Value {
    let mut out = Vec::new();
    problem.write(&mut out);
    serde_json::from_slice(&out).unwrap()
}

fn rejected(code: Code) -> Problem {
    let promotion_id = Some(PromotionId::new("A").unwrap());
    Refusal::Rejected(Rejection { code, promotion_id }).into()
}

#[test]
fn every_code_has_the_status_of_the_contract() {
    let cases = [
        (Code::PromotionNotFound, 404, "promotion_not_found"),
        (Code::NotStarted, 409, "not_started"),
        (Code::Ended, 409, "ended"),
        (Code::Stopped, 409, "stopped"),
        (Code::Deleted, 409, "deleted"),
        (Code::ChannelClosed, 409, "channel_closed"),
        (Code::RateLimited { retry_after_ms: 1 }, 429, "rate_limited"),
        (Code::OrderMismatch, 422, "order_mismatch"),
        (Code::OrderReturned, 409, "order_returned"),
        (Code::OrderLimit, 409, "order_limit"),
        (Code::PinLimit, 409, "pin_limit"),
        (Code::IpLimit, 409, "ip_limit"),
        (Code::SoldOut { remaining: 0 }, 409, "sold_out"),
        (Code::OrderNotFound, 404, "order_not_found"),
        (Code::OrderConfirmed, 409, "order_confirmed"),
        (Code::PromotionExists, 409, "promotion_exists"),
        (
            Code::InsufficientRemaining { remaining: 3 },
            409,
            "insufficient_remaining",
        ),
        (Code::QuantityTooLarge, 400, "invalid_request"),
        (Code::EndBeforeStart, 400, "invalid_request"),
        (Code::ShardFull, 429, "overloaded"),
        (Code::AmbiguousOrder, 409, "ambiguous_order"),
        (Code::InDoubt, 504, "outcome_unknown"),
        (Code::TryUndone, 503, "unavailable"),
        (Code::NotHome, 503, "unavailable"),
    ];
    for (code, status, name) in cases {
        let problem = rejected(code);
        let document = document(&problem);
        assert_eq!(document["status"], status, "{document}");
        assert_eq!(document["code"], name, "{document}");
        assert_eq!(document["promotion_id"], "A", "{document}");
        assert_eq!(document["type"], format!("urn:problem-type:qiang:{name}"));
        for member in ["title", "detail"] {
            assert!(
                document[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{document}"
            );
        }
        let reply = problem.into_reply();
        assert_eq!(reply.status, status);
        assert_eq!(
            reply.retry_after_s.is_some(),
            status == 429 || status == 503,
            "{name}"
        );
    }
}

#[test]
fn refusals_that_are_no_rules_have_codes_of_their_own() {
    let seen = [
        Refusal::Overloaded,
        Refusal::Unavailable,
        Refusal::OutcomeUnknown,
    ]
    .map(|refusal| {
        let reply = Problem::from(refusal).into_reply();
        (reply.status, reply.code, reply.retry_after_s)
    });
    let expected = [
        (429, "overloaded", Some(1)),
        (503, "unavailable", Some(1)),
        (504, "outcome_unknown", None),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_remains_is_a_member_and_part_of_the_detail() {
    let sold_out = document(&rejected(Code::SoldOut { remaining: 7 }));
    assert_eq!(sold_out["remaining"], 7);
    let too_few = document(&rejected(Code::InsufficientRemaining { remaining: 57 }));
    assert_eq!(too_few["remaining"], 57);
    assert!(too_few["detail"].to_string().contains("57"), "{too_few}");
    assert!(document(&rejected(Code::Ended)).get("remaining").is_none());
}

#[test]
fn retry_after_is_in_seconds_rounded_up() {
    for (retry_after_ms, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (3_600_000, 3600)] {
        let reply = rejected(Code::RateLimited { retry_after_ms }).into_reply();
        assert_eq!(reply.retry_after_s, Some(seconds), "{retry_after_ms} ms");
    }
}
