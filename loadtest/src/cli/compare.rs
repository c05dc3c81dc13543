//! `qiang-load compare`. Invariant: targets are printed beside what was reached, and never decide how the process ends.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::run::runtime;
use super::{Format, print};
use crate::compare::{Effort, Ground, Listen, Row, compare, rows, tables};
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qiang-load compare                       everything: about an hour
  qiang-load compare --quick               a first look: about five minutes
  qiang-load compare --only grabs-64 --only batch --rounds 3
  qiang-load compare --qiang target/release/qiang --data-dir /mnt/disk -o json

Servers are started here, on free ports, in a directory below --data-dir, one contender at a time, and stopped. Redis is
left out where it is not installed (apt-get install redis-server).")]
pub(super) struct CompareArgs {
    /// qiang's binary; unless given $QIANG_BINARY, target/release/qiang, the one beside this program, the one in PATH
    #[arg(long, value_name = "PATH")]
    qiang: Option<PathBuf>,
    /// Only this row; give it again for more
    #[arg(long, value_name = "ROW", value_parser = row_names())]
    only: Vec<String>,
    /// Shorter and fewer measurements
    #[arg(long)]
    quick: bool,
    /// Turns of each contender; 5, or 2 with --quick
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Where servers keep their data, on the disk that is to be measured; temporary files' directory unless given
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// How figures are printed
    #[arg(short = 'o', long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
}

fn row_names() -> clap::builder::PossibleValuesParser {
    rows().iter().map(|row| row.name).collect::<Vec<_>>().into()
}

pub(super) fn run(args: &CompareArgs) -> Result<(), Failure> {
    let effort = effort(args);
    let chosen = chosen(args);
    let ground = Ground {
        qiang: find_qiang(args.qiang.as_ref())?,
        directory: args.data_dir.clone().unwrap_or_else(std::env::temp_dir),
        runtime: runtime()?,
        stop: Arc::default(),
    };
    stop_on_signals(&ground.runtime, &ground.stop)?;
    let measurements = chosen.iter().map(|row| row.cases.len()).sum::<usize>() * effort.rounds;
    let mut told = Told::new(measurements as u64, effort.rounds);
    let compared = compare(&ground, chosen, effort, &mut told);
    told.end();
    let compared = compared?;
    match args.output {
        Format::Table => print(&tables(&compared)),
        Format::Json => {
            let json =
                serde_json::to_string(&compared).expect("all keys of a comparison are texts");
            print(&json)
        }
    }
}

fn effort(args: &CompareArgs) -> Effort {
    let effort = if args.quick {
        Effort::QUICK
    } else {
        Effort::WHOLE
    };
    Effort {
        rounds: args.rounds.map_or(effort.rounds, |rounds| rounds as usize),
        ..effort
    }
}

fn chosen(args: &CompareArgs) -> Vec<Row> {
    let chosen = |row: &Row| args.only.is_empty() || args.only.iter().any(|name| name == row.name);
    rows().into_iter().filter(chosen).collect()
}

/// The binary that was named, or the nearest one.
fn find_qiang(named: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let named = named
        .cloned()
        .or_else(|| std::env::var_os("QIANG_BINARY").map(PathBuf::from));
    if let Some(named) = named {
        return if named.is_file() {
            Ok(named)
        } else {
            let named = named.display();
            Err(Failure::Usage(format!(
                "{named} is not a file: name qiang's binary with --qiang"
            )))
        };
    }
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|own| Some(own.parent()?.join("qiang")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("qiang"));
    let places = std::iter::once(PathBuf::from("target/release/qiang"));
    let mut places = places.chain(beside).chain(in_path);
    places.find(|place| place.is_file()).ok_or_else(|| {
        Failure::Usage(
            "there is no qiang here: build it (cargo build --release -p server) or name it with --qiang"
                .to_owned(),
        )
    })
}

/// Ctrl-C and SIGTERM end the load; the servers then stop with the values that hold them.
fn stop_on_signals(runtime: &Runtime, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    let _entered = runtime.enter();
    let listened = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = listened else {
        return Err(Failure::Server(
            "this machine refused to watch for signals".to_owned(),
        ));
    };
    let stop = Arc::clone(stop);
    runtime.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.store(true, Ordering::Relaxed);
        eprintln!("stopping the servers");
    });
    Ok(())
}

/// Says on stderr what is measured.
struct Told {
    bar: Option<ProgressBar>,
    rounds: usize,
}

impl Told {
    fn new(measurements: u64, rounds: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(measurements));
        Self { bar, rounds }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Listen for Told {
    fn on_case(&mut self, row: &str, case: &str, round: usize) {
        let text = format!("{row}: {case}, round {round} of {}", self.rounds);
        match &self.bar {
            Some(bar) => {
                // The measurement that begins is not done yet.
                if !bar.message().is_empty() {
                    bar.inc(1);
                }
                bar.set_message(text);
            }
            None => eprintln!("{text}"),
        }
    }

    fn on_note(&mut self, note: &str) {
        match &self.bar {
            Some(bar) => bar.println(note),
            None => eprintln!("{note}"),
        }
    }
}

fn bar(measurements: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg}, {elapsed}")
        .expect("the template is well formed, as a test shows");
    let bar = ProgressBar::with_draw_target(Some(measurements), ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn() {
        let bar = bar(12);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.inc(1);
        assert_eq!((bar.position(), bar.length()), (1, Some(12)));
        bar.finish_and_clear();
    }

    #[test]
    fn a_binary_that_is_not_there_is_named() {
        let named = PathBuf::from("/nowhere/qiang");
        let failure = find_qiang(Some(&named)).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("/nowhere/qiang"));
    }
}
