//! What a comparison of counters and flows found, for `verify` and `rebuild` alike. Invariant: drift is always exit code 6
//! and always names the promotion, the counter and both values.

use serde_json::{Value, json};

use super::super::Failure;
use super::super::output::Output;
use super::tally::{Counters, NAMES};

/// One counter that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drift {
    /// The promotion.
    pub promotion: String,
    /// Its shard.
    pub shard: u16,
    /// The counter's name.
    pub counter: &'static str,
    /// What is counted; `None` if the promotion is not there.
    pub counted: Option<i64>,
    /// What the flows add up to; `None` if they do not have the promotion.
    pub flows: Option<i64>,
}

/// The counters of one promotion that differ.
pub(crate) fn drift(
    shard: u16,
    promotion: &str,
    counted: Option<Counters>,
    flows: Option<Counters>,
) -> Vec<Drift> {
    let one = |(place, counter)| {
        let value = |counters: Option<Counters>| counters.map(|counters| counters.values()[place]);
        let (counted, flows) = (value(counted), value(flows));
        (counted != flows).then(|| Drift {
            promotion: promotion.to_owned(),
            shard,
            counter,
            counted,
            flows,
        })
    };
    NAMES.into_iter().enumerate().filter_map(one).collect()
}

/// What was found in one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardReport {
    /// The shard.
    pub shard: u16,
    /// Flows folded.
    pub flows: u64,
    /// Promotions compared.
    pub compared: u64,
    /// Promotions that could not be compared, because retention removed their first flows.
    pub too_old: Vec<String>,
    /// What differs.
    pub drift: Vec<Drift>,
}

/// Prints what `verify` found and turns drift into its failure.
pub(crate) fn print(shards: &[ShardReport], out: &mut Output) -> Result<(), Failure> {
    let drift: Vec<&Drift> = shards.iter().flat_map(|shard| &shard.drift).collect();
    let sum = |count: fn(&ShardReport) -> u64| shards.iter().map(count).sum::<u64>();
    let (flows, compared) = (sum(|shard| shard.flows), sum(|shard| shard.compared));
    let too_old: Vec<&String> = shards.iter().flat_map(|shard| &shard.too_old).collect();
    if out.is_json() {
        let report = json!({
            "ok": drift.is_empty(),
            "flows": flows,
            "promotions": compared,
            "not_comparable": too_old,
            "shards": shards.iter().map(shard_json).collect::<Vec<_>>(),
            "drift": drift.iter().map(|drift| drift_json(drift)).collect::<Vec<_>>(),
        });
        out.json(&report.to_string())?;
    } else {
        let verdict = if drift.is_empty() {
            "the counters equal the flows"
        } else {
            "the counters DIFFER from the flows"
        };
        out.text(&format!(
            "{} shards, {flows} flows, {compared} promotions: {verdict}",
            shards.len()
        ))?;
        if !drift.is_empty() {
            print_drift(&drift, out)?;
        }
    }
    if !too_old.is_empty() {
        let names: Vec<&str> = too_old.iter().map(|name| name.as_str()).collect();
        eprintln!(
            "not compared, because retention removed their first flows: {}",
            names.join(", ")
        );
    }
    verdict(&drift)
}

/// The failure that drift is.
pub(crate) fn verdict(drift: &[&Drift]) -> Result<(), Failure> {
    let Some(first) = drift.first() else {
        return Ok(());
    };
    let told = |value: Option<i64>| value.map_or("absent".to_owned(), |value| value.to_string());
    Err(Failure::Check(format!(
        "{} counters drift from their flows, the first: {} of promotion {} on shard {} is {}, its flows say {}",
        drift.len(),
        first.counter,
        first.promotion,
        first.shard,
        told(first.counted),
        told(first.flows)
    )))
}

/// Prints counters that differ.
pub(crate) fn print_drift(drift: &[&Drift], out: &mut Output) -> Result<(), Failure> {
    let told = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
    let row = |drift: &&Drift| {
        vec![
            drift.promotion.clone(),
            drift.shard.to_string(),
            drift.counter.to_owned(),
            told(drift.counted),
            told(drift.flows),
        ]
    };
    let rows: Vec<_> = drift.iter().map(row).collect();
    out.table(
        &["PROMOTION", ">SHARD", "COUNTER", ">COUNTED", ">FLOWS"],
        &rows,
    )
}

/// One counter that differs, as JSON.
pub(crate) fn drift_json(drift: &Drift) -> Value {
    json!({
        "promotion_id": drift.promotion,
        "shard": drift.shard,
        "counter": drift.counter,
        "counted": drift.counted,
        "flows": drift.flows,
    })
}

fn shard_json(shard: &ShardReport) -> Value {
    json!({"shard": shard.shard, "flows": shard.flows, "promotions": shard.compared, "ok": shard.drift.is_empty()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_that_differs_is_named_with_both_values() {
        let counted = Counters {
            original: 5,
            remaining: 3,
            granted: 2,
            ..Counters::default()
        };
        let flows = Counters {
            remaining: 4,
            granted: 1,
            ..counted
        };
        assert_eq!(drift(3, "A", Some(counted), Some(counted)), []);
        let found = drift(3, "A", Some(counted), Some(flows));
        let told: Vec<_> = found
            .iter()
            .map(|drift| (drift.counter, drift.counted, drift.flows))
            .collect();
        assert_eq!(
            told,
            [
                ("remaining", Some(3), Some(4)),
                ("granted", Some(2), Some(1))
            ]
        );
        let failure = verdict(&found.iter().collect::<Vec<_>>()).unwrap_err();
        assert_eq!(failure.exit_code(), 6);
        assert!(
            failure
                .to_string()
                .contains("remaining of promotion A on shard 3 is 3, its flows say 4"),
            "{failure}"
        );
        assert_eq!(
            drift(3, "A", None, Some(flows)).len(),
            NAMES.len(),
            "a promotion that is not there differs in all"
        );
    }
}
