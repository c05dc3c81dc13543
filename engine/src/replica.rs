//! The replicated state of the shards of one log: what folding what is committed of it yields, on every node alike.
//!
//! Invariant: a replica is a function of the log alone. Live followers, the snapshot worker and
//! `qiang flows rebuild` all fold through here, so the recovery path runs all day.

use std::io::{Read, Write};

use crate::batch::{Batch, Part, Tag};
use crate::codec::{self, DecodeError};
use crate::ids::Place;
use crate::shard::{ApplyError, Shard, Shown};

/// The version of a saved state's head that is written today.
const HEAD_VERSION: u8 = 2;

/// The state of the shards that share a log, together with the end of the chain of batches that led to it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The shards, by their places; or only one of them.
    pub shards: Vec<Shard>,
    /// Whose state this is, if it is not that of all shards.
    only: Option<Place>,
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
    /// The state of so many shards before the first entry. `hash_seed` seeds the maps of keys that strangers choose;
    /// it changes no answer.
    pub fn new(shards: usize, hash_seed: u64) -> Self {
        Replica {
            shards: (0..shards).map(|_| Shard::new(hash_seed)).collect(),
            only: None,
            tail: Tag::default(),
            voids: Vec::new(),
        }
    }

    /// The same for the shard at `place` alone: what is of others is passed over from now on.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn only(mut self, place: Place) -> Self {
        self.shards = vec![self.shards.swap_remove(place.index())];
        self.only = Some(place);
        self
    }

    /// Decodes an encoded batch, as far as it is about the shards that this is the state of.
    pub fn decode(&self, bytes: &[u8]) -> Result<Batch, DecodeError> {
        let Some(place) = self.only else {
            return Batch::decode(bytes);
        };
        let (me, prev) = Batch::peek(bytes)?;
        let records = Batch::records_of(place, bytes)?;
        let parts = vec![Part { place, records }];
        Ok(Batch { me, prev, parts })
    }

    /// Folds the committed batch at `index` into the state.
    pub fn fold(&mut self, index: u64, batch: &Batch) -> Result<Folded, ApplyError> {
        if batch.prev != self.tail {
            self.voids.push(index);
            return Ok(Folded::Void);
        }
        for part in &batch.parts {
            let shard = match self.only {
                None => self.shard_mut(part.place)?,
                Some(place) if place == part.place => &mut self.shards[0],
                Some(_) => continue,
            };
            for record in &part.records {
                shard.apply(record)?;
            }
        }
        self.tail = batch.me;
        Ok(Folded::Effective)
    }

    /// The shard at a place.
    pub(crate) fn shard_mut(&mut self, place: Place) -> Result<&mut Shard, ApplyError> {
        let shard = self.shards.get_mut(place.index());
        shard.ok_or(ApplyError::NoShard(place))
    }

    /// The promotions changed since the last call, as they are now.
    pub fn take_touched(&mut self) -> Vec<Shown> {
        let mut touched = Vec::new();
        for shard in &mut self.shards {
            shard.take_touched(&mut touched);
        }
        touched
    }

    /// Forgets which promotions were changed.
    pub fn forget_touched(&mut self) {
        self.shards.iter_mut().for_each(Shard::forget_touched);
    }

    /// How many orders the shards hold, in any state.
    pub fn order_count(&self) -> usize {
        self.shards.iter().map(Shard::order_count).sum()
    }

    /// Writes the state, for a snapshot.
    pub fn save(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut head = vec![HEAD_VERSION];
        codec::put(&(self.shards.len(), self.tail, &self.voids), &mut head);
        write_block(out, &head)?;
        self.shards.iter().try_for_each(|shard| shard.save(out))
    }

    /// Reads what [`Replica::save`] wrote.
    pub fn load(input: &mut impl Read, hash_seed: u64) -> Result<Self, LoadError> {
        let head = read_block(input)?;
        let (shards, tail, voids) = decode_head(&head)?;
        let shards = (0..shards).map(|_| Shard::load(input, hash_seed));
        Ok(Replica {
            shards: shards.collect::<Result<_, _>>()?,
            only: None,
            tail,
            voids,
        })
    }
}

/// How many shards a saved state is of, and the end of the chain of batches that led to it.
fn decode_head(head: &[u8]) -> Result<(usize, Tag, Vec<u64>), DecodeError> {
    let Some((&HEAD_VERSION, mut rest)) = head.split_first() else {
        // Of when every shard had a log of its own.
        let (tail, voids) = codec::decode(head)?;
        return Ok((1, tail, voids));
    };
    let decoded = codec::take(&mut rest)?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { bytes: rest.len() });
    }
    Ok(decoded)
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
