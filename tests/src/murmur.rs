//! Where a promotion lives: MurmurHash64A of its id with the seed 0x1234ABCD, modulo sixteen.
//!
//! Invariant: written from the published algorithm (Austin Appleby, `MurmurHash64A`, public domain), not from the product.

/// Shards of a cluster.
pub const SHARDS: u64 = 16;

const SEED: u64 = 0x1234_ABCD;
const M: u64 = 0xc6a4_a793_5bd1_e995;
const R: u32 = 47;

/// The shard of the promotion `id`.
pub fn shard_of(id: &str) -> u64 {
    murmur64a(id.as_bytes()) % SHARDS
}

/// An id that starts with `stem` and lives on another shard than every id in `others`.
pub fn id_on_another_shard(stem: &str, others: &[&str]) -> String {
    let taken: Vec<u64> = others.iter().map(|id| shard_of(id)).collect();
    first_id(stem, |shard| !taken.contains(&shard))
}

/// An id that starts with `stem` and lives on `shard`.
pub fn id_on_shard(stem: &str, shard: u64) -> String {
    first_id(stem, |found| found == shard)
}

fn first_id(stem: &str, fits: impl Fn(u64) -> bool) -> String {
    (0_u32..100_000)
        .map(|number| format!("{stem}-{number}"))
        .find(|id| fits(shard_of(id)))
        .expect("the hash spreads ids over all shards")
}

fn murmur64a(bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(M);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut k = u64::from_le_bytes(chunk.try_into().expect("a chunk of eight"));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = (hash ^ k).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let tail = rest
            .iter()
            .rev()
            .fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> R)
}
