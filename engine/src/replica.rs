//! The replicated state of a shard: what folding its committed log yields, on every node alike.
//!
//! Invariant: a replica is a function of the log alone. Live followers, the snapshot worker and
//! `qiang flows rebuild` all fold through here, so the recovery path runs all day.

use std::io::{Read, Write};

use crate::batch::{Batch, Tag};
use crate::codec::{self, DecodeError};
use crate::shard::{ApplyError, Shard};

/// A shard's state together with the end of the chain of batches that led to it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The state.
    pub shard: Shard,
    /// The last effective batch.
    pub tail: Tag,
    /// Log indexes of void batches, ascending: readers of flows skip them.
    pub voids: Vec<u64>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    /// Its records were applied.
    Effective,
    /// It does not follow the tail: skipped.
    Void,
}

/// Why a stored state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the state: {0}")]
    Io(#[from] std::io::Error),
    /// Its content is not a state.
    #[error("cannot decode the state: {0}")]
    Decode(#[from] DecodeError),
    /// Its content is a state that cannot be.
    #[error("the state contradicts itself: {0}")]
    Apply(#[from] ApplyError),
}

impl Replica {
    /// The state before the first entry. `hash_seed` seeds the maps of keys that strangers choose;
    /// it changes no answer.
    pub fn new(hash_seed: u64) -> Self {
        Replica {
            shard: Shard::new(hash_seed),
            tail: Tag::default(),
            voids: Vec::new(),
        }
    }

    /// Folds the committed batch at `index` into the state.
    pub fn fold(&mut self, index: u64, batch: &Batch) -> Result<Folded, ApplyError> {
        if batch.prev != self.tail {
            self.voids.push(index);
            return Ok(Folded::Void);
        }
        for record in &batch.records {
            self.shard.apply(record)?;
        }
        self.tail = batch.me;
        Ok(Folded::Effective)
    }

    /// Writes the state, for a snapshot.
    pub fn save(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut head = vec![codec::VERSION];
        codec::put(&(self.tail, &self.voids), &mut head);
        write_block(out, &head)?;
        self.shard.save(out)
    }

    /// Reads what [`Replica::save`] wrote.
    pub fn load(input: &mut impl Read, hash_seed: u64) -> Result<Self, LoadError> {
        let head = read_block(input)?;
        let (tail, voids) = codec::decode(&head)?;
        let shard = Shard::load(input, hash_seed)?;
        Ok(Replica { shard, tail, voids })
    }
}

/// Longest block of a saved state in bytes; longer means the file is not one.
pub(crate) const BLOCK_BYTES_MAX: u32 = 64 << 20;

/// Writes one length-prefixed block.
pub(crate) fn write_block(out: &mut impl Write, block: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(block.len()).map_err(std::io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(block)
}

/// Reads one length-prefixed block.
pub(crate) fn read_block(input: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0u8; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > BLOCK_BYTES_MAX {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("a block of {length} bytes is longer than any that is written"),
        ));
    }
    let mut block = vec![0; length as usize];
    input.read_exact(&mut block)?;
    Ok(block)
}
