//! The audit after a run: what the client was told against the server's flows and counters.
//!
//! Invariant: every acknowledged grant has exactly one grant among the flows, no promotion gave more than it had, and the
//! counters are what the flows fold to; whatever is not so is found and named.

mod difference;
mod flow;
mod fold;
mod part;

use std::time::{Duration, Instant};

pub use difference::{Difference, Differences};
pub use fold::{Client, Fold};

use crate::client::Plain;
use crate::failure::Failure;
use crate::sale;

/// Shards of a cluster, by the contract.
const SHARDS: u16 = 16;

/// Flows asked for at a time, by the contract at most.
const PAGE: usize = 10_000;

/// How long differences may still go away: guests of an order over several shards are told after the fact, a
/// request of a lost connection may be on its way, and another node may be behind. Parts that were set aside are given
/// back two seconds later at the earliest.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// Between two looks while there are differences.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// What an audit found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Flows of the run.
    pub flows: u64,
    /// Differences; none in a clean run.
    pub differences: Differences,
    /// How long it took.
    pub took: Duration,
}

/// Where the reading of each shard stands.
struct Cursors([Option<String>; SHARDS as usize]);

impl Cursors {
    /// Folds everything that was not read yet.
    async fn read(&mut self, node: &Plain, fold: &mut Fold<'_>) -> Result<(), Failure> {
        for shard in 0..SHARDS {
            while self.read_page(node, shard, fold).await? {}
        }
        Ok(())
    }

    /// Folds the next page of a shard; whether there may be more.
    async fn read_page(
        &mut self,
        node: &Plain,
        shard: u16,
        fold: &mut Fold<'_>,
    ) -> Result<bool, Failure> {
        let place = &mut self.0[usize::from(shard)];
        let after = place.as_deref().map(|cursor| format!("&after={cursor}"));
        let after = after.unwrap_or_default();
        let path = format!("/v1/flows?shard={shard}&limit={PAGE}{after}");
        let body = node.get(&path).await?;
        let wrong = |what: String| Failure::Server(format!("{} told {what}", node.address()));
        let mut lines = 0;
        let mut last = None;
        for line in body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            fold.line(line).map_err(wrong)?;
            lines += 1;
            last = Some(line);
        }
        if let Some(last) = last {
            *place = Some(flow::parse(last).map_err(wrong)?.cursor.to_owned());
        }
        Ok(lines > 0)
    }
}

/// Compares a run's client side with the flows and counters of `node`.
///
/// # Errors
/// The flows or counters could not be read. What they say is no error here, but a finding.
pub async fn run(node: &Plain, client: Client<'_>) -> Result<Findings, Failure> {
    let began = Instant::now();
    let mut fold = Fold::new(client);
    let mut cursors = Cursors(Default::default());
    cursors.read(node, &mut fold).await?;
    let settle_until = Instant::now() + SETTLE_WITHIN;
    loop {
        let told = sale::counters(node, client.run, client.workload.promotions).await?;
        let differences = fold.judge(&told);
        if differences.count() == 0 || Instant::now() > settle_until {
            return Ok(Findings {
                flows: fold.flows(),
                differences,
                took: began.elapsed(),
            });
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
        cursors.read(node, &mut fold).await?;
    }
}
