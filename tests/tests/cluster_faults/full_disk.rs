//! A disk that fills up under one of four nodes.

use crate::{FAILS_OVER_WITHIN, QUANTITY, alone, groups, qiang};
use qiang_tests::{Cluster, Node, Run, SHARDS, Sale, SmallDisk, id_on_shard, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// The node on the small disk: it leads half of the shards and follows in the others.
const FULL: u64 = 2;

/// Grabs in one batch, of which some refused by a full disk are repeated until they are granted.
const IN_BATCH: usize = 2000;

/// A batch of orders, each from one of `promotions`.
fn orders(name: &str, promotions: &[String]) -> Vec<Value> {
    let order = |number: usize| {
        json!({
            "order_id": format!("{name}-{number}"), "pin": format!("pin-{}", number % 500), "ip": "203.0.113.9",
            "channel": "app", "items": [{"promotion_id": promotions[number % promotions.len()], "quantity": 1}],
        })
    };
    (0..IN_BATCH).map(order).collect()
}

/// Grabs a batch of orders by way of `node` and repeats what was not granted until all is.
#[track_caller]
fn grab_batch(node: &Node, name: &str, promotions: &[String]) -> Vec<Sale> {
    let mut open = orders(name, promotions);
    let mut sales = Vec::new();
    wait_until(FAILS_OVER_WITHIN, "a batch is granted", || {
        let answer = node.post("/v1/grabs/batch", &json!({"grabs": open}));
        if answer.status != 200 {
            return Err(answer.to_string());
        }
        let results = answer.json()["results"].take();
        let results = results.as_array().expect("results");
        let mut left = Vec::new();
        for (body, result) in open.drain(..).zip(results) {
            match result["status"].as_u64() {
                Some(200) => sales.push(Sale {
                    body,
                    at: Instant::now(),
                }),
                Some(429 | 503 | 504) => left.push(body),
                other => panic!("{other:?}: {result}"),
            }
        }
        open = left;
        open.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{} wait", open.len()))
    });
    sales
}

fn says_why(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("no space") || text.contains("disk")
}

#[test]
fn a_full_disk_stops_one_node_which_says_why_and_the_others_go_on() {
    let _alone = alone();
    let disk = match SmallDisk::mount(160) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("not tested: {why}"),
    };
    let mut cluster = Cluster::of_one(Node::builder());
    // Small files, so that the space taken before lasts for seconds and not for minutes.
    let small = Node::builder()
        .number(FULL, "a")
        .data_dir(&disk.path().join("data"))
        .env("QIANG_STORAGE__MEMTABLE_BYTES", "4194304")
        .env("QIANG_STORAGE__WAL_WARM_BYTES", "4194304");
    cluster.add_built(small);
    cluster.add(3, "b");
    cluster.add(4, "b");
    cluster.settle();
    let promotions: Vec<String> = (0..SHARDS).map(|shard| id_on_shard("F", shard)).collect();
    for id in &promotions {
        cluster.node(1).promotion(id).quantity(QUANTITY).create();
    }
    let mut sales = grab_batch(cluster.node(1), "before", &promotions);
    let filler = disk.fill();

    // Space that the storage had taken before lasts for a while.
    let mut round = 0;
    let ready = wait_until(
        Duration::from_mins(1),
        "the disk is full for the node too",
        || {
            round += 1;
            sales.extend(grab_batch(
                cluster.node(1),
                &format!("full-{round}"),
                &promotions,
            ));
            let ready = cluster.node(FULL).get("/readyz");
            says_why(&ready.text)
                .then_some(ready)
                .ok_or_else(|| format!("after batch {round}"))
        },
    );
    assert_eq!(ready.status, 503, "{ready}");
    assert!(
        says_why(&cluster.node(FULL).log()),
        "the log does not say why"
    );
    assert_eq!(
        cluster.node(FULL).get("/livez").status,
        200,
        "alive, but not ready"
    );

    // The others go on with every shard, and lead it from the first grab on that the full node cannot write. The full
    // node serves by them, or says that it does not.
    sales.extend(grab_batch(cluster.node(1), "others", &promotions));
    wait_until(FAILS_OVER_WITHIN, "every shard has a quorum", || {
        let mut groups = groups(&cluster, 1);
        groups
            .pop()
            .expect("the cluster's own, which nobody has written to");
        for group in groups {
            assert_ne!(group["leader"], FULL, "{group}");
            if group["has_quorum"] != true {
                return Err(group.to_string());
            }
        }
        Ok(())
    });
    let through = orders("through", &promotions);
    let answer = cluster
        .node(FULL)
        .post("/v1/grabs/batch", &json!({"grabs": through}));
    let results = answer.expect(200)["results"].take();
    for (body, result) in through
        .into_iter()
        .zip(results.as_array().expect("results"))
    {
        match result["status"].as_u64() {
            Some(200) => sales.push(Sale {
                body,
                at: Instant::now(),
            }),
            Some(503 | 504) => {}
            other => panic!("{other:?}: {result}"),
        }
    }
    let shown = cluster.node(1).get("/v1/cluster").expect(200);
    let row = shown["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .find(|node| node["id"] == FULL);
    let fault = row
        .and_then(|row| row["fault"].as_str())
        .unwrap_or_default();
    assert!(
        says_why(fault),
        "the cluster's view does not say why: {shown}"
    );
    let told = status(&cluster);
    assert!(
        told.stdout.contains("faulted") && says_why(&told.stderr),
        "{told}"
    );

    cluster.node_mut(FULL).stop_gracefully();
    fs::remove_file(filler).expect("space is made");
    let began = Instant::now();
    cluster.node_mut(FULL).restart();
    cluster.settle();
    let caught_up = began.elapsed();
    qiang(&cluster, FULL, &["flows", "verify"]).ok();
    status(&cluster);
    cluster.has_all(&sales);
    assert!(
        u64::try_from(sales.len()).expect("few") < QUANTITY,
        "nothing sold out"
    );
    println!(
        "{} acknowledged grabs survived the full disk; caught up {caught_up:?} after the restart",
        sales.len()
    );
}

/// What `qiang raft status` says once every group has a quorum: a leader that was not answered for a moment says that it has none.
fn status(cluster: &Cluster) -> Run {
    wait_until(FAILS_OVER_WITHIN, "every group has a quorum", || {
        qiang(cluster, 1, &["raft", "status"]).if_ok()
    })
}
