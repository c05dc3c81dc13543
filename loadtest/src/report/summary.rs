//! The figures of a run as one value, from which every report is made. Invariant: the table, the JSON and the page tell the
//! same numbers, because they are all printed from this.

use serde::Serialize;

use crate::audit::Findings;
use crate::drive::{Pace, Plan};
use crate::ledger::{Grab, Word};
use crate::record::{Counts, Point};
use crate::run::{Outcome, rate};
use crate::workload::{Kind, Name};

/// Latency of requests, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// The average.
    pub mean_us: f64,
    /// Half were at most this long.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Latency {
    /// The figures of a histogram in microseconds.
    pub fn of(histogram: &hdrhistogram::Histogram<u64>) -> Self {
        Self {
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

/// How often an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// The code.
    pub code: &'static str,
    /// How often.
    pub count: u64,
}

/// Figures of one kind of request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindSummary {
    /// Which.
    pub kind: Kind,
    /// Requests.
    pub requests: u64,
    /// Their latency.
    pub latency: Latency,
    /// Their answers by code; a batch has many.
    pub answers: Vec<Answered>,
}

/// What the client knows of its orders, the warm-up included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Orders {
    /// Begun.
    pub begun: u64,
    /// Granted, by the server's word.
    pub granted: u64,
    /// Refused each time.
    pub refused: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Cancelled, by the server's word.
    pub cancelled: u64,
    /// Confirmed, by the server's word.
    pub confirmed: u64,
}

/// What the audit said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditSummary {
    /// Flows of the run that were read.
    pub flows: u64,
    /// Differences found.
    pub differences: u64,
    /// The first of them in words.
    pub first: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Its name.
    pub run: String,
    /// When it ended (RFC 3339).
    pub at: String,
    /// The workload.
    pub workload: Name,
    /// Its seed.
    pub seed: u64,
    /// Nodes asked.
    pub targets: Vec<String>,
    /// Promotions on sale.
    pub promotions: u32,
    /// Units of each.
    pub quantity: u32,
    /// Connections.
    pub connections: usize,
    /// Requests under way on one of them, at most.
    pub pipeline: usize,
    /// Requests a second that were due; absent in a closed loop.
    pub rate: Option<f64>,
    /// The measured window, in milliseconds.
    pub measured_ms: u64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Answers a second; a batch has many.
    pub answers_per_second: f64,
    /// Grabs granted a second.
    pub granted_per_second: f64,
    /// Latency of all requests.
    pub latency: Latency,
    /// Cumulative distribution of latency: microseconds, and the share that was at most so long.
    pub distribution: Vec<(u64, f64)>,
    /// By kind of request.
    pub kinds: Vec<KindSummary>,
    /// Answers by code.
    pub answers: Vec<Answered>,
    /// Connections that were lost.
    pub connections_lost: u64,
    /// What was wrong with an answer that could not be understood.
    pub broken: Option<String>,
    /// The orders.
    pub orders: Orders,
    /// By the second.
    pub seconds: Vec<Point>,
    /// The generator's own processor time for a request, in microseconds.
    pub client_cpu_us_per_request: f64,
    /// The audit.
    pub audit: AuditSummary,
}

impl Summary {
    /// The figures of a run.
    pub fn of(plan: &Plan, targets: &[String], outcome: &Outcome) -> Self {
        let driven = &outcome.driven;
        let (record, measured) = (&driven.record, driven.measured);
        let latency = record.latency();
        let answers = record.answers();
        let per_second = |count| rate(count, measured);
        Self {
            run: outcome.run.to_string(),
            at: jiff::Timestamp::now().to_string(),
            workload: plan.workload.name,
            seed: plan.workload.seed,
            targets: targets.to_vec(),
            promotions: plan.workload.promotions,
            quantity: plan.workload.quantity,
            connections: plan.connections,
            pipeline: plan.pipeline,
            rate: match plan.pace {
                Pace::Closed => None,
                Pace::Open { rate } => Some(rate),
            },
            measured_ms: measured.as_millis() as u64,
            requests_per_second: per_second(latency.len()),
            answers_per_second: per_second(answers.total()),
            granted_per_second: per_second(answers.of(crate::client::Code::GRANTED)),
            latency: Latency::of(&latency),
            distribution: distribution(&latency),
            kinds: kinds(outcome),
            answers: answered(&answers),
            connections_lost: record.connections_lost,
            broken: record.broken.clone(),
            orders: orders(outcome),
            seconds: driven.seconds.points(),
            client_cpu_us_per_request: outcome.client_cpu_seconds * 1e6
                / record.requests_ever as f64,
            audit: audit(&outcome.findings),
        }
    }
}

fn audit(findings: &Findings) -> AuditSummary {
    let first = findings.differences.first().iter();
    AuditSummary {
        flows: findings.flows,
        differences: findings.differences.count(),
        first: first.map(ToString::to_string).collect(),
        took_ms: findings.took.as_millis() as u64,
    }
}

fn answered(counts: &Counts) -> Vec<Answered> {
    let all = counts.by_frequency().into_iter();
    all.map(|(code, count)| Answered {
        code: code.as_str(),
        count,
    })
    .collect()
}

fn kinds(outcome: &Outcome) -> Vec<KindSummary> {
    let kinds = Kind::ALL.into_iter().zip(&outcome.driven.record.kinds);
    kinds
        .filter_map(|(kind, record)| {
            let record = record.as_ref()?;
            Some(KindSummary {
                kind,
                requests: record.latency.len(),
                latency: Latency::of(&record.latency),
                answers: answered(&record.answers),
            })
        })
        .collect()
}

fn orders(outcome: &Outcome) -> Orders {
    let mut orders = Orders::default();
    for (_, entry) in outcome.driven.ledger.orders() {
        orders.begun += 1;
        match entry.grab() {
            Grab::Granted | Grab::Contradicted => orders.granted += 1,
            Grab::Refused => orders.refused += 1,
            Grab::Unknown => orders.unknown += 1,
            Grab::Unsent => {}
        }
        orders.cancelled += u64::from(entry.cancel() == Word::Done);
        orders.confirmed += u64::from(entry.confirm() == Word::Done);
    }
    orders
}

/// A point for each step of the histogram's percentiles that a plot can show.
fn distribution(latency: &hdrhistogram::Histogram<u64>) -> Vec<(u64, f64)> {
    const TICKS_PER_HALF: u32 = 8;
    let steps = latency.iter_quantiles(TICKS_PER_HALF);
    let mut points: Vec<(u64, f64)> = steps
        .map(|step| (step.value_iterated_to(), step.quantile()))
        .collect();
    // Among few slow requests many steps come to the same one; the last of them says most.
    points.reverse();
    points.dedup_by_key(|(us, _)| *us);
    points.reverse();
    points
}
