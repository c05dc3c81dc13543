//! A batch: the records that one turn of an actor decided, which become one log entry.
//!
//! Each batch names itself and the batch decided just before it. A batch whose predecessor is not
//! the last effective one is void: every replica skips it. Without this chain a refused proposal
//! followed by an accepted one in the same term would apply effects onto a state that never was.
//!
//! The records of each shard lie together, so that whoever wants one shard's passes over the others'.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::ids::Place;
use crate::record::Record;

/// Names one batch. A stint is a random number drawn for each period of deciding, so a tag never
/// repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Tag {
    /// The period of deciding; 0 only in the tag of the empty state.
    pub stint: u64,
    /// Position within it, from 1.
    pub seq: u64,
}

/// The records of one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// This batch.
    pub me: Tag,
    /// The batch decided just before it.
    pub prev: Tag,
    /// What was decided, shard by shard, each shard once.
    pub parts: Vec<Part>,
}

/// What one turn decided on one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub place: Place,
    /// What was decided, in order.
    pub records: Vec<Record>,
}

/// The encoding written today: version byte, both tags, then each part as its place, its length and its records.
const VERSION: u8 = 2;

/// The encoding of when every shard had a log of its own: version byte, both tags, records.
const VERSION_ONE_SHARD: u8 = 1;

/// Bytes in front of the parts: version, `me` and `prev`, little-endian.
const HEADER_BYTES: usize = 1 + 32;

/// Bytes in front of a part's records: its place, and their length in bytes, little-endian.
const PART_HEADER_BYTES: usize = 1 + 4;

impl Batch {
    /// Encodes the batch.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(
            self.me,
            self.prev,
            self.parts.iter().map(|part| part.records.len()).sum(),
        );
        for part in &self.parts {
            put_part(
                part.place,
                part.records.len(),
                part.records.iter(),
                &mut out,
            );
        }
        out
    }

    /// Encodes the batch of what a turn has decided, in the order of deciding, on whichever shards.
    pub fn encode_decided(me: Tag, prev: Tag, decided: &[(Place, Record)]) -> Vec<u8> {
        let mut out = begin(me, prev, decided.len());
        let place = |run: &&[(Place, Record)]| run[0].0;
        let mut runs: Vec<&[(Place, Record)]> = decided.chunk_by(|a, b| a.0 == b.0).collect();
        // Those of one shard stay in the order of deciding.
        runs.sort_by_key(place);
        for of_shard in runs.chunk_by(|a, b| place(a) == place(b)) {
            let count = of_shard.iter().map(|run| run.len()).sum();
            let records = of_shard.iter().copied().flatten();
            let records = records.map(|(_, record)| record);
            put_part(place(&of_shard[0]), count, records, &mut out);
        }
        out
    }

    /// Decodes what [`Batch::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_parts(bytes, |_| true)
    }

    /// The same without the parts of shards that are not `wanted`, which are passed over.
    pub fn decode_parts(bytes: &[u8], wanted: impl Fn(Place) -> bool) -> Result<Self, DecodeError> {
        let (me, prev) = Self::peek(bytes)?;
        let mut parts = Vec::new();
        for part in parts_in(bytes) {
            let (place, bytes) = part?;
            if wanted(place) {
                let records = take_records(bytes)?;
                parts.push(Part { place, records });
            }
        }
        Ok(Batch { me, prev, parts })
    }

    /// All records in the order of the parts, each with its shard.
    pub fn records(&self) -> impl Iterator<Item = (Place, &Record)> {
        self.parts.iter().flat_map(|part| {
            let place = part.place;
            part.records.iter().map(move |record| (place, record))
        })
    }

    /// What an encoded batch holds of one shard, in order; the others' records are passed over.
    pub fn records_of(place: Place, bytes: &[u8]) -> Result<Vec<Record>, DecodeError> {
        Self::peek(bytes)?;
        for part in parts_in(bytes) {
            let (found, bytes) = part?;
            if found == place {
                return take_records(bytes);
            }
        }
        Ok(Vec::new())
    }

    /// The tags of an encoded batch, without decoding its records: all the proposer needs to see.
    pub fn peek(bytes: &[u8]) -> Result<(Tag, Tag), DecodeError> {
        match bytes.first() {
            None => return Err(DecodeError::Empty),
            Some(&(VERSION | VERSION_ONE_SHARD)) => {}
            Some(&found) => return Err(DecodeError::Newer { found }),
        }
        let Some((head, _)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(cut_short(HEADER_BYTES - bytes.len()));
        };
        let number =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let tag = |at| Tag {
            stint: number(at),
            seq: number(at + 8),
        };
        Ok((tag(1), tag(17)))
    }
}

/// The head of an encoded batch, with room for so many records.
fn begin(me: Tag, prev: Tag, records: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + 96 * records);
    out.push(VERSION);
    for number in [me.stint, me.seq, prev.stint, prev.seq] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

fn put_part<'a>(
    place: Place,
    count: usize,
    records: impl Iterator<Item = &'a Record>,
    out: &mut Vec<u8>,
) {
    out.push(place.0);
    let length_at = out.len();
    out.extend_from_slice(&[0; PART_HEADER_BYTES - 1]);
    let begins = out.len();
    // As a vector of them is encoded.
    codec::put(&count, out);
    for record in records {
        codec::put(record, out);
    }
    let length = u32::try_from(out.len() - begins).expect("a turn is bounded");
    out[length_at..begins].copy_from_slice(&length.to_le_bytes());
}

/// The encoded parts of a batch whose head is whole.
fn parts_in(bytes: &[u8]) -> impl Iterator<Item = Result<(Place, &[u8]), DecodeError>> {
    let of_one_shard = bytes[0] == VERSION_ONE_SHARD;
    let mut rest = &bytes[HEADER_BYTES..];
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if of_one_shard {
            return Some(Ok((Place(0), std::mem::take(&mut rest))));
        }
        let part = take_part(rest);
        rest = part.as_ref().map_or(&[], |(_, _, rest)| rest);
        Some(part.map(|(place, part, _)| (place, part)))
    })
}

/// A part's shard, its bytes, and what follows it.
fn take_part(bytes: &[u8]) -> Result<(Place, &[u8], &[u8]), DecodeError> {
    let Some((head, rest)) = bytes.split_at_checked(PART_HEADER_BYTES) else {
        return Err(cut_short(PART_HEADER_BYTES - bytes.len()));
    };
    let length = u32::from_le_bytes(head[1..].try_into().expect("four bytes")) as usize;
    let Some((part, rest)) = rest.split_at_checked(length) else {
        return Err(cut_short(length - rest.len()));
    };
    Ok((Place(head[0]), part, rest))
}

fn take_records(mut bytes: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let records = codec::take(&mut bytes)?;
    if !bytes.is_empty() {
        return Err(DecodeError::Trailing { bytes: bytes.len() });
    }
    Ok(records)
}

fn cut_short(additional: usize) -> DecodeError {
    DecodeError::Malformed(bincode::error::DecodeError::UnexpectedEnd { additional })
}
