//! The command line: arguments in, data on stdout, everything else on stderr, an exit code of the contract out.
//!
//! Invariant: the exit code follows from the kind of [`Failure`] alone.

mod compare;
mod run;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::failure::{self, Failure};

/// The top of the command line.
#[derive(Debug, Parser)]
#[command(
    name = "qiang-load",
    version,
    about = "Load for qiang, with an audit after every run, and comparisons",
    after_help = "Example:\n  qiang demo &\n  qiang-load run spread --target 127.0.0.1:7400 --duration-s 10 --html report.html",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive a workload against running nodes, then audit what they granted
    Run(run::RunArgs),
    /// Measure qiang beside Redis and a bare HTTP server on this machine
    Compare(compare::CompareArgs),
    /// The bare HTTP server of `compare`, as a process of its own
    #[command(hide = true)]
    Answer,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Runs the command line `arguments`, the program's name first, and says how the process should end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with code 0, wrong use to stderr with code 2: clap knows which.
            let code = u8::try_from(error.exit_code()).unwrap_or(failure::USAGE);
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(failure::SERVER),
            };
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Answer => crate::compare::serve_bare(),
    };
    match done {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Prints data.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
