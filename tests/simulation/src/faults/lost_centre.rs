//! A data centre that is lost for good, amid everything else: an operator has the other one go on alone, or removes what is lost where a witness
//! is left, and new machines take the place of those that are gone. Some of these are switched on again one day. At times one of those that are left
//! was away when another one joined. At times a loss turns out not to
//! be one: power comes back before anybody has gone on without it.
//!
//! Invariant: what is lost has no majority of its own, or no power; and nothing of it is heard once what is left goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::routing::SHARDS;
use qiang_raft::placement::{Duty, WITNESS_DC};
use qiang_raft::world::Random;
use qiang_raft::{ClusterChange, GroupStatus};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::{END_EVERY, Faults, change};
use crate::judge::Judge;
use crate::story::{Stage, join};

/// How long things go wrong at most before the operator comes, in milliseconds.
const NOTICED_WITHIN_MS: u64 = 3_000;

/// The longest pause between two attempts of the operator, and before a machine comes, in milliseconds.
const TRIES_EVERY_MS: u64 = 500;

/// At any moment of what recovery takes, in milliseconds: when a node is killed, how soon it comes back, and when what is lost has power.
const AMID_MS: u64 = 900;

/// How long what is lost has power for a moment, in milliseconds at most.
const POWER_MS: u64 = 1_500;

/// How long a machine is away while another one joins, and how long before the loss that begins, in milliseconds at most.
const AWAY_MS: u64 = 6_000;
const JOINS_WITHIN_MS: u64 = 3_000;

/// How long nobody reaches a data centre just before the other one is lost, in milliseconds at most: long enough for that to elect, with a witness.
const BEFORE_MS: u64 = 1_500;

/// How long the operator may take until what is left goes on.
const RECOVERED_WITHIN: Duration = Duration::from_mins(2);

/// How long who stood still, or was not reached, may take to hear what it was told: longer than anybody does.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How long things go wrong before it is looked again whether operators are done.
const SPELL: Duration = Duration::from_millis(500);

/// What became of the loss of a data centre.
enum End {
    /// What is left goes on without it.
    Alone,
    /// It has power again, and nobody had gone on without it.
    CameBack,
}

impl Faults {
    /// Loses a data centre, at times with the witness, and ends when as many machines are there again.
    pub async fn lose_data_centre(
        &mut self,
        stage: &Arc<Stage>,
        judge: &mut Judge,
    ) -> Result<(), String> {
        let (dc, left) = if coin() { ("a", "b") } else { ("b", "a") };
        if coin() && self.guest.is_none() {
            self.one_comes_while_another_is_away(stage, judge, left)
                .await;
        }
        // With a witness what is not cut off goes on, and it sells what nobody else knows of but that witness.
        if coin() || self.has_witness() {
            self.cut_off(stage, judge, left).await;
        }
        let mut lost = self.lose(stage, dc);
        // Nobody joins what does not decide.
        self.others_join = false;
        let unnoticed = Duration::from_millis(Random.random_range(1..NOTICED_WITHIN_MS));
        self.rage(stage, judge, unnoticed).await;
        let is_witness = |(_, dc): &(u64, &str)| *dc == WITNESS_DC;
        if let Some(at) = lost.iter().position(is_witness) {
            let witness = lost.remove(at);
            // They may have sold, the three of them, what nobody else knows of.
            let refused = refuse(stage.clone(), left);
            self.wait_amid(stage, judge, refused).await?;
            stage.trace.note("the witness is switched on again");
            stage.start(witness.0, false).await;
            self.machines.push(witness);
        }
        let ids: Vec<u64> = lost.iter().map(|(id, _)| *id).collect();
        match self.go_on(stage, judge, left, &ids).await? {
            End::CameBack => self.machines.extend(lost),
            End::Alone => {
                self.lost.extend(&ids);
                if coin() {
                    for id in &ids {
                        stage.trace.note(format_args!("{id} is switched on again"));
                        stage.start(*id, false).await;
                    }
                }
                self.grow(stage, judge, vec![dc, dc]).await?;
            }
        }
        self.others_join = true;
        Ok(())
    }

    /// Nobody reaches a data centre for a while, just before it is the one that is left.
    async fn cut_off(&mut self, stage: &Arc<Stage>, judge: &mut Judge, dc: &'static str) {
        stage
            .trace
            .note(format_args!("data centre {dc} is cut off"));
        let is_there = |(_, there): &&(u64, &str)| *there == dc;
        for (one, _) in self.machines.iter().filter(is_there) {
            for (other, _) in self.machines.iter().filter(|other| !is_there(other)) {
                stage.net.cut(*one, *other);
                stage.net.cut(*other, *one);
            }
        }
        let until = Instant::now() + Duration::from_millis(Random.random_range(1..BEFORE_MS));
        while Instant::now() < until {
            sleep(END_EVERY).await;
            judge.look(stage);
        }
    }

    /// A machine joins in a data centre of which another one is away, for longer than that at times: it has no word of it then.
    async fn one_comes_while_another_is_away(
        &mut self,
        stage: &Arc<Stage>,
        judge: &mut Judge,
        dc: &'static str,
    ) {
        let there = self.machines.iter().filter(|(_, there)| *there == dc);
        let there: Vec<u64> = there.map(|(id, _)| *id).collect();
        let away = there[Random.random_range(0..there.len())];
        self.crash_for(stage, away, Random.random_range(1..AWAY_MS));
        self.guest_comes(stage, dc).await;
        let joining = Duration::from_millis(Random.random_range(1..JOINS_WITHIN_MS));
        let until = Instant::now() + joining;
        while Instant::now() < until {
            sleep(END_EVERY).await;
            self.end_what_is_over(stage).await;
            judge.look(stage);
        }
    }

    /// Has data centre `left` go on without those that are lost.
    async fn go_on(
        &mut self,
        stage: &Arc<Stage>,
        judge: &mut Judge,
        left: &'static str,
        lost: &[u64],
    ) -> Result<End, String> {
        let (operator, gone) = (stage.clone(), lost.to_vec());
        if self.has_witness() {
            let removing = async move { remove(&operator, &gone).await.map(|()| End::Alone) };
            return self.wait_amid(stage, judge, removing).await;
        }
        let has_second = coin();
        let power = if has_second {
            Power::Flickers
        } else {
            Power::MayStay
        };
        if has_second {
            let (second, gone) = (stage.clone(), lost.to_vec());
            self.operators.push(tokio::spawn(async move {
                // Whatever comes of it, the first goes on.
                let _ = recover_once(&second, left, &gone, power).await;
            }));
        }
        let recovering = async move { recover(&operator, left, &gone, power).await };
        self.wait_amid(stage, judge, recovering).await
    }

    /// New machines join, in these data centres, and stay.
    pub async fn grow(
        &mut self,
        stage: &Arc<Stage>,
        judge: &mut Judge,
        dcs: Vec<&'static str>,
    ) -> Result<(), String> {
        // Others would be in the way of those that must.
        let others_join = std::mem::replace(&mut self.others_join, false);
        let newcomers: Vec<_> = (self.next_machine..).zip(dcs).collect();
        self.next_machine += newcomers.len() as u64;
        let (first, _) = self.any_machine();
        let (growing, coming) = (stage.clone(), newcomers.clone());
        let joining = async move { join_all(&growing, first, &coming).await };
        self.wait_amid(stage, judge, joining).await?;
        self.machines.extend(newcomers);
        self.others_join = others_join;
        Ok(())
    }

    /// Has things go wrong until somebody is done.
    async fn wait_amid<T: Send + 'static>(
        &mut self,
        stage: &Arc<Stage>,
        judge: &mut Judge,
        doing: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> Result<T, String> {
        let doing = tokio::spawn(doing);
        while !doing.is_finished() && stage.trace.violation().is_none() {
            self.rage(stage, judge, SPELL).await;
        }
        let panicked = |error| format!("an operator panicked: {error}");
        doing.await.map_err(panicked)?
    }

    fn has_witness(&self) -> bool {
        self.machines.iter().any(|(_, dc)| *dc == WITNESS_DC)
    }

    /// All machines of a data centre lose their power, and stay without.
    fn lose(&mut self, stage: &Stage, dc: &str) -> Vec<(u64, &'static str)> {
        let is_with_witness = coin();
        stage.trace.note(format_args!(
            "data centre {dc} is lost for good; a witness, too: {is_with_witness}"
        ));
        stage.lose_centre();
        let is_lost = |(_, there): &(u64, &'static str)| {
            *there == dc || is_with_witness && *there == WITNESS_DC
        };
        let mut lost: Vec<_> = self
            .machines
            .extract_if(.., |machine| is_lost(machine))
            .collect();
        lost.extend(self.guest.take_if(|guest| is_lost(guest)));
        for (id, _) in &lost {
            self.is_well(*id);
            stage.crash(*id);
        }
        lost
    }
}

fn coin() -> bool {
    Random.random_range(0..2) == 0
}

/// Whether each group has the voters that it should have, and is not about to have others.
pub fn is_spread(stage: &Stage) -> bool {
    let Some(cluster) = stage.newest_cluster() else {
        return false;
    };
    let statuses = stage.members().into_iter();
    let statuses = statuses.flat_map(|(_, process)| (0..).zip(process.node.group_statuses()));
    let is_there = |(number, group): &(u16, GroupStatus)| {
        let is_led = group.leads && group.has_quorum;
        is_led && !group.changing && group.voters == cluster.voters(*number)
    };
    let there = statuses.filter(is_there).map(|(number, _)| number);
    there.collect::<BTreeSet<u16>>().len() == usize::from(SHARDS) + 1
}

/// An operator removes nodes from a cluster that has its majority, and ends when they are to leave.
pub async fn remove(stage: &Arc<Stage>, leaving: &[u64]) -> Result<(), String> {
    let until = Instant::now() + RECOVERED_WITHIN;
    loop {
        let Some(cluster) = stage.newest_cluster() else {
            pause().await;
            continue;
        };
        let stays = |id: &&u64| {
            let member = cluster.nodes.get(id);
            member.is_some_and(|member| member.duty != Duty::Leaving)
        };
        let Some(id) = leaving.iter().find(stays) else {
            return Ok(());
        };
        if Instant::now() >= until {
            return Err(format!("node {id} is not removed"));
        }
        change(
            stage,
            ClusterChange::Remove {
                node_id: *id,
                force: false,
            },
        );
        pause().await;
    }
}

/// What the power of the lost may do while an operator is at work.
#[derive(Clone, Copy, PartialEq)]
enum Power {
    /// It is there for a moment, now and then.
    Flickers,
    /// It may come and stay.
    MayStay,
    /// It has come.
    Stays,
}

/// An operator tries to have data centre `dc` go on alone, though the lost are a majority, until it is said that this may lose what they sold.
async fn refuse(stage: Arc<Stage>, dc: &'static str) -> Result<(), String> {
    let until = Instant::now() + RECOVERED_WITHIN;
    loop {
        let (_, attempt) = recover_once(&stage, dc, &[], Power::Flickers).await;
        match attempt {
            Ok(()) => return Err(format!("{dc} goes on alone without a lost majority")),
            Err(why) if why.contains("a majority of those that vote") => return Ok(()),
            Err(why) if Instant::now() >= until => {
                return Err(format!("{dc} is not refused for a lost majority: {why}"));
            }
            Err(_) => {}
        }
    }
}

/// An operator has data centre `dc` go on, asking one of its nodes after the other until it does, or is not needed any more.
async fn recover(
    stage: &Arc<Stage>,
    dc: &'static str,
    lost: &[u64],
    mut power: Power,
) -> Result<End, String> {
    let until = Instant::now() + RECOVERED_WITHIN;
    let before = stage.incarnation();
    loop {
        let (now, attempt) = recover_once(stage, dc, lost, power).await;
        power = now;
        let Err(why) = attempt else {
            return Ok(End::Alone);
        };
        // It may have been done without an answer.
        let nodes = stage.newest_cluster().map(|cluster| cluster.nodes);
        let nodes = nodes.unwrap_or_default();
        // Whoever was just started knows of no nodes yet.
        if !nodes.is_empty() && nodes.values().all(|node| node.info.dc == dc) {
            return Ok(End::Alone);
        }
        if power == Power::Stays && stage.are_all_of(before) {
            // Whoever stands still may not have heard yet what it was told.
            sleep(HEARD_WITHIN).await;
            if stage.are_all_of(before) {
                return Ok(End::CameBack);
            }
        }
        if Instant::now() >= until {
            return Err(format!("{dc} does not go on alone: {why}"));
        }
    }
}

/// One attempt of an operator, and what the power of the lost does from then on. Every other time one of the nodes is killed amid it, and
/// comes back at once; now and then what is lost has power.
async fn recover_once(
    stage: &Arc<Stage>,
    dc: &'static str,
    lost: &[u64],
    power: Power,
) -> (Power, Result<(), String>) {
    pause().await;
    let there = stage.processes_in(dc);
    if there.is_empty() {
        return (power, Err("nothing runs there".to_owned()));
    }
    let any = || there[Random.random_range(0..there.len())].clone();
    let ((_, asked), (killed, _)) = (any(), any());
    let node = asked.node.clone();
    let recovering = asked.life.spawn(async move {
        node.recover(dc, false)
            .await
            .map_err(|error| error.to_string())
    });
    let within = |ms: u64| sleep(Duration::from_millis(Random.random_range(0..ms)));
    let mut power = power;
    match Random.random_range(0..4) {
        0 | 1 => {
            within(AMID_MS).await;
            stage.trace.note(format_args!("{killed} is killed"));
            stage.crash(killed);
            within(AMID_MS).await;
            stage.start(killed, false).await;
        }
        2 if !lost.is_empty() && power != Power::Stays => {
            within(AMID_MS).await;
            stage.trace.note(format_args!("{lost:?} have power"));
            for id in lost {
                stage.start(*id, false).await;
            }
            if power == Power::MayStay {
                power = Power::Stays;
            } else {
                within(POWER_MS).await;
                for id in lost {
                    stage.crash(*id);
                }
            }
        }
        _ => {}
    }
    // What the error says numbers tasks over all runs of this process, and a trace is the same each time.
    let recovered = recovering.await.map_err(|_| "the node is gone".to_owned());
    stage
        .trace
        .note(format_args!("{dc} goes on alone -> {recovered:?}"));
    let recovered = recovered.and_then(|recovered| recovered.map(drop));
    (power, recovered)
}

/// New machines join the cluster that node `first` belongs to.
async fn join_all(
    stage: &Arc<Stage>,
    first: u64,
    newcomers: &[(u64, &'static str)],
) -> Result<(), String> {
    for (id, dc) in newcomers {
        pause().await;
        // It learns which life the cluster is in from the node that it joins by.
        while stage.process(first).is_none() {
            pause().await;
        }
        stage.trace.note(format_args!("{id} joins, and stays"));
        stage.machine_comes(*id, dc);
        join(stage, first, (*id, dc)).await?;
    }
    Ok(())
}

/// Between two things that an operator does.
async fn pause() {
    let pause = Random.random_range(1..TRIES_EVERY_MS);
    sleep(Duration::from_millis(pause)).await;
}
