//! `kill -9` at random moments: whatever was acknowledged is there afterwards.
//!
//! The test runs itself as a child, which writes and prints what was acknowledged; the parent kills it, opens the directory and checks.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use qiang_storage::{Bytes, Options, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{check, identity, log, small, values};

const ROUNDS: usize = 20;
const GROUPS: u16 = 4;
const DIRECTORY: &str = "QIANG_STORAGE_TEST_KILL_DIRECTORY";
const SEED: &str = "QIANG_STORAGE_TEST_SEED";
/// Appends of one group on their way at a time.
const PENDING_MAX: usize = 8;

fn options() -> Options {
    // Small enough that files are switched, overwritten and merged within a round.
    Options {
        wal_warm_bytes: 256 << 10,
        ..small()
    }
}

#[test]
fn every_acknowledged_entry_and_vote_survives_kill_9() {
    let seed = std::env::var(SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(
            dir.path(),
            Duration::from_millis(random.random_range(1..150)),
        );
        let store = Store::open(dir.path(), &identity(), &options()).unwrap();
        for group in 0..GROUPS {
            let log = log(&store, group);
            let end = log.last_index().map_or(0, |last| last + 1);
            let of_group = |what: &str| acknowledged.get(&format!("{what} {group}")).copied();
            let (entry, vote) = (of_group("entry"), of_group("vote"));
            println!(
                "round {round} group {group}: end {end}, acknowledged {entry:?}, vote {vote:?}"
            );
            assert!(
                entry.is_none_or(|entry| entry < end),
                "round {round}: entry {entry:?} was acknowledged, the log ends at {end}"
            );
            check(&log, log.first_index().unwrap_or(0)..end, 50_000);
            let found: Option<u64> = log
                .vote()
                .map(|vote| std::str::from_utf8(&vote).unwrap().parse().unwrap());
            assert!(
                found >= vote,
                "round {round}: vote {vote:?} was acknowledged, {found:?} found"
            );
            assert!(
                found.is_none_or(|vote| vote <= end),
                "a vote is ahead of the entries before it"
            );
            assert!(log.committed().is_none_or(|(committed, _)| committed < end));
        }
    }
}

/// The greatest number acknowledged per kind and group before the kill.
fn run_and_kill(dir: &Path, after: Duration) -> BTreeMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            // The line that the kill cut does not count.
            if let Some((what, number)) = line
                .strip_suffix('\n')
                .and_then(|line| line.strip_prefix("done ")?.rsplit_once(' '))
            {
                acknowledged.insert(what.to_owned(), number.parse().unwrap());
            }
            line.clear();
        }
        acknowledged
    });
    // Not a wait for a condition: the moment is meant to be arbitrary.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
#[ignore = "run by every_acknowledged_entry_and_vote_survives_kill_9, which kills it"]
fn child() {
    let Ok(dir) = std::env::var(DIRECTORY) else {
        return;
    };
    let store = Store::open(Path::new(&dir), &identity(), &options()).unwrap();
    std::thread::scope(|scope| {
        for group in 0..GROUPS {
            let store = &store;
            scope.spawn(move || write_for_ever(store, group));
        }
    });
}

fn write_for_ever(store: &Store, group: u16) {
    let log = log(store, group);
    let pending = Arc::new((Mutex::new(0_usize), Condvar::new()));
    let done = |what: &'static str, number: u64| {
        *pending.0.lock().unwrap() += 1;
        let pending = pending.clone();
        Box::new(move |result: Result<(), _>| {
            result.unwrap();
            // One write, so that lines of the writer and a kill do not mix within a line.
            std::io::stdout()
                .write_all(format!("done {what} {group} {number}\n").as_bytes())
                .unwrap();
            *pending.0.lock().unwrap() -= 1;
            pending.1.notify_one();
        })
    };
    let mut next = log.last_index().map_or(0, |last| last + 1);
    for turn in 0_u64.. {
        let length = 1 + turn % 5;
        log.append(
            next,
            values(group, next..next + length),
            done("entry", next + length - 1),
        );
        next += length;
        if turn % 7 == 0 {
            log.save_vote(Bytes::from(next.to_string()), done("vote", next));
        }
        if next > 40 {
            log.save_committed(next - 40, Bytes::from("m"));
        }
        if turn % 500 == 499 {
            log.purge(next - 200, Bytes::from("m")).unwrap();
            log.forget_below(next - 1000.min(next)).unwrap();
        }
        let waiting = pending.0.lock().unwrap();
        let _unused = pending
            .1
            .wait_while(waiting, |pending| *pending >= PENDING_MAX)
            .unwrap();
    }
}
