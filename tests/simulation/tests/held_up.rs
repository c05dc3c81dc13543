//! A leader whose answers were held up does not trust them for longer than its followers trust it.

use qiang_simulation::run_held_up;

/// Seeds: elections come at random times, so the leader is tempted in some.
const SEEDS: u64 = 12;

#[test]
fn a_leader_that_hears_late_tells_nothing_from_before_its_successors_sales() {
    let mut tempted = 0;
    for seed in 1..=SEEDS {
        match run_held_up(seed) {
            Ok(was) => tempted += u64::from(was),
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    assert!(
        tempted > 0,
        "openraft believed in no lease, so nothing was proved"
    );
}
