//! A hundred seeds, and that a seed is a whole run: the same seed gives the same trace.
//!
//! `SIMULATION_SEEDS` sets how many, `SIMULATION_FROM` the first; `./dev simulate` runs more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qiang_simulation::{Shape, run};

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}

#[test]
fn no_schedule_of_faults_oversells_or_loses_an_acknowledged_grab() {
    let (from, count) = (
        variable("SIMULATION_FROM", 1),
        variable("SIMULATION_SEEDS", 100),
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicU64::new(from);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= from + count {
                            return failed;
                        }
                        if let Err(trace) = run(seed, Shape::default()) {
                            failed.push(trace.to_string());
                        }
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a run does not panic"))
            .collect()
    });
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let shape = Shape {
        faults_last: Duration::from_secs(5),
        ..Shape::default()
    };
    for seed in 1..=3 {
        let (Ok(first) | Err(first)) = run(seed, shape);
        let (Ok(second) | Err(second)) = run(seed, shape);
        assert_eq!(first.lines(), second.lines(), "seed {seed}");
        assert!(first.granted() > 0, "seed {seed} granted nothing:\n{first}");
    }
}
