//! One run from its first look at the targets to its findings.
//!
//! Invariant: an order is sent only to promotions that this run created, and a run ends with an audit, also when it was ended early.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::audit::{self, Findings};
use crate::client::{Address, Http, Plain};
use crate::drive::{Driven, Plan, Watch, drive};
use crate::failure::Failure;
use crate::identity::RunId;
use crate::sale;
use crate::usage::{Usage, disk_written_bytes};

/// What a run brought.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub run: RunId,
    /// Orders, figures.
    pub driven: Driven,
    /// What the generator itself used while it drove: processor seconds.
    pub client_cpu_seconds: f64,
    /// What the servers used meanwhile; absent where they are not watched.
    pub server: Option<Used>,
    /// What the audit found.
    pub findings: Findings,
}

/// What the watched processes used while the workload was driven, the warm-up included.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Used {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Bytes written to the disk under their data, by whomever; absent where the system does not tell.
    pub disk_bytes: Option<u64>,
    /// Resident memory at the end above that at the start, in bytes.
    pub resident_bytes: i64,
}

/// The servers whose costs are measured.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// Their processes.
    pub pids: &'a [u32],
    /// Where their data lies.
    pub data: &'a Path,
}

/// Drives a plan and measures what it costs this process, in seconds of processor time, and the watched ones.
///
/// # Errors
/// As [`drive`].
pub fn measure(
    watched: Option<Watched<'_>>,
    drive: impl FnOnce() -> Result<Driven, Failure>,
) -> Result<(Driven, f64, Option<Used>), Failure> {
    let look = || watched.and_then(|w| Some((Usage::of_all(w.pids)?, disk_written_bytes(w.data))));
    let (own_before, before) = (Usage::own(), look());
    let driven = drive()?;
    let (own_after, after) = (Usage::own(), look());
    let own = own_before.zip(own_after);
    let client_cpu_seconds = own.map_or(f64::NAN, |(before, after)| {
        after.cpu_seconds - before.cpu_seconds
    });
    let used = before.zip(after).map(|(before, after)| Used {
        cpu_seconds: after.0.cpu_seconds - before.0.cpu_seconds,
        disk_bytes: after.1.zip(before.1).map(|(after, before)| after - before),
        resident_bytes: after.0.resident_bytes.cast_signed()
            - before.0.resident_bytes.cast_signed(),
    });
    Ok((driven, client_cpu_seconds, used))
}

/// Checks the targets, creates the promotions, drives the plan, audits.
///
/// # Errors
/// No connection, a target that is not ready, promotions that cannot be created, flows that cannot be read. Differences
/// are not errors but findings.
pub fn run(
    runtime: &Runtime,
    targets: &[Address],
    plan: &Plan,
    watched: Option<Watched<'_>>,
    watch: &mut impl Watch,
) -> Result<Outcome, Failure> {
    let run = RunId::now();
    let node = Plain::new(targets[0].clone());
    runtime.block_on(async {
        sale::check_ready(targets).await?;
        sale::create(&node, &run, &plan.workload).await
    })?;
    let hosts: Vec<_> = plan.targets.iter().zip(targets).collect();
    let protocol = |target| {
        let host = hosts.iter().find(|(address, _)| **address == target);
        let (_, host) = host.expect("connections go to the plan's targets");
        Http::new(run, Arc::clone(&plan.workload), host.as_str())
    };
    let (driven, client_cpu_seconds, server) = measure(watched, || drive(plan, &protocol, watch))?;
    let client = audit::Client {
        run: &run,
        workload: &plan.workload,
        ledger: &driven.ledger,
    };
    let findings = runtime.block_on(async {
        let node = sale::first_ready(targets).await?;
        audit::run(&node, client).await
    })?;
    Ok(Outcome {
        run,
        driven,
        client_cpu_seconds,
        server,
        findings,
    })
}

/// Answers a second.
pub fn rate(answers: u64, measured: Duration) -> f64 {
    if measured.is_zero() {
        0.0
    } else {
        answers as f64 / measured.as_secs_f64()
    }
}
