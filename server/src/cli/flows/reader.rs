//! Reading the flows of one shard from a node, page by page. Invariant: a reader keeps the cursor of the last line it
//! gave out, so that going on never repeats or skips one.

use std::time::Duration;

use serde::Deserialize;

use super::super::Failure;
use super::super::client::Client;
use super::super::values::with_query;

/// Flows asked for at a time: a page of some hundred kilobytes.
const PAGE: u64 = 1000;

/// Where a reader stands in one shard.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    client: Client,
    shard: u16,
    after: Option<u64>,
    promotion: Option<String>,
    order: Option<String>,
}

/// A page of lines, each a flow in JSON as the node wrote it.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// The lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.is_empty())
    }

    /// Whether it has none.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines().next().is_none()
    }
}

/// The part of a flow that a reader needs. A cursor is a text of digits.
#[derive(Deserialize)]
struct Head {
    cursor: String,
}

impl Reader {
    /// A reader of `shard` after the cursor `after`.
    pub(crate) fn new(client: &Client, shard: u16, after: Option<u64>) -> Self {
        Self {
            client: client.clone(),
            shard,
            after,
            promotion: None,
            order: None,
        }
    }

    /// Reads only flows about this promotion and this order, where given.
    pub(crate) fn filtered(mut self, promotion: Option<String>, order: Option<String>) -> Self {
        self.promotion = promotion;
        self.order = order;
        self
    }

    /// The shard read.
    pub(crate) fn shard(&self) -> u16 {
        self.shard
    }

    /// The next page; an empty one means that there is nothing more for now, after waiting for `wait`.
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Page, Failure> {
        let parameters = [
            ("shard", Some(self.shard.to_string())),
            ("after", self.after.map(|cursor| cursor.to_string())),
            ("limit", Some(PAGE.to_string())),
            (
                "wait_ms",
                (!wait.is_zero()).then(|| wait.as_millis().to_string()),
            ),
            ("promotion_id", self.promotion.clone()),
            ("order_id", self.order.clone()),
        ];
        let answer = self
            .client
            .get_waiting(&with_query("/v1/flows", &parameters), wait)
            .await?;
        let page = Page {
            text: answer.text()?.to_owned(),
        };
        if let Some(last) = page.lines().last() {
            self.after = Some(self.cursor_of(last)?);
        }
        Ok(page)
    }

    fn cursor_of(&self, line: &str) -> Result<u64, Failure> {
        let wrong = |why: String| {
            let (server, shard) = (self.client.server(), self.shard);
            Failure::Server(format!(
                "{server} sent a flow of shard {shard} that cannot be read: {why}"
            ))
        };
        let head: Head = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let cursor = head
            .cursor
            .parse()
            .map_err(|_| wrong(format!("its cursor is {:?}", head.cursor)))?;
        match self.after {
            Some(after) if cursor <= after => {
                Err(wrong(format!("cursor {cursor} comes after {after}")))
            }
            _ => Ok(cursor),
        }
    }
}
