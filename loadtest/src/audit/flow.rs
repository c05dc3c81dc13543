//! One flow as the server tells it. Invariant: only what the audit compares is read, and what it does not know it lets pass, as
//! the contract asks of readers.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A line of `GET /v1/flows`.
#[derive(Debug, Deserialize)]
pub(super) struct Flow<'a> {
    pub(super) cursor: &'a str,
    pub(super) shard: u16,
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    pub(super) promotion_id: Option<&'a str>,
    pub(super) order_id: Option<&'a str>,
    pub(super) quantity: Option<i64>,
    pub(super) add_quantity: Option<i64>,
    #[serde(default, borrow)]
    pub(super) items: Vec<FlowItem<'a>>,
    /// Of a sealed order, on the shard of its first item: all of it.
    #[serde(default, borrow)]
    pub(super) order_items: Vec<FlowItem<'a>>,
    /// Why an order was returned; why a promotion was closed.
    pub(super) reason: Option<&'a str>,
    /// What an order was before it was returned.
    pub(super) from: Option<&'a str>,
    /// There where a part of an order over several shards is only set aside.
    pub(super) cart: Option<IgnoredAny>,
}

/// Units of a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct FlowItem<'a> {
    pub(super) promotion_id: &'a str,
    pub(super) quantity: i64,
}

/// Reads a line.
pub(super) fn parse(line: &[u8]) -> Result<Flow<'_>, String> {
    serde_json::from_slice(line).map_err(|error| {
        let line = String::from_utf8_lossy(line);
        format!("a flow cannot be read: {error}: {line}")
    })
}
