//! Comparing qiang with what a shop would use instead, on this machine.
//!
//! Invariant: contenders take turns (A B A B …), so that a slow minute of the machine falls on all of them; a figure of
//! qiang counts only after a clean audit of that very run.

mod bare;
mod contender;
mod disk;
mod figures;
mod print;
mod process;
mod redis;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use bare::serve as serve_bare;
pub use contender::Ground;
pub use print::{Compared, tables};
pub use rows::{Row, rows};

use contender::{Contender, Sample};
use figures::Figures;
use rows::{Case, Method};

use crate::drive::{Limit, Pace, Plan};
use crate::failure::Failure;
use crate::workload::Workload;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The counter of a node's metrics that tells the bytes of its log's entries.
const RECORD_BYTES: &str = "qiang_storage_bytes_total";

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Turns of each contender.
    pub rounds: usize,
    /// Before each measurement.
    pub warm_up: Duration,
    /// Each measurement.
    pub measured: Duration,
    /// Orders where a number of them is measured.
    pub orders: u64,
}

impl Effort {
    /// For figures that are to be told to others.
    pub const WHOLE: Effort = Effort {
        rounds: 5,
        warm_up: Duration::from_secs(2),
        measured: Duration::from_secs(5),
        orders: 1_000_000,
    };

    /// For a first look.
    pub const QUICK: Effort = Effort {
        rounds: 2,
        warm_up: Duration::from_secs(1),
        measured: Duration::from_secs(2),
        orders: 100_000,
    };
}

/// What the comparison tells while it goes on.
pub trait Listen {
    /// A measurement begins.
    fn on_case(&mut self, row: &str, case: &str, round: usize);
    /// Something that the reader should know.
    fn on_note(&mut self, note: &str);
}

/// Compares the rows, one after the other.
///
/// # Errors
/// A server did not come up, a run failed, an audit found a difference, or the user interrupted.
pub fn compare(
    ground: &Ground,
    rows: Vec<Row>,
    effort: Effort,
    listen: &mut impl Listen,
) -> Result<Vec<Compared>, Failure> {
    let has_redis = redis::is_installed();
    if !has_redis && rows.iter().flat_map(|row| &row.cases).any(is_redis) {
        listen.on_note(
            "Redis is not installed, so it is left out. To compare with it: apt-get install redis-server",
        );
    }
    let mut compared = Vec::new();
    for row in rows {
        let mut samples = vec![Vec::new(); row.cases.len()];
        for round in 0..effort.rounds {
            for (case, samples) in row.cases.iter().zip(&mut samples) {
                if is_redis(case) && !has_redis {
                    continue;
                }
                if ground.stop.load(Ordering::Relaxed) {
                    return Err(process::interrupted());
                }
                listen.on_case(row.name, case.label, round + 1);
                samples.push(figures(ground, row.method, case, effort)?);
            }
        }
        compared.push(Compared::new(&row, samples));
    }
    Ok(compared)
}

fn is_redis(case: &Case) -> bool {
    matches!(case.contender, Contender::Redis(_))
}

fn figures(
    ground: &Ground,
    method: Method,
    case: &Case,
    effort: Effort,
) -> Result<Figures, Failure> {
    let running = case.contender.start(ground)?;
    let plan = plan(ground, case, effort);
    match method {
        Method::Rate => Ok(Figures::of(&running.sample(ground, &plan)?)),
        Method::HalfOfSaturation => {
            let saturated = Figures::of(&running.sample(ground, &plan)?);
            let pace = Pace::Open {
                rate: saturated.rate / 2.0,
            };
            let half = running.sample(ground, &Plan { pace, ..plan })?;
            let mut figures = Figures::of(&half);
            figures.value = figures.p99_ms;
            Ok(figures)
        }
        Method::Memory => {
            let plan = by_orders(plan, effort.orders);
            // What is of a fixed size, such as buffers and caches, is filled by then.
            running.sample(ground, &plan)?;
            let sample = running.sample(ground, &plan)?;
            let mut figures = Figures::of(&sample);
            figures.value = sample.server.map_or(f64::NAN, |used| {
                used.resident_bytes as f64 / effort.orders as f64
            });
            Ok(figures)
        }
        Method::Written => {
            let plan = by_orders(plan, effort.orders);
            let logged = || match case.contender {
                Contender::One => running.metric(ground, RECORD_BYTES),
                _ => Ok(f64::NAN),
            };
            let before = logged()?;
            let sample: Sample = running.sample(ground, &plan)?;
            let mut figures = Figures::of(&sample);
            figures.record_bytes = (logged()? - before) / effort.orders as f64;
            figures.stored_bytes = running.stored_bytes() as f64 / effort.orders as f64;
            figures.value = figures.written_bytes;
            Ok(figures)
        }
    }
}

fn by_orders(plan: Plan, orders: u64) -> Plan {
    Plan {
        warm_up: Duration::ZERO,
        limit: Limit::Orders(orders),
        ..plan
    }
}

fn plan(ground: &Ground, case: &Case, effort: Effort) -> Plan {
    const SEED: u64 = 1;
    Plan {
        workload: Arc::new(Workload::new(case.workload, SEED)),
        targets: Vec::new(),
        connections: case.connections,
        pipeline: case.pipeline,
        pace: Pace::Closed,
        workers: 1,
        warm_up: effort.warm_up,
        limit: Limit::Duration(effort.measured),
        timeout: TIMEOUT,
        stop: Arc::<AtomicBool>::clone(&ground.stop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Name;

    /// Its scripts know plain grabs of one promotion only.
    fn redis_can(workload: Name) -> bool {
        matches!(workload, Name::Spread | Name::Hot | Name::Stampede)
    }

    #[test]
    fn redis_is_asked_only_for_what_its_scripts_do() {
        for row in rows() {
            for case in row.cases.iter().filter(|case| is_redis(case)) {
                assert!(redis_can(case.workload), "{} {}", row.name, case.label);
            }
        }
    }
}
