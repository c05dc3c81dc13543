//! Backups of the simulated cluster, read as whoever restores one would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::routing::{SHARDS, Sharing};
use qiang_engine::{Replica, Shard};
use qiang_raft::backup::Reader;
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use crate::judge::judge_backup;
use crate::machine::Process;
use crate::partners;
use crate::restored::Kept;
use crate::story::Stage;

/// How often a backup is asked for once all is well.
const TRIES: u32 = 50;

/// The pause between two of them.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// The longest pause between two backups of an operator, in milliseconds.
const TAKEN_EVERY_MS: u64 = 3_000;

/// How long an operator waits for one.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a backup has of the shards, in their order.
pub struct Saved {
    pub shards: Vec<Shard>,
    /// The last log index of which it has what came of it.
    pub ends: Vec<u64>,
}

/// An operator who takes a backup from any node now and then, until the stage is quiet.
pub async fn run(stage: Arc<Stage>) {
    while !stage.is_quiet() {
        sleep(Duration::from_millis(
            Random.random_range(1..TAKEN_EVERY_MS),
        ))
        .await;
        let Some(process) = stage.any_process() else {
            continue;
        };
        let before = stage.book();
        let looks = partners::begin_looks(&stage);
        let taken = timeout(PATIENCE, take(&process)).await;
        let taken = taken.unwrap_or_else(|_| Err("no answer".to_owned()));
        let what = match &taken {
            Ok(file) => format!("{} bytes", file.len()),
            Err(why) => why.clone(),
        };
        stage.trace.note(format_args!("backup -> {what}"));
        let Ok(file) = taken else { continue };
        match read(&file, stage.sharing) {
            Ok(saved) => {
                judge_backup(&stage, &saved.shards, &before);
                partners::end_looks(&stage, looks, &saved.shards);
                stage.keep_backup(Kept { file, saved });
            }
            Err(why) => stage.trace.violate(why),
        }
    }
}

/// A backup of a cluster in which all is well.
pub async fn of_settled(stage: &Arc<Stage>) -> Result<Saved, String> {
    let mut why = String::new();
    for _ in 0..TRIES {
        for (id, process) in stage.members() {
            match take(&process).await {
                Ok(file) => return read(&file, stage.sharing),
                Err(error) => why = format!("node {id}: {error}"),
            }
        }
        sleep(TRY_EVERY).await;
    }
    Err(format!("no backup is made though all is well: {why}"))
}

/// The backup that a node takes now.
async fn take(process: &Process) -> Result<Vec<u8>, String> {
    let node = process.node.clone();
    let taking = process.life.spawn(async move {
        let backup = node.begin_backup().await;
        let mut file = Vec::new();
        let backup = backup.map_err(|error| error.to_string())?;
        backup.write(&mut file).map_err(|error| error.to_string())?;
        Ok(file)
    });
    // What the error says numbers tasks over all runs of this process, and a trace is the same each time.
    taking.await.map_err(|_| "the node is gone".to_owned())?
}

/// Reads a backup.
fn read(file: &[u8], sharing: Sharing) -> Result<Saved, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("the backup cannot be read: {error}");
    let mut reader = Reader::begin(file).map_err(|error| wrong(&error))?;
    let mut known = BTreeMap::new();
    while let Some(cut) = reader.next_group().map_err(|error| wrong(&error))? {
        if cut.group < sharing.logs() {
            let replica = Replica::load(&mut reader, 7).map_err(|error| wrong(&error))?;
            let shards = sharing.shards_of(cut.group).zip(replica.shards);
            known.extend(shards.map(|(number, shard)| (number.0, (shard, cut.index))));
        }
        reader.skip_group().map_err(|error| wrong(&error))?;
    }
    if !known.keys().copied().eq(0..SHARDS) {
        return Err(wrong(&format!("it has the shards {:?}", known.keys())));
    }
    let (shards, ends) = known.into_values().unzip();
    Ok(Saved { shards, ends })
}
