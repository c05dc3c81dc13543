//! `qiang-load run`. Invariant: the report is printed also when the audit found something; the exit code then says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::runtime::{Builder, Runtime};

use super::{Format, print};
use crate::client::Address;
use crate::drive::{Limit, Pace, Plan};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::{Summary, page, report};
use crate::run;
use crate::workload::{Name, Workload};

/// Grabs in one request, by the contract at most.
const BATCH_MAX: i64 = 8_192;

/// Promotions in one order, by the contract.
const CART_ITEMS_MAX: i64 = 32;

/// Units of a promotion, by the contract at most.
const QUANTITY_MAX: i64 = 1 << 31;

/// Promotions of a run: each is created one by one.
const PROMOTIONS_MAX: i64 = 1_000_000;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qiang-load run spread                                  64 connections, 10 s, closed loop
  qiang-load run hot --connections 64 --pipeline 16      16 requests under way on each
  qiang-load run spread --rate 20000 --html report.html  open loop: latency from when each was due
  qiang-load run cart --target 127.0.0.1:7400 --target 127.0.0.1:7401 --count 100000
  qiang-load run stampede --count 1000000 -o json")]
pub(super) struct RunArgs {
    /// What is asked for
    #[arg(value_enum)]
    workload: Name,
    /// A node to ask; give it again for more, and connections take turns over them
    #[arg(
        long = "target",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7400"
    )]
    targets: Vec<Address>,
    /// Connections, over all targets; 64 unless given, 8 for `batch`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: Option<u32>,
    /// Requests under way on one connection, at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,
    /// Open loop: so many requests a second are due, whatever the answers do; latency counts from when each was due
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "count", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration_s: u64,
    /// End after so many orders instead
    #[arg(long, value_name = "ORDERS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    count: Option<u64>,
    /// Before measuring, in seconds; these orders are audited, too
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warm_up_s: u64,
    /// What all choices follow from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Promotions on sale; the workload's own number unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=PROMOTIONS_MAX))]
    promotions: Option<u32>,
    /// Units of each promotion; the workload's own number unless given
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..=QUANTITY_MAX))]
    quantity: Option<u32>,
    /// Grabs in one request of `batch`
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=BATCH_MAX))]
    batch: u32,
    /// Promotions to an order of `cart`, 2 to 5 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CART_ITEMS_MAX))]
    items: Option<u32>,
    /// Threads that send
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// How long an answer may take before its connection is given up, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// How figures are printed
    #[arg(short = 'o', long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("give requests a second, from 0.01 to 10000000".to_owned()),
    }
}

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = plan(args)?;
    let runtime = runtime()?;
    end_on_interrupt(&runtime, Arc::clone(&plan.stop));
    let title = format!("{:?}", args.workload).to_lowercase();
    let mut progress = Progress::new(&title, plan.limit);
    let outcome = run::run(&runtime, &args.targets, &plan, None, &mut progress);
    progress.end();
    let outcome = outcome?;
    let targets: Vec<String> = args.targets.iter().map(ToString::to_string).collect();
    let summary = Summary::of(&plan, &targets, &outcome);
    if let Some(path) = &args.html {
        std::fs::write(path, page(&summary)).map_err(|error| {
            Failure::Server(format!(
                "cannot write the page to {}: {error}",
                path.display()
            ))
        })?;
    }
    match args.output {
        Format::Table => print(&report(&summary))?,
        Format::Json => {
            let json = serde_json::to_string(&summary).expect("all keys of a summary are texts");
            print(&json)?;
        }
    }
    let findings = outcome.findings;
    if findings.differences.count() > 0 {
        return Err(Failure::Audit(findings.differences.to_string()));
    }
    match summary.broken {
        Some(broken) => Err(Failure::Server(broken)),
        None => Ok(()),
    }
}

fn plan(args: &RunArgs) -> Result<Plan, Failure> {
    let mut workload = Workload::new(args.workload, args.seed);
    workload.promotions = args.promotions.unwrap_or(workload.promotions);
    workload.quantity = args.quantity.unwrap_or(workload.quantity);
    workload.batch = args.batch;
    if let Some(items) = args.items {
        workload.cart_items = (items, items);
    }
    let connections = args.connections.unwrap_or(args.workload.connections());
    let mut targets = Vec::new();
    for target in &args.targets {
        targets.push(target.resolve()?);
    }
    Ok(Plan {
        workload: Arc::new(workload),
        targets,
        connections: connections as usize,
        pipeline: args.pipeline as usize,
        pace: args.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
        // A thread without a connection has nothing to do.
        workers: args.threads.min(connections) as usize,
        warm_up: Duration::from_secs(args.warm_up_s),
        limit: args.count.map_or(
            Limit::Duration(Duration::from_secs(args.duration_s)),
            Limit::Orders,
        ),
        timeout: Duration::from_millis(args.timeout_ms),
        stop: Arc::new(AtomicBool::new(false)),
    })
}

/// What the admin requests and the audit run on; the load has runtimes of its own.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    built.map_err(|error| Failure::Server(format!("this machine refused a runtime: {error}")))
}

/// Ctrl-C ends the load; what was done until then is reported and audited. A second one ends the process.
pub(super) fn end_on_interrupt(runtime: &Runtime, stop: Arc<AtomicBool>) {
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.store(true, Ordering::Relaxed);
            eprintln!("ending early; press Ctrl-C again to leave without an audit");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            const INTERRUPTED: i32 = 130;
            std::process::exit(INTERRUPTED);
        }
    });
}
