//! The command line as a whole: it is well formed, and every command has its example.

use clap::CommandFactory;

use super::*;

/// Every command with the words that lead to it.
fn commands(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
    found.push((words.to_owned(), command.clone()));
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        commands(inner, &format!("{words} {}", inner.get_name()), found);
    }
}

fn all() -> Vec<(String, clap::Command)> {
    let mut cli = Cli::command();
    cli.build();
    let mut found = Vec::new();
    commands(&cli, "qiang", &mut found);
    found
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_an_example_of_itself() {
    for (words, mut command) in all() {
        let help = command.render_long_help().to_string();
        let example = help.split("Example:").nth(1).unwrap_or_default();
        assert!(
            example.contains(&format!("{words} "))
                || example.contains(&format!("{words}\n"))
                || example.trim_end().ends_with(&words),
            "{words}: {help}"
        );
    }
}

#[test]
fn every_example_is_understood() {
    for (words, mut command) in all() {
        let help = command.render_long_help().to_string();
        let example = help.split("Example:").nth(1).unwrap_or_default();
        for line in example
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("qiang "))
        {
            let line = line.split(" > ").next().unwrap_or_default();
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(
                parsed.is_ok(),
                "{words}: {line}: {}",
                parsed
                    .err()
                    .map(|error| error.to_string())
                    .unwrap_or_default()
            );
        }
    }
}

#[test]
fn every_command_takes_the_common_flags() {
    for line in [
        "qiang promo list -o json --server n:1 --yes",
        "qiang -o json promo list",
        "qiang order cancel o-1 --yes",
        "qiang serve --print-config -o json",
        "qiang demo -o json",
        "qiang raft status -o json --server n:1",
        "qiang raft remove-node 5 --yes",
        "qiang completions zsh",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
    }
}

#[test]
fn wrong_use_is_told_by_clap_with_code_2() {
    for line in [
        "qiang grab --order o-1",
        "qiang nothing",
        "qiang promo list -o yaml",
        "qiang flows tail --shard 16",
        "qiang raft rule",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(failure::USAGE), "{line}");
    }
}
