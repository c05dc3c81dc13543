//! The calls of many clients on four real nodes, recorded while leaders are killed and stand still, are linearizable: for
//! each promotion there is one order of grabs, returns and reads that explains every answer. A search that does not
//! end is a failure.

use qiang_tests::{Client, Cluster, Random, Recorder, STEPS_MAX, check, id_on_shard, wait_until};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CLIENTS: u64 = 8;
const QUANTITY: u64 = 120;

#[test]
fn what_clients_see_while_leaders_die_and_stand_still_is_linearizable() {
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    let promotions: Vec<String> = (0..4).map(|number| id_on_shard("L", number * 4)).collect();
    for id in &promotions {
        cluster.any().promotion(id).quantity(QUANTITY).create();
    }
    let recorder = Arc::new(Recorder::new());
    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (recorder, stop, calls) = (recorder.clone(), stop.clone(), calls.clone());
            let (addresses, promotions) = (cluster.addresses(), promotions.clone());
            let mut random = random.fork(number);
            std::thread::spawn(move || {
                let mut orders: Vec<(String, String)> = Vec::new();
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                    // A connection of its own each time: whoever is asked may have died since.
                    let node = Client::new(random.pick::<String>(&addresses));
                    match random.below(10) {
                        0..=3 => {
                            let (promotion, order) = (
                                random.pick(&promotions).clone(),
                                format!("l-{number}-{turn}"),
                            );
                            recorder.grab(number, &node, (&promotion, &order, 1));
                            orders.push((promotion, order));
                        }
                        4 if !orders.is_empty() => {
                            let (promotion, order) = random.pick(&orders).clone();
                            recorder.grab(number, &node, (&promotion, &order, 1));
                        }
                        5 if !orders.is_empty() => {
                            let (promotion, order) = random.pick(&orders).clone();
                            recorder.cancel(number, &node, (&promotion, &order));
                        }
                        _ => {
                            let promotion = random.pick(&promotions).clone();
                            recorder.read(number, &node, &promotion);
                        }
                    }
                }
            })
        })
        .collect();
    let more = |calls_more: u64| {
        let wanted = calls.load(Ordering::Relaxed) + calls_more;
        wait_until(Duration::from_mins(1), "clients get on", || {
            let made = calls.load(Ordering::Relaxed);
            (made >= wanted)
                .then_some(())
                .ok_or_else(|| format!("{made} of {wanted}"))
        });
    };
    for round in 0..4 {
        more(150);
        let victim = cluster.leader_of(round * 4);
        if round % 2 == 0 {
            cluster.node_mut(victim).kill();
            more(150);
            cluster.node_mut(victim).restart();
        } else {
            cluster.node(victim).pause();
            // Whoever asks the one that stands still waits for it.
            let other = cluster
                .running()
                .find(|node| node.id() != victim)
                .expect("another");
            wait_until(Duration::from_secs(30), "another leads", || {
                let shown = other.get("/v1/cluster").json();
                let shards = shown["shards"].as_array().expect("shards");
                let waits = |group: &&serde_json::Value| {
                    group["leader"] == victim || group["deciding"] != true
                };
                let waiting = shards.iter().filter(waits).count();
                (waiting == 0)
                    .then_some(())
                    .ok_or_else(|| format!("{waiting} shards wait"))
            });
            cluster.node(victim).go_on();
        }
        cluster.decides();
    }
    more(100);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client does not panic");
    }
    let quantities: BTreeMap<String, u64> =
        promotions.into_iter().map(|id| (id, QUANTITY)).collect();
    let recorded = recorder.calls();
    println!("{} calls recorded", recorded.len());
    check(&quantities, &recorded, STEPS_MAX).expect_linearizable();
}
