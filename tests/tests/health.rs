//! What operators and their tools look at: liveness, readiness, metrics and the shape of the cluster.
//!
//! Invariant: one look tells the truth about this node, in a form that tools read.

use qiang_tests::{Node, SHARDS, id_on_shard};
use serde_json::Value;
use std::collections::BTreeMap;

#[test]
fn a_serving_node_is_alive_and_ready() {
    let node = Node::start();
    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.get("/readyz").status, 200);
}

#[test]
fn a_node_has_no_huge_pages_of_which_it_uses_little() {
    let node = Node::start();
    assert_ne!(node.may_have_huge_pages(), Some(true));
}

#[test]
fn a_node_that_says_it_is_ready_takes_the_first_write_of_every_shard() {
    let promotions: Vec<String> = (0..SHARDS).map(|shard| id_on_shard("P", shard)).collect();
    // Several nodes start at a time: what comes up in an unlucky order does so on a busy machine.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let mut node = Node::start();
                    for promotion in &promotions {
                        node.promotion(promotion).create();
                    }
                    node.kill();
                    node.restart();
                    for promotion in &promotions {
                        node.grab("o-1", "alice").of(promotion, 1).granted();
                    }
                }
            });
        }
    });
}

#[test]
fn the_cluster_names_its_nodes_and_the_leader_of_every_shard() {
    let node = Node::start();
    let cluster = node.get("/v1/cluster").expect(200);
    let nodes = cluster["nodes"]
        .as_array()
        .unwrap_or_else(|| panic!("no nodes: {cluster}"));
    assert_eq!(nodes.len(), 1, "{cluster}");
    assert_eq!(
        (&nodes[0]["id"], &nodes[0]["dc"]),
        (&Value::from(1), &Value::from("a")),
        "{cluster}"
    );
    let shards = cluster["shards"]
        .as_array()
        .unwrap_or_else(|| panic!("no shards: {cluster}"));
    assert_eq!(shards.len() as u64, SHARDS, "{cluster}");
    for (number, shard) in shards.iter().enumerate() {
        assert_eq!(shard["shard"], number, "{cluster}");
        assert_eq!(shard["leader"], 1, "{cluster}");
        assert!(
            shard["term"].as_u64().is_some_and(|term| term > 0),
            "{cluster}"
        );
    }
}

/// The samples of a Prometheus page by name with labels; every line must have the format's form.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in page.lines() {
        if line.is_empty() || line.starts_with('#') {
            let known = ["# HELP ", "# TYPE ", "# UNIT ", "# EOF"];
            assert!(
                line.is_empty() || known.iter().any(|start| line.starts_with(start)),
                "{line:?}"
            );
            continue;
        }
        let (name, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("not a sample: {line:?}"));
        let value = value
            .parse()
            .unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(
            found.insert(name.to_owned(), value).is_none(),
            "twice: {line:?}"
        );
    }
    found
}

#[test]
fn metrics_count_what_was_granted_and_what_was_refused() {
    let node = Node::start();
    node.promotion("A").quantity(3).create();
    let page = |node: &Node| {
        let answer = node.get("/metrics");
        assert_eq!(answer.status, 200, "{answer}");
        let media = answer.header("content-type").unwrap_or_default();
        assert!(
            media.starts_with("text/plain") || media.starts_with("application/openmetrics-text"),
            "{media}"
        );
        samples(&answer.text)
    };
    let grown = |before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, words: &[&str]| {
        let sum = |page: &BTreeMap<String, f64>| -> f64 {
            let of_words = page
                .iter()
                .filter(|(name, _)| words.iter().all(|word| name.contains(word)));
            of_words.map(|(_, value)| value).sum()
        };
        sum(after) - sum(before)
    };
    let before = page(&node);
    for number in 0..5 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .answer();
    }
    let after = page(&node);
    let exactly = |words: &[&str], expected: f64| {
        let grown = grown(&before, &after, words);
        assert!(
            (grown - expected).abs() < 0.5,
            "{words:?} grew by {grown}: {after:#?}"
        );
    };
    exactly(&["requests_total", "grab", "granted"], 3.0);
    exactly(&["requests_total", "grab", "sold_out"], 2.0);
    for name in after.keys() {
        assert!(
            name.starts_with("qiang_"),
            "a metric of ours says so: {name}"
        );
    }
}
