//! The simulated disk: what a power failure leaves of it, and what a process that is gone can still do (nothing).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use qiang_storage::{
    Bytes, Done, GroupId, GroupLog, OpenError, Options, SimulatedDisk, Store, WriteError, Written,
};

use crate::common::{check, identity, log, small, values};
use crate::model::{GROUPS, Model, Pair, Step, snapshot_at, step};

fn open(dir: &Path, disk: &SimulatedDisk) -> Store {
    Store::open_simulated(dir, disk, &identity(), &small()).unwrap()
}

/// The callbacks that came, in their order.
#[derive(Clone, Default)]
struct Callbacks(Arc<Mutex<Vec<Callback>>>);

type Callback = (&'static str, Result<(), WriteError>);

impl Callbacks {
    fn named(&self, name: &'static str) -> Done {
        let came = self.0.clone();
        Box::new(move |result| came.lock().unwrap().push((name, result)))
    }

    /// Those that came since the last look.
    fn take(&self) -> Vec<Callback> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The same, all of which must have gone well.
    fn take_good(&self) -> Vec<&'static str> {
        let came = self.take();
        came.into_iter()
            .map(|(name, result)| result.map(|()| name).unwrap())
            .collect()
    }
}

fn append(log: &GroupLog, range: std::ops::Range<u64>, done: Done) {
    log.append(range.start, values(log.group().0, range), done);
}

fn write_and_sync(store: &Store) {
    while let Some(written) = store.simulated_write() {
        store.simulated_sync(&written);
    }
}

#[test]
fn nothing_is_written_or_called_back_but_by_whoever_drives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &SimulatedDisk::new());
    let came = Callbacks::default();
    let works = Arc::new(AtomicUsize::new(0));
    let counter = works.clone();
    store.on_simulated_work(Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    assert!(store.simulated_write().is_none());
    let (first, second) = (log(&store, 1), log(&store, 2));
    append(&first, 0..3, came.named("a"));
    append(&second, 0..3, came.named("b"));
    first.save_vote(Bytes::from("v"), came.named("vote"));
    assert_eq!(works.load(Ordering::Relaxed), 3);
    let one = store.simulated_write().unwrap();
    assert!(one.awaits_sync() && store.simulated_write().is_none());
    append(&first, 3..4, came.named("c"));
    let two = store.simulated_write().unwrap();
    append(&first, 4..5, came.named("d"));
    let three = store.simulated_write().unwrap();
    assert!(came.take().is_empty());
    store.simulated_sync(&two);
    assert_eq!(came.take_good(), ["a", "b", "vote", "c"]);
    store.simulated_sync(&one);
    assert!(came.take().is_empty(), "already synced");
    store.simulated_sync(&three);
    assert_eq!(came.take_good(), ["d"]);
    assert_eq!(store.stats().entries, 8);

    first.save_committed(3, Bytes::from("c"));
    assert_eq!(works.load(Ordering::Relaxed), 6);
    let lazy = store.simulated_write().unwrap();
    assert!(!lazy.awaits_sync(), "nobody waits for a committed index");
    assert!(store.simulated_write().is_none());
    append(&first, 5..5, came.named("nothing"));
    assert!(!store.simulated_write().unwrap().awaits_sync());
    store.close();
    assert_eq!(came.take_good(), ["nothing"]);
    append(&first, 5..6, came.named("late"));
    assert_eq!(came.take(), [("late", Err(WriteError::Closed))]);
}

#[test]
fn a_power_failure_leaves_what_was_synced_and_a_prefix_of_the_rest() {
    for keep in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimulatedDisk::new();
        let store = open(dir.path(), &disk);
        let handle = log(&store, 1);
        append(&handle, 0..10, Box::new(|_| ()));
        store.simulated_sync(&store.simulated_write().unwrap());
        let mut written: Vec<Written> = Vec::new();
        for batch in 1..4_u64 {
            append(&handle, batch * 10..batch * 10 + 10, Box::new(|_| ()));
            written.push(store.simulated_write().unwrap());
        }
        append(&handle, 40..50, Box::new(|_| ()));
        disk.crash(|unsynced| {
            assert_eq!(unsynced, 3);
            keep
        });
        let store = open(dir.path(), &disk);
        let end = 10 + 10 * keep as u64;
        assert_eq!(log(&store, 1).runs().last().unwrap().end, end);
        check(&log(&store, 1), 0..end, 100);
        // What was found again stays: opening made it durable.
        disk.crash(|unsynced| unsynced);
        let store = open(dir.path(), &disk);
        assert_eq!(log(&store, 1).last_index(), Some(end - 1));
    }
}

#[test]
fn a_killed_process_loses_only_what_was_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let store = open(dir.path(), &disk);
    append(&log(&store, 1), 0..10, Box::new(|_| ()));
    store.simulated_write().unwrap();
    append(&log(&store, 1), 10..20, Box::new(|_| panic!("it was lost")));
    drop(store);
    let store = open(dir.path(), &disk);
    assert_eq!(log(&store, 1).last_index(), Some(9));
    append(&log(&store, 1), 10..20, Box::new(|_| ()));
    store.close();
    assert_eq!(log(&open(dir.path(), &disk), 1).last_index(), Some(19));
}

#[test]
fn a_process_that_is_gone_writes_nothing_and_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    for by_crash in [true, false] {
        let old = open(dir.path(), &disk);
        let handle = log(&old, 1);
        let begin = handle.last_index().map_or(0, |last| last + 1);
        append(&handle, begin..begin + 5, Box::new(|_| ()));
        write_and_sync(&old);
        let never = || -> Done { Box::new(|_| panic!("a callback of a process that is gone")) };
        append(&handle, begin + 5..begin + 6, never());
        let written = old.simulated_write().unwrap();
        append(&handle, begin + 6..begin + 7, never());
        old.on_simulated_work(Box::new(|| panic!("nobody works there any more")));
        if by_crash {
            disk.crash(|_| 0);
        }
        // The old handles live on, and do not keep the directory.
        let new = open(dir.path(), &disk);
        let end = begin + if by_crash { 5 } else { 6 };
        assert_eq!(log(&new, 1).last_index(), Some(end - 1));

        old.simulated_sync(&written);
        append(&handle, begin + 7..begin + 8, never());
        append(&handle, 1_000..1_001, never());
        handle.save_vote(Bytes::from("old"), never());
        handle.save_committed(begin, Bytes::from("old"));
        handle.truncate_after(begin).unwrap();
        assert_eq!(handle.clear(None), Err(WriteError::Closed));
        assert!(old.simulated_write().is_none());
        new.simulated_sync(&written);
        old.close();
        drop(handle);
        drop(new);

        let store = open(dir.path(), &disk);
        let found = log(&store, 1);
        assert_eq!(found.last_index(), Some(end - 1));
        assert_eq!((found.vote(), found.committed()), (None, None));
        check(&found, 0..end, 1000);
    }
}

#[test]
fn a_full_disk_faults_the_store_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    // Once it is full at the write, once only at the sync.
    for at_write in [true, false] {
        let store = open(dir.path(), &disk);
        let handle = log(&store, 1);
        handle.truncate_after(9).unwrap();
        let begin = handle.last_index().map_or(0, |last| last + 1);
        append(&handle, begin..10, Box::new(|result| result.unwrap()));
        write_and_sync(&store);
        let came = Callbacks::default();
        append(&handle, 10..12, came.named("a"));
        append(&handle, 12..14, came.named("b"));
        disk.set_full(at_write);
        let written = store.simulated_write().unwrap();
        assert_eq!(written.awaits_sync(), !at_write);
        disk.set_full(true);
        assert!(came.take().is_empty());
        assert_eq!(store.disk_free_bytes().unwrap(), 0);
        store.simulated_sync(&written);
        let reason = store.fault().unwrap();
        assert!(reason.contains("No space left on device"), "{reason}");
        let fault = Err(WriteError::Faulted {
            reason: reason.into(),
        });
        assert_eq!(came.take(), [("a", fault.clone()), ("b", fault.clone())]);
        // Space alone does not wake it.
        disk.set_full(false);
        append(&handle, 14..15, came.named("c"));
        assert_eq!(came.take(), [("c", fault.clone())]);
        assert_eq!(handle.clear(None), fault);
        check(&handle, 0..14, 1000);
        drop((store, handle));
        disk.crash(|_| 0);
        let store = open(dir.path(), &disk);
        assert_eq!(log(&store, 1).last_index(), Some(9));
        assert_eq!(store.fault(), None);
    }
}

#[test]
fn calls_that_block_drive_the_simulation_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let store = open(dir.path(), &disk);
    let handle = log(&store, 1);
    let came = Callbacks::default();
    append(&handle, 0..300, came.named("a"));
    let written = store.simulated_write().unwrap();
    handle.purge(250, Bytes::from("m")).unwrap();
    append(&handle, 300..310, came.named("b"));
    handle.forget_below(200).unwrap();
    assert_eq!(came.take_good(), ["a", "b"]);
    store.simulated_sync(&written);
    disk.crash(|unsynced| {
        assert_eq!(unsynced, 0, "all of it was synced");
        0
    });
    let store = open(dir.path(), &disk);
    let handle = log(&store, 1);
    assert_eq!(handle.first_index(), Some(200));
    assert!(handle.read(199, 200, 0).unwrap().is_empty());
    check(&handle, 200..310, 1000);
    handle.clear(None).unwrap();
    disk.crash(|_| 0);
    assert!(open(dir.path(), &disk).groups().unwrap().is_empty());
}

#[test]
fn a_directory_and_a_disk_that_do_not_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    drop(open(dir.path(), &disk));
    let blank = SimulatedDisk::new();
    let refused = Store::open_simulated(dir.path(), &blank, &identity(), &small()).err();
    assert!(matches!(refused, Some(OpenError::Corrupt { .. })));
    let other = tempfile::tempdir().unwrap();
    let store = open(other.path(), &disk);
    assert!(
        store.groups().unwrap().is_empty(),
        "a new directory has a new database"
    );
    let refused = Store::open_simulated(other.path(), &blank, &identity(), &small()).err();
    assert!(matches!(refused, Some(OpenError::InUse { .. })));
}

#[test]
fn a_batch_has_its_limit_and_a_committed_index_waits_for_its_entry() {
    let options = Options {
        batch_bytes_max: 100,
        ..small()
    };
    for batches in [1, 3, 10, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimulatedDisk::new();
        let store = Store::open_simulated(dir.path(), &disk, &identity(), &options).unwrap();
        let handle = log(&store, 1);
        for index in 0..100 {
            append(&handle, index..index + 1, Box::new(|_| ()));
        }
        handle.save_committed(99, Bytes::from("c"));
        let written = std::iter::from_fn(|| store.simulated_write());
        for batch in written.take(batches) {
            store.simulated_sync(&batch);
        }
        disk.crash(|_| 0);
        let store = open(dir.path(), &disk);
        let handle = log(&store, 1);
        let last = handle.last_index().unwrap();
        assert_eq!(last == 99, batches == usize::MAX);
        assert_eq!(handle.committed().is_some(), batches == usize::MAX);
        check(&handle, 0..last + 1, 1000);
    }
}

#[test]
fn where_a_log_goes_on_is_durable_when_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let store = open(dir.path(), &disk);
    let handle = log(&store, 1);
    handle.go_on_after(9, Bytes::from("snapshot")).unwrap();
    disk.crash(|_| 0);
    let store = open(dir.path(), &disk);
    assert_eq!(store.groups().unwrap(), [GroupId(1)]);
    let floor = log(&store, 1).floor();
    assert_eq!(floor, Some((9, Bytes::from("snapshot"))));
}

#[derive(Debug, Clone)]
enum Turn {
    /// An operation on the log, or an orderly restart.
    Do(Step),
    /// Everything that waits is written.
    Write,
    /// Of what is written and not synced, this and everything before it is synced.
    Sync(prop::sample::Index),
    /// The power fails, and of the batches not synced so many are found again.
    Crash(prop::sample::Index),
    /// The process is killed.
    Kill,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        12 => step().prop_map(Turn::Do),
        6 => Just(Turn::Write),
        3 => any::<prop::sample::Index>().prop_map(Turn::Sync),
        1 => any::<prop::sample::Index>().prop_map(Turn::Crash),
        1 => Just(Turn::Kill),
    ];
    prop::collection::vec(turn, 1..200)
}

/// What the store holds if everything up to some batch is found again.
#[derive(Clone)]
struct Point {
    models: Vec<Model>,
    /// Entries handed over until then.
    written: u64,
}

struct Simulation {
    pair: Pair,
    disk: SimulatedDisk,
    /// What no failure takes back.
    durable: Point,
    /// The batches after it.
    unsynced: VecDeque<(Written, Point)>,
}

impl Simulation {
    fn new() -> Self {
        let disk = SimulatedDisk::new();
        let mut pair = Pair::new(Some(disk.clone()));
        pair.waits = false;
        let durable = Point {
            models: vec![Model::default(); GROUPS.into()],
            written: 0,
        };
        Self {
            pair,
            disk,
            durable,
            unsynced: VecDeque::new(),
        }
    }

    fn now(&self) -> Point {
        Point {
            models: self.pair.models.clone(),
            written: self.pair.written,
        }
    }

    fn run(&mut self, turn: &Turn) {
        match turn {
            Turn::Do(step) => {
                let before = self.pair.models.clone();
                self.pair.run(step);
                let drives = match step {
                    Step::Clear { .. } | Step::Reopen => true,
                    // If there is nothing to forget, nothing is written.
                    Step::Forget { .. } => self.pair.models != before,
                    // Nor if the log reaches as far as the snapshot.
                    Step::MakeWay { group, ahead } => {
                        let end = before[usize::from(*group)].end;
                        end > 0 && end <= snapshot_at(end, *ahead)
                    }
                    Step::GoOnAfter { group, ahead } => {
                        let end = before[usize::from(*group)].end;
                        end <= snapshot_at(end, *ahead)
                    }
                    _ => false,
                };
                if drives {
                    self.unsynced.clear();
                    self.durable = self.now();
                }
            }
            Turn::Write => {
                if let Some(written) = self.pair.store.as_ref().unwrap().simulated_write() {
                    self.unsynced.push_back((written, self.now()));
                }
            }
            Turn::Sync(which) => self.sync(*which),
            Turn::Crash(kept) => {
                let kept = kept.index(self.unsynced.len() + 1);
                self.disk.crash(|unsynced| {
                    assert_eq!(unsynced, self.unsynced.len());
                    kept
                });
                self.recover(kept);
            }
            Turn::Kill => self.recover(self.unsynced.len()),
        }
    }

    fn sync(&mut self, which: prop::sample::Index) {
        if self.unsynced.is_empty() {
            return;
        }
        let which = which.index(self.unsynced.len());
        let store = self.pair.store.as_ref().unwrap();
        store.simulated_sync(&self.unsynced[which].0);
        // A batch that nobody waits for is not synced, unless a later one is.
        let synced = self.unsynced.range(..=which);
        let last = synced
            .map(|(written, _)| written.awaits_sync())
            .rposition(|awaits| awaits);
        if let Some(last) = last {
            self.durable = self.unsynced[last].1.clone();
            self.unsynced.drain(..=last);
        }
    }

    /// Opens the disk again, on which the first `kept` batches not synced are found.
    fn recover(&mut self, kept: usize) {
        if let Some(last) = kept.checked_sub(1) {
            self.durable = self.unsynced[last].1.clone();
        }
        self.unsynced.clear();
        let acknowledged = self.pair.acknowledged.load(Ordering::Relaxed);
        assert!(
            acknowledged <= self.durable.written,
            "entry {acknowledged} was acknowledged, {} are durable",
            self.durable.written
        );
        self.pair.models = self.durable.models.clone();
        self.pair.open();
        self.pair.check_content();
        for (group, model) in (0..).zip(&self.pair.models) {
            let is_held = self
                .pair
                .store
                .as_ref()
                .unwrap()
                .groups()
                .unwrap()
                .contains(&GroupId(group));
            assert_eq!(is_held, !self.pair.log(group).is_empty(), "{model:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_failure_the_store_holds_what_the_batches_found_again_say(turns in turns()) {
        let mut simulation = Simulation::new();
        for turn in &turns {
            simulation.run(turn);
            simulation.pair.check();
        }
        simulation.run(&Turn::Kill);
        simulation.pair.check();
    }
}
