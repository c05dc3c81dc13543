//! Settings from file, environment and flags: who wins, and what is refused. The environment is given, never read.

use std::path::Path;

use super::effective::is_setting;
use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn variables(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Effective, Error> {
    let file = file(text);
    let flags: Vec<FlagSetting> = flags
        .iter()
        .map(|(flag, key, value)| (*flag, *key, (*value).to_owned()))
        .collect();
    Effective::load(Some(file.path()), variables(environment), &flags)
}

#[track_caller]
fn refused(result: Result<Effective, Error>, parts: &[&str]) {
    let error = result
        .map(|effective| effective.to_toml())
        .unwrap_err()
        .to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not named: {error}");
    }
}

#[test]
fn nothing_given_is_the_defaults() {
    let effective = Effective::load(None, [], &[]).unwrap();
    assert_eq!(effective.config, NodeConfig::default());
    assert_eq!(effective.config.node_name(), "node-1");
    assert!(effective.config.threads() >= 1);
}

#[test]
fn logs_have_a_thread_each_beside_those_for_connections_unless_there_is_but_one() {
    let threads = |threads: &str, logs: &str| {
        let text = format!("[runtime]\nthreads = {threads}\n[storage]\nlogs = {logs}\n");
        let config = load(&text, &[], &[]).unwrap().config;
        (config.connection_threads(), config.log_threads())
    };
    assert_eq!(threads("1", "0"), (0, 1));
    assert_eq!(threads("1", "16"), (0, 1));
    assert_eq!(threads("2", "0"), (2, 1));
    assert_eq!(threads("2", "2"), (2, 2));
    assert_eq!(threads("2", "16"), (2, 2));
    assert_eq!(threads("7", "0"), (7, 1));
    assert_eq!(threads("16", "0"), (16, 4));
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let text =
        "[http]\nlisten = \"127.0.0.1:1\"\nconnections_max = 5\n[node]\ndc = \"file\"\nid = 3\n";
    let environment = [
        ("QIANG_HTTP__LISTEN", "127.0.0.1:2"),
        ("QIANG_NODE__DC", "variable"),
        ("PATH", "/bin"),
    ];
    let flags = [("--listen", "http.listen", "127.0.0.1:3")];
    let config = load(text, &environment, &flags).unwrap().config;
    assert_eq!(config.http.listen.port(), 3, "the flag");
    assert_eq!(config.node.dc, "variable", "over the file");
    assert_eq!(
        (config.node.id, config.http.connections_max),
        (3, 5),
        "the file"
    );
    assert_eq!(config.peer, PeerSection::default(), "the default");
}

#[test]
fn unknown_keys_are_named() {
    refused(
        load("[http]\nlissten = \"127.0.0.1:1\"\n", &[], &[]),
        &["lissten"],
    );
    refused(
        load("[htpt]\nlisten = \"127.0.0.1:1\"\n", &[], &[]),
        &["htpt"],
    );
    refused(load("listen = \"127.0.0.1:1\"\n", &[], &[]), &["listen"]);
    refused(
        load("", &[("QIANG_HTTP__LISSTEN", "x")], &[]),
        &["QIANG_HTTP__LISSTEN"],
    );
    refused(
        load("", &[("QIANG_HTTP_LISTEN", "x")], &[]),
        &["QIANG_HTTP_LISTEN", "QIANG_HTTP__LISTEN"],
    );
    refused(
        load("", &[("QIANG_http__listen", "x")], &[]),
        &["QIANG_http__listen", "QIANG_HTTP__LISTEN"],
    );
    refused(
        load("", &[("QIANG_SERVICE_HOST", "10.0.0.1")], &[]),
        &["QIANG_SERVICE_HOST", "enableServiceLinks"],
    );
}

#[test]
fn variables_of_the_command_line_and_of_the_tests_are_no_settings() {
    let environment = [
        ("QIANG_SERVER", "x"),
        ("QIANG_CACHE_DIR", "x"),
        ("QIANG_BIN", "x"),
    ];
    assert_eq!(
        load("", &environment, &[]).unwrap().config,
        NodeConfig::default()
    );
}

#[test]
fn values_of_the_wrong_type_are_named_with_their_origin() {
    refused(load("[http]\nlisten = 5\n", &[], &[]), &["listen"]);
    refused(
        load("[http]\nconnections_max = -1\n", &[], &[]),
        &["connections_max"],
    );
    refused(load("[http\n", &[], &[]), &["line 1"]);
    refused(
        load("", &[("QIANG_NODE__ID", "one")], &[]),
        &["QIANG_NODE__ID", "one", "whole number"],
    );
    refused(
        load("", &[("QIANG_HTTP__CONNECTIONS_MAX", "-1")], &[]),
        &["QIANG_HTTP__CONNECTIONS_MAX", "-1"],
    );
    refused(
        load("", &[("QIANG_LOG__FORMAT", "xml")], &[]),
        &["QIANG_LOG__FORMAT", "xml"],
    );
    refused(
        load("", &[], &[("--listen", "http.listen", "nowhere")]),
        &["--listen", "nowhere"],
    );
}

#[test]
fn values_that_cannot_be_used_are_named_with_their_origin() {
    refused(load("[node]\nid = 0\n", &[], &[]), &["node.id"]);
    refused(load("[node]\ndc = \"a b\"\n", &[], &[]), &["node.dc"]);
    refused(load("[node]\nname = \"a/b\"\n", &[], &[]), &["node.name"]);
    refused(
        load("[node]\ndata_dir = \"\"\n", &[], &[]),
        &["node.data_dir"],
    );
    refused(
        load("", &[], &[("--listen", "http.listen", "0.0.0.0:1")]),
        &["0.0.0.0:1", "--listen", "loopback"],
    );
    refused(
        load("[peer]\nlisten = \"127.0.0.1:7400\"\n", &[], &[]),
        &["peer.listen", "http.listen"],
    );
    refused(
        load("[storage]\nmemtable_bytes = 1\n", &[], &[]),
        &["storage.memtable_bytes"],
    );
    refused(
        load("[http]\nrequest_timeout_ms = 0\n", &[], &[]),
        &["http.request_timeout_ms"],
    );
    refused(
        load("", &[("QIANG_LOG__LEVEL", "loud=very")], &[]),
        &["log.level", "QIANG_LOG__LEVEL"],
    );
}

#[test]
fn a_missing_file_is_named() {
    let missing = Effective::load(Some(Path::new("/nonexistent/node.toml")), [], &[]);
    refused(missing, &["/nonexistent/node.toml"]);
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let text = "[node]\nid = 3\ndata_dir = \"/x \\\"y\\\"\"\n[log]\nformat = \"json\"\n";
    let effective = load(text, &[("QIANG_RUNTIME__THREADS", "2")], &[]).unwrap();
    let printed = effective.to_toml();
    assert!(
        printed.contains("QIANG_RUNTIME__THREADS"),
        "the origin is told: {printed}"
    );
    assert_eq!(load(&printed, &[], &[]).unwrap().config, effective.config);
}

#[test]
fn every_setting_is_documented_and_can_be_set_by_its_variable() {
    let table = NodeConfig::default().to_table();
    for (section, fields) in &table {
        for (field, value) in fields.as_table().unwrap() {
            assert!(
                is_setting(&format!("{section}.{field}")),
                "{section}.{field}"
            );
            let name = format!("QIANG_{section}__{field}").to_ascii_uppercase();
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let loaded = Effective::load(None, [(name.clone(), text)], &[]);
            assert_eq!(loaded.unwrap().config, NodeConfig::default(), "{name}");
        }
    }
    let documented: usize = SECTIONS.iter().map(|(_, docs)| docs.fields.len()).sum();
    let existing: usize = table
        .values()
        .map(|fields| fields.as_table().map_or(0, toml::Table::len))
        .sum();
    assert_eq!(documented, existing);
}

#[test]
fn the_documented_file_is_the_defaults_as_printed() {
    let printed = Effective::load(None, [], &[]).unwrap().to_toml();
    let documented = include_str!("../../../docs/node.toml");
    assert_eq!(
        documented, printed,
        "write it again: qiang serve --print-config > docs/node.toml"
    );
}
