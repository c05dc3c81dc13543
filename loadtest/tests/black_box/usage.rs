//! Flags, reports and exit codes. Invariant: what is wrong is named, and nothing is sent before it is right.

use super::node::{Node, load_at, qiang_load};

#[track_caller]
fn assert_refused(arguments: &[&str], code: i32, named: &str) {
    let output = qiang_load(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.contains(named), "{arguments:?}: {errors}");
}

#[test]
fn wrong_use_is_named() {
    assert_refused(&["run", "sprea"], 2, "sprea");
    assert_refused(&["run", "spread", "--connections", "0"], 2, "--connections");
    assert_refused(&["run", "spread", "--rate", "fast"], 2, "--rate");
    assert_refused(&["run", "spread", "--target", "here"], 2, "host:port");
    assert_refused(&["run", "batch", "--batch", "8193"], 2, "--batch");
    assert_refused(
        &["run", "spread", "--count", "1", "--duration-s", "1"],
        2,
        "--count",
    );
    assert_refused(&["compare", "--only", "speed"], 2, "speed");
    assert_refused(
        &["compare", "--qiang", "/nowhere/qiang"],
        2,
        "/nowhere/qiang",
    );
}

#[test]
fn a_node_that_is_not_there_is_named() {
    assert_refused(
        &["run", "spread", "--target", "127.0.0.1:1"],
        3,
        "127.0.0.1:1",
    );
    assert_refused(
        &["run", "spread", "--target", "no.invalid:1"],
        3,
        "no.invalid:1",
    );
}

#[test]
fn one_target_that_is_not_there_ends_the_run_before_it_begins() {
    let node = Node::start();
    let run = load_at(
        &node.address,
        "spread",
        &["--target", "127.0.0.1:1", "--count", "1"],
    );
    assert_eq!(run.code, Some(3), "{}", run.errors);
    assert!(run.errors.contains("127.0.0.1:1"), "{}", run.errors);
}

#[test]
fn every_command_helps_with_an_example() {
    for arguments in [&["--help"][..], &["run", "--help"], &["compare", "--help"]] {
        let output = qiang_load(arguments);
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(
            help.contains("Example") && help.contains("  qiang-load "),
            "{help}"
        );
    }
}

#[test]
fn the_page_is_whole_in_itself() {
    let node = Node::start();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("report.html");
    let html = path.to_str().unwrap();
    node.load("stampede", &["--duration-s", "1", "--html", html])
        .clean();
    let page = std::fs::read_to_string(&path).unwrap();
    assert_eq!(page.matches("<svg").count(), 4, "four plots");
    assert!(page.contains("Refusals by code") && page.contains("sold_out"));
    // The name space of SVG is no link: nothing is fetched.
    let fetched = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!fetched.contains("http://"));
    for outside in ["<script", "<link", "src=", "https://", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn the_table_tells_the_audit() {
    let node = Node::start();
    let output = qiang_load(&[
        "run",
        "stampede",
        "--target",
        &node.address,
        "--count",
        "200",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("audit: clean. 200 orders against 101 flows"),
        "{text}"
    );
    assert!(text.contains("sold_out"), "{text}");
}
