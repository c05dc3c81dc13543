//! `simulate`: runs seeds of the simulation and prints what was violated.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use qiang_simulation::{Shape, run};

/// Runs whole clusters under simulated time, network, disks and clocks, one for each seed.
#[derive(Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How long faults go on in each, in simulated seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many run at a time; 0: one for each core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    twice: bool,
    /// Print every event of every seed
    #[arg(long)]
    verbose: bool,
    /// Print the nodes' own log on stderr, as RUST_LOG says
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.log {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if arguments.threads == 0 {
        cores
    } else {
        arguments.threads
    };
    let shape = Shape {
        faults_last: Duration::from_secs(arguments.seconds),
        ..Shape::default()
    };
    let (next, failed) = (AtomicU64::new(arguments.from), AtomicBool::new(false));
    let (granted, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.from + arguments.seeds {
                        return;
                    }
                    let played = run(seed, shape);
                    let (Ok(trace) | Err(trace)) = &played;
                    granted.fetch_add(trace.granted(), Ordering::Relaxed);
                    events.fetch_add(trace.events() as u64, Ordering::Relaxed);
                    if arguments.verbose {
                        println!("{}", trace.lines().join("\n"));
                    }
                    if let Err(trace) = &played {
                        failed.store(true, Ordering::Relaxed);
                        println!("{trace}");
                    }
                    if arguments.twice {
                        let (Ok(again) | Err(again)) = run(seed, shape);
                        if again.hash() != trace.hash() {
                            failed.store(true, Ordering::Relaxed);
                            println!(
                                "seed {seed} gave two traces: {:016x} and {:016x}",
                                trace.hash(),
                                again.hash()
                            );
                        }
                    }
                }
            });
        }
    });
    let verdict = if failed.load(Ordering::Relaxed) {
        "FAILED"
    } else {
        "passed"
    };
    println!(
        "{} seeds {verdict} in {:.1} s: {} orders granted, {} events",
        arguments.seeds,
        began.elapsed().as_secs_f64(),
        granted.load(Ordering::Relaxed),
        events.load(Ordering::Relaxed)
    );
    if failed.load(Ordering::Relaxed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
