//! `qiang flows verify` and `rebuild` of a stopped node's data directory. Nothing there is written.
//!
//! Invariant: the flows alone are folded at least once, without any snapshot; what a snapshot leads to is only ever
//! compared with that.

use std::path::Path;

use qiang_engine::ShardId;
use qiang_engine::promotion::Promotion;
use qiang_raft::offline::{Folded, Offline, OfflineError};
use serde_json::{Value, json};

use super::super::Failure;
use super::super::output::Output;
use super::report::{self, Drift, ShardReport, drift};
use super::tally::{Change, Counters, Tally};

/// Data that cannot be read is an error of this machine; its message names directory, file and key.
pub(crate) fn unreadable(dir: &Path, error: &OfflineError) -> Failure {
    let (told, dir) = (error.to_string(), dir.display().to_string());
    if told.contains(&dir) {
        Failure::Server(told)
    } else {
        Failure::Server(format!("data directory {dir}: {told}"))
    }
}

/// Opens the data directory of a stopped node.
pub(crate) fn open(dir: &Path) -> Result<Offline, Failure> {
    qiang_raft::offline::open(dir).map_err(|error| unreadable(dir, &error))
}

/// Compares, shard by shard, three folds: the engine's from the newest snapshot, the engine's from flows alone, and the
/// command line's own.
pub(crate) fn verify(dir: &Path, out: &mut Output) -> Result<(), Failure> {
    let offline = open(dir)?;
    let reports: Result<Vec<_>, _> = offline
        .shards()
        .map(|shard| verify_shard(&offline, dir, shard))
        .collect();
    report::print(&reports?, out)
}

fn verify_shard(offline: &Offline, dir: &Path, shard: ShardId) -> Result<ShardReport, Failure> {
    let fail = |error: OfflineError| unreadable(dir, &error);
    let counted = offline.fold(shard, false).map_err(fail)?;
    let rebuilt = match offline.fold(shard, true) {
        Ok(folded) => Some(folded),
        Err(OfflineError::Forgotten { .. }) => None,
        Err(error) => return Err(fail(error)),
    };
    let mut tally = if rebuilt.is_some() {
        Tally::default()
    } else {
        Tally::of_a_part()
    };
    let mut contradiction = None;
    offline
        .flows(shard, 0, |flow| {
            if contradiction.is_none() {
                contradiction = tally.fold(Change::from_record(&flow.record)).err();
            }
            Ok(())
        })
        .map_err(fail)?;
    if let Some(error) = contradiction {
        return Err(Failure::Check(format!(
            "the flows of shard {shard} contradict themselves: {error}"
        )));
    }
    let mut found = ShardReport {
        shard: shard.0,
        flows: tally.flows(),
        ..ShardReport::default()
    };
    for promotion in counted.shard.promotions() {
        let id = promotion.id.as_str();
        let counters = Some(Counters::from_engine(&promotion.counters));
        match tally.promotion(id) {
            None if !tally.is_whole() => found.too_old.push(id.to_owned()),
            flows => {
                found.compared += 1;
                found.drift.extend(drift(shard.0, id, counters, flows));
            }
        }
    }
    for (id, flows) in tally.promotions() {
        if !counted
            .shard
            .promotions()
            .iter()
            .any(|promotion| promotion.id.as_str() == id)
        {
            found.drift.extend(drift(shard.0, id, None, Some(flows)));
        }
    }
    if found.drift.is_empty()
        && let Some(rebuilt) = rebuilt
    {
        found.drift = drift_between(shard.0, &counted, &rebuilt);
    }
    Ok(found)
}

/// What differs between the counters that the newest snapshot leads to and those of the flows alone.
fn drift_between(shard: u16, counted: &Folded, rebuilt: &Folded) -> Vec<Drift> {
    let of = |folded: &Folded, id: &qiang_engine::PromotionId| {
        folded
            .shard
            .promotion(id)
            .map(|promotion| Counters::from_engine(&promotion.counters))
    };
    let all = counted
        .shard
        .promotions()
        .iter()
        .chain(rebuilt.shard.promotions());
    let mut ids: Vec<_> = all.map(|promotion| &promotion.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
        .flat_map(|id| drift(shard, id.as_str(), of(counted, id), of(rebuilt, id)))
        .collect()
}

/// What rebuilding one shard yielded.
struct Rebuilt {
    shard: ShardId,
    folded: Folded,
    /// Where the snapshot lies that was compared with.
    snapshot_index: Option<u64>,
    drift: Vec<Drift>,
    /// The counters agree, and something else of the state does not.
    differs: bool,
}

/// Rebuilds every counter from the flows alone and compares it with what the newest snapshot leads to.
pub(crate) fn rebuild(dir: &Path, ignore_snapshots: bool, out: &mut Output) -> Result<(), Failure> {
    let offline = open(dir)?;
    let rebuilt: Result<Vec<_>, _> = offline
        .shards()
        .map(|shard| rebuild_shard(&offline, dir, shard, ignore_snapshots))
        .collect();
    let rebuilt = rebuilt?;
    if out.is_json() {
        out.json(&rebuilt_json(&rebuilt).to_string())?;
    } else {
        print_rebuilt(&rebuilt, out)?;
    }
    let drift: Vec<&Drift> = rebuilt.iter().flat_map(|shard| &shard.drift).collect();
    report::verdict(&drift)?;
    match rebuilt.iter().find(|shard| shard.differs) {
        Some(shard) => Err(Failure::Check(format!(
            "the orders of shard {} that its snapshot leads to differ from those of its flows; its counters agree",
            shard.shard
        ))),
        None => Ok(()),
    }
}

fn rebuild_shard(
    offline: &Offline,
    dir: &Path,
    shard: ShardId,
    ignore_snapshots: bool,
) -> Result<Rebuilt, Failure> {
    let fail = |error: OfflineError| unreadable(dir, &error);
    let folded = offline.fold(shard, true).map_err(fail)?;
    let counted = if ignore_snapshots {
        None
    } else {
        Some(offline.fold(shard, false).map_err(fail)?)
    };
    // Without a snapshot it would be the same fold again.
    let counted = counted.filter(|counted| counted.snapshot_index.is_some());
    let drift = counted
        .as_ref()
        .map(|counted| drift_between(shard.0, counted, &folded))
        .unwrap_or_default();
    let differs = drift.is_empty()
        && counted
            .as_ref()
            .is_some_and(|counted| counted.shard != folded.shard);
    Ok(Rebuilt {
        shard,
        snapshot_index: counted.and_then(|counted| counted.snapshot_index),
        folded,
        drift,
        differs,
    })
}

/// The counters that are told, in the order of the columns.
fn counters_of(promotion: &Promotion) -> [(&'static str, i64); 7] {
    let counters = &promotion.counters;
    let units = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
    [
        ("original", units(counters.original)),
        ("added", counters.added),
        ("remaining", units(counters.remaining)),
        ("held", units(counters.held)),
        ("confirmed", units(counters.confirmed)),
        ("granted", units(counters.granted)),
        ("returned", units(counters.returned)),
    ]
}

fn print_rebuilt(rebuilt: &[Rebuilt], out: &mut Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for shard in rebuilt {
        for promotion in shard.folded.shard.promotions() {
            let drifts: Vec<&str> = shard
                .drift
                .iter()
                .filter(|drift| drift.promotion == promotion.id.as_str())
                .map(|drift| drift.counter)
                .collect();
            let compared = if drifts.is_empty() {
                "none".to_owned()
            } else {
                drifts.join(",")
            };
            let mut row = vec![promotion.id.to_string(), shard.shard.to_string()];
            row.extend(counters_of(promotion).map(|(_, units)| units.to_string()));
            row.push(if shard.snapshot_index.is_some() {
                compared
            } else {
                "-".to_owned()
            });
            rows.push(row);
        }
    }
    rows.sort();
    let columns = [
        "PROMOTION",
        ">SHARD",
        ">ORIGINAL",
        ">ADDED",
        ">REMAINING",
        ">HELD",
        ">CONFIRMED",
        ">GRANTED",
        ">RETURNED",
        "DRIFT",
    ];
    out.table(&columns, &rows)?;
    let drift: Vec<&Drift> = rebuilt.iter().flat_map(|shard| &shard.drift).collect();
    if !drift.is_empty() {
        out.text("")?;
        report::print_drift(&drift, out)?;
    }
    let entries: u64 = rebuilt.iter().map(|shard| shard.folded.entries).sum();
    let compared = rebuilt
        .iter()
        .filter(|shard| shard.snapshot_index.is_some())
        .count();
    eprintln!(
        "{} shards rebuilt from {entries} log entries; {compared} compared with a snapshot",
        rebuilt.len()
    );
    Ok(())
}

fn rebuilt_json(rebuilt: &[Rebuilt]) -> Value {
    let promotion = |shard: &Rebuilt, promotion: &Promotion| {
        let mut told = json!({"promotion_id": promotion.id.as_str(), "shard": shard.shard});
        for (name, units) in counters_of(promotion) {
            told[name] = json!(units);
        }
        told
    };
    let shard = |shard: &Rebuilt| {
        json!({
            "shard": shard.shard,
            "first_index": shard.folded.first_index,
            "last_index": shard.folded.last_index,
            "entries": shard.folded.entries,
            "voids": shard.folded.voids.len(),
            "orders": shard.folded.shard.order_count(),
            "snapshot_index": shard.snapshot_index,
            "ok": shard.drift.is_empty() && !shard.differs,
        })
    };
    let promotions = rebuilt.iter().flat_map(|shard| {
        shard
            .folded
            .shard
            .promotions()
            .iter()
            .map(move |one| promotion(shard, one))
    });
    let drift = rebuilt
        .iter()
        .flat_map(|shard| &shard.drift)
        .map(report::drift_json);
    json!({
        "ok": rebuilt.iter().all(|shard| shard.drift.is_empty() && !shard.differs),
        "promotions": promotions.collect::<Vec<_>>(),
        "shards": rebuilt.iter().map(shard).collect::<Vec<_>>(),
        "drift": drift.collect::<Vec<_>>(),
    })
}
