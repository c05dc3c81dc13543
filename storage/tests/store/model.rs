//! Random operations against a model that keeps everything in maps: after each, and after every reopening, both say the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use qiang_storage::{Bytes, GroupLog, SimulatedDisk, Store};

use crate::common::{DEADLINE, awaited, identity, log, open, small};

pub const GROUPS: u16 = 3;

#[derive(Debug, Clone)]
pub enum Step {
    Append {
        group: u16,
        lengths: Vec<u16>,
    },
    Truncate {
        group: u16,
        back: u64,
    },
    Purge {
        group: u16,
        back: u64,
    },
    PurgeBeyond {
        group: u16,
        ahead: u64,
    },
    MakeWay {
        group: u16,
        ahead: u64,
    },
    GoOnAfter {
        group: u16,
        ahead: u64,
    },
    Forget {
        group: u16,
        back: u64,
    },
    Vote {
        group: u16,
        vote: u32,
    },
    Commit {
        group: u16,
        back: u64,
    },
    Clear {
        group: u16,
    },
    Read {
        group: u16,
        from: u64,
        length: u64,
        bytes_max: usize,
    },
    Reopen,
}

pub fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
        8 => (group.clone(), prop::collection::vec(0..3000_u16, 1..8)).prop_map(|(group, lengths)| Step::Append { group, lengths }),
        2 => (group.clone(), 0..12_u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        2 => (group.clone(), 0..20_u64).prop_map(|(group, back)| Step::Purge { group, back }),
        1 => (group.clone(), 1..20_u64).prop_map(|(group, ahead)| Step::PurgeBeyond { group, ahead }),
        1 => (group.clone(), 0..8_u64).prop_map(|(group, ahead)| Step::MakeWay { group, ahead }),
        1 => (group.clone(), 0..8_u64).prop_map(|(group, ahead)| Step::GoOnAfter { group, ahead }),
        2 => (group.clone(), 0..20_u64).prop_map(|(group, back)| Step::Forget { group, back }),
        1 => (group.clone(), any::<u32>()).prop_map(|(group, vote)| Step::Vote { group, vote }),
        2 => (group.clone(), 0..6_u64).prop_map(|(group, back)| Step::Commit { group, back }),
        1 => group.clone().prop_map(|group| Step::Clear { group }),
        4 => (group, 0..150_u64, 0..100_u64, 0..20_000_usize)
            .prop_map(|(group, from, length, bytes_max)| Step::Read { group, from, length, bytes_max }),
        1 => Just(Step::Reopen),
    ]
}

/// The last index in a snapshot that a log with this end makes way for, or goes on after: every other time the log reaches as far.
pub fn snapshot_at(end: u64, ahead: u64) -> u64 {
    (end + ahead).saturating_sub(4)
}

fn marker(through: u64) -> Bytes {
    Bytes::from(format!("m{through}"))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..120)
}

/// One group, naively.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Model {
    entries: BTreeMap<u64, Bytes>,
    floor: Option<u64>,
    pub end: u64,
    vote: Option<Bytes>,
    tombstone: Option<Bytes>,
    pub committed: Option<u64>,
}

impl Model {
    fn raft_first(&self) -> u64 {
        self.floor.map_or(0, |floor| floor + 1)
    }

    fn last(&self) -> Option<u64> {
        self.entries
            .range(self.raft_first()..)
            .next_back()
            .map(|(index, _)| *index)
    }

    fn runs(&self) -> Vec<std::ops::Range<u64>> {
        let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
        for index in self.entries.keys() {
            match runs.last_mut().filter(|run| run.end == *index) {
                Some(run) => run.end += 1,
                None => runs.push(*index..index + 1),
            }
        }
        runs
    }
}

/// A store and what it should hold.
pub struct Pair {
    pub store: Option<Store>,
    dir: tempfile::TempDir,
    /// The disk, if it is a simulated one.
    disk: Option<SimulatedDisk>,
    pub models: Vec<Model>,
    /// Counts the entries handed over; makes every entry differ from every other.
    pub written: u64,
    /// The last entry whose callback came.
    pub acknowledged: Arc<AtomicU64>,
    /// Whether every other append is waited for: the rest is still on its way during the steps that follow.
    pub waits: bool,
}

impl Pair {
    pub fn new(disk: Option<SimulatedDisk>) -> Self {
        // What a power failure leaves is asked elsewhere, or of a simulated disk: here memory will do for a disk, where there is some.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        }
        .unwrap();
        let mut pair = Self {
            store: None,
            dir,
            disk,
            models: vec![Model::default(); GROUPS.into()],
            written: 0,
            acknowledged: Arc::default(),
            waits: true,
        };
        pair.open();
        pair
    }

    /// Opens the store, anew if it was open.
    pub fn open(&mut self) {
        self.store = None;
        self.store = Some(match &self.disk {
            None => open(self.dir.path()),
            Some(disk) => {
                Store::open_simulated(self.dir.path(), disk, &identity(), &small()).unwrap()
            }
        });
    }

    pub fn log(&self, group: u16) -> GroupLog {
        log(self.store.as_ref().unwrap(), group)
    }

    /// The log of a group goes on after a snapshot that it did not reach: what was never committed is gone.
    fn goes_on_after(&mut self, group: u16, through: u64) {
        let model = &mut self.models[usize::from(group)];
        let kept_end = model
            .raft_first()
            .max(model.committed.map_or(0, |committed| committed + 1));
        model.entries.retain(|index, _| *index < kept_end);
        model.floor = Some(through);
        model.end = through + 1;
    }

    pub fn run(&mut self, step: &Step) {
        match *step {
            Step::Append { group, ref lengths } => self.append(group, lengths),
            Step::Truncate { group, back } => {
                let model = &mut self.models[usize::from(group)];
                // Raft never truncates what is committed.
                let lowest = model
                    .raft_first()
                    .max(model.committed.map_or(0, |committed| committed + 1));
                let kept_end = model.end.saturating_sub(back).max(lowest).min(model.end);
                model.entries.retain(|index, _| *index < kept_end);
                model.end = kept_end;
                self.log(group)
                    .truncate_after(kept_end.checked_sub(1))
                    .unwrap();
            }
            Step::Purge { group, back } => {
                let model = &mut self.models[usize::from(group)];
                let Some(through) = model.end.checked_sub(back + 1) else {
                    return;
                };
                if model.floor.is_none_or(|floor| floor < through) {
                    model.floor = Some(through);
                }
                self.log(group).purge(through, marker(through)).unwrap();
            }
            Step::PurgeBeyond { group, ahead } => {
                let through = self.models[usize::from(group)].end + ahead;
                let log = self.log(group);
                log.purge(through, marker(through)).unwrap();
                self.goes_on_after(group, through);
                self.models[usize::from(group)].committed = Some(through);
                log.save_committed(through, Bytes::from("c"));
            }
            Step::GoOnAfter { group, ahead } => {
                let end = self.models[usize::from(group)].end;
                let through = snapshot_at(end, ahead);
                let log = self.log(group);
                log.go_on_after(through, marker(through)).unwrap();
                if end <= through {
                    self.goes_on_after(group, through);
                }
            }
            Step::MakeWay { group, ahead } => {
                let model = &mut self.models[usize::from(group)];
                let through = snapshot_at(model.end, ahead);
                if model.end <= through {
                    let kept_end = model
                        .raft_first()
                        .max(model.committed.map_or(0, |committed| committed + 1))
                        .min(model.end);
                    model.entries.retain(|index, _| *index < kept_end);
                    model.end = kept_end;
                }
                self.log(group).make_way(through).unwrap();
            }
            Step::Forget { group, back } => {
                let model = &mut self.models[usize::from(group)];
                let below = model.raft_first().saturating_sub(back);
                model.entries.retain(|index, _| *index >= below);
                self.log(group).forget_below(below).unwrap();
            }
            Step::Vote { group, vote } => {
                let vote = Bytes::from(vote.to_string());
                self.models[usize::from(group)].vote = Some(vote.clone());
                self.log(group)
                    .save_vote(vote, Box::new(|result| result.unwrap()));
            }
            Step::Commit { group, back } => {
                let model = &mut self.models[usize::from(group)];
                let Some(index) = model.end.checked_sub(back + 1) else {
                    return;
                };
                if model.committed.is_none_or(|committed| committed < index) {
                    model.committed = Some(index);
                    self.log(group).save_committed(index, Bytes::from("c"));
                }
            }
            Step::Clear { group } => {
                let model = &mut self.models[usize::from(group)];
                // A log that has nothing leaves the tombstone of before.
                let tombstone = (model.end > 0).then(|| marker(model.end));
                *model = Model {
                    vote: model.vote.take(),
                    tombstone: tombstone.clone().or(model.tombstone.take()),
                    ..Model::default()
                };
                self.log(group).clear(tombstone).unwrap();
                assert!(self.log(group).is_empty());
            }
            Step::Read {
                group,
                from,
                length,
                bytes_max,
            } => self.read(group, from, from + length, bytes_max),
            Step::Reopen => {
                self.store.take().unwrap().close();
                self.open();
            }
        }
    }

    fn append(&mut self, group: u16, lengths: &[u16]) {
        let mut values = Vec::new();
        for length in lengths {
            self.written += 1;
            let mut value = self.written.to_string().into_bytes();
            value.resize(value.len() + usize::from(*length), b'.');
            values.push(Bytes::from(value));
        }
        let model = &mut self.models[usize::from(group)];
        let first = model.end;
        model.entries.extend((first..).zip(values.iter().cloned()));
        model.end += values.len() as u64;
        let (done, answer) = awaited();
        let is_awaited = self.waits && self.written.is_multiple_of(2);
        let done = if is_awaited {
            done
        } else {
            let (acknowledged, number) = (self.acknowledged.clone(), self.written);
            Box::new(move |result: Result<(), _>| {
                result.unwrap();
                acknowledged.store(number, Ordering::Relaxed);
            })
        };
        self.log(group).append(first, values, done);
        if is_awaited {
            if self.disk.is_some() {
                let store = self.store.as_ref().unwrap();
                while let Some(batch) = store.simulated_write() {
                    store.simulated_sync(&batch);
                }
            }
            answer.recv_timeout(DEADLINE).unwrap().unwrap();
        }
    }

    fn read(&self, group: u16, from: u64, to: u64, bytes_max: usize) {
        let found = self.log(group).read(from, to, bytes_max).unwrap();
        let model = &self.models[usize::from(group)];
        let run: Vec<_> = (from..to)
            .map_while(|index| model.entries.get(&index).cloned())
            .collect();
        assert!(
            run.starts_with(&found),
            "{found:?} is no beginning of {run:?}"
        );
        assert_eq!(found.is_empty(), run.is_empty());
        assert!(found.len() <= 1 || found.iter().map(Bytes::len).sum::<usize>() <= bytes_max);
    }

    pub fn check(&self) {
        for (group, model) in (0..).zip(&self.models) {
            let log = self.log(group);
            assert_eq!(
                log.first_index(),
                model.entries.keys().next().copied(),
                "first of {group}"
            );
            assert_eq!(log.last_index(), model.last(), "last of {group}");
            assert_eq!(
                log.floor().map(|floor| floor.0),
                model.floor,
                "floor of {group}"
            );
            assert_eq!(log.runs(), model.runs(), "runs of {group}");
            assert_eq!(log.vote(), model.vote, "vote of {group}");
            assert_eq!(log.tombstone(), model.tombstone, "tombstone of {group}");
            assert_eq!(
                log.committed().map(|committed| committed.0),
                model.committed,
                "committed of {group}"
            );
        }
    }

    pub fn check_content(&self) {
        for (group, model) in (0..).zip(&self.models) {
            for run in model.runs() {
                let mut at = run.start;
                while at < run.end {
                    for entry in self.log(group).read(at, run.end, 7000).unwrap() {
                        assert_eq!(entry, model.entries[&at], "group {group} index {at}");
                        at += 1;
                    }
                }
            }
        }
    }
}

fn run_and_compare(mut pair: Pair, steps: &[Step]) {
    for step in steps {
        pair.run(step);
        pair.check();
    }
    pair.check_content();
    pair.run(&Step::Reopen);
    pair.check();
    pair.check_content();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        run_and_compare(Pair::new(None), &steps);
    }

    #[test]
    fn the_simulated_store_does_what_the_model_does(steps in steps()) {
        run_and_compare(Pair::new(Some(SimulatedDisk::new())), &steps);
    }
}
