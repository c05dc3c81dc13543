//! The replicated state of the shards of one log: what folding what is committed of it yields, on every node alike.
//!
//! Invariant: a replica is a function of the log alone. Live followers, the snapshot worker and
//! `qiang flows rebuild` all fold through here, so the recovery path runs all day.

use std::io::{Read, Write};
use std::ops::Range;

use smallvec::SmallVec;

use crate::batch::{Batch, Tag};
use crate::codec::{self, DecodeError};
use crate::ids::Place;
use crate::record::Record;
use crate::shard::{Ahead, ApplyError, Change, PREFETCH_MAX, Shard, Touched};

/// The version of a saved state's head that is written today.
const HEAD_VERSION: u8 = 2;

/// The state of the shards that share a log, or of some of them, together with the end of the chain of batches that led to it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The shards, by their places.
    pub shards: Vec<Shard>,
    /// Whose state this is, if it is not that of all shards.
    part: Option<Range<usize>>,
    /// The last effective batch.
    pub tail: Tag,
    /// Log indexes of void batches, ascending: readers of flows skip them.
    pub voids: Vec<u64>,
}

/// What a saved state begins with; the shards follow, by their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// How many shards there are.
    pub shards: usize,
    /// The last effective batch.
    pub tail: Tag,
    /// Log indexes of void batches, ascending.
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
            part: None,
            tail: Tag::default(),
            voids: Vec::new(),
        }
    }

    /// The same for the shards at some places alone: what is of others is passed over from now on.
    ///
    /// # Panics
    /// If there are no such shards, or this is a part already.
    #[must_use]
    pub fn part(mut self, places: Range<usize>) -> Self {
        assert!(self.part.is_none(), "a part has no parts");
        self.shards = self.shards.drain(places.clone()).collect();
        self.part = Some(places);
        self
    }

    /// Decodes an encoded batch, as far as it is about the shards that this is the state of.
    pub fn decode(&self, bytes: &[u8]) -> Result<Batch, DecodeError> {
        Batch::decode_parts(bytes, |place| self.is_of(place))
    }

    /// Whether what is of the shard at a place is taken. A state of all shards takes everything, and complains of a shard that is not.
    fn is_of(&self, place: Place) -> bool {
        let part = self.part.as_ref();
        part.is_none_or(|places| places.contains(&place.index()))
    }

    /// Folds the committed batch at `index` into the state.
    pub fn fold(&mut self, index: u64, batch: &Batch) -> Result<Folded, ApplyError> {
        if batch.prev != self.tail {
            self.voids.push(index);
            return Ok(Folded::Void);
        }
        let mut records = batch.records();
        loop {
            let next: SmallVec<[_; PREFETCH_MAX]> = records.by_ref().take(PREFETCH_MAX).collect();
            if next.is_empty() {
                break;
            }
            self.prefetch(&next);
            for (place, record) in next {
                if self.is_of(place) {
                    self.shard_mut(place)?.apply(record)?;
                }
            }
        }
        self.tail = batch.me;
        Ok(Folded::Effective)
    }

    fn prefetch(&self, records: &[(Place, &Record)]) {
        let mut ahead = Ahead::default();
        for (place, record) in records {
            if let Some(shard) = self.position(*place).and_then(|at| self.shards.get(at)) {
                ahead.record(shard, record);
            }
        }
        ahead.fetch();
    }

    /// The shard at a place.
    pub(crate) fn shard_mut(&mut self, place: Place) -> Result<&mut Shard, ApplyError> {
        let position = self.position(place);
        let shard = position.and_then(|at| self.shards.get_mut(at));
        shard.ok_or(ApplyError::NoShard(place))
    }

    /// Where among `shards` the one at a place is, if it is.
    fn position(&self, place: Place) -> Option<usize> {
        let first = self.part.as_ref().map_or(0, |places| places.start);
        place.index().checked_sub(first)
    }

    /// The promotions changed since the last call, as they are now, each with its shard. Of a state of all shards.
    pub fn take_touched(&mut self) -> Vec<(Place, Touched)> {
        let mut touched = Vec::new();
        for (place, shard) in (0..).map(Place).zip(&mut self.shards) {
            shard.take_touched(|one| touched.push((place, one)));
        }
        touched
    }

    /// What readers are to see now that what was touched is committed.
    pub fn show(&mut self, touched: Vec<(Place, Touched)>) -> Vec<Change> {
        let shards = &mut self.shards;
        let touched = touched.into_iter();
        touched
            .map(|(place, one)| shards[place.index()].show(one))
            .collect()
    }

    /// What was touched was taken back, and is never shown.
    pub fn withdraw(&self, touched: &[(Place, Touched)]) {
        for (place, one) in touched {
            self.shards[place.index()].withdraw(one);
        }
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
        self.head(self.shards.len()).write(out)?;
        self.save_shards(out)
    }

    /// What the saved state of all shards, this many, begins with. It is the same for each part of the state.
    pub fn head(&self, shards: usize) -> Head {
        Head {
            shards,
            tail: self.tail,
            voids: self.voids.clone(),
        }
    }

    /// Writes these shards, which follow the head and those at lower places.
    pub fn save_shards(&self, out: &mut impl Write) -> std::io::Result<()> {
        self.shards.iter().try_for_each(|shard| shard.save(out))
    }

    /// Reads what [`Replica::save`] wrote.
    pub fn load(input: &mut impl Read, hash_seed: u64) -> Result<Self, LoadError> {
        let head = Head::read(input)?;
        let whole = Self::load_part(&head, 0..head.shards, input, hash_seed)?;
        Ok(Replica {
            part: None,
            ..whole
        })
    }

    /// Reads the shards at some places of a saved state, whose head and whose shards at lower places were read before.
    pub fn load_part(
        head: &Head,
        places: Range<usize>,
        input: &mut impl Read,
        hash_seed: u64,
    ) -> Result<Self, LoadError> {
        let shards = places.clone().map(|_| Shard::load(input, hash_seed));
        Ok(Replica {
            shards: shards.collect::<Result<_, _>>()?,
            part: Some(places),
            tail: head.tail,
            voids: head.voids.clone(),
        })
    }
}

impl Head {
    /// Writes it.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut head = vec![HEAD_VERSION];
        codec::put(&(self.shards, self.tail, &self.voids), &mut head);
        write_block(out, &head)
    }

    /// Reads it.
    pub fn read(input: &mut impl Read) -> Result<Self, LoadError> {
        Ok(Self::decode(&read_block(input)?)?)
    }

    fn decode(head: &[u8]) -> Result<Self, DecodeError> {
        let Some((&HEAD_VERSION, mut rest)) = head.split_first() else {
            // Of when every shard had a log of its own.
            let (tail, voids) = codec::decode(head)?;
            return Ok(Head {
                shards: 1,
                tail,
                voids,
            });
        };
        let (shards, tail, voids) = codec::take(&mut rest)?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing { bytes: rest.len() });
        }
        Ok(Head {
            shards,
            tail,
            voids,
        })
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
