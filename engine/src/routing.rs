//! Which shard a promotion lives on: MurmurHash64A of its id with the seed that Jedis uses, modulo
//! the number of shards. And which shards share a log. Both are part of the stored data and never change.

use crate::ids::{Place, PromotionId, ShardId};

/// Number of shards. It decides where every promotion lives, so it is fixed for the life of a cluster.
pub const SHARDS: u16 = 16;

/// The seed of Jedis' `MurmurHash`.
const SEED: u64 = 0x1234_ABCD;

/// Threads of a node for each log, unless another number of logs is asked for.
const THREADS_PER_LOG: usize = 4;

/// The shard that `promotion_id` lives on.
pub fn shard_of(promotion_id: &PromotionId) -> ShardId {
    let shard = murmur_hash_64a(promotion_id.as_bytes(), SEED) % u64::from(SHARDS);
    ShardId(u16::try_from(shard).expect("a remainder of 16 fits 16 bits"))
}

/// How the shards share logs: as many to each log, shards whose numbers leave the same remainder together. Fewer logs make
/// larger entries where each shard has little to do; more logs spread over more nodes. It is fixed for the life of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    logs: u16,
}

impl Sharing {
    /// Every shard with a log of its own.
    pub const NONE: Sharing = Sharing { logs: SHARDS };

    /// The shards on so many logs; `None` where they do not go into them evenly.
    pub const fn over(logs: u16) -> Option<Self> {
        if logs > 0 && SHARDS.is_multiple_of(logs) {
            Some(Sharing { logs })
        } else {
            None
        }
    }

    /// What suits a node that decides with so many threads: a log keeps one of them busy, and what comes and goes over the
    /// network about three more.
    pub fn for_threads(threads: usize) -> Self {
        let fitting = |logs: &u16| usize::from(*logs) * THREADS_PER_LOG <= threads;
        let most = [16, 8, 4, 2].into_iter().find(fitting);
        Sharing {
            logs: most.unwrap_or(1),
        }
    }

    /// How many logs there are.
    pub fn logs(self) -> u16 {
        self.logs
    }

    /// How many shards share each log.
    pub fn shards_per_log(self) -> usize {
        usize::from(SHARDS / self.logs)
    }

    /// The log of a shard.
    pub fn log_of(self, shard: ShardId) -> u16 {
        shard.0 % self.logs
    }

    /// A shard's place in its log.
    pub fn place_of(self, shard: ShardId) -> Place {
        Place(u8::try_from(shard.0 / self.logs).expect("there are few shards"))
    }

    /// The shard at a place of a log.
    pub fn shard_at(self, log: u16, place: Place) -> ShardId {
        ShardId(log + self.logs * u16::from(place.0))
    }

    /// The shards that share a log, by their places.
    pub fn shards_of(self, log: u16) -> impl Iterator<Item = ShardId> + use<> {
        (log..SHARDS).step_by(usize::from(self.logs)).map(ShardId)
    }
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
