//! `qiang config`: the cluster-wide document that is in force on every node within a second, and checks of a node's
//! own file before a start.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{Answer, Client};
use super::output::{Output, cell, pairs};
use super::values::{Ask, read_json};
use crate::node_config::{self, Effective};

/// What to do with configuration.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  qiang config get\n  qiang config set grab_concurrency=2000 degraded=true\n  \
    qiang config check node.toml"
)]
pub(crate) enum ConfigCommand {
    /// Show the cluster's configuration
    #[command(after_help = "Example:\n  qiang config get")]
    Get,
    /// Change the cluster's configuration
    #[command(after_help = "Example:\n  qiang config set degraded=true\n  \
        qiang config set rate.window_ms=1000 rate.attempts=60000\n  qiang config set --file config.json\n\n\
        Values are JSON, and what is not JSON is a text. What is not named stays as it is. If someone else changed the\n\
        configuration meanwhile, nothing is changed and the exit code is 1.")]
    Set(SetArgs),
    /// Show earlier versions
    #[command(after_help = "Example:\n  qiang config history")]
    History,
    /// Go back to an earlier version
    #[command(after_help = "Example:\n  qiang config rollback 3 --yes")]
    Rollback(RollbackArgs),
    /// Check a node's TOML file without starting anything
    #[command(after_help = "Example:\n  qiang config check node.toml")]
    Check(CheckArgs),
}

/// What to set.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// A member and its value; members of members are joined by a dot
    #[arg(
        value_name = "MEMBER=VALUE",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    settings: Vec<SettingArg>,
    /// The whole document as JSON; - for stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only if the present version is this one
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
}

/// Where to go back to.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The version, as `qiang config history` tells it
    #[arg(value_name = "VERSION")]
    version: u64,
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// `member=value`.
#[derive(Debug, Clone, PartialEq)]
struct SettingArg {
    path: Vec<String>,
    value: Value,
}

impl std::str::FromStr for SettingArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text
            .split_once('=')
            .ok_or("write MEMBER=VALUE, such as degraded=true")?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(
                "the member's name is missing: write MEMBER=VALUE, such as degraded=true"
                    .to_owned(),
            );
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        Ok(Self { path, value })
    }
}

/// Runs the command.
pub(crate) async fn run(
    command: ConfigCommand,
    ask: Ask,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        ConfigCommand::Get => print(&client.get("/v1/config").await?, out),
        ConfigCommand::Set(args) => print(&set(args, client).await?, out),
        ConfigCommand::History => history(&client.get("/v1/config/history").await?, out),
        ConfigCommand::Rollback(args) => {
            ask.confirm(&format!(
                "Put version {} of the configuration in force on every node?",
                args.version
            ))?;
            let body = json!({"version": args.version});
            print(&client.post("/v1/config/rollback", Some(&body)).await?, out)
        }
        ConfigCommand::Check(args) => check(&args, out),
    }
}

/// Reads the document, changes what is named and puts it back if nobody else changed it meanwhile.
async fn set(args: SetArgs, client: &Client) -> Result<Answer, Failure> {
    let mut document = match &args.file {
        Some(file) => read_json(file)?,
        None => client.get("/v1/config").await?.json()?,
    };
    for SettingArg { path, value } in args.settings {
        put(&mut document, &path, value)?;
    }
    if let Some(version) = args.version {
        put(&mut document, &["version".to_owned()], json!(version))?;
    }
    client.put("/v1/config", &document).await
}

fn put(document: &mut Value, path: &[String], value: Value) -> Result<(), Failure> {
    let mut place = document;
    for name in path {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Some(members) = place.as_object_mut() else {
            return Err(Failure::Usage(format!(
                "{}: {name} is a member of what has no members",
                path.join(".")
            )));
        };
        place = members.entry(name.clone()).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(answer.text()?);
    }
    out.members(&answer.json()?, &["version"])
}

fn history(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(answer.text()?);
    }
    let page = answer.json()?;
    let versions = page["versions"].as_array().or(page.as_array());
    let row = |version: &Value| {
        let mut rest = version.clone();
        for shown in ["version", "at"] {
            rest.as_object_mut()
                .and_then(|members| members.remove(shown));
        }
        vec![
            cell(&version["version"]),
            cell(&version["at"]),
            pairs(&rest),
        ]
    };
    let rows: Vec<_> = versions.into_iter().flatten().map(row).collect();
    out.table(&[">VERSION", "AT", "CONFIGURATION"], &rows)
}

/// Reads the file as a start would, without the environment: a file is right or wrong by itself.
fn check(args: &CheckArgs, out: &mut Output) -> Result<(), Failure> {
    let effective = Effective::load(Some(&args.file), [], &[]).map_err(|error| unusable(&error))?;
    if out.is_json() {
        let report = json!({"file": args.file.display().to_string(), "ok": true, "config": effective.config});
        return out.json(&report.to_string());
    }
    out.text(&format!("{}: ok", args.file.display()))
}

/// Settings that cannot be used are wrong use, wherever they come from.
pub(crate) fn unusable(error: &node_config::Error) -> Failure {
    Failure::Usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(text: &str) -> SettingArg {
        text.parse().unwrap()
    }

    #[test]
    fn values_are_json_or_else_texts() {
        assert_eq!(setting("degraded=true").value, json!(true));
        assert_eq!(setting("x=12").value, json!(12));
        assert_eq!(setting("x=abc=d").value, json!("abc=d"));
        assert_eq!(setting("x={\"a\":1}").value, json!({"a": 1}));
        assert_eq!(setting("rate.attempts=5").path, ["rate", "attempts"]);
        for wrong in ["", "x", "=1", "a..b=1"] {
            assert!(wrong.parse::<SettingArg>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_setting_changes_its_place_alone() {
        let mut document =
            json!({"version": 3, "rate": {"attempts": 1, "window_ms": 2}, "default": null});
        put(&mut document, &setting("rate.attempts=5").path, json!(5)).unwrap();
        put(&mut document, &setting("default.a=1").path, json!(1)).unwrap();
        assert_eq!(
            document,
            json!({"version": 3, "rate": {"attempts": 5, "window_ms": 2}, "default": {"a": 1}})
        );
        assert!(put(&mut document, &setting("version.x=1").path, json!(1)).is_err());
    }
}
