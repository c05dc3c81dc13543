//! `qiang completions`: the script that teaches a shell this command line. It is generated, so it cannot be out of date.

use clap::Args;
use clap_complete::Shell;

use super::Failure;
use super::output::Output;

/// The shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  qiang completions bash > /etc/bash_completion.d/qiang\n  \
    qiang completions zsh > \"${fpath[1]}/_qiang\"\n  qiang completions fish > ~/.config/fish/completions/qiang.fish"
)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_parser = clap::builder::EnumValueParser::<Shell>::new())]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(
    args: &CompletionsArgs,
    cli: &mut clap::Command,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, cli, "qiang", &mut script);
    out.bytes(&script)
}
