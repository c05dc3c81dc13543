//! Which order ids, pins and addresses a shard may have met: a filter that its owner feeds and any thread asks. What it
//! has not seen the shard does not know; what it has seen the shard may know.
//!
//! It is a row of blocked Bloom filters, each twice as large as the one before, so that it grows without being
//! built anew. Nothing is ever taken out.
//!
//! Invariant: a key is in it before anybody can be told anything that rests on the shard knowing that key.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use crate::ids::{OrderId, Pin};

/// Keys that the first filter holds; each further one holds twice as many.
const FIRST_KEYS: u64 = 1 << 14;

/// Filters at most: sixteen million keys, 32 MiB. Beyond, everything may have been seen.
const FILTERS_MAX: usize = 10;

/// Bits for each key. With four of them set a full filter should take about one strange key in 400 for one that it has
/// seen, by the formula for Bloom filters.
const BITS_PER_KEY: u64 = 16;

/// Words of a block, which is a cache line: all bits of a key are in one.
const BLOCK_WORDS: usize = 8;

/// One cache line.
#[derive(Default)]
#[repr(align(64))]
struct Block([AtomicU64; BLOCK_WORDS]);

/// A key, hashed.
#[derive(Debug, Clone, Copy)]
pub struct Key(u64);

/// The filter. One thread inserts at a time; any number look.
pub struct Seen {
    hasher: SeedableRandomState,
    filters: [OnceLock<Box<[Block]>>; FILTERS_MAX],
    /// Keys inserted so far; one that came again under a newer filter counts once for each.
    keys: AtomicU64,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Seen {
    /// A filter that has seen nothing. `hash_seed` is unknown to those who choose keys.
    pub fn new(hash_seed: u64) -> Self {
        Seen {
            hasher: SeedableRandomState::with_seed(hash_seed, SharedSeed::global_fixed()),
            filters: Default::default(),
            keys: AtomicU64::new(0),
        }
    }

    /// The key of an order id.
    pub fn order(&self, order_id: &OrderId) -> Key {
        self.key(0, order_id.as_bytes())
    }

    /// The key of a pin.
    pub fn pin(&self, pin: &Pin) -> Key {
        self.key(1, pin.as_bytes())
    }

    /// The key of an address, as it is stored.
    pub(crate) fn ip(&self, ip: &[u8]) -> Key {
        self.key(2, ip)
    }

    fn key(&self, kind: u8, bytes: &[u8]) -> Key {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u8(kind);
        hasher.write(bytes);
        Key(hasher.finish())
    }

    /// Puts a key in, unless the newest filter has it: in an older one it costs a look at each to find it.
    pub fn insert(&self, key: Key) {
        let Some(number) = filter_of(self.keys.load(Ordering::Acquire)) else {
            return;
        };
        let filter = self.filters[number].get_or_init(|| {
            let blocks = (FIRST_KEYS << number) * BITS_PER_KEY / (64 * BLOCK_WORDS as u64);
            (0..blocks).map(|_| Block::default()).collect()
        });
        let block = key.block_in(filter);
        if block.has(key) {
            return;
        }
        // One thread inserts, so nobody else writes between a load and its store.
        for bit in key.bits() {
            let word = &block.0[bit / 64];
            let bits = word.load(Ordering::Relaxed);
            word.store(bits | 1 << (bit % 64), Ordering::Release);
        }
        let keys = self.keys.load(Ordering::Relaxed);
        self.keys.store(keys + 1, Ordering::Release);
    }

    /// A word of what inserting a key will look at.
    pub(crate) fn place(&self, key: Key) -> Option<&AtomicU64> {
        let number = filter_of(self.keys.load(Ordering::Relaxed))?;
        let filter = self.filters[number].get()?;
        Some(&key.block_in(filter).0[0])
    }

    /// Whether a key may have been put in.
    pub fn may_have(&self, key: Key) -> bool {
        let mut present = self.filters.iter().map_while(OnceLock::get);
        present.any(|filter| key.block_in(filter).has(key))
            || filter_of(self.keys.load(Ordering::Acquire)).is_none()
    }
}

impl Block {
    fn has(&self, key: Key) -> bool {
        let is_set = |bit: usize| self.0[bit / 64].load(Ordering::Acquire) >> (bit % 64) & 1 == 1;
        key.bits().into_iter().all(is_set)
    }
}

/// The filter that takes a key when so many are in already.
fn filter_of(keys: u64) -> Option<usize> {
    let number = (keys / FIRST_KEYS + 1).ilog2() as usize;
    (number < FILTERS_MAX).then_some(number)
}

impl Key {
    fn block_in(self, filter: &[Block]) -> &Block {
        // The upper half of the product: a hash scaled to the number of blocks.
        let scaled = (u128::from(self.0) * filter.len() as u128) >> 64;
        &filter[usize::try_from(scaled).expect("less than the number of blocks")]
    }

    /// Four places in a block. The block comes from the upper bits of the hash, these from the lower.
    fn bits(self) -> [usize; 4] {
        const MASK: u64 = 64 * BLOCK_WORDS as u64 - 1;
        [0, 9, 18, 27].map(|shift| usize::try_from(self.0 >> shift & MASK).expect("nine bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(number: u64) -> OrderId {
        OrderId::new(&format!("order-{number}")).expect("a good id")
    }

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let seen = Seen::new(3);
        // Over several filters.
        let keys = 5 * FIRST_KEYS;
        for number in 0..keys {
            seen.insert(seen.order(&order(number)));
        }
        assert!((0..keys).all(|number| seen.may_have(seen.order(&order(number)))));
        let strangers =
            (keys..3 * keys).filter(|number| seen.may_have(seen.order(&order(*number))));
        let mistaken = strangers.count() as u64;
        assert!(mistaken * 20 < 2 * keys, "{mistaken} of {}", 2 * keys);
    }

    #[test]
    fn an_order_id_is_no_pin() {
        let seen = Seen::new(3);
        seen.insert(seen.order(&order(1)));
        assert!(!seen.may_have(seen.pin(&Pin::new("order-1").expect("a good pin"))));
    }

    #[test]
    fn filters_follow_each_other_and_end() {
        let at = |keys| filter_of(keys);
        assert_eq!(at(FIRST_KEYS - 1), Some(0));
        assert_eq!(at(FIRST_KEYS), Some(1));
        assert_eq!(at(3 * FIRST_KEYS - 1), Some(1));
        assert_eq!(at(3 * FIRST_KEYS), Some(2));
        let all = FIRST_KEYS * ((1 << FILTERS_MAX) - 1);
        assert_eq!((at(all - 1), at(all)), (Some(FILTERS_MAX - 1), None));
    }
}
