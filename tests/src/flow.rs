//! Reading the flow log: NDJSON in commit order, page by page.
//!
//! Invariant: every cursor of a shard is greater than the one before it, checked on every read.

use crate::{Answer, Client, SHARDS};
use serde_json::Value;

/// Flows asked for in one page.
const PAGE: usize = 1000;

/// What kind of change a flow tells, as far as the tests care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A promotion came to be.
    Created,
    /// Terms, quantity or stop mark changed.
    Changed,
    /// A promotion ended or was deleted.
    Closed,
    /// Units were taken, for good or for a cart that is still being decided.
    Granted,
    /// A cart was granted.
    Sealed,
    /// An order was paid.
    Confirmed,
    /// An order was given back.
    Returned,
    /// A cart's attempt was undone as if it had never been.
    Undone,
    /// Bookkeeping that moves no units.
    Other,
}

/// One committed change.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its place among the flows of its shard.
    pub cursor: u64,
    /// What changed.
    pub kind: Kind,
    /// The whole line.
    pub json: Value,
}

impl Flow {
    fn parse(line: &str) -> Self {
        let json: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("a flow is not JSON ({error}): {line}"));
        let cursor = match &json["cursor"] {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let cursor = cursor.unwrap_or_else(|| panic!("a flow without a cursor: {line}"));
        let kind = match json["type"].as_str() {
            Some("promotion_created") => Kind::Created,
            Some("promotion_changed") => Kind::Changed,
            Some("promotion_closed") => Kind::Closed,
            Some("granted") => Kind::Granted,
            Some("sealed") => Kind::Sealed,
            Some("confirmed") => Kind::Confirmed,
            Some("returned") => Kind::Returned,
            Some("undone") => Kind::Undone,
            Some(_) => Kind::Other,
            None => panic!("a flow without a type: {line}"),
        };
        Self { cursor, kind, json }
    }

    /// Parses NDJSON and checks that cursors grow.
    #[track_caller]
    pub fn parse_all(text: &str) -> Vec<Self> {
        let flows: Vec<Self> = text
            .lines()
            .filter(|line| !line.is_empty())
            .map(Self::parse)
            .collect();
        for pair in flows.windows(2) {
            assert!(
                pair[0].cursor < pair[1].cursor,
                "cursors do not grow: {} then {}",
                pair[0].json,
                pair[1].json
            );
        }
        flows
    }

    /// The order it is about, if any.
    pub fn order_id(&self) -> Option<&str> {
        self.json["order_id"].as_str()
    }

    /// The promotion it is about, for the kinds that are about one.
    pub fn promotion_id(&self) -> Option<&str> {
        self.json["promotion_id"].as_str()
    }

    /// The units taken of each promotion, for [`Kind::Granted`].
    #[track_caller]
    pub fn items(&self) -> Vec<(String, i64)> {
        let items = self.json["items"].as_array();
        let items = items.unwrap_or_else(|| panic!("a grant without items: {}", self.json));
        items
            .iter()
            .map(|item| {
                let promotion = item["promotion_id"]
                    .as_str()
                    .expect("an item names its promotion");
                let quantity = item["quantity"].as_i64().expect("an item has a quantity");
                (promotion.to_owned(), quantity)
            })
            .collect()
    }
}

impl Client {
    /// All flows of a shard, read in pages as a follower of the log reads them.
    #[track_caller]
    pub fn flows(&self, shard: u64) -> Vec<Flow> {
        self.flows_after(shard, None, "")
    }

    /// The flows of a shard after a cursor, with more query parameters (`&order_id=o-1`).
    #[track_caller]
    pub fn flows_after(&self, shard: u64, after: Option<u64>, more: &str) -> Vec<Flow> {
        let mut all: Vec<Flow> = Vec::new();
        let mut cursor = after;
        loop {
            let page = self.flow_page(shard, cursor, &format!("&limit={PAGE}{more}"));
            let Some(last) = page.last() else { return all };
            assert!(
                cursor.is_none_or(|cursor| page[0].cursor > cursor),
                "a page repeats what came before cursor {cursor:?}: {}",
                page[0].json
            );
            cursor = Some(last.cursor);
            all.extend(page);
        }
    }

    /// One page of flows with the query parameters `more`.
    #[track_caller]
    pub fn flow_page(&self, shard: u64, after: Option<u64>, more: &str) -> Vec<Flow> {
        let answer = self.flow_answer(shard, after, more);
        assert_eq!(answer.status, 200, "{answer}");
        let media = answer.header("content-type").unwrap_or_default();
        assert!(
            media.starts_with("application/x-ndjson"),
            "content-type is {media:?}"
        );
        Flow::parse_all(&answer.text)
    }

    /// The answer for one page of flows, whatever it is.
    #[track_caller]
    pub fn flow_answer(&self, shard: u64, after: Option<u64>, more: &str) -> Answer {
        let after = after
            .map(|cursor| format!("&after={cursor}"))
            .unwrap_or_default();
        self.get(&format!("/v1/flows?shard={shard}{after}{more}"))
    }

    /// The flows of every shard, by shard.
    #[track_caller]
    pub fn all_flows(&self) -> Vec<Vec<Flow>> {
        (0..SHARDS).map(|shard| self.flows(shard)).collect()
    }
}
