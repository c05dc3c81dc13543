//! Any story's records: each can be undone, all of them can, and folding them anew gives the same
//! state at every prefix, also through bytes, through saved states and under another hash seed.

use proptest::prelude::*;

use qiang_engine::batch::{Batch, Part, Tag};
use qiang_engine::replica::Folded;
use qiang_engine::shard::ApplyError;
use qiang_engine::{Place, Record, Replica, Shard, UnixMs};

use crate::story::{self, Listener};
use crate::support::{Driven, create, grab};

/// Reverts every record right after it was applied and expects the state before it.
struct Reverting {
    before: Shard,
}

impl Listener for Reverting {
    fn on_record(&mut self, record: &Record, after: &Shard) {
        let mut reverted = after.clone();
        reverted
            .revert(record)
            .unwrap_or_else(|error| panic!("{error}: {record:?}"));
        assert_eq!(
            reverted.digest(),
            self.before.digest(),
            "digest without {record:?}"
        );
        assert!(reverted == self.before, "state without {record:?}");
        reverted.apply(record).unwrap();
        assert!(reverted == *after, "state with {record:?} once more");
        // From here on what lies in memory is what was put there, taken away and put there again.
        self.before = reverted;
    }
}

/// A follower, fed through bytes in batches of uneven sizes and now and then restarted.
struct Following {
    replica: Replica,
    waiting: Vec<Record>,
    seq: u64,
    restarts: u64,
}

/// The part of a batch of the only shard.
fn of_one(records: Vec<Record>) -> Part {
    let place = Place(0);
    Part { place, records }
}

impl Following {
    fn new() -> Self {
        let (waiting, seq, restarts) = (Vec::new(), 0, 0);
        Following {
            replica: Replica::new(1, 99),
            waiting,
            seq,
            restarts,
        }
    }

    fn fold(&mut self) {
        self.seq += 1;
        let me = Tag {
            stint: 5,
            seq: self.seq,
        };
        let batch = Batch {
            me,
            prev: self.replica.tail,
            parts: vec![of_one(std::mem::take(&mut self.waiting))],
        };
        let bytes = batch.encode();
        assert_eq!(Batch::peek(&bytes).unwrap(), (batch.me, batch.prev));
        let decoded = Batch::decode(&bytes).unwrap();
        assert_eq!(decoded, batch);
        assert_eq!(
            self.replica.fold(self.seq, &decoded).unwrap(),
            Folded::Effective
        );
    }

    fn restart(&mut self) {
        let mut saved = Vec::new();
        self.replica.save(&mut saved).unwrap();
        self.restarts += 1;
        let loaded = Replica::load(&mut saved.as_slice(), self.restarts).unwrap();
        assert!(
            loaded.shards == self.replica.shards,
            "a saved state is loaded as it was"
        );
        assert_eq!(
            (loaded.tail, &loaded.voids),
            (self.replica.tail, &self.replica.voids)
        );
        self.replica = loaded;
    }
}

impl Listener for Following {
    fn on_record(&mut self, record: &Record, after: &Shard) {
        self.waiting.push(record.clone());
        // Batches of one, two and three records, by the digest: as good as random.
        if self.waiting.len() as u64 > after.digest() % 3 {
            self.fold();
            assert_eq!(
                self.replica.shards[0].digest(),
                after.digest(),
                "digest after {record:?}"
            );
            assert!(self.replica.shards[0] == *after, "state after {record:?}");
        }
        if after.digest().is_multiple_of(7) {
            self.restart();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_record_is_undone_exactly(steps in story::steps()) {
        story::tell(&steps, None, &mut Reverting { before: Shard::new(3) });
    }

    #[test]
    fn all_records_are_undone_newest_first(steps in story::steps(), every in 1..20usize) {
        let Driven { mut shard, records } = story::tell(&steps, None, &mut ());
        // The states at some places of the story, oldest first.
        let mut anew = Shard::new(11);
        let mut marks = vec![(0, anew.clone())];
        for (place, record) in records.iter().enumerate() {
            anew.apply(record).unwrap();
            if (place + 1) % every == 0 {
                marks.push((place + 1, anew.clone()));
            }
        }
        prop_assert!(anew == shard);
        while let Some((place, expected)) = marks.pop() {
            for record in records[place..].iter().take(every).rev() {
                shard.revert(record).unwrap_or_else(|error| panic!("{error}: {record:?}"));
            }
            prop_assert!(shard == expected, "the state after {} records", place);
        }
        prop_assert_eq!(shard.digest(), 0);
        prop_assert_eq!(shard.order_count(), 0);
    }

    #[test]
    fn folding_the_flows_gives_the_live_state_at_every_prefix(steps in story::steps()) {
        story::tell(&steps, None, &mut Following::new());
    }
}

fn two_grabs(first: usize) -> Driven {
    let grabs = [
        grab("o-1", "alice", "1.2.3.4", &[("A", 1)]),
        grab("o-2", "bob", "1.2.3.4", &[("B", 2)]),
    ];
    let mut driven = Driven::new(first as u64);
    driven.at(1_000, &create("A", 5)).unwrap();
    driven.at(1_000, &create("B", 5)).unwrap();
    for place in [first, 1 - first] {
        driven
            .at(2_000, &qiang_engine::Command::Grab(grabs[place].clone()))
            .unwrap();
    }
    driven
}

#[test]
fn the_digest_depends_neither_on_order_nor_on_seed() {
    let (one, other) = (two_grabs(0), two_grabs(1));
    assert_eq!(one.shard.digest(), other.shard.digest());
    assert!(one.shard == other.shard);
}

#[test]
fn a_checkpoint_of_another_state_stops_the_replica() {
    let mut driven = two_grabs(0);
    let here = driven.shard.digest();
    let at = UnixMs(3_000);
    driven
        .shard
        .apply(&Record::Checkpoint { digest: here, at })
        .unwrap();
    let recorded = here ^ 1;
    let error = driven
        .shard
        .apply(&Record::Checkpoint {
            digest: recorded,
            at,
        })
        .unwrap_err();
    assert_eq!(error, ApplyError::Diverged { here, recorded });
    assert!(error.to_string().contains("diverged"));
}

#[test]
fn a_batch_that_does_not_follow_the_tail_is_void() {
    let records = two_grabs(0).records;
    let batch = |stint, seq, prev, record: &Record| Batch {
        me: Tag { stint, seq },
        prev,
        parts: vec![of_one(vec![record.clone()])],
    };
    let mut replica = Replica::new(1, 0);
    let first = batch(4, 1, Tag::default(), &records[0]);
    assert_eq!(replica.fold(1, &first).unwrap(), Folded::Effective);
    // Its predecessor (4, 2) was refused and never came into the log.
    let orphan = batch(4, 3, Tag { stint: 4, seq: 2 }, &records[1]);
    let before = replica.shards.clone();
    assert_eq!(replica.fold(2, &orphan).unwrap(), Folded::Void);
    assert!(replica.shards == before);
    let next = batch(9, 1, first.me, &records[1]);
    assert_eq!(replica.fold(3, &next).unwrap(), Folded::Effective);
    assert_eq!((replica.tail, replica.voids), (next.me, vec![2]));
}

#[test]
fn a_record_that_cannot_follow_the_state_is_an_error() {
    let Driven { mut shard, records } = two_grabs(0);
    for record in &records {
        assert!(shard.apply(record).is_err(), "twice: {record:?}");
    }
    let mut empty = Shard::new(0);
    let grant = records.last().unwrap();
    assert!(matches!(
        empty.apply(grant),
        Err(ApplyError::NoPromotion(_))
    ));
    assert!(matches!(empty.revert(grant), Err(ApplyError::NoOrder(_))));
}

#[test]
fn a_saved_state_that_was_cut_or_changed_does_not_load() {
    let mut driven = two_grabs(0);
    let order_id = crate::support::order_id("o-1");
    driven
        .at(2_500, &qiang_engine::Command::Confirm { order_id })
        .unwrap();
    let mut replica = Replica::new(1, 0);
    replica.shards = vec![driven.shard];
    let mut saved = Vec::new();
    replica.save(&mut saved).unwrap();
    for length in 0..saved.len() {
        assert!(
            Replica::load(&mut &saved[..length], 0).is_err(),
            "cut to {length} bytes"
        );
    }
    // The file's own checksum is storage's matter; what loads here must at least be consistent.
    let at = saved.windows(3).position(|bytes| bytes == b"o-2").unwrap();
    saved[at + 2] = b'9';
    assert!(Replica::load(&mut saved.as_slice(), 0).is_err());
}

#[test]
fn many_promotions_with_all_their_skus_are_saved_and_loaded() {
    let mut driven = Driven::new(0);
    let sku_ids: Vec<String> = (0..1024).map(|sku| format!("{sku:064}")).collect();
    let terms = qiang_engine::promotion::Terms {
        sku_ids,
        ..Default::default()
    };
    for number in 0..600 {
        let command = qiang_engine::Command::CreatePromotion {
            promotion_id: crate::support::promotion_id(&format!("p-{number}")),
            quantity: 1,
            terms: Box::new(terms.clone()),
        };
        driven.at(1_000, &command).unwrap();
    }
    let mut saved = Vec::new();
    driven.shard.save(&mut saved).unwrap();
    let loaded = Shard::load(&mut saved.as_slice(), 0).unwrap();
    assert!(loaded == driven.shard);
}
