//! Numbers that look random and follow from a seed.
//!
//! Invariant: the same seed gives the same numbers on every machine and with every version of every library, so that a
//! run can be repeated; general generators promise that only within one version.

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Numbers of `seed` for the `stream`-th user of it.
    pub fn new(seed: u64, stream: u64) -> Self {
        // Mixed once, so that streams 1 and 2 of a seed are not each other's continuation.
        Self(mix(seed ^ mix(stream.wrapping_add(1))))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: unbiased enough for any bound far below 2^64.
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_always() {
        let mut chance = Chance::new(1, 0);
        let first: Vec<u64> = (0..4).map(|_| chance.below(1000)).collect();
        let mut again = Chance::new(1, 0);
        assert_eq!(first, (0..4).map(|_| again.below(1000)).collect::<Vec<_>>());
        let mut other = Chance::new(1, 1);
        assert_ne!(first, (0..4).map(|_| other.below(1000)).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_fill_their_range() {
        let mut chance = Chance::new(7, 7);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[chance.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
    }
}
