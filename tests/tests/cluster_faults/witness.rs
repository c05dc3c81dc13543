//! A data centre lost where a witness stands in a third place.

use crate::{alone, buyers, promotions};
use qiang_tests::{Cluster, Random};
use std::time::Instant;

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
    for group in shown["shards"].as_array().expect("shards") {
        let leader = group["leader"].as_u64();
        assert!(
            matches!(leader, Some(3 | 4)),
            "a witness never leads: {group}"
        );
    }
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
