//! How many units a pin or an ip has in live orders of each promotion.
//!
//! Invariant: `units` of an entry equals the sum over live orders of that promotion and key; the
//! entry lives as long as any order, live or not, refers to it, because orders keep their pin and
//! ip here.

use std::hash::{BuildHasher, Hasher};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use super::index::{Index, PARTS, Search, Vacancy};
use super::slab::Slab;
use super::texts::{Text, Texts};

/// Hashes keys that strangers choose, with a seed they do not know.
#[derive(Debug, Clone)]
pub(super) struct KeyHasher(SeedableRandomState);

impl KeyHasher {
    pub(super) fn new(seed: u64) -> Self {
        KeyHasher(SeedableRandomState::with_seed(
            seed,
            SharedSeed::global_fixed(),
        ))
    }

    /// The hash of a key.
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }

    /// The hash of a key within a promotion.
    fn hash_in(&self, promotion: u32, bytes: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write_u32(promotion);
        hasher.write(bytes);
        hasher.finish()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    key: Text,
    promotion: u32,
    units: u32,
    orders: u32,
}

/// The usage of all pins, or of all ips, of a shard.
#[derive(Debug, Clone)]
pub(super) struct Usages {
    slots: Slab<Usage>,
    index: Index,
}

impl Usages {
    pub(super) fn new() -> Self {
        Usages {
            slots: Slab::new(),
            index: Index::new(PARTS),
        }
    }

    fn find(&self, texts: &Texts, hash: u64, promotion: u32, key: &[u8]) -> Result<u32, Vacancy> {
        self.index.find_or_vacancy(hash, |slot| {
            let usage = self.slots.get(slot);
            usage.promotion == promotion && texts.get(usage.key) == key
        })
    }

    /// Units of `key` in live orders of the promotion.
    pub(super) fn units(
        &self,
        hasher: &KeyHasher,
        texts: &Texts,
        promotion: u32,
        key: &[u8],
    ) -> u32 {
        let hash = hasher.hash_in(promotion, key);
        self.find(texts, hash, promotion, key)
            .map_or(0, |slot| self.slots.get(slot).units)
    }

    /// A search for `key`: see [`Index::search`].
    pub(super) fn search(&self, hasher: &KeyHasher, promotion: u32, key: &[u8]) -> Search<'_> {
        self.index.search(hasher.hash_in(promotion, key))
    }

    /// One more order refers to `key`; returns the entry's slot.
    pub(super) fn refer(
        &mut self,
        hasher: &KeyHasher,
        texts: &mut Texts,
        promotion: u32,
        key: &[u8],
    ) -> u32 {
        let hash = hasher.hash_in(promotion, key);
        let vacancy = match self.find(texts, hash, promotion, key) {
            Ok(slot) => {
                self.slots.get_mut(slot).orders += 1;
                return slot;
            }
            Err(vacancy) => vacancy,
        };
        let key = texts.insert(key);
        let slot = self.slots.insert(Usage {
            key,
            promotion,
            units: 0,
            orders: 1,
        });
        self.index.fill(vacancy, slot);
        slot
    }

    /// One order fewer refers to the entry; the last one takes it along.
    pub(super) fn release(&mut self, hasher: &KeyHasher, texts: &mut Texts, slot: u32) {
        let usage = self.slots.get_mut(slot);
        usage.orders -= 1;
        if usage.orders == 0 {
            assert!(usage.units == 0, "no order, no units");
            let usage = self.slots.remove(slot);
            let hash = hasher.hash_in(usage.promotion, texts.get(usage.key));
            self.index.remove(hash, slot);
            texts.remove(usage.key);
        }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds units to an entry.
    pub(super) fn add(&mut self, slot: u32, units: u32) {
        self.slots.get_mut(slot).units += units;
    }

    /// Takes units from an entry.
    pub(super) fn subtract(&mut self, slot: u32, units: u32) {
        self.slots.get_mut(slot).units -= units;
    }

    /// The key of an entry.
    pub(super) fn key<'t>(&self, texts: &'t Texts, slot: u32) -> &'t [u8] {
        texts.get(self.slots.get(slot).key)
    }

    /// Promotion, key and units of every entry with units.
    pub(super) fn iter<'a>(
        &'a self,
        texts: &'a Texts,
    ) -> impl Iterator<Item = (u32, &'a [u8], u32)> {
        (0..self.slots.end())
            .map(|slot| self.slots.get(slot))
            .filter(|usage| usage.units > 0)
            .map(|usage| (usage.promotion, texts.get(usage.key), usage.units))
    }
}
