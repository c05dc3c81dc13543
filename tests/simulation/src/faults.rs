//! What goes wrong, and what operators do meanwhile.
//!
//! Invariant: whatever goes wrong ends, each in its time, and all of it when all is healed.

mod lost_centre;

pub use lost_centre::{is_spread, remove};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::routing::shard_of;
use qiang_raft::ClusterChange;
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::crowd::crowd;
use crate::judge::Judge;
use crate::net::{Net, Quality};
use crate::story::Stage;

/// Faults come in bursts of so many at most, so that one meets what another has left.
const BURST_FAULTS_MAX: u32 = 5;

/// How long, in milliseconds, nothing goes wrong between two bursts at most: a few elections' time.
const CALM_MS_MAX: u128 = 1_500;

/// How long, in milliseconds at most, a node that is told to stop says so before it does.
const NOTICE_MS: u64 = 500;

/// How often the judge looks while nothing goes wrong.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often it is looked whether something is over: often enough for what is to last just longer than a lease.
const END_EVERY: Duration = Duration::from_millis(10);

/// What goes wrong with the machines of a cluster.
pub struct Faults {
    /// Those that it goes wrong with, and their data centres, ascending.
    machines: Vec<(u64, &'static str)>,
    /// Whether others join and clocks jump, too.
    others_join: bool,
    /// Machines whose process was killed, and when it comes back.
    down: BTreeMap<u64, Instant>,
    /// Processes that stand still, and until when.
    paused: BTreeMap<u64, Instant>,
    /// Processes that were told to stop, and what of them ends when they have.
    stopping: BTreeMap<u64, JoinHandle<()>>,
    /// Machines whose disk hangs, and when they lose their power.
    stalled: BTreeMap<u64, Instant>,
    /// Machines whose disk is full, and when somebody makes space and starts them again.
    full: BTreeMap<u64, Instant>,
    healed_at: Instant,
    /// How far, in milliseconds, a clock has been ahead of the true time at most.
    furthest_ahead_ms: i64,
    /// The number of the next machine that joins.
    next_machine: u64,
    /// The machine that has joined since, and its data centre.
    guest: Option<(u64, &'static str)>,
    /// Machines of a data centre that is lost, of which some may run again.
    lost: Vec<u64>,
    /// Operators that nobody waits for yet.
    operators: Vec<JoinHandle<()>>,
    /// What the names of crowds begin with.
    crowds_named: &'static str,
    /// Crowds that came when a process went on or links worked again.
    crowds: Vec<JoinHandle<Vec<String>>>,
}

impl Faults {
    /// With these machines, and others that join now and then.
    pub fn new(machines: impl IntoIterator<Item = (u64, &'static str)>) -> Self {
        let machines: Vec<_> = machines.into_iter().collect();
        let last = machines.last().map_or(0, |(id, _)| *id);
        Faults {
            machines,
            others_join: true,
            down: BTreeMap::new(),
            paused: BTreeMap::new(),
            stopping: BTreeMap::new(),
            stalled: BTreeMap::new(),
            full: BTreeMap::new(),
            healed_at: Instant::now(),
            furthest_ahead_ms: 0,
            next_machine: last + 1,
            guest: None,
            lost: Vec::new(),
            operators: Vec::new(),
            crowds_named: "c",
            crowds: Vec::new(),
        }
    }

    /// With these machines alone, some of which may not be there yet; a clock that they share stays as it is.
    pub fn amid_growth(machines: impl IntoIterator<Item = (u64, &'static str)>) -> Self {
        Faults {
            others_join: false,
            crowds_named: "a",
            ..Faults::new(machines)
        }
    }

    /// Faults come in bursts for so long, with a while of calm after each.
    pub async fn rage(&mut self, stage: &Arc<Stage>, judge: &mut Judge, lasts: Duration) {
        let end = Instant::now() + lasts;
        while Instant::now() < end && stage.trace.violation().is_none() {
            for _ in 0..Random.random_range(1..=BURST_FAULTS_MAX) {
                // Now and then one fault follows another at once.
                let pause_ms = if Random.random_range(0..4) == 0 {
                    40
                } else {
                    400
                };
                let pause = Duration::from_millis(Random.random_range(10..pause_ms));
                let until = Instant::now() + pause;
                while Instant::now() < until {
                    sleep(END_EVERY).await;
                    self.end_what_is_over(stage).await;
                }
                self.next(stage).await;
                judge.look(stage);
            }
            self.calm(stage, judge).await;
        }
    }

    /// Waits until what went wrong is over, and then a while. A fault bites only where something works: in a
    /// storm without an end no shard has a quorum, and nothing is granted that could be lost.
    async fn calm(&mut self, stage: &Arc<Stage>, judge: &mut Judge) {
        let mut left_ms = Random.random_range(0..CALM_MS_MAX);
        while stage.trace.violation().is_none() {
            for _ in 0..LOOK_EVERY.as_millis() / END_EVERY.as_millis() {
                sleep(END_EVERY).await;
                self.end_what_is_over(stage).await;
            }
            judge.look(stage);
            if self.are_over() {
                let Some(less) = left_ms.checked_sub(LOOK_EVERY.as_millis()) else {
                    return;
                };
                left_ms = less;
            }
        }
    }

    fn any_machine(&self) -> (u64, &'static str) {
        self.machines[Random.random_range(0..self.machines.len())]
    }

    async fn next(&mut self, stage: &Arc<Stage>) {
        self.end_what_is_over(stage).await;
        let (id, dc) = self.any_machine();
        let (other, _) = self.any_machine();
        match Random.random_range(0..100) {
            0..=9 => self.crash(stage, id),
            10..=13 => self.tell_to_stop(stage, id),
            // A data centre, or more, at once.
            14..=16 => {
                let mut ids: Vec<u64> = self.machines.iter().map(|(id, _)| *id).collect();
                ids.retain(|_| Random.random_range(0..2) == 0);
                for id in ids {
                    self.crash(stage, id);
                }
            }
            17..=32 | 97..=99 => self.pause(stage, id),
            33..=40 => self.isolate(stage, id),
            41..=50 if id != other => {
                stage
                    .trace
                    .note(format_args!("nothing arrives at {other} from {id}"));
                stage.net.cut(id, other);
                self.heals_in(mostly_short_ms(100));
            }
            51..=56 => self.part(stage),
            57..=63 => {
                let bad = Random.random_range(0..2) == 0;
                stage.trace.note(if bad {
                    "the network is bad"
                } else {
                    "the network is good"
                });
                stage
                    .net
                    .set_quality(if bad { Quality::BAD } else { Quality::GOOD });
            }
            64..=69 if self.others_join => {
                let ahead_ms = Random.random_range(-20_000..20_000_i64);
                stage
                    .trace
                    .note(format_args!("the clock of {id} is {ahead_ms} ms ahead"));
                self.furthest_ahead_ms = self.furthest_ahead_ms.max(ahead_ms);
                stage.set_clock(id, ahead_ms);
            }
            70..=81 => {
                let shard = Random.random_range(0..16);
                change(stage, ClusterChange::Lead { shard, node_id: id });
            }
            82..=84 => {
                change(stage, ClusterChange::PreferDc { dc: dc.to_owned() });
            }
            85..=87 => {
                let drain = Random.random_range(0..2) == 0;
                change(stage, ClusterChange::Drain { node_id: id, drain });
            }
            88..=91 if self.others_join => self.join_or_leave(stage).await,
            92..=94 => self.stall(stage, id),
            95..=96 => self.fill(stage, id),
            _ => {}
        }
    }

    /// Whether nothing is wrong any more but the network's quality and the clocks.
    fn are_over(&self) -> bool {
        self.down.is_empty()
            && self.paused.is_empty()
            && self.stopping.is_empty()
            && self.stalled.is_empty()
            && self.full.is_empty()
            && self.healed_at <= Instant::now()
    }

    fn heals_in(&mut self, ms: u64) {
        self.healed_at = self
            .healed_at
            .max(Instant::now() + Duration::from_millis(ms));
    }

    fn crash(&mut self, stage: &Arc<Stage>, id: u64) {
        self.crash_for(stage, id, mostly_short_ms(10));
    }

    fn crash_for(&mut self, stage: &Arc<Stage>, id: u64, ms: u64) {
        if self.down.contains_key(&id) {
            return;
        }
        stage.trace.note(format_args!("{id} crashes for {ms} ms"));
        self.is_well(id);
        stage.crash(id);
        self.down
            .insert(id, Instant::now() + Duration::from_millis(ms));
    }

    /// Nothing is wrong with a machine any more, or ever.
    fn is_well(&mut self, id: u64) {
        self.down.remove(&id);
        self.paused.remove(&id);
        self.stopping.remove(&id);
        self.stalled.remove(&id);
        self.full.remove(&id);
    }

    fn pause(&mut self, stage: &Arc<Stage>, id: u64) {
        let Some(process) = stage.process(id) else {
            return;
        };
        let ms = mostly_short_ms(50);
        stage
            .trace
            .note(format_args!("{id} stands still for {ms} ms"));
        process.life.pause();
        self.paused
            .insert(id, Instant::now() + Duration::from_millis(ms));
    }

    /// A node is stopped as when nodes are restarted one after another: it hands over what it leads, says so for a while, and ends.
    fn tell_to_stop(&mut self, stage: &Arc<Stage>, id: u64) {
        let Some(process) = stage.process(id) else {
            return;
        };
        if self.stopping.contains_key(&id) {
            return;
        }
        stage.trace.note(format_args!("{id} is told to stop"));
        let (node, notice) = (process.node.clone(), Random.random_range(0..NOTICE_MS));
        let stopping = process.life.spawn(async move {
            node.drain().await;
            sleep(Duration::from_millis(notice)).await;
            node.stop().await;
        });
        self.stopping.insert(id, stopping);
    }

    /// A disk hangs, and soon the power fails: what its node sent to others was not synced there.
    fn stall(&mut self, stage: &Arc<Stage>, id: u64) {
        if self.down.contains_key(&id) {
            return;
        }
        stage.trace.note(format_args!("the disk of {id} hangs"));
        stage.stall_disk(id, Duration::from_secs(2));
        self.stalled.insert(
            id,
            Instant::now() + Duration::from_millis(Random.random_range(20..300)),
        );
    }

    /// A disk becomes full, whatever waits to be synced there; its node goes on without what it wanted to write.
    fn fill(&mut self, stage: &Arc<Stage>, id: u64) {
        if self.down.contains_key(&id) {
            return;
        }
        let ms = mostly_short_ms(20);
        stage
            .trace
            .note(format_args!("the disk of {id} is full for {ms} ms"));
        stage.fill_disk(id);
        self.full
            .insert(id, Instant::now() + Duration::from_millis(ms));
    }

    fn isolate(&mut self, stage: &Arc<Stage>, id: u64) {
        stage.trace.note(format_args!("{id} is cut off"));
        let first = self.machines.first().map_or(0, |(id, _)| *id);
        for other in first..self.next_machine {
            stage.net.cut(id, other);
            stage.net.cut(other, id);
        }
        self.heals_in(mostly_short_ms(100));
    }

    /// The two data centres do not reach each other.
    fn part(&mut self, stage: &Arc<Stage>) {
        stage.trace.note("the data centres are parted");
        for (one, dc) in &self.machines {
            for (other, other_dc) in &self.machines {
                if dc != other_dc {
                    stage.net.cut(*one, *other);
                }
            }
        }
        self.heals_in(mostly_short_ms(100));
    }

    async fn join_or_leave(&mut self, stage: &Arc<Stage>) {
        if let Some((guest, _)) = self.guest {
            change(
                stage,
                ClusterChange::Remove {
                    node_id: guest,
                    force: false,
                },
            );
            return;
        }
        let dc = if self.next_machine.is_multiple_of(2) {
            "a"
        } else {
            "b"
        };
        self.guest_comes(stage, dc).await;
    }

    /// A machine joins that may leave again.
    async fn guest_comes(&mut self, stage: &Arc<Stage>, dc: &'static str) {
        let id = self.next_machine;
        self.next_machine += 1;
        self.guest = Some((id, dc));
        stage.trace.note(format_args!("{id} joins"));
        stage.machine_comes(id, dc);
        stage.start(id, false).await;
        if let Some(process) = stage.any_process() {
            let node = process.node.clone();
            process
                .life
                .spawn(async move { node.add_node(id, &Net::address(id), dc, false).await });
        }
    }

    async fn end_what_is_over(&mut self, stage: &Arc<Stage>) {
        let now = Instant::now();
        for id in take_over(&mut self.paused, now) {
            if let Some(process) = stage.process(id) {
                stage.trace.note(format_args!("{id} goes on"));
                process.life.go_on();
                self.crowds_come(stage);
            }
        }
        for id in take_over(&mut self.stalled, now) {
            self.crash_for(stage, id, Random.random_range(10..100));
        }
        for id in take_over(&mut self.full, now) {
            self.crash_for(stage, id, Random.random_range(10..100));
        }
        let ended = self
            .stopping
            .extract_if(.., |_, stopping| stopping.is_finished());
        for (id, _) in ended.collect::<Vec<_>>() {
            self.crash_for(stage, id, mostly_short_ms(10));
        }
        for id in take_over(&mut self.down, now) {
            stage.trace.note(format_args!("{id} starts"));
            stage.start(id, false).await;
        }
        if self.healed_at <= now && stage.net.heal() {
            self.crowds_come(stage);
        }
        self.dismiss_guest(stage);
    }

    /// A guest that has left the cluster is switched off.
    fn dismiss_guest(&mut self, stage: &Arc<Stage>) {
        let Some((guest, _)) = self.guest else {
            return;
        };
        let gone = stage
            .processes()
            .iter()
            .any(|(_, process)| process.node.cluster().removed.contains(&guest));
        if gone {
            stage.trace.note(format_args!("{guest} has left"));
            stage.machine_goes(guest);
            self.guest = None;
        }
    }

    /// Whoever waited asks at once, wherever a leader has no lease yet: while it comes back, what is refused and what is
    /// accepted follow each other.
    fn crowds_come(&mut self, stage: &Arc<Stage>) {
        let statuses = stage.processes().into_iter();
        let without_lease: BTreeSet<String> = statuses
            .flat_map(|(_, process)| process.node.group_statuses())
            .filter(|group| group.leads && !group.has_quorum)
            .map(|group| group.group)
            .collect();
        for (number, offer) in stage.offers.iter().enumerate() {
            if without_lease.contains(&shard_of(&offer.id).to_string()) {
                let name = format!("{}-{}", self.crowds_named, self.crowds.len());
                let placed = crowd(stage.clone(), number, name);
                self.crowds.push(tokio::spawn(placed));
            }
        }
    }

    /// Everything works again.
    pub async fn heal(&mut self, stage: &Arc<Stage>) {
        stage.trace.note("all is healed");
        // Whoever asks there waits in vain.
        for id in self.lost.drain(..) {
            stage.machine_goes(id);
        }
        for id in std::mem::take(&mut self.stopping).into_keys() {
            self.crash_for(stage, id, 0);
        }
        let now = Instant::now();
        self.healed_at = now;
        self.paused.values_mut().for_each(|until| *until = now);
        self.stalled.values_mut().for_each(|until| *until = now);
        self.full.values_mut().for_each(|until| *until = now);
        self.down.values_mut().for_each(|until| *until = now);
        stage.net.set_quality(Quality::GOOD);
        self.end_what_is_over(stage).await;
        self.down.values_mut().for_each(|until| *until = now);
        self.end_what_is_over(stage).await;
        if self.others_join {
            // Not back to zero: deadlines that a clock far ahead has set would be as far away.
            for id in stage.machines() {
                stage.set_clock(id, self.furthest_ahead_ms);
            }
        }
        assert!(stage.clocks_agree(), "healed clocks agree");
    }

    /// Waits for those who came in crowds, and for operators.
    pub async fn all_end(self) -> Result<(), String> {
        for operator in self.operators {
            operator
                .await
                .map_err(|error| format!("an operator panicked: {error}"))?;
        }
        for crowd in self.crowds {
            crowd
                .await
                .map_err(|error| format!("a crowd panicked: {error}"))?;
        }
        Ok(())
    }
}

/// How long something is wrong, in milliseconds: from `shortest` to four seconds, and as often shorter than
/// a lease or an election as longer, since it is around these that most can happen; most between the two, when a
/// leader has no lease and no successor either, and so may get it back.
fn mostly_short_ms(shortest: u64) -> u64 {
    if Random.random_range(0..3) == 0 {
        return Random.random_range(240..500);
    }
    let longest = [150, 300, 600, 4_000][Random.random_range(0..4)];
    Random.random_range(shortest..longest)
}

/// Takes out what is over.
fn take_over(until: &mut BTreeMap<u64, Instant>, now: Instant) -> Vec<u64> {
    let over = until.extract_if(.., |_, until| *until <= now);
    over.map(|(id, _)| id).collect()
}

/// An operator asks some node for a change and does not wait for the answer.
fn change(stage: &Arc<Stage>, change: ClusterChange) {
    stage.trace.note(format_args!("{change:?}"));
    if let Some(process) = stage.any_process() {
        let node = process.node.clone();
        process
            .life
            .spawn(async move { node.change_cluster(change).await });
    }
}
