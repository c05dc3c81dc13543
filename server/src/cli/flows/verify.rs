//! `qiang flows verify` of a running node: the counters that the routes tell against the flows that the routes tell.
//!
//! Counters and flows are read one after the other while grabs go on, so a plain comparison would find drift where there
//! is none. Invariant used instead: counters that a route tells are those after some prefix of the flows. So each
//! promotion's counters must equal the fold at some point not before the end that was read first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use qiang_engine::PromotionId;
use qiang_engine::routing::shard_of;
use serde_json::Value;

use super::super::Failure;
use super::super::client::Client;
use super::super::output::Output;
use super::super::values::{in_url, with_query};
use super::reader::{Page, Reader};
use super::report::{self, ShardReport, drift};
use super::tally::{Change, Counters, Tally};

/// How long counters that differ are read again, with the flows that come meanwhile, before they are called drift.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// How long a page of flows is waited for while counters differ.
const SETTLE_WAIT: Duration = Duration::from_millis(250);

/// Promotions asked for at a time.
const PAGE: usize = 500;

/// A cursor before the first flow, but not "from the oldest": a node that no longer has all flows refuses it.
const BEGINNING: u64 = 1;

/// Compares all shards and prints what was found.
pub(crate) async fn run(client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut reports = Vec::new();
    for shard in super::shards(None) {
        reports.push(verify_shard(client, shard, SETTLE_WITHIN).await?);
    }
    report::print(&reports, out)
}

/// The fold of one shard, and the counters still to be met by it.
struct Shard {
    reader: Reader,
    tally: Tally,
    open: BTreeMap<String, Option<Counters>>,
}

async fn verify_shard(
    client: &Client,
    number: u16,
    settle_within: Duration,
) -> Result<ShardReport, Failure> {
    let whole = has_all_flows(client, number).await?;
    let tally = if whole {
        Tally::default()
    } else {
        Tally::of_a_part()
    };
    let mut shard = Shard {
        reader: Reader::new(client, number, None),
        tally,
        open: BTreeMap::new(),
    };
    while !shard.read(Duration::ZERO).await?.is_empty() {}
    shard.open = counters_of(client, number).await?;
    for (promotion, _) in shard.tally.promotions() {
        // A list need not have deleted promotions; they are asked for by name.
        if !shard.open.contains_key(promotion) {
            shard.open.insert(
                promotion.to_owned(),
                counters_by_id(client, promotion).await?,
            );
        }
    }
    let compared = shard.open.len();
    let too_old = shard.leave_out_too_old();
    shard.close_equal();
    shard.settle(client, settle_within).await?;
    let drift = shard.open.iter().flat_map(|(promotion, counted)| {
        drift(
            number,
            promotion,
            *counted,
            shard.tally.promotion(promotion),
        )
    });
    Ok(ShardReport {
        shard: number,
        flows: shard.tally.flows(),
        compared: (compared - too_old.len()) as u64,
        drift: drift.collect(),
        too_old,
    })
}

impl Shard {
    /// Folds the next page; after each flow the counters of the promotions it touched may be met.
    async fn read(&mut self, wait: Duration) -> Result<Page, Failure> {
        let page = self.reader.next(wait).await?;
        let shard = self.reader.shard();
        for line in page.lines() {
            let folded = Change::from_line(line).and_then(|change| self.tally.fold(change));
            folded.map_err(|error| {
                Failure::Check(format!(
                    "the flows of shard {shard} contradict themselves: {error}"
                ))
            })?;
            if !self.open.is_empty() {
                self.close_equal();
            }
        }
        Ok(page)
    }

    /// Takes out the promotions whose counters are met by the fold as it is now.
    fn close_equal(&mut self) {
        let tally = &self.tally;
        self.open.retain(|promotion, counted| {
            counted.is_none() || tally.promotion(promotion) != *counted
        });
    }

    /// Takes out the promotions whose first flows are gone, and names them.
    fn leave_out_too_old(&mut self) -> Vec<String> {
        if self.tally.is_whole() {
            return Vec::new();
        }
        let known = |promotion: &String| self.tally.promotion(promotion).is_some();
        let too_old: Vec<String> = self
            .open
            .keys()
            .filter(|promotion| !known(promotion))
            .cloned()
            .collect();
        for promotion in &too_old {
            self.open.remove(promotion);
        }
        too_old
    }

    /// Reads on until everything is met, or nothing has been for too long.
    async fn settle(&mut self, client: &Client, within: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + within;
        while !self.open.is_empty() && Instant::now() < deadline {
            if self.read(SETTLE_WAIT).await?.is_empty() {
                // No flow is on its way: the counters may have been those of a moment before the first end.
                let promotions: Vec<String> = self.open.keys().cloned().collect();
                for promotion in promotions {
                    let counted = counters_by_id(client, &promotion).await?;
                    self.open.insert(promotion, counted);
                }
                self.close_equal();
            }
        }
        Ok(())
    }
}

/// Whether the node still has the shard's flows from the first on.
async fn has_all_flows(client: &Client, shard: u16) -> Result<bool, Failure> {
    let parameters = [
        ("shard", Some(shard.to_string())),
        ("after", Some(BEGINNING.to_string())),
        ("limit", Some("1".to_owned())),
    ];
    match client.get(&with_query("/v1/flows", &parameters)).await {
        Ok(_) => Ok(true),
        Err(Failure::Refused(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The counters of every listed promotion of a shard.
async fn counters_of(
    client: &Client,
    shard: u16,
) -> Result<BTreeMap<String, Option<Counters>>, Failure> {
    let mut found = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let parameters = [("after", after.clone()), ("limit", Some(PAGE.to_string()))];
        let page = client
            .get(&with_query("/v1/promotions", &parameters))
            .await?
            .json()?;
        let promotions = page["promotions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for promotion in promotions {
            let id = promotion["promotion_id"].as_str().unwrap_or_default();
            if PromotionId::new(id).is_ok_and(|id| shard_of(&id).0 == shard) {
                found.insert(id.to_owned(), Some(counters(client, promotion)?));
            }
        }
        after = promotions
            .last()
            .and_then(|last| last["promotion_id"].as_str())
            .map(str::to_owned);
        if promotions.len() < PAGE || after.is_none() {
            return Ok(found);
        }
    }
}

/// The counters of one promotion; `None` if there is no such promotion.
async fn counters_by_id(client: &Client, promotion: &str) -> Result<Option<Counters>, Failure> {
    match client
        .get(&format!("/v1/promotions/{}", in_url(promotion)))
        .await
    {
        Ok(answer) => counters(client, &answer.json()?).map(Some),
        Err(Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn counters(client: &Client, promotion: &Value) -> Result<Counters, Failure> {
    Counters::from_view(promotion).ok_or_else(|| {
        Failure::Server(format!(
            "{} told a promotion without its counters: {promotion}",
            client.server()
        ))
    })
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
