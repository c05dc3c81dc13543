//! Hash tables of slot numbers: four bytes and a tag byte an entry, keys stay where they are.
//!
//! An index is split into many small tables, so that when it grows only one small table at a time
//! is rehashed and no request waits for all of it.

use hashbrown::HashTable;

/// Small tables of one index.
const PARTS: usize = 64;

/// An index of slots by the hash of their keys.
#[derive(Debug, Clone)]
pub(super) struct Index {
    parts: Vec<HashTable<u32>>,
}

/// Which part a hash belongs to: by middle bits, since a table uses the lowest and the highest.
fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

impl Index {
    pub(super) fn new() -> Self {
        Index {
            parts: vec![HashTable::new(); PARTS],
        }
    }

    /// The slot with this hash for which `is` holds.
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts[part(hash)].find(hash, |slot| is(*slot)).copied()
    }

    /// Adds a slot whose key is not in the index; `rehash` gives the hash of any slot's key.
    pub(super) fn insert(&mut self, hash: u64, slot: u32, rehash: impl Fn(u32) -> u64) {
        self.parts[part(hash)].insert_unique(hash, slot, |slot| rehash(*slot));
    }

    /// Removes a slot.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let entry = self.parts[part(hash)].find_entry(hash, |other| *other == slot);
        entry.expect("every taken slot is in its index").remove();
    }
}
