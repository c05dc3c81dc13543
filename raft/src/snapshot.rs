//! Snapshots by replay: load the last one, fold the committed entries after it, write the next.
//!
//! The actor is not involved and never pauses, and the recovery path runs with every snapshot. A few shards are folded at a time,
//! so that only theirs are in memory twice. A snapshot file's header holds the log id and the membership it reaches up to.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use openraft::Snapshot;
use openraft::storage::{RaftSnapshotBuilder, SnapshotMeta};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use qiang_engine::replica::{Head, LoadError};
use qiang_engine::{Replica, codec};
use qiang_storage::{GroupId, GroupLog, SnapshotDir, SnapshotReader, SnapshotWriter};

use crate::log_store::encode_log_id;
use crate::types::{LogId, StoredMembership, TypeConfig, batch_in, membership_in};
use crate::world::{blocking, random_u64, room};

/// Bytes of entries read at once while folding.
const FOLD_READ_BYTES: usize = 4 << 20;

/// Shards whose state is in memory a second time while a snapshot is built. The log is read once for so many.
const SHARDS_AT_ONCE: usize = 4;

/// Snapshots kept per group: the newest, and one to fall back to if its file goes bad.
pub const SNAPSHOTS_KEPT: usize = 2;

/// A snapshot file: in this node's snapshot directory, or received and to be moved there.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    /// Last log index it contains.
    pub index: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Takes a snapshot file into the snapshot directory, unless it is there already, and reads it. What it may contradict leaves the log
/// first: neither a reader of flows nor a start after a crash finds both. When it returns, the log goes on from there also after a
/// crash: whoever sent it may have this node vote from then on, and it must not come back without the group.
pub fn take_in<T>(
    log: &GroupLog,
    snapshots: &SnapshotDir,
    file: &SnapshotFile,
    read: impl FnOnce(SnapshotReader) -> io::Result<T>,
) -> io::Result<T> {
    log.make_way(file.index).map_err(io::Error::other)?;
    let here = snapshots.list().map_err(io::Error::other)?;
    if here.iter().all(|known| known.path != file.path) {
        snapshots.import(&file.path).map_err(io::Error::other)?;
    }
    let reader = snapshots.open(file.index).map_err(io::Error::other)?;
    let last = read_meta(&reader)?.last_log_id;
    let state = read(reader)?;
    if let Some(last) = last {
        let goes_on = log.go_on_after(last.index, encode_log_id(&last));
        goes_on.map_err(io::Error::other)?;
    }
    Ok(state)
}

/// The state of the shards that share a log, and the membership of their group, at some place in it.
pub struct Folding {
    pub replica: Replica,
    pub membership: StoredMembership,
}

impl Folding {
    /// Of so many shards before the first entry.
    pub fn new(shards: usize) -> Self {
        Folding {
            replica: Replica::new(shards, random_u64()),
            membership: StoredMembership::default(),
        }
    }
}

/// The first entry to fold after a snapshot of this index, or, without one, into nothing. Where what came before it is gone, the
/// rest must not be folded: nothing would follow the tail, and all of it be void.
pub fn fold_from(log: &GroupLog, snapshot: Option<u64>) -> io::Result<u64> {
    let after = snapshot.map(|index| index + 1);
    let Some(first) = log.first_index() else {
        return Ok(after.unwrap_or(0));
    };
    // The entry at 0 says who is in the group, and nothing of the shards.
    if first > after.unwrap_or(1) {
        let lacking = first - 1;
        return Err(io::Error::other(format!(
            "no good snapshot reaches log index {lacking}, and the flows up to there are not here any more: \
             restore a snapshot file of index {lacking} or above into the snapshot directory"
        )));
    }
    Ok(after.unwrap_or(first))
}

/// Folds the committed entries of `log` from `from` to `to` inclusive into `folding`.
pub fn fold(folding: &mut Folding, log: &GroupLog, from: u64, to: u64) -> io::Result<u64> {
    let read_bytes = room(FOLD_READ_BYTES);
    let mut next = from;
    while next <= to {
        let values = log
            .read(next, to + 1, read_bytes)
            .map_err(io::Error::other)?;
        if values.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("log entry {next} is missing"),
            ));
        }
        for value in &values {
            if let Some(bytes) = batch_in(next, value)? {
                let wrong = |error: String| io::Error::other(format!("log entry {next}: {error}"));
                let batch = folding.replica.decode(&bytes);
                let batch = batch.map_err(|error| wrong(error.to_string()))?;
                let folded = folding.replica.fold(next, &batch);
                folded.map_err(|error| wrong(error.to_string()))?;
            } else if let Some(membership) = membership_in(next, value)? {
                folding.membership = membership;
            }
            next += 1;
        }
        folding.replica.forget_touched();
    }
    Ok(next - from)
}

/// The header of a snapshot file.
pub fn read_meta(reader: &SnapshotReader) -> io::Result<SnapshotMetaOf<TypeConfig>> {
    let wrong = |error| {
        io::Error::other(format!(
            "the header of {}: {error}",
            reader.path().display()
        ))
    };
    let (last_log_id, last_membership): (Option<LogId>, StoredMembership) =
        codec::decode(reader.meta()).map_err(wrong)?;
    Ok(SnapshotMeta {
        last_log_id,
        last_membership,
    })
}

/// Loads the state in a snapshot.
pub fn load(reader: &mut SnapshotReader) -> io::Result<Replica> {
    let loaded = Replica::load(reader, random_u64());
    loaded.map_err(|error| in_file(reader, &error))
}

fn in_file(reader: &SnapshotReader, error: &LoadError) -> io::Error {
    io::Error::other(format!("{}: {error}", reader.path().display()))
}

/// Builds a group's next snapshot.
pub struct SnapshotBuilder {
    pub group: GroupId,
    /// How many shards share the group's log.
    pub shards: usize,
    pub log: GroupLog,
    pub snapshots: SnapshotDir,
    pub last_log_id: Option<LogId>,
}

impl SnapshotBuilder {
    fn build(&self) -> io::Result<()> {
        let newest = self.snapshots.newest_good().map_err(io::Error::other)?;
        if let Some(newest) = &newest
            && read_meta(newest)?.last_log_id >= self.last_log_id
        {
            return Ok(());
        }
        let reached = newest.as_ref().map(SnapshotReader::index);
        let from = fold_from(&self.log, reached)?;
        set_bad_aside(&self.snapshots, reached)?;
        let mut last = match newest {
            Some(reader) => Last::read(reader)?,
            None => Last::nothing(self.shards),
        };
        let mut writer = None;
        let (mut folded, mut orders) = (0, 0);
        for first in (0..self.shards).step_by(SHARDS_AT_ONCE) {
            let places = first..self.shards.min(first + SHARDS_AT_ONCE);
            let mut folding = last.part(places)?;
            if let Some(to) = self.last_log_id {
                folded = fold(&mut folding, &self.log, from, to.index)?;
            }
            // How the log ends, the first part says as well as any.
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(self.begin(&folding)?),
            };
            folding.replica.save_shards(writer)?;
            orders += folding.replica.order_count();
        }
        let writer = writer.expect("a log has shards");
        let info = writer.finish().map_err(io::Error::other)?;
        self.snapshots
            .keep_newest(SNAPSHOTS_KEPT)
            .map_err(io::Error::other)?;
        let (group, index, bytes) = (self.group.0, info.index, info.bytes);
        tracing::info!(group, index, bytes, folded, orders, "snapshot written");
        Ok(())
    }

    /// Begins the file of a state that ends as this part of it does.
    fn begin(&self, folding: &Folding) -> io::Result<SnapshotWriter> {
        let index = self.last_log_id.map_or(0, |last| last.index);
        let meta = codec::encode(&(self.last_log_id, &folding.membership));
        let created = self.snapshots.create(index, &meta);
        let mut writer = created.map_err(io::Error::other)?;
        folding.replica.head(self.shards).write(&mut writer)?;
        Ok(writer)
    }
}

/// The state that the next snapshot begins with, handed out part by part.
struct Last {
    /// The last snapshot after its head; without one everything is in the log.
    reader: Option<SnapshotReader>,
    head: Head,
    membership: StoredMembership,
}

impl Last {
    /// Of so many shards before the first entry.
    fn nothing(shards: usize) -> Self {
        Last {
            reader: None,
            head: Replica::new(0, 0).head(shards),
            membership: StoredMembership::default(),
        }
    }

    fn read(mut reader: SnapshotReader) -> io::Result<Self> {
        let head = Head::read(&mut reader).map_err(|error| in_file(&reader, &error))?;
        Ok(Last {
            head,
            membership: read_meta(&reader)?.last_membership,
            reader: Some(reader),
        })
    }

    /// The state of the shards at these places, which come next.
    fn part(&mut self, places: Range<usize>) -> io::Result<Folding> {
        let replica = match &mut self.reader {
            Some(reader) => Replica::load_part(&self.head, places, reader, random_u64())
                .map_err(|error| in_file(reader, &error))?,
            None => Replica::new(self.head.shards, random_u64()).part(places),
        };
        Ok(Folding {
            replica,
            membership: self.membership.clone(),
        })
    }
}

/// Renames the snapshots above the newest good one: they are bad, and must not count among those kept.
fn set_bad_aside(snapshots: &SnapshotDir, newest_good: Option<u64>) -> io::Result<()> {
    for bad in snapshots.list().map_err(io::Error::other)? {
        if Some(bad.index) > newest_good {
            let aside = bad.path.with_extension("bad");
            tracing::warn!(from = %bad.path.display(), to = %aside.display(), "setting a damaged snapshot aside");
            std::fs::rename(&bad.path, &aside)?;
        }
    }
    Ok(())
}

/// Raft can replay only what is above the floor of its log. If no good snapshot reaches up to there,
/// because files went bad or were deleted, the flows below it, which are kept for much longer, make
/// one.
pub fn mend(
    group: GroupId,
    shards: usize,
    log: &GroupLog,
    snapshots: &SnapshotDir,
    floor: LogId,
) -> io::Result<()> {
    let newest = snapshots.newest_good().map_err(io::Error::other)?;
    let reached = newest.as_ref().map(SnapshotReader::index);
    if reached >= Some(floor.index) {
        return Ok(());
    }
    tracing::warn!(
        group = group.0,
        floor = floor.index,
        "no good snapshot reaches Raft's floor: making one from the flows"
    );
    let (log, snapshots) = (log.clone(), snapshots.clone());
    SnapshotBuilder {
        group,
        shards,
        log,
        snapshots,
        last_log_id: Some(floor),
    }
    .build()
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let work = SnapshotBuilder {
            group: self.group,
            shards: self.shards,
            log: self.log.clone(),
            snapshots: self.snapshots.clone(),
            last_log_id: self.last_log_id,
        };
        blocking(move || work.build()).await??;
        current(&self.snapshots)?
            .ok_or_else(|| io::Error::other("the snapshot just written is not there"))
    }
}

/// The newest good snapshot of a group, as openraft wants it.
pub fn current(
    snapshots: &SnapshotDir,
) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
    let Some(reader) = snapshots.newest_good().map_err(io::Error::other)? else {
        return Ok(None);
    };
    let meta = read_meta(&reader)?;
    Ok(Some(Snapshot {
        meta,
        snapshot: SnapshotFile {
            index: reader.index(),
            path: reader.path().to_owned(),
        },
    }))
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
