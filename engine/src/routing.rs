//! Which shard a promotion lives on: MurmurHash64A of its id with the seed that Jedis uses, modulo
//! the number of shards. The mapping is part of the stored data and never changes.

use crate::ids::{PromotionId, ShardId};

/// Number of shards. It decides where every promotion lives, so it is fixed for the life of a cluster.
pub const SHARDS: u16 = 16;

/// The seed of Jedis' `MurmurHash`.
const SEED: u64 = 0x1234_ABCD;

/// The shard that `promotion_id` lives on.
pub fn shard_of(promotion_id: &PromotionId) -> ShardId {
    let shard = murmur_hash_64a(promotion_id.as_bytes(), SEED) % u64::from(SHARDS);
    ShardId(u16::try_from(shard).expect("a remainder of 16 fits 16 bits"))
}

/// MurmurHash64A by Austin Appleby (`MurmurHash2.cpp`, public domain), for little-endian input.
pub fn murmur_hash_64a(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = u64::from_le_bytes(chunk.try_into().expect("a chunk of eight bytes"));
        word = word.wrapping_mul(M);
        word ^= word >> R;
        word = word.wrapping_mul(M);
        hash = (hash ^ word).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut tail = [0u8; 8];
        tail[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(tail)).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> R)
}
