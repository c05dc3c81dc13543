//! openraft's log storage on top of `qiang_storage`: translation only, no state of its own.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::alias::VoteOf;
use openraft::{LogState, OptionalSend, RaftLogReader};
use qiang_engine::codec;
use qiang_storage::{GroupLog, WriteError};
use tokio::sync::oneshot;

use crate::types::{Entry, LogId, TypeConfig, decode_entry, decode_log_id, encode_entry};

/// Bytes of entries handed to replication or apply at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// The log of one group as openraft sees it.
#[derive(Clone)]
pub struct LogStore {
    log: GroupLog,
}

impl LogStore {
    pub fn new(log: GroupLog) -> Self {
        LogStore { log }
    }

    /// The last entry that Raft has purged.
    pub fn floor(&self) -> io::Result<Option<LogId>> {
        let floor = self.log.floor();
        floor
            .map(|(_, marker)| decode("the purge marker", &marker))
            .transpose()
    }

    /// The last entry, or where a snapshot has taken the place of all.
    pub fn last(&self) -> io::Result<Option<LogId>> {
        let Some(index) = self.log.last_index() else {
            return self.floor();
        };
        let values = self
            .log
            .read(index, index + 1, 1)
            .map_err(io::Error::other)?;
        let value = values
            .first()
            .ok_or_else(|| io::Error::other(format!("log entry {index} is missing")))?;
        Ok(Some(decode_log_id(index, value)?))
    }

    /// The last entry that this node had of the group when it left.
    pub fn tombstone(&self) -> io::Result<Option<LogId>> {
        let tombstone = self.log.tombstone();
        tombstone
            .map(|marker| decode("the tombstone", &marker))
            .transpose()
    }

    /// The vote as last saved.
    pub fn vote(&self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        let vote = self.log.vote();
        vote.map(|vote| decode("the stored vote", &vote))
            .transpose()
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let values = self
            .log
            .read(from, to, bytes_max)
            .map_err(io::Error::other)?;
        values
            .iter()
            .zip(from..)
            .map(|(value, index)| decode_entry(index, value))
            .collect()
    }

    async fn durably(&self, write: impl FnOnce(qiang_storage::Done)) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        write(Box::new(move |result: Result<(), WriteError>| {
            // The receiver is gone only if the group is being shut down.
            let _ = sender.send(result);
        }));
        let closed = |_| io::Error::other("the store was closed before the write was durable");
        receiver.await.map_err(closed)?.map_err(io::Error::other)
    }
}

/// A log id as it is kept with the floor and the committed index.
pub fn encode_log_id(log_id: &LogId) -> Bytes {
    Bytes::from(codec::encode(log_id))
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    codec::decode(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {error}")))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        // Flows stay readable below the floor that Raft sees; Raft itself must not see them.
        let above_floor = self.log.floor().map_or(0, |(floor, _)| floor + 1);
        let mut next = from
            .max(above_floor)
            .max(self.log.first_index().unwrap_or(0));
        let mut entries = Vec::new();
        while next < to {
            let read = self.read(next, to, READ_BYTES_MAX)?;
            if read.is_empty() {
                break;
            }
            next += read.len() as u64;
            entries.extend(read);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        self.vote()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (purged, last) = (self.floor()?, self.last()?);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        let vote = Bytes::from(codec::encode(vote));
        self.durably(|done| self.log.save_vote(vote, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log
                .save_committed(committed.index, encode_log_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log
            .committed()
            .map(|(_, marker)| decode("the committed marker", &marker))
            .transpose()
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut first = None;
        let encode = |entry: Entry| {
            first.get_or_insert(entry.index());
            encode_entry(&entry)
        };
        let values: Vec<Bytes> = entries.into_iter().map(encode).collect();
        let first = first.unwrap_or_default();
        self.log.append(
            first,
            values,
            Box::new(|result| callback.io_completed(result.map_err(io::Error::other))),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.log
            .truncate_after(last.map(|last| last.index))
            .map_err(io::Error::other)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.log
            .purge(log_id.index, encode_log_id(&log_id))
            .map_err(io::Error::other)
    }
}
