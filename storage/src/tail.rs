//! The newest entries of a group in memory. Invariant: it holds every entry that is not yet durable, ends where the log ends, and
//! beyond that holds as many older entries as its byte limit allows.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

/// The values of one append, shared with the writer until they are durable: sharing the whole avoids a reference count per entry.
pub(crate) type Values = Arc<Vec<Bytes>>;

/// What holding an entry takes beside its value, in bytes, roughly: a chunk, a vector, a count of references. Most entries are smaller.
const ENTRY_BYTES: usize = 160;

/// The memory that values take.
fn bytes_of(values: &[Bytes]) -> usize {
    values.iter().map(|value| value.len() + ENTRY_BYTES).sum()
}

struct Chunk {
    first: u64,
    /// How many of `values` are still part of the log: a truncation may have cut the rest.
    len: u64,
    bytes: usize,
    values: Values,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.first + self.len
    }

    fn values(&self) -> &[Bytes] {
        &self.values[..usize::try_from(self.len).expect("a part of a vector's length")]
    }
}

/// Entries `start..end` of one group, in chunks as they were appended.
pub(crate) struct Tail {
    chunks: VecDeque<Chunk>,
    end: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    /// An empty tail of a log that goes on at `end`.
    pub(crate) fn new(end: u64, bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            end,
            bytes: 0,
            bytes_max,
        }
    }

    /// The first entry held; the log's end if none is.
    pub(crate) fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.first)
    }

    /// Adds the entries from `first` on and lets go of the oldest durable ones (below `durable_end`) beyond the limit.
    pub(crate) fn push(&mut self, first: u64, values: Values, durable_end: u64) {
        debug_assert!(
            self.chunks.is_empty() || first == self.end,
            "appends are consecutive"
        );
        let bytes = bytes_of(&values);
        let len = values.len() as u64;
        self.end = first + len;
        self.bytes += bytes;
        self.chunks.push_back(Chunk {
            first,
            len,
            bytes,
            values,
        });
        while self.bytes > self.bytes_max
            && self
                .chunks
                .front()
                .is_some_and(|oldest| oldest.end() <= durable_end)
        {
            let oldest = self.chunks.pop_front().expect("just seen");
            self.bytes -= oldest.bytes;
        }
    }

    /// Forgets the entries from `end` on.
    pub(crate) fn truncate(&mut self, end: u64) {
        while self.chunks.back().is_some_and(|newest| newest.first >= end) {
            let newest = self.chunks.pop_back().expect("just seen");
            self.bytes -= newest.bytes;
        }
        if let Some(newest) = self.chunks.back_mut().filter(|newest| newest.end() > end) {
            newest.len = end - newest.first;
            let bytes = bytes_of(newest.values());
            self.bytes = self.bytes - newest.bytes + bytes;
            newest.bytes = bytes;
        }
        self.end = end;
    }

    /// Lets the log go on at `end`, over indexes that will never be written.
    pub(crate) fn skip_to(&mut self, end: u64) {
        self.end = end;
    }

    /// Entries from `from`, which must be held, up to `to_exclusive` or about `bytes_max` bytes, at least one.
    pub(crate) fn read(&self, from: u64, to_exclusive: u64, bytes_max: usize) -> Vec<Bytes> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let begin = self.chunks.partition_point(|chunk| chunk.end() <= from);
        for chunk in self.chunks.range(begin..) {
            let skip = from.saturating_sub(chunk.first);
            for (index, value) in (chunk.first..)
                .zip(chunk.values())
                .skip(usize::try_from(skip).expect("within a vector"))
            {
                bytes += value.len();
                if index >= to_exclusive || (bytes > bytes_max && !found.is_empty()) {
                    return found;
                }
                found.push(value.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one of the entries below takes.
    const EACH: usize = 10 + ENTRY_BYTES;

    fn values(range: std::ops::Range<u64>) -> Values {
        Arc::new(
            range
                .map(|index| Bytes::from(format!("{index:010}")))
                .collect(),
        )
    }

    fn indexes(found: &[Bytes]) -> Vec<u64> {
        found
            .iter()
            .map(|value| std::str::from_utf8(value).unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn entries_not_durable_are_kept_beyond_the_limit() {
        let mut tail = Tail::new(5, 10 * EACH);
        tail.push(5, values(5..25), 5);
        tail.push(25, values(25..45), 5);
        assert_eq!((tail.start(), tail.bytes), (5, 40 * EACH));
        tail.push(45, values(45..50), 30);
        assert_eq!(
            (tail.start(), tail.bytes),
            (25, 25 * EACH),
            "only the chunk that is wholly durable goes"
        );
        tail.push(50, values(50..51), 50);
        assert_eq!((tail.start(), tail.bytes), (45, 6 * EACH));
    }

    #[test]
    fn a_truncation_cuts_inside_a_chunk() {
        let mut tail = Tail::new(0, 100 * EACH);
        tail.push(0, values(0..10), 0);
        tail.push(10, values(10..20), 0);
        tail.truncate(7);
        assert_eq!((tail.start(), tail.end, tail.bytes), (0, 7, 7 * EACH));
        tail.push(7, values(7..9), 0);
        assert_eq!(indexes(&tail.read(3, 100, usize::MAX)), [3, 4, 5, 6, 7, 8]);
        tail.truncate(0);
        assert_eq!((tail.start(), tail.end, tail.bytes), (0, 0, 0));
    }

    #[test]
    fn a_read_is_bounded_by_bytes_but_gives_at_least_one() {
        let mut tail = Tail::new(0, 100 * EACH);
        tail.push(0, values(0..4), 0);
        tail.push(4, values(4..8), 0);
        assert_eq!(indexes(&tail.read(2, 8, 1)), [2]);
        assert_eq!(indexes(&tail.read(2, 8, 35)), [2, 3, 4]);
        assert_eq!(indexes(&tail.read(2, 6, 1000)), [2, 3, 4, 5]);
    }

    #[test]
    fn entries_before_a_skip_are_held_until_they_are_durable() {
        let mut tail = Tail::new(0, 3 * EACH / 2);
        tail.push(0, values(0..3), 0);
        tail.truncate(2);
        tail.skip_to(100);
        tail.push(100, values(100..102), 0);
        assert_eq!(indexes(&tail.read(0, 2, 1000)), [0, 1]);
        assert_eq!(indexes(&tail.read(100, 200, 1000)), [100, 101]);
        tail.push(102, values(102..103), 102);
        assert_eq!(tail.start(), 102);
    }
}
