//! The command line as people and scripts use it: help, outputs, exit codes.
//!
//! Invariant: data on stdout, diagnostics on stderr, and the exit code alone tells a script what happened.

use qiang_tests::{Flow, Node, Run, binary, run, shard_of};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Every command.
const COMMANDS: [&str; 38] = [
    "serve",
    "demo",
    "grab",
    "completions",
    "promo",
    "promo create",
    "promo get",
    "promo list",
    "promo update",
    "promo stop",
    "promo resume",
    "promo delete",
    "order",
    "order get",
    "order confirm",
    "order cancel",
    "config",
    "config get",
    "config set",
    "config history",
    "config rollback",
    "config check",
    "flows",
    "flows tail",
    "flows export",
    "flows verify",
    "flows rebuild",
    "raft",
    "raft status",
    "raft add-node",
    "raft remove-node",
    "raft drain",
    "raft transfer-leader",
    "raft move-leaders",
    "raft rebalance",
    "raft recover",
    "",
    "help",
];

/// Runs `qiang` with nothing of this test's environment that it would take for a setting.
#[track_caller]
fn qiang(arguments: &[&str]) -> Run {
    run(Command::new(binary())
        .args(arguments)
        .env("NO_COLOR", "1")
        .env_remove("QIANG_SERVER"))
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in COMMANDS.iter().filter(|command| **command != "help") {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.push("--help");
        let help = qiang(&words);
        let text = help.ok();
        let example = format!("qiang {command}");
        let usages = text.lines().filter(|line| line.contains("Usage:")).count();
        assert!(usages > 0, "no usage: {help}");
        let examples = text
            .lines()
            .filter(|line| !line.contains("Usage:") && line.contains(example.trim_end()))
            .count();
        assert!(examples > 0, "no example of `{example}`: {help}");
        assert!(help.stderr.is_empty(), "help is data: {help}");
        assert!(!text.contains('\u{1b}'), "NO_COLOR is set: {help}");
    }
}

#[test]
fn a_misused_command_line_exits_with_2_and_says_what_is_wrong() {
    for (arguments, named) in [
        (&["grabb"][..], "grabb"),
        (&["grab", "A:1"], "--order"),
        (
            &[
                "grab",
                "--order",
                "o-1",
                "--pin",
                "alice",
                "--ip",
                "203.0.113.9",
            ],
            "ITEM",
        ),
        (
            &[
                "grab",
                "--order",
                "o-1",
                "--pin",
                "alice",
                "--ip",
                "203.0.113.9",
                "A:x",
            ],
            "A:x",
        ),
        (
            &[
                "grab",
                "--order",
                "o 1",
                "--pin",
                "alice",
                "--ip",
                "203.0.113.9",
                "A:1",
            ],
            "o 1",
        ),
        (&["order", "get"], "ORDER"),
        (&["promo", "get", "A", "--colour", "red"], "--colour"),
        (&["promo", "list", "-o", "yaml"], "yaml"),
        (&["completions", "tcl"], "tcl"),
        (&["serve", "--listen", "nowhere"], "nowhere"),
        (
            &["serve", "--config", "/nonexistent/node.toml"],
            "/nonexistent/node.toml",
        ),
        (&["flows", "verify", "--colour"], "--colour"),
        (&["raft", "add-node", "5", "--dc", "a"], "--address"),
        (&["raft", "transfer-leader", "16", "1"], "16"),
        (&["raft", "remove-node", "meta"], "meta"),
        (&["raft", "move-leaders"], "--dc"),
        (&["demo", "--nodes", "0"], "--nodes 0"),
    ] {
        let run = qiang(arguments);
        run.exits(2);
        let told = run.stderr.to_lowercase().contains(&named.to_lowercase());
        assert!(told, "stderr does not name {named:?}: {run}");
        assert!(run.stdout.is_empty(), "diagnostics are no data: {run}");
    }
}

#[test]
fn the_version_is_told() {
    let run = qiang(&["--version"]);
    let text = run.ok();
    assert!(
        text.starts_with("qiang ") && text.trim().len() > "qiang ".len(),
        "{run}"
    );
}

#[test]
fn a_node_that_does_not_answer_is_exit_code_3_and_named() {
    // A port from below the ephemeral range that was free a moment ago.
    let node = Node::builder().prepare();
    let address = node.http_address();
    for arguments in [
        &[
            "grab",
            "--order",
            "o-1",
            "--pin",
            "alice",
            "--ip",
            "203.0.113.9",
            "A:1",
        ][..],
        &["promo", "get", "A"],
        &["order", "get", "o-1"],
        &["config", "get"],
        &["raft", "status"],
        &["raft", "drain", "1"],
    ] {
        let run = node.cli(arguments);
        run.fails_naming(3, &[&address]);
        assert!(run.stdout.is_empty(), "{run}");
    }
    let flagged = qiang(&["promo", "list", "--server", &address]);
    flagged.fails_naming(3, &[&address]);
}

#[test]
fn a_sale_can_be_run_from_the_command_line() {
    let node = Node::start();
    node.cli(&["promo", "create", "A", "--quantity", "3", "--per-pin", "2"])
        .ok();
    let again = node.cli(&["promo", "create", "A", "--quantity", "4", "--per-pin", "2"]);
    again.fails_naming(1, &["promotion_exists"]);

    let grab = |order: &str, pin: &str, items: &[&str]| {
        let mut arguments = vec![
            "grab",
            "--order",
            order,
            "--pin",
            pin,
            "--ip",
            "203.0.113.9",
        ];
        arguments.extend(items);
        node.cli(&arguments)
    };
    let granted = grab("o-1", "alice", &["A:2"]);
    assert!(granted.ok().contains("granted"), "{granted}");
    let refused = grab("o-2", "alice", &["A:1"]);
    refused.fails_naming(1, &["pin_limit"]);
    grab("o-3", "bob", &["A:1"]).ok();
    grab("o-4", "carol", &["A:1"]).fails_naming(1, &["sold_out"]);
    grab("o-5", "carol", &["nowhere:1"]).fails_naming(1, &["promotion_not_found"]);

    assert!(node.cli(&["order", "get", "o-1"]).ok().contains("held"));
    node.cli(&["order", "confirm", "o-1"]).ok();
    node.cli(&["order", "cancel", "o-3", "--yes"]).ok();
    node.cli(&["order", "cancel", "o-1", "--yes"])
        .fails_naming(1, &["order_confirmed"]);
    node.cli(&["order", "get", "o-9"])
        .fails_naming(1, &["order_not_found"]);
    assert_eq!(node.order("o-1").state(), "confirmed");
    assert_eq!(node.order("o-3").state(), "returned");

    node.cli(&["promo", "update", "A", "--add-quantity", "5"])
        .ok();
    assert_eq!(node.offered("A").remaining(), 6);
    node.cli(&["promo", "stop", "A", "--yes"]).ok();
    assert_eq!(node.offered("A").state(), "stopped");
    node.cli(&["promo", "resume", "A"]).ok();
    assert_eq!(node.offered("A").state(), "active");
    node.cli(&["promo", "delete", "A", "--yes"]).ok();
    grab("o-6", "dave", &["A:1"]).fails_naming(1, &["deleted"]);
}

#[test]
fn what_cannot_be_taken_back_is_not_done_when_nobody_can_be_asked() {
    let node = Node::start();
    node.promotion("A").create();
    let unasked = node.cli(&["promo", "delete", "A"]);
    unasked.fails_naming(2, &["--yes"]);
    assert_eq!(node.offered("A").state(), "active");
    node.cli(&["promo", "delete", "A", "--yes"]).ok();
    assert_eq!(node.offered("A").state(), "deleted");
}

#[test]
fn json_output_is_what_the_routes_say() {
    let node = Node::start();
    node.promotion("A").quantity(5).create();
    node.promotion("B").quantity(5).create();
    let grabbed = node.cli(&[
        "grab",
        "-o",
        "json",
        "--order",
        "o-1",
        "--pin",
        "alice",
        "--ip",
        "203.0.113.9",
        "A:1",
        "B:2",
    ]);
    grabbed.ok();
    assert_eq!(grabbed.json()["outcome"], "granted");
    let order = node.cli(&["order", "get", "o-1", "-o", "json"]);
    order.ok();
    assert_eq!(order.json(), node.order("o-1").view());
    let promotion = node.cli(&["promo", "get", "A", "-o", "json"]);
    promotion.ok();
    assert_eq!(promotion.json(), node.offered("A").view());
    let list = node.cli(&["promo", "list", "-o", "json"]);
    list.ok();
    assert!(
        list.stdout.contains("\"A\"") && list.stdout.contains("\"B\""),
        "{list}"
    );
    list.json();
    let config = node.cli(&["config", "get", "-o", "json"]);
    config.ok();
    assert_eq!(config.json(), node.get("/v1/config").expect(200));
    node.cli(&["config", "history", "-o", "json"]).json();
    let refused = node.cli(&[
        "grab",
        "-o",
        "json",
        "--order",
        "o-2",
        "--pin",
        "alice",
        "--ip",
        "203.0.113.9",
        "A:9",
    ]);
    refused.exits(1);
}

#[test]
fn tables_have_a_head_and_no_colour_when_nobody_looks() {
    let node = Node::start();
    node.promotion("A").create();
    let list = node.cli(&["promo", "list"]);
    let text = list.ok();
    assert!(text.lines().count() >= 2 && text.contains('A'), "{list}");
    assert!(!text.contains('\u{1b}'), "{list}");
}

#[test]
fn flows_are_told_as_lines_of_json() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let shard = shard_of("A").to_string();
    let tail = node.cli(&["flows", "tail", "--shard", &shard, "-o", "json"]);
    let flows = Flow::parse_all(tail.ok());
    assert!(
        flows.iter().any(|flow| flow.order_id() == Some("o-1")),
        "{tail}"
    );
}

#[test]
fn flows_are_exported_offline_and_verified() {
    let mut node = Node::start();
    node.promotion("A").create();
    for number in 0..20 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .granted();
    }
    node.cli(&["flows", "verify"]).ok();
    let online = node.flows(shard_of("A")).len();
    assert!(node.stop_gracefully().success());
    let data_dir = node.data_dir().to_str().expect("a plain path").to_owned();
    let exported = node.cli(&["flows", "export", "--data-dir", &data_dir]);
    let lines: Vec<Value> = exported
        .ok()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let orders = lines
        .iter()
        .filter(|line| line["type"] == "granted")
        .count();
    assert_eq!(orders, 20, "{exported}");
    assert!(lines.len() >= online);
    node.cli(&["flows", "verify", "--data-dir", &data_dir]).ok();
    node.cli(&["flows", "verify", "--data-dir", "/nonexistent/data"])
        .fails_naming(5, &["/nonexistent/data"]);
}

#[test]
fn completions_are_given_for_the_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let run = qiang(&["completions", shell]);
        assert!(
            run.ok().contains("qiang") && run.stdout.contains("promo"),
            "{shell}"
        );
        assert!(run.stderr.is_empty(), "{run}");
    }
    let bash = qiang(&["completions", "bash"]);
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(script.path(), bash.ok()).expect("written");
    run(Command::new("bash").arg("-n").arg(script.path())).ok();
}

#[test]
fn a_configuration_file_is_checked_and_its_unknown_keys_are_named() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("node.toml");
    let path = file.to_str().expect("a plain path");

    let printed = qiang(&["serve", "--print-config"]);
    fs::write(&file, printed.ok()).expect("written");
    qiang(&["config", "check", path]).ok();

    fs::write(&file, "[http]\nlissten = \"127.0.0.1:7400\"\n").expect("written");
    for arguments in [&["config", "check", path][..], &["serve", "--config", path]] {
        qiang(arguments).fails_naming(2, &[path, "lissten"]);
    }
    fs::write(&file, "[http]\nlisten = 5\n").expect("written");
    qiang(&["config", "check", path]).fails_naming(2, &[path, "listen"]);
    fs::write(&file, "[http\n").expect("written");
    qiang(&["config", "check", path]).fails_naming(2, &[path]);
    fs::write(&file, "[node]\nid = 0\n").expect("written");
    qiang(&["config", "check", path]).fails_naming(2, &["node.id"]);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("node.toml");
    fs::write(
        &file,
        "[http]\nlisten = \"127.0.0.1:1111\"\n[node]\ndc = \"file\"\n",
    )
    .expect("written");
    let path = file.to_str().expect("a plain path");
    let shown = |environment: &[(&str, &str)], flags: &[&str]| {
        let mut command = Command::new(binary());
        command
            .args(["serve", "--print-config", "--config", path])
            .args(flags);
        command
            .env_remove("QIANG_SERVER")
            .envs(environment.iter().copied());
        run(&mut command)
    };
    let only_file = shown(&[], &[]);
    assert!(
        only_file.ok().contains("127.0.0.1:1111") && only_file.stdout.contains("\"file\""),
        "{only_file}"
    );
    let variable = ("QIANG_HTTP__LISTEN", "127.0.0.1:2222");
    assert!(shown(&[variable], &[]).ok().contains("127.0.0.1:2222"));
    let both = shown(&[variable], &["--listen", "127.0.0.1:3333"]);
    assert!(
        both.ok().contains("127.0.0.1:3333") && !both.stdout.contains("2222"),
        "{both}"
    );
    let unknown = shown(&[("QIANG_HTTP__LISSTEN", "127.0.0.1:2222")], &[]);
    unknown.fails_naming(2, &["QIANG_HTTP__LISSTEN"]);
}

#[test]
fn a_node_starts_from_a_configuration_file() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("node.toml");
    fs::write(
        &file,
        "[node]\nname = \"shop-1\"\n[log]\nformat = \"json\"\n",
    )
    .expect("written");
    let node = Node::builder()
        .flags(&["--config", file.to_str().expect("a plain path")])
        .start();
    node.promotion("A").create();
    let log = node.log();
    let json = log
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_ok())
        .count();
    assert!(json > 0, "the file asks for a log in JSON: {log}");
}

#[test]
fn a_public_address_without_tokens_is_refused() {
    let node = Node::builder().flags(&["--listen", "0.0.0.0:0"]).prepare();
    let run = run(Command::new(binary())
        .args([
            "serve",
            "--bootstrap",
            "--listen",
            "0.0.0.0:0",
            "--data-dir",
        ])
        .arg(node.data_dir()));
    run.fails_naming(2, &["0.0.0.0"]);
    assert!(!node.data_dir().exists(), "nothing was created");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let node = Node::start();
    let other = Node::builder().prepare();
    let run = run(Command::new(binary())
        .args([
            "serve",
            "--bootstrap",
            "--listen",
            &node.http_address(),
            "--peer-listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(other.data_dir()));
    run.fails_naming(5, &[&node.http_address()]);
}

#[test]
fn a_serving_node_is_verified_and_says_what_was_compared() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let verified = node.cli(&["flows", "verify", "-o", "json"]);
    verified.ok();
    assert_ne!(verified.json(), json!(null));
}

#[test]
fn a_node_alone_is_a_cluster_that_cannot_spare_it() {
    let node = Node::start();
    let status = node.cli(&["raft", "status"]);
    assert_eq!(status.ok().lines().count(), 2, "{status}");
    let told = node.cli(&["raft", "status", "--stale", "-o", "json"]);
    told.ok();
    let told = told.json();
    assert_eq!(
        (&told["nodes"][0]["state"], &told["nodes"][0]["leads"]),
        (&json!("ready"), &json!(16)),
        "{told}"
    );
    node.cli(&["raft", "rebalance"]).ok();
    node.cli(&["raft", "drain", "7"])
        .fails_naming(1, &["node_not_found"]);
    node.cli(&["raft", "recover", "--dc", "a", "--yes"])
        .fails_naming(1, &["recovery_refused"]);
    node.delete("/v1/cluster/nodes/1")
        .refused(409, "cluster_refused");
    node.delete("/v1/cluster/nodes/1?force=maybe").bad("force");
    node.get("/v1/cluster?local=perhaps").bad("local");
    node.post(
        "/v1/cluster/nodes",
        &json!({"node_id": 2, "address": "nowhere", "dc": "a"}),
    )
    .bad("address");
    node.post("/v1/cluster/shards/16/leader", &json!({"node_id": 1}))
        .refused(404, "shard_not_found");
}
