//! The `qiang` binary: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

// The request path allocates and frees small things on many threads; see docs/decisions/0008-mimalloc.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    qiang_server::cli::run(std::env::args_os())
}
