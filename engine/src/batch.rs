//! A batch: the records that one turn of an actor decided, which become one log entry.
//!
//! Each batch names itself and the batch decided just before it. A batch whose predecessor is not
//! the last effective one is void: every replica skips it. Without this chain a refused proposal
//! followed by an accepted one in the same term would apply effects onto a state that never was.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
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
    /// What was decided, in order.
    pub records: Vec<Record>,
}

/// Bytes in front of the records: version, `me` and `prev`, little-endian.
const HEADER_BYTES: usize = 1 + 32;

impl Batch {
    /// Encodes the batch: version byte, both tags at fixed places, then the records.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + 96 * self.records.len());
        out.push(codec::VERSION);
        for number in [self.me.stint, self.me.seq, self.prev.stint, self.prev.seq] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        codec::put(&self.records, &mut out);
        out
    }

    /// Decodes what [`Batch::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (me, prev) = Self::peek(bytes)?;
        let mut rest = &bytes[HEADER_BYTES..];
        let records = codec::take(&mut rest)?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing { bytes: rest.len() });
        }
        Ok(Batch { me, prev, records })
    }

    /// The tags of an encoded batch, without decoding its records: all the proposer needs to see.
    pub fn peek(bytes: &[u8]) -> Result<(Tag, Tag), DecodeError> {
        let rest = codec::check_version(bytes)?;
        if rest.len() < HEADER_BYTES - 1 {
            return Err(DecodeError::Malformed(
                bincode::error::DecodeError::UnexpectedEnd {
                    additional: HEADER_BYTES - 1 - rest.len(),
                },
            ));
        }
        let number =
            |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
        Ok((
            Tag {
                stint: number(0),
                seq: number(8),
            },
            Tag {
                stint: number(16),
                seq: number(24),
            },
        ))
    }
}
