//! A power failure cuts the newest write-ahead file anywhere: what is found then is a prefix of what was written, in order.

use std::fs;

use qiang_storage::{Bytes, Options, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{append, check, copy_dir, identity, log, newest_wal, save_vote, small};

const CUTS: usize = 60;

/// Every step is a batch of its own: an entry, a vote that names it, and now and then a truncation of it, a floor, other groups.
fn write(store: &Store, steps: u64) {
    let (first, second) = (log(store, 1), log(store, 2));
    for step in 0..steps {
        append(&first, step..step + 1).unwrap();
        save_vote(&first, &step.to_string()).unwrap();
        append(&second, step..step + 1).unwrap();
        if step % 10 == 9 {
            // The entry comes back at once, so the log is the same; only a lost truncation or a hole would show.
            append(&second, step + 1..step + 3).unwrap();
            second.truncate_after(step).unwrap();
            first
                .purge(step - 5, Bytes::from(step.to_string()))
                .unwrap();
        }
    }
}

#[test]
fn any_cut_of_the_newest_write_ahead_file_leaves_a_prefix_in_order() {
    let seed: u64 = std::env::var("QIANG_STORAGE_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("QIANG_STORAGE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Once a file that grows, once one that is overwritten in place.
    // Memtables so large that everything is in that one file.
    let growing = Options {
        memtable_bytes: 16 << 20,
        ..small()
    };
    let overwritten = Options {
        wal_warm_bytes: 1 << 20,
        ..growing.clone()
    };
    for options in [growing, overwritten] {
        let dir = tempfile::tempdir().unwrap();
        let image = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &identity(), &options).unwrap();
        write(&store, 150);
        copy_dir(dir.path(), image.path());
        drop(store);
        let full = fs::read(newest_wal(image.path())).unwrap();
        // Behind the last entry comes no more than a few small batches.
        let last = full
            .windows(6)
            .rposition(|bytes| bytes == b"1/149/")
            .unwrap();
        let used = full.len().min(last + 1000);
        let mut ends = std::collections::BTreeSet::new();
        for cut in 0..CUTS {
            let at = if cut == 0 {
                full.len()
            } else {
                random.random_range(0..=used)
            };
            // Cut short, or with zeros where the disk had not written yet.
            let torn = random.random::<bool>();
            let image_of_cut = tempfile::tempdir().unwrap();
            copy_dir(image.path(), image_of_cut.path());
            let mut bytes = full[..at].to_vec();
            if torn {
                bytes.resize(full.len(), 0);
            }
            fs::write(newest_wal(image_of_cut.path()), bytes).unwrap();
            let store = Store::open(image_of_cut.path(), &identity(), &options)
                .unwrap_or_else(|error| panic!("cut at {at} of {used}: {error}"));
            ends.insert(check_prefix(
                &store,
                &format!("cut at {at} of {used}, torn {torn}"),
            ));
        }
        assert!(ends.contains(&150) && ends.len() > CUTS / 3, "{ends:?}");
    }
}

/// Checks that the store holds some prefix of the steps, and gives its length.
fn check_prefix(store: &Store, what: &str) -> u64 {
    let (first, second) = (log(store, 1), log(store, 2));
    let end = first
        .first_index()
        .map_or(0, |_| first.runs().last().unwrap().end);
    check(&first, 0..end, 1000);
    let vote = first.vote().map_or(0, |vote| {
        std::str::from_utf8(&vote).unwrap().parse::<u64>().unwrap() + 1
    });
    assert!(
        vote == end || vote + 1 == end,
        "{what}: {end} entries, vote {vote}"
    );
    let second_end = second.last_index().map_or(0, |last| last + 1);
    check(&second, 0..second_end, 1000);
    // The second group's entry is written after the vote; only at every tenth step it runs ahead by two until the truncation.
    let ahead = if end % 10 == 0 { 2 } else { 0 };
    assert!(
        second_end + 1 >= vote && second_end <= vote + ahead,
        "{what}: {end} entries, {second_end} in the second group"
    );
    if let Some((floor, marker)) = first.floor() {
        assert!(
            floor < end && marker == (floor + 5).to_string(),
            "{what}: floor {floor}"
        );
    }
    // It goes on from there.
    append(&first, end..end + 5).unwrap();
    end
}
