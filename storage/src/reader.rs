//! Reading from the database. Invariant: an entry that should be there and is not, or that fails its checksum, is an error that names
//! it; reading never steps over it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use rocksdb::ReadOptions;

use crate::database::{Cursor, Database};
use crate::group::LogState;
use crate::record::{
    Kind, gap_key, hex, log_key, meta_key, open, parse_index_and_marker, parse_log_key,
    parse_meta_key,
};
use crate::tail::Tail;
use crate::{GroupId, ReadError};

/// First allocation of one read, in bytes; one buffer serves all entries of a read.
const READ_CAPACITY_BYTES: usize = 64 << 10;

/// Why a run of entries was not read.
pub(crate) enum RunError {
    /// This entry is not in the database. Whether it should be, the caller knows.
    Missing(u64),
    Read(ReadError),
}

/// Reads entries of `range` until about `bytes_max`, at least one.
pub(crate) fn read_run(
    database: &Database,
    group: GroupId,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Bytes>, RunError> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(log_key(group, range.end));
    // A replay must not push out of the cache what others read.
    options.fill_cache(false);
    let mut found = database.cursor(database.log(group), options);
    found.seek(&log_key(group, range.start));
    let mut buffer = BytesMut::with_capacity(bytes_max.min(READ_CAPACITY_BYTES));
    let mut lengths: Vec<usize> = Vec::new();
    for index in range {
        let Some((key, stored)) = found.item() else {
            check_iterator(database, &found, group, index)?;
            return Err(RunError::Missing(index));
        };
        if key != log_key(group, index) {
            return Err(RunError::Missing(index));
        }
        let payload =
            open(key, stored).map_err(|detail| corrupt(database, group, index, detail))?;
        if !lengths.is_empty() && buffer.len() + payload.len() > bytes_max {
            break;
        }
        lengths.push(payload.len());
        buffer.extend_from_slice(payload);
        found.next();
    }
    let mut rest = buffer.freeze();
    Ok(lengths
        .into_iter()
        .map(|length| rest.split_to(length))
        .collect())
}

/// Names an entry that is damaged or gone.
pub(crate) fn corrupt(
    database: &Database,
    group: GroupId,
    index: u64,
    detail: impl Into<String>,
) -> ReadError {
    ReadError::Corrupt {
        group,
        index,
        key: hex(&log_key(group, index)),
        file: database.path().to_path_buf(),
        detail: detail.into(),
    }
}

impl From<ReadError> for RunError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// The groups that have entries, a floor, or a committed index. A vote and a tombstone do not count: they outlive their group.
pub(crate) fn groups(database: &Database) -> Result<Vec<GroupId>, ReadError> {
    let mut found = database.cursor(database.meta(), ReadOptions::default());
    let mut groups = Vec::new();
    found.seek(&0_u16.to_be_bytes());
    while let Some((group, kind)) = found.item().and_then(|(key, _)| parse_meta_key(key)) {
        if group.0 >= crate::GROUPS_MAX {
            break;
        }
        if [Kind::Vote, Kind::Tombstone]
            .map(|kind| kind as u8)
            .contains(&kind)
        {
            found.next();
        } else {
            groups.push(group);
            found.seek(&(group.0 + 1).to_be_bytes());
        }
    }
    found.status().map_err(|error| io(database, &error))?;
    Ok(groups)
}

/// Reads what is known of a group and checks it against the log.
pub(crate) fn load(
    database: &Database,
    group: GroupId,
    tail_bytes: usize,
) -> Result<LogState, ReadError> {
    let state = |kind| Piece {
        database,
        group,
        kind,
    };
    let first = state(Kind::First).read_index()?;
    let floor = state(Kind::Floor).read_marked()?;
    let committed = state(Kind::Committed).read_marked()?;
    let vote = state(Kind::Vote).read()?;
    let tombstone = state(Kind::Tombstone).read()?;
    let gaps = read_gaps(database, group)?;
    // What lies below the first flow is forgotten, even if a table file still holds it.
    let last = last_entry(database, group)?.filter(|last| first.is_none_or(|first| *last >= first));
    let floor_end = floor.as_ref().map(|(floor, _)| floor + 1);
    let end = last.map(|last| last + 1).max(floor_end);
    // The first flow may be noted where the next append will put it.
    let first = first.filter(|first| end.is_none_or(|end| *first < end));
    match (first, last) {
        (None, Some(last)) => {
            let detail = format!("it is missing, though there is an entry {last}");
            return Err(state(Kind::First).corrupt(detail));
        }
        (Some(first), None) => {
            return Err(corrupt(
                database,
                group,
                first,
                "the entry is missing, the log's first",
            ));
        }
        _ => {}
    }
    if let Some((committed, _)) = &committed
        && end.is_none_or(|end| *committed >= end)
    {
        let last = end.map_or_else(
            || "there is none".into(),
            |end| format!("the last is {}", end - 1),
        );
        return Err(corrupt(
            database,
            group,
            *committed,
            format!("the entry was committed here but is missing: {last}"),
        ));
    }
    let tail_end = end.unwrap_or(0);
    let vouched_end = committed.as_ref().map_or(0, |(committed, _)| committed + 1);
    let tail = Tail::new(tail_end, tail_bytes);
    Ok(LogState {
        first,
        floor,
        end,
        gaps,
        vote,
        tombstone,
        committed,
        vouched_end,
        durable_end: tail_end,
        epoch: 0,
        tail,
    })
}

fn last_entry(database: &Database, group: GroupId) -> Result<Option<u64>, ReadError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(log_key(group, 0));
    let mut found = database.cursor(database.log(group), options);
    found.seek_for_prev(&log_key(group, u64::MAX));
    let Some((key, stored)) = found.item() else {
        check_iterator(database, &found, group, 0)?;
        return Ok(None);
    };
    let Some((_, index)) = parse_log_key(key) else {
        return Err(ReadError::Io {
            file: database.path().to_path_buf(),
            detail: format!("the log holds a strange key {}", hex(key)),
        });
    };
    open(key, stored).map_err(|detail| corrupt(database, group, index, detail))?;
    Ok(Some(index))
}

fn read_gaps(database: &Database, group: GroupId) -> Result<Vec<(u64, u64)>, ReadError> {
    let piece = Piece {
        database,
        group,
        kind: Kind::Gap,
    };
    let prefix = meta_key(group, Kind::Gap);
    let mut found = database.cursor(database.meta(), ReadOptions::default());
    found.seek(&gap_key(group, 0));
    let mut gaps = Vec::new();
    while let Some((key, stored)) = found.item() {
        let Some(first) = key.strip_prefix(&prefix[..]) else {
            break;
        };
        let payload = open(key, stored).map_err(|detail| piece.corrupt(detail))?;
        let (Ok(first), Ok(last)) = (first.try_into(), payload.try_into()) else {
            return Err(piece.corrupt("a gap has not its length".into()));
        };
        gaps.push((u64::from_be_bytes(first), u64::from_be_bytes(last)));
        found.next();
    }
    found.status().map_err(|error| io(database, &error))?;
    Ok(gaps)
}

/// One piece of a group's state, for reading it and for naming it.
struct Piece<'a> {
    database: &'a Database,
    group: GroupId,
    kind: Kind,
}

impl Piece<'_> {
    fn read(&self) -> Result<Option<Bytes>, ReadError> {
        let key = meta_key(self.group, self.kind);
        let stored = self
            .database
            .get_meta(&key)
            .map_err(|error| match error.kind() {
                rocksdb::ErrorKind::Corruption => self.corrupt(error.to_string()),
                _ => io(self.database, &error),
            })?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let payload = open(&key, &stored).map_err(|detail| self.corrupt(detail))?;
        Ok(Some(Bytes::copy_from_slice(payload)))
    }

    fn read_index(&self) -> Result<Option<u64>, ReadError> {
        let Some(payload) = self.read()? else {
            return Ok(None);
        };
        let index = payload[..]
            .try_into()
            .map_err(|_| self.corrupt(format!("it has {} bytes", payload.len())))?;
        Ok(Some(u64::from_be_bytes(index)))
    }

    fn read_marked(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        let Some(payload) = self.read()? else {
            return Ok(None);
        };
        let (index, marker) = parse_index_and_marker(&payload)
            .ok_or_else(|| self.corrupt(format!("it has {} bytes", payload.len())))?;
        Ok(Some((index, payload.slice_ref(marker))))
    }

    fn corrupt(&self, detail: String) -> ReadError {
        ReadError::CorruptState {
            group: self.group,
            what: self.kind.name(),
            key: hex(&meta_key(self.group, self.kind)),
            file: self.database.path().to_path_buf(),
            detail,
        }
    }
}

/// An iterator that ends must say whether it ended for want of entries or for an error.
fn check_iterator(
    database: &Database,
    found: &Cursor<'_>,
    group: GroupId,
    index: u64,
) -> Result<(), ReadError> {
    found.status().map_err(|error| match error.kind() {
        rocksdb::ErrorKind::Corruption => corrupt(database, group, index, error.to_string()),
        _ => io(database, &error),
    })
}

fn io(database: &Database, error: &rocksdb::Error) -> ReadError {
    ReadError::Io {
        file: database.path().to_path_buf(),
        detail: error.to_string(),
    }
}
