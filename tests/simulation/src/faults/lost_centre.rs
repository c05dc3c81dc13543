//! A data centre that is lost for good, amid everything else: an operator has the other one go on alone, and new machines take the place of
//! those that are gone. Some of these are switched on again one day.
//!
//! Invariant: when what is left goes on, nothing runs any more on what was lost; and nothing of it that runs again is heard.

use std::sync::Arc;
use std::time::Duration;

use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::Faults;
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

/// How long the operator may take until what is left goes on.
const RECOVERED_WITHIN: Duration = Duration::from_mins(2);

/// How long things go wrong before it is looked again whether operators are done.
const SPELL: Duration = Duration::from_millis(500);

impl Faults {
    /// Loses a data centre, and ends when as many machines are there again.
    pub async fn lose_data_centre(
        &mut self,
        stage: &Arc<Stage>,
        judge: &mut Judge,
    ) -> Result<(), String> {
        let (dc, left) = if Random.random_range(0..2) == 0 {
            ("a", "b")
        } else {
            ("b", "a")
        };
        self.lose(stage, dc);
        // Nobody joins what does not decide.
        self.others_join = false;
        let unnoticed = Duration::from_millis(Random.random_range(1..NOTICED_WITHIN_MS));
        self.rage(stage, judge, unnoticed).await;
        let (operator, lost) = (stage.clone(), self.lost.clone());
        let operator = tokio::spawn(async move { recover(&operator, left, &lost).await });
        if Random.random_range(0..2) == 0 {
            let (second, lost) = (stage.clone(), self.lost.clone());
            tokio::spawn(async move { recover_once(&second, left, &lost).await });
        }
        while !operator.is_finished() && stage.trace.violation().is_none() {
            self.rage(stage, judge, SPELL).await;
        }
        let panicked = |error| format!("an operator panicked: {error}");
        operator.await.map_err(panicked)??;
        if Random.random_range(0..2) == 0 {
            for id in &self.lost {
                stage.trace.note(format_args!("{id} is switched on again"));
                stage.start(*id, false).await;
            }
        }
        let newcomers: Vec<u64> = (self.next_machine..).take(2).collect();
        self.next_machine += 2;
        let (first, _) = self.any_machine();
        let growing = stage.clone();
        let coming = newcomers.clone();
        let growing = tokio::spawn(async move { replace(&growing, first, &coming, dc).await });
        while !growing.is_finished() && stage.trace.violation().is_none() {
            self.rage(stage, judge, SPELL).await;
        }
        growing.await.map_err(panicked)??;
        self.machines
            .extend(newcomers.into_iter().map(|id| (id, dc)));
        self.others_join = true;
        Ok(())
    }

    /// All machines of a data centre lose their power, and stay without.
    fn lose(&mut self, stage: &Stage, dc: &str) {
        stage
            .trace
            .note(format_args!("data centre {dc} is lost for good"));
        stage.lose_centre();
        let is_there = |(id, there): &(u64, &'static str)| (*there == dc).then_some(*id);
        let mut lost: Vec<u64> = self.machines.iter().filter_map(is_there).collect();
        lost.extend(self.guest.as_ref().and_then(is_there));
        self.guest.take_if(|guest| is_there(guest).is_some());
        self.machines.retain(|machine| is_there(machine).is_none());
        for id in &lost {
            self.is_well(*id);
            stage.crash(*id);
        }
        self.lost = lost;
    }
}

/// An operator has data centre `dc` go on, asking one of its nodes after the other until it does.
async fn recover(stage: &Arc<Stage>, dc: &'static str, lost: &[u64]) -> Result<(), String> {
    let until = Instant::now() + RECOVERED_WITHIN;
    while let Err(why) = recover_once(stage, dc, lost).await {
        // It may have been done without an answer.
        let nodes = stage.newest_cluster().map(|cluster| cluster.nodes);
        if nodes.is_some_and(|nodes| nodes.values().all(|node| node.info.dc == dc)) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!("{dc} does not go on alone: {why}"));
        }
    }
    Ok(())
}

/// One attempt of an operator. Every other time one of the nodes is killed amid it, and comes back at once; now and then what is lost has its
/// power for a moment.
async fn recover_once(stage: &Arc<Stage>, dc: &'static str, lost: &[u64]) -> Result<(), String> {
    let pause = Duration::from_millis(Random.random_range(1..TRIES_EVERY_MS));
    sleep(pause).await;
    let there = stage.processes_in(dc);
    if there.is_empty() {
        return Err("nothing runs there".to_owned());
    }
    let any = || there[Random.random_range(0..there.len())].clone();
    let ((_, asked), (killed, _)) = (any(), any());
    let node = asked.node.clone();
    let recovering = asked
        .life
        .spawn(async move { node.recover(dc).await.map_err(|error| error.to_string()) });
    let within = |ms: u64| sleep(Duration::from_millis(Random.random_range(0..ms)));
    match Random.random_range(0..4) {
        0 | 1 => {
            within(AMID_MS).await;
            stage.trace.note(format_args!("{killed} is killed"));
            stage.crash(killed);
            within(AMID_MS).await;
            stage.start(killed, false).await;
        }
        2 => {
            within(AMID_MS).await;
            stage.trace.note(format_args!("{lost:?} have power"));
            for id in lost {
                stage.start(*id, false).await;
            }
            within(POWER_MS).await;
            for id in lost {
                stage.crash(*id);
            }
        }
        _ => {}
    }
    // What the error says numbers tasks over all runs of this process, and a trace is the same each time.
    let recovered = recovering.await.map_err(|_| "the node is gone".to_owned());
    stage
        .trace
        .note(format_args!("{dc} goes on alone -> {recovered:?}"));
    recovered?.map(drop)
}

/// New machines of data centre `dc` join the cluster that node `first` belongs to.
async fn replace(
    stage: &Arc<Stage>,
    first: u64,
    newcomers: &[u64],
    dc: &'static str,
) -> Result<(), String> {
    for id in newcomers {
        let pause = Duration::from_millis(Random.random_range(1..TRIES_EVERY_MS));
        sleep(pause).await;
        stage
            .trace
            .note(format_args!("{id} takes the place of one"));
        stage.machine_comes(*id, dc);
        join(stage, first, (*id, dc)).await?;
    }
    Ok(())
}
