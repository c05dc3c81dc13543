//! A deposed leader does not trust its lease for longer than its followers trust it, whatever it heard late and however slow its
//! clock is; one whose disk is full is deposed; and one that was left behind is elected by nobody whom its groups have left.

use qiang_simulation::{run_full_disk, run_held_up, run_left_behind, run_slow_clock};

/// Seeds: elections come at random times, so the leader is tempted in some, the slow one in few.
const SEEDS_HELD_UP: u64 = 40;
const SEEDS_SLOW_CLOCK: u64 = 200;
const SEEDS_FULL_DISK: u64 = 20;
const SEEDS_LEFT_BEHIND: u64 = 10;

/// Plays a schedule; in how many seeds its leader was tempted.
fn play(seeds: u64, schedule: impl Fn(u64) -> Result<bool, String>) -> usize {
    let tempted = |seed: &u64| match schedule(*seed) {
        Ok(tempted) => tempted,
        Err(why) => panic!("seed {seed}: {why}"),
    };
    let count = (1..=seeds).filter(tempted).count();
    println!("the leader was tempted in {count} of {seeds} seeds");
    count
}

#[test]
fn a_leader_that_hears_late_tells_nothing_from_before_its_successors_sales() {
    assert!(
        play(SEEDS_HELD_UP, run_held_up) > 0,
        "openraft believed in no lease, so nothing was proved"
    );
}

#[test]
fn a_leader_whose_clock_is_slow_tells_nothing_from_before_its_successors_sales() {
    assert!(
        play(SEEDS_SLOW_CLOCK, run_slow_clock) > 0,
        "no successor came within the margin, so nothing was proved"
    );
}

#[test]
fn a_leader_whose_disk_is_full_has_a_successor_soon() {
    let slept = |seed: &u64| match run_full_disk(*seed) {
        Ok(slept) => slept,
        Err(why) => panic!("seed {seed}: {why}"),
    };
    let count = (1..=SEEDS_FULL_DISK).filter(slept).count() as u64;
    let both = 1..SEEDS_FULL_DISK;
    assert!(
        both.contains(&count),
        "asleep in {count} of {SEEDS_FULL_DISK}"
    );
}

#[test]
fn who_has_left_a_group_elects_nobody_that_was_left_behind() {
    assert!(
        play(SEEDS_LEFT_BEHIND, run_left_behind) > 0,
        "nobody who had left was called, so nothing was proved"
    );
}
