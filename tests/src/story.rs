//! Promotions, grabs and orders as the verbs of a test's story.
//!
//! Invariant: a draft sends exactly what it says, nothing more; only `promotion_id` and `quantity` of a promotion are there unasked.

use crate::{Answer, Client, rfc3339, wait_until};
use serde_json::{Map, Value, json};
use std::time::Duration;

impl Client {
    /// A promotion to be created; a hundred units unless told otherwise.
    pub fn promotion(&self, id: &str) -> PromotionDraft<'_> {
        let mut body = Map::new();
        body.insert("promotion_id".into(), id.into());
        body.insert("quantity".into(), 100.into());
        PromotionDraft {
            client: self,
            id: id.to_owned(),
            body,
        }
    }

    /// A promotion that exists.
    pub fn offered(&self, id: &str) -> PromotionHandle<'_> {
        PromotionHandle {
            client: self,
            id: id.to_owned(),
        }
    }

    /// A grab of order `order` by the buyer `pin`, from one address on the channel `app` unless told otherwise.
    pub fn grab(&self, order: &str, pin: &str) -> GrabDraft<'_> {
        GrabDraft {
            client: self,
            body: json!({
                "order_id": order, "pin": pin, "ip": "203.0.113.9", "channel": "app", "items": []
            }),
        }
    }

    /// An order, seen or not.
    pub fn order(&self, id: &str) -> OrderHandle<'_> {
        OrderHandle {
            client: self,
            id: id.to_owned(),
            query: String::new(),
        }
    }
}

/// A promotion about to be created.
#[derive(Debug, Clone)]
pub struct PromotionDraft<'a> {
    client: &'a Client,
    id: String,
    body: Map<String, Value>,
}

impl<'a> PromotionDraft<'a> {
    /// Sets any member of the body.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.body.insert(member.to_owned(), value.into());
        self
    }

    fn limit(mut self, member: &str, units: u64) -> Self {
        let limits = self.body.entry("limits").or_insert_with(|| json!({}));
        limits[member] = units.into();
        self
    }

    /// Units offered.
    #[must_use]
    pub fn quantity(self, units: u64) -> Self {
        self.with("quantity", units)
    }

    /// Units one order may take.
    #[must_use]
    pub fn per_order(self, units: u64) -> Self {
        self.limit("per_order", units)
    }

    /// Units over all live orders of one buyer.
    #[must_use]
    pub fn per_pin(self, units: u64) -> Self {
        self.limit("per_pin", units)
    }

    /// Units over all live orders from one address.
    #[must_use]
    pub fn per_ip(self, units: u64) -> Self {
        self.limit("per_ip", units)
    }

    /// Attempts in one window.
    #[must_use]
    pub fn rate(self, window_ms: u64, attempts: u64) -> Self {
        self.with(
            "rate",
            json!({"window_ms": window_ms, "attempts": attempts}),
        )
    }

    /// Where it is sold.
    #[must_use]
    pub fn channels(self, channels: &[&str]) -> Self {
        self.with("channels", json!(channels))
    }

    /// How long an order waits for its payment.
    #[must_use]
    pub fn payment_timeout_ms(self, ms: u64) -> Self {
        self.with("payment_timeout_ms", ms)
    }

    /// Starts so many milliseconds from now; negative means that it has started.
    #[must_use]
    pub fn starts_in_ms(self, ms: i64) -> Self {
        self.with("starts_at", rfc3339(ms))
    }

    /// Ends so many milliseconds from now.
    #[must_use]
    pub fn ends_in_ms(self, ms: i64) -> Self {
        self.with("ends_at", rfc3339(ms))
    }

    /// The price outside and inside the promotion.
    #[must_use]
    pub fn price(self, original_cents: u64, promotion_cents: u64) -> Self {
        self.with(
            "price",
            json!({"original_cents": original_cents, "promotion_cents": promotion_cents, "currency": "CNY"}),
        )
    }

    /// What would be sent.
    pub fn body(&self) -> Value {
        Value::Object(self.body.clone())
    }

    /// Asks for the promotion, whatever the answer.
    #[track_caller]
    pub fn answer(&self) -> Answer {
        self.client.post("/v1/promotions", &self.body())
    }

    /// Creates the promotion; a panic where it is refused.
    #[track_caller]
    pub fn create(self) -> PromotionHandle<'a> {
        self.answer().expect(201);
        PromotionHandle {
            client: self.client,
            id: self.id,
        }
    }
}

/// A promotion that exists.
#[derive(Debug, Clone)]
pub struct PromotionHandle<'a> {
    client: &'a Client,
    /// Its id.
    pub id: String,
}

impl PromotionHandle<'_> {
    fn path(&self) -> String {
        format!("/v1/promotions/{}", self.id)
    }

    /// Reads the promotion, whatever the answer.
    #[track_caller]
    pub fn answer(&self) -> Answer {
        self.client.get(&self.path())
    }

    /// The promotion as it is now.
    #[track_caller]
    pub fn view(&self) -> Value {
        self.answer().expect(200)
    }

    /// One of its numbers; a panic where there is no such member.
    #[track_caller]
    pub fn number(&self, member: &str) -> i64 {
        let view = self.view();
        view[member]
            .as_i64()
            .unwrap_or_else(|| panic!("no number {member:?} in {view}"))
    }

    /// Units still to be grabbed.
    #[track_caller]
    pub fn remaining(&self) -> i64 {
        self.number("remaining")
    }

    /// Its state.
    #[track_caller]
    pub fn state(&self) -> String {
        self.view()["state"]
            .as_str()
            .expect("a promotion has a state")
            .to_owned()
    }

    /// Changes some members.
    #[track_caller]
    pub fn patch(&self, change: &Value) -> Answer {
        self.client.patch(&self.path(), change)
    }

    /// Stops the sale.
    #[track_caller]
    pub fn stop(&self) -> Answer {
        self.client.post_text(&format!("{}/stop", self.path()), "")
    }

    /// Resumes the sale.
    #[track_caller]
    pub fn resume(&self) -> Answer {
        self.client
            .post_text(&format!("{}/resume", self.path()), "")
    }

    /// Deletes it.
    #[track_caller]
    pub fn delete(&self) -> Answer {
        self.client.delete(&self.path())
    }

    /// Asserts `original + added == remaining + held + confirmed` with `added` units added by the test,
    /// where `held` are the units granted and neither returned nor confirmed.
    #[track_caller]
    pub fn balances_with(&self, added: i64) {
        let view = self.view();
        let number = |member: &str| {
            view[member]
                .as_i64()
                .unwrap_or_else(|| panic!("no number {member:?} in {view}"))
        };
        let held = number("granted") - number("returned") - number("confirmed");
        assert_eq!(
            number("original") + added,
            number("remaining") + held + number("confirmed"),
            "original + added == remaining + held + confirmed in {view}"
        );
    }
}

/// A grab about to be sent.
#[derive(Debug, Clone)]
pub struct GrabDraft<'a> {
    client: &'a Client,
    body: Value,
}

impl GrabDraft<'_> {
    /// Asks for `quantity` units of `promotion`; each call is one more item.
    #[must_use]
    pub fn of(mut self, promotion: &str, quantity: u64) -> Self {
        let items = self.body["items"].as_array_mut().expect("items are a list");
        items.push(json!({"promotion_id": promotion, "quantity": quantity}));
        self
    }

    /// The buyer's address.
    #[must_use]
    pub fn ip(self, ip: &str) -> Self {
        self.with("ip", ip)
    }

    /// The channel it comes from.
    #[must_use]
    pub fn channel(self, channel: &str) -> Self {
        self.with("channel", channel)
    }

    /// Sets any member of the body.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.body[member] = value.into();
        self
    }

    /// What would be sent.
    pub fn body(&self) -> Value {
        self.body.clone()
    }

    /// Sends it, whatever the answer.
    #[track_caller]
    pub fn answer(&self) -> Answer {
        self.client.post("/v1/grabs", &self.body)
    }

    /// Sends it and expects the first grant of this order.
    #[track_caller]
    pub fn granted(&self) -> Value {
        self.outcome(false)
    }

    /// Sends it until it is granted, within `within`: while a leader is elected there is none who could grant it, and a node that
    /// asks twice tells of the grant it made itself as of an earlier one.
    #[track_caller]
    pub fn granted_within(&self, within: Duration) -> Value {
        wait_until(within, "the grab is granted", || {
            let answer = self.answer();
            match answer.status {
                429 | 503 | 504 => Err(answer.to_string()),
                _ => Ok(answer.expect(200)),
            }
        })
    }

    /// Sends it and expects the earlier answer again.
    #[track_caller]
    pub fn replayed(&self) -> Value {
        self.outcome(true)
    }

    #[track_caller]
    fn outcome(&self, replayed: bool) -> Value {
        let answer = self.answer();
        let body = answer.expect(200);
        assert_eq!(body["outcome"], "granted", "{answer}");
        assert_eq!(body["replayed"], replayed, "{answer}");
        assert_eq!(body["order_id"], self.body["order_id"], "{answer}");
        body
    }

    /// Sends it and expects a refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        self.answer().refused(status, code)
    }
}

/// An order by its id.
#[derive(Debug, Clone)]
pub struct OrderHandle<'a> {
    client: &'a Client,
    id: String,
    query: String,
}

impl OrderHandle<'_> {
    /// Goes straight to the shard of `promotion`.
    #[must_use]
    pub fn at(mut self, promotion: &str) -> Self {
        self.query = format!("?promotion_id={promotion}");
        self
    }

    /// Reads it, whatever the answer.
    #[track_caller]
    pub fn answer(&self) -> Answer {
        self.client
            .get(&format!("/v1/orders/{}{}", self.id, self.query))
    }

    /// The order as it is now.
    #[track_caller]
    pub fn view(&self) -> Value {
        self.answer().expect(200)
    }

    /// `held`, `confirmed` or `returned`.
    #[track_caller]
    pub fn state(&self) -> String {
        self.view()["state"]
            .as_str()
            .expect("an order has a state")
            .to_owned()
    }

    /// It was paid.
    #[track_caller]
    pub fn confirm(&self) -> Answer {
        self.client
            .post_text(&format!("/v1/orders/{}/confirm{}", self.id, self.query), "")
    }

    /// Gives it back for this reason.
    #[track_caller]
    pub fn cancel(&self, reason: &str) -> Answer {
        self.cancel_with(&json!({"reason": reason}))
    }

    /// Gives it back with a body of the test's own.
    #[track_caller]
    pub fn cancel_with(&self, body: &Value) -> Answer {
        self.client.post(
            &format!("/v1/orders/{}/cancel{}", self.id, self.query),
            body,
        )
    }
}
