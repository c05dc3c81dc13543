//! The `qiang-load` binary: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadtest::cli::run(std::env::args_os())
}
