//! Shards that share a log: one actor decides for all of them, and each of them is what it would be with a log of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use qiang_engine::actor::{Actor, Effect};
use qiang_engine::batch::Batch;
use qiang_engine::command::Code;
use qiang_engine::promotion::Promotion;
use qiang_engine::replica::Head;
use qiang_engine::routing::{SHARDS, Sharing, shard_of};
use qiang_engine::seen::Seen;
use qiang_engine::shard::{ApplyError, Change, Moment, Shown};
use qiang_engine::{Command, Place, PromotionId, Record, Replica, ShardId, UnixMs, early};

use crate::support::{Driven, create, grab, promotion_id};

const SHARED_BY: usize = 4;

/// What happens to the actor next.
#[derive(Debug, Clone)]
enum Event {
    /// A turn with grabs: each of a place, by a buyer, of so many units.
    Turn(Vec<(u8, u8, u32)>),
    /// A turn that stops the promotion of a place, or resumes it.
    Stop(u8, bool),
    /// The oldest proposal is committed.
    Commit,
    /// The newest is refused: it and nothing else is taken back, and a new stint begins.
    Refuse,
    /// So much time passes, and deadlines with it.
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let place = 0..u8::try_from(SHARED_BY).unwrap();
    let turn = proptest::collection::vec((place.clone(), 0..6u8, 1..4u32), 1..8);
    let stop = (place, any::<bool>());
    let event = prop_oneof![
        4 => turn.prop_map(Event::Turn),
        1 => stop.prop_map(|(place, stopped)| Event::Stop(place, stopped)),
        4 => Just(Event::Commit),
        1 => Just(Event::Refuse),
        1 => (1..900_000u64).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 1..40)
}

/// The actor, its log, and each of its shards once more by itself, fed with what was committed.
struct Shared {
    actor: Actor<()>,
    now: u64,
    index: u64,
    stint: u64,
    orders: u64,
    proposed: Vec<Vec<u8>>,
    committed: Vec<(u64, Vec<u8>)>,
    follower: Replica,
    apart: Vec<Driven>,
    /// What readers see.
    shown: BTreeMap<PromotionId, Arc<Shown>>,
    /// What grabs are refused for, as each proposal under way makes it: version and units left of every promotion.
    grounds: Vec<BTreeMap<PromotionId, (u64, u64)>>,
}

impl Shared {
    fn new() -> Self {
        let seen = (0..SHARED_BY).map(|_| Arc::new(Seen::new(1)));
        let actor = Actor::new(Replica::new(SHARED_BY, 1), 0, seen.collect());
        let mut shared = Shared {
            actor,
            now: 1_000,
            index: 0,
            stint: 0,
            orders: 0,
            proposed: Vec::new(),
            committed: Vec::new(),
            follower: Replica::new(SHARED_BY, 2),
            apart: (3..).take(SHARED_BY).map(Driven::new).collect(),
            shown: BTreeMap::new(),
            grounds: Vec::new(),
        };
        shared.begin_stint();
        let sales = (0..SHARED_BY).map(|place| (place, create(&name(place), 20)));
        shared.turn(sales.collect());
        shared.commit();
        shared
    }

    fn begin_stint(&mut self) {
        self.index += 1;
        self.stint += 1;
        let stint = Some(self.stint);
        self.actor.handle_blank(self.index, stint).unwrap();
    }

    fn turn(&mut self, commands: Vec<(usize, Command)>) {
        self.actor.begin_turn(Moment::at(UnixMs(self.now)));
        for (place, command) in commands {
            let place = Place(u8::try_from(place).unwrap());
            self.actor.handle_command(place, &command, ()).unwrap();
        }
        self.actor.run_deadlines().unwrap();
        self.actor.run_chores(1_000, |_| None).unwrap();
        self.actor.end_turn(true);
        self.take_effects();
        if self.grounds.len() < self.proposed.len() {
            let shards = self.actor.replica().shards.iter();
            let promotions = shards.flat_map(qiang_engine::Shard::promotions);
            let grounds = promotions.map(|promotion| (promotion.id.clone(), ground(promotion)));
            self.grounds.push(grounds.collect());
        }
    }

    fn take_effects(&mut self) {
        let mut effects = Vec::new();
        self.actor.take_effects(&mut effects);
        for effect in effects {
            match effect {
                Effect::Propose { bytes, .. } => self.proposed.push(bytes),
                Effect::Publish(changes) => {
                    for change in changes {
                        self.show(change);
                    }
                }
                _ => {}
            }
        }
    }

    fn show(&mut self, change: Change) {
        change.publish(|shown| {
            self.shown.insert(shown.id().clone(), shown);
        });
    }

    /// A promotion is settled exactly while nothing under way makes anything else of it than is shown.
    fn check_settled(&self) {
        for (id, shown) in &self.shown {
            let mut before = ground(&shown.promotion());
            let mut changes = self.grounds.iter().filter_map(|grounds| {
                let after = grounds[id];
                (std::mem::replace(&mut before, after) != after).then_some(after)
            });
            let change = changes.next();
            assert_eq!(shown.is_unsettled(), change.is_some(), "{id}: {change:?}");
        }
    }

    fn commit(&mut self) {
        if self.proposed.is_empty() {
            return;
        }
        let bytes = self.proposed.remove(0);
        self.grounds.remove(0);
        self.index += 1;
        self.actor.handle_batch(self.index, &bytes).unwrap();
        let batch = Batch::decode(&bytes).unwrap();
        self.follower.fold(self.index, &batch).unwrap();
        for (place, apart) in self.apart.iter_mut().enumerate() {
            let place = Place(u8::try_from(place).unwrap());
            for record in Batch::records_of(place, &bytes).unwrap() {
                apart.apply(record);
            }
        }
        self.committed.push((self.index, bytes));
        self.take_effects();
    }

    fn refuse(&mut self) {
        let Some(bytes) = self.proposed.pop() else {
            return;
        };
        let (me, _) = Batch::peek(&bytes).unwrap();
        self.grounds.pop();
        self.actor.handle_refused(me).unwrap();
        self.check_settled();
        while !self.proposed.is_empty() {
            self.commit();
        }
        self.begin_stint();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(grabs) if self.actor.ready() => {
                let commands = grabs.into_iter().map(|(place, buyer, units)| {
                    self.orders += 1;
                    let (order, buyer) = (format!("o-{}", self.orders), format!("b-{buyer}"));
                    let items = [(&*name(usize::from(place)), units)];
                    let command = Command::Grab(grab(&order, &buyer, "203.0.113.9", &items));
                    (usize::from(place), command)
                });
                let commands = commands.collect();
                self.turn(commands);
            }
            Event::Stop(place, stopped) if self.actor.ready() => {
                let place = usize::from(place);
                let promotion_id = promotion_id(&name(place));
                let command = Command::StopPromotion {
                    promotion_id,
                    stopped,
                };
                self.turn(vec![(place, command)]);
            }
            Event::Turn(_) | Event::Stop(..) | Event::Commit => self.commit(),
            Event::Refuse => self.refuse(),
            Event::Wait(ms) => {
                self.now += ms;
                if self.actor.ready() {
                    self.turn(Vec::new());
                }
            }
        }
        if self.actor.pending() == 0 {
            assert!(self.actor.replica().shards == self.follower.shards);
        }
        let committed = self.apart.iter().flat_map(|apart| apart.shard.promotions());
        for promotion in committed {
            assert_eq!(self.shown[&promotion.id].promotion(), *promotion);
        }
        self.check_settled();
    }
}

fn ground(promotion: &Promotion) -> (u64, u64) {
    (promotion.version, promotion.counters.remaining)
}

fn name(place: usize) -> String {
    format!("P-{place}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_shard_is_what_its_own_records_make_of_it(events in events()) {
        let mut shared = Shared::new();
        for event in events {
            shared.happen(event);
        }
        while !shared.proposed.is_empty() {
            shared.commit();
        }
        let live = &shared.actor.replica().shards;
        prop_assert!(live == &shared.follower.shards);
        for (live, apart) in live.iter().zip(&shared.apart) {
            prop_assert!(*live == apart.shard);
        }
        let mut saved = Vec::new();
        shared.follower.save(&mut saved).unwrap();
        let loaded = Replica::load(&mut saved.as_slice(), 9).unwrap();
        prop_assert!(loaded.shards == shared.follower.shards);
        prop_assert_eq!(loaded.tail, shared.follower.tail);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// As a snapshot is built from the one before it: some shards at a time, each time with all entries since.
    #[test]
    fn a_state_that_is_made_part_by_part_is_the_state_made_at_once(
        events in events(),
        share in 0..=100_usize,
        at_once in 1..=SHARED_BY,
    ) {
        let mut shared = Shared::new();
        for event in events {
            shared.happen(event);
        }
        let (before, since) = shared.committed.split_at(shared.committed.len() * share / 100);
        let mut last = Replica::new(SHARED_BY, 4);
        for (index, bytes) in before {
            let batch = last.decode(bytes).unwrap();
            last.fold(*index, &batch).unwrap();
        }
        let mut saved = Vec::new();
        last.save(&mut saved).unwrap();

        let mut input = saved.as_slice();
        let head = Head::read(&mut input).unwrap();
        let mut next = Vec::new();
        for first in (0..SHARED_BY).step_by(at_once) {
            let places = first..SHARED_BY.min(first + at_once);
            let mut part = Replica::load_part(&head, places, &mut input, 5).unwrap();
            for (index, bytes) in since {
                let batch = part.decode(bytes).unwrap();
                part.fold(*index, &batch).unwrap();
            }
            if first == 0 {
                part.head(SHARED_BY).write(&mut next).unwrap();
            }
            part.save_shards(&mut next).unwrap();
        }
        prop_assert!(input.is_empty());
        let next = Replica::load(&mut next.as_slice(), 6).unwrap();
        prop_assert!(next.shards == shared.follower.shards);
        prop_assert_eq!(next.tail, shared.follower.tail);
        prop_assert_eq!(next.voids, shared.follower.voids);
    }
}

#[test]
fn every_shard_gets_a_checkpoint_of_its_own() {
    let mut shared = Shared::new();
    let checkpoints = |bytes: &[u8], place| {
        let records = Batch::records_of(Place(place), bytes).unwrap();
        let is_checkpoint = |record: &&Record| matches!(record, Record::Checkpoint { .. });
        records.iter().filter(is_checkpoint).count()
    };
    let grabs = |first: u64| {
        let grab = |number| grab(&format!("c-{number}"), "b", "203.0.113.9", &[("many", 1)]);
        (first..first + 8_000)
            .map(|number| (2, Command::Grab(grab(number))))
            .collect()
    };
    shared.turn(vec![(2, create("many", 100_000))]);
    shared.commit();
    shared.turn(grabs(0));
    assert_eq!(checkpoints(&shared.proposed[0], 2), 0);
    shared.commit();
    shared.turn(grabs(8_000));
    assert_eq!(checkpoints(&shared.proposed[0], 2), 1);
    assert_eq!(checkpoints(&shared.proposed[0], 1), 0);
    shared.commit();
}

#[test]
fn nobody_is_refused_early_for_what_may_have_changed() {
    let mut shared = Shared::new();
    let stop = |stopped| Command::StopPromotion {
        promotion_id: promotion_id(&name(0)),
        stopped,
    };
    shared.turn(vec![(0, stop(true))]);
    shared.commit();
    let refuse = |shared: &Shared| {
        let shown = &shared.shown[&promotion_id(&name(0))];
        let grab = grab("o", "b", "203.0.113.9", &[(&*name(0), 1)]);
        let refused = early::refuse(shown, &grab, &Seen::new(1), &Moment::at(UnixMs(shared.now)));
        refused.map(|refused| refused.rejection.code)
    };
    assert_eq!(refuse(&shared), Some(Code::Stopped));
    // Once it is decided it may be committed, and seen on another node, before it is shown here.
    shared.turn(vec![(0, stop(false))]);
    assert_eq!(refuse(&shared), None);
    shared.turn(vec![(0, stop(true))]);
    assert_eq!(refuse(&shared), None);
    shared.commit();
    assert_eq!(refuse(&shared), None, "it is on sale, and is to be stopped");
    shared.commit();
    assert_eq!(refuse(&shared), Some(Code::Stopped));
    shared.turn(vec![(0, stop(false))]);
    shared.refuse();
    assert_eq!(refuse(&shared), Some(Code::Stopped), "it was taken back");
}

#[test]
fn a_part_of_a_shard_that_is_not_there_stops_the_replica() {
    let mut replica = Replica::new(1, 0);
    let decided = [(Place(1), crate::records::examples().remove(0).1)];
    let bytes = Batch::encode_decided(
        qiang_engine::Tag { stint: 1, seq: 1 },
        replica.tail,
        &decided,
    );
    let batch = Batch::decode(&bytes).unwrap();
    let error = replica.fold(1, &batch).unwrap_err();
    assert_eq!(error, ApplyError::NoShard(Place(1)));
}

#[test]
fn every_shard_has_one_place_in_one_log() {
    let even = |logs: &u16| Sharing::over(*logs).is_some();
    let all: Vec<u16> = (0..=SHARDS + 1).filter(even).collect();
    assert_eq!(all, [1, 2, 4, 8, 16]);
    for sharing in all.into_iter().filter_map(Sharing::over) {
        let mut found = Vec::new();
        for log in 0..sharing.logs() {
            let shards: Vec<ShardId> = sharing.shards_of(log).collect();
            assert_eq!(shards.len(), sharing.shards_per_log());
            for (place, shard) in shards.iter().enumerate() {
                let place = Place(u8::try_from(place).unwrap());
                assert_eq!(
                    (sharing.log_of(*shard), sharing.place_of(*shard)),
                    (log, place)
                );
                assert_eq!(sharing.shard_at(log, place), *shard);
            }
            assert_eq!(shards[0], ShardId(log), "the first has the log's number");
            found.extend(shards);
        }
        found.sort_unstable();
        assert_eq!(found, (0..SHARDS).map(ShardId).collect::<Vec<_>>());
    }
    let shard = shard_of(&promotion_id("A"));
    assert_eq!(Sharing::NONE.log_of(shard), shard.0);
}

#[test]
fn a_log_suits_four_threads() {
    let logs = |threads| Sharing::for_threads(threads).logs();
    let threads = [0, 1, 4, 7, 8, 15, 16, 32, 63, 64, 1000];
    assert_eq!(threads.map(logs), [1, 1, 1, 1, 2, 2, 4, 8, 8, 16, 16]);
}
