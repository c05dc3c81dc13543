//! A data centre lost where a witness stands in a third place.

use crate::{alone, buyers, promotions};
use qiang_tests::{Cluster, Random, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn with_a_witness_a_lost_data_centre_is_survived_without_anybody_doing_anything() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    cluster.add(5, "witness");
    cluster.settle();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "w", &promotions, &random);
    buyers.sell(300);
    cluster.node_mut(1).kill();
    cluster.node_mut(2).kill();
    let began = Instant::now();
    cluster.decides();
    let decided = began.elapsed();
    buyers.sell(300);
    let shown = cluster.any().get("/v1/cluster").expect(200);
    assert_eq!(
        shown["incarnation"], 1,
        "nobody recovered anything: {shown}"
    );
    // The witness does for no longer than until one of these can.
    let is_led = |group: &Value| matches!(group["leader"].as_u64(), Some(3 | 4));
    wait_until(Duration::from_secs(10), "data centre b leads", || {
        let shown = cluster.any().get("/v1/cluster").expect(200);
        let shards = shown["shards"].as_array().expect("shards");
        let are_led = shards.iter().all(is_led);
        are_led.then_some(()).ok_or_else(|| shown.to_string())
    });
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    cluster.has_all(&sold);
    // What comes back is one of them still.
    for id in [1, 2] {
        cluster.node_mut(id).restart();
    }
    cluster.settle();
    cluster.has_all(&sold);
    println!("a data centre lost beside a witness: every shard decides after {decided:?}");
}
