//! A promotion on its way out.
//!
//! Invariant: every member of the contract is always there; what a promotion does not have is null.

use qiang_engine::promotion::{
    Channel, Channels, Limits, Price, PromotionState, PromotionView, Rate, Terms,
};
use qiang_engine::routing::shard_of;
use qiang_engine::{PromotionId, UnixMs};
use serde::{Serialize, Serializer};

use super::time::Time;

/// The terms of a promotion, as a promotion and its flows show them.
#[derive(Debug, Serialize)]
pub(super) struct TermsShape<'a> {
    kind: u32,
    title: &'a str,
    sku_ids: &'a [String],
    starts_at: Option<Time>,
    ends_at: Option<Time>,
    limits: &'a Limits,
    rate: &'a Option<Rate>,
    payment_timeout_ms: u64,
    channels: ChannelNames,
    price: &'a Option<Price>,
}

impl<'a> From<&'a Terms> for TermsShape<'a> {
    fn from(terms: &'a Terms) -> Self {
        TermsShape {
            kind: terms.kind,
            title: &terms.title,
            sku_ids: &terms.sku_ids,
            starts_at: terms.starts_at.map(Time),
            ends_at: terms.ends_at.map(Time),
            limits: &terms.limits,
            rate: &terms.rate,
            payment_timeout_ms: terms.payment_timeout_ms,
            channels: ChannelNames(terms.channels),
            price: &terms.price,
        }
    }
}

/// A set of channels as a list of their names.
#[derive(Debug)]
struct ChannelNames(Channels);

impl Serialize for ChannelNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Channel::as_str))
    }
}

/// A promotion as the contract shows it.
#[derive(Debug, Serialize)]
pub(super) struct PromotionShape<'a> {
    promotion_id: &'a PromotionId,
    #[serde(flatten)]
    terms: TermsShape<'a>,
    quantity: u64,
    original: u64,
    added: i64,
    remaining: u64,
    held: u64,
    attempts: u64,
    granted: u64,
    returned: u64,
    confirmed: u64,
    state: &'static str,
    price_state: &'static str,
    current_price_cents: Option<u64>,
    shard: u16,
    version: u64,
    created_at: Time,
}

impl<'a> PromotionShape<'a> {
    /// The promotion in the state that it is in at `now`.
    pub(super) fn new(view: &'a PromotionView, now: UnixMs) -> Self {
        let promotion = &view.promotion;
        let terms = &*promotion.terms;
        let counters = &promotion.counters;
        let state = promotion.state(now);
        let on_sale = state == PromotionState::Active;
        let current = |price: &Price| {
            if on_sale {
                price.promotion_cents
            } else {
                price.original_cents
            }
        };
        PromotionShape {
            promotion_id: &promotion.id,
            terms: terms.into(),
            quantity: counters.original,
            original: counters.original,
            added: counters.added,
            remaining: counters.remaining,
            held: counters.held,
            attempts: view.attempts,
            granted: counters.granted,
            returned: counters.returned,
            confirmed: counters.confirmed,
            state: state.as_str(),
            price_state: if on_sale { "promotion" } else { "original" },
            current_price_cents: terms.price.as_ref().map(current),
            shard: shard_of(&promotion.id).0,
            version: promotion.version,
            created_at: Time(promotion.created_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiang_engine::promotion::{Counters, Promotion};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn view(terms: Terms, remaining: u64) -> PromotionView {
        let terms = Arc::new(terms);
        let counters = Counters {
            original: 100,
            added: -10,
            remaining,
            held: 90 - remaining,
            granted: 90 - remaining,
            ..Counters::default()
        };
        let promotion = Promotion {
            id: PromotionId::new("A").unwrap(),
            terms: terms.clone(),
            created_terms: terms,
            counters,
            stopped: false,
            closed: None,
            version: 3,
            created_at: UnixMs(1000),
        };
        PromotionView {
            promotion,
            attempts: 7,
        }
    }

    fn shown(view: &PromotionView, now: u64) -> Value {
        serde_json::to_value(PromotionShape::new(view, UnixMs(now))).unwrap()
    }

    #[test]
    fn a_promotion_shows_every_member_of_the_contract() {
        let terms = Terms {
            kind: 1,
            title: "Phone −500".to_owned(),
            sku_ids: vec!["100012043978".to_owned()],
            starts_at: Some(UnixMs(2000)),
            ends_at: Some(UnixMs(9000)),
            limits: Limits {
                per_order: Some(2),
                ..Limits::default()
            },
            rate: Some(Rate {
                window_ms: 60_000,
                attempts: 5,
            }),
            payment_timeout_ms: 30_000,
            channels: [Channel::Web, Channel::App].into_iter().collect(),
            price: Some(Price {
                original_cents: 2,
                promotion_cents: 1,
                currency: "CNY".to_owned(),
            }),
        };
        let expected = json!({
            "promotion_id": "A", "kind": 1, "title": "Phone −500", "sku_ids": ["100012043978"], "quantity": 100,
            "starts_at": "1970-01-01T00:00:02.000Z", "ends_at": "1970-01-01T00:00:09.000Z",
            "limits": {"per_order": 2, "per_pin": null, "per_ip": null},
            "rate": {"window_ms": 60000, "attempts": 5}, "payment_timeout_ms": 30000, "channels": ["app", "web"],
            "price": {"original_cents": 2, "promotion_cents": 1, "currency": "CNY"},
            "original": 100, "added": -10, "remaining": 40, "held": 50, "attempts": 7, "granted": 50, "returned": 0,
            "confirmed": 0, "state": "active", "price_state": "promotion", "current_price_cents": 1,
            "shard": shard_of(&PromotionId::new("A").unwrap()).0, "version": 3,
            "created_at": "1970-01-01T00:00:01.000Z",
        });
        assert_eq!(shown(&view(terms, 40), 3000), expected);
    }

    #[test]
    fn the_price_follows_the_state() {
        let price = Some(Price {
            original_cents: 2,
            promotion_cents: 1,
            currency: "CNY".to_owned(),
        });
        let terms = Terms {
            starts_at: Some(UnixMs(2000)),
            ends_at: Some(UnixMs(9000)),
            price,
            ..Terms::default()
        };
        for (remaining, now, state, price_state, cents) in [
            (40, 1999, "scheduled", "original", 2),
            (40, 2000, "active", "promotion", 1),
            (0, 2000, "sold_out", "original", 2),
            (40, 9000, "ended", "original", 2),
        ] {
            let shown = shown(&view(terms.clone(), remaining), now);
            let seen = (
                &shown["state"],
                &shown["price_state"],
                &shown["current_price_cents"],
            );
            assert_eq!(seen, (&json!(state), &json!(price_state), &json!(cents)));
        }
    }

    #[test]
    fn what_a_promotion_does_not_have_is_null() {
        let shown = shown(&view(Terms::default(), 40), 0);
        for member in [
            "starts_at",
            "ends_at",
            "rate",
            "price",
            "current_price_cents",
        ] {
            assert_eq!(shown.get(member), Some(&Value::Null), "{member}");
        }
    }
}
