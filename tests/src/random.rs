//! A small reproducible random source for workloads.
//!
//! Invariant: the whole sequence follows from one printed seed; `TEST_SEED=N` repeats a run.

use std::time::SystemTime;

/// SplitMix64 (Steele, Lea, Flood 2014): good enough to mix a workload, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A source from `TEST_SEED` or from the clock; the seed goes to stderr, which the test runner shows on a failure.
    pub fn from_environment() -> Self {
        let seed = std::env::var("TEST_SEED").map_or_else(
            |_| crate::millis_since_epoch(SystemTime::now()).unsigned_abs(),
            |text| text.parse().expect("TEST_SEED is a whole number"),
        );
        eprintln!("seed: {seed} (repeat with TEST_SEED={seed})");
        Self(seed)
    }

    /// A source of its own for worker `index`, so that one seed fixes what every thread asks for.
    #[must_use]
    pub fn fork(&self, index: u64) -> Self {
        let mut forked = Self(self.0 ^ index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        forked.bits();
        forked
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the modulo's bias does not matter for the small bounds of a workload.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// One element of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(choices.len() as u64)).expect("below a length");
        &choices[index]
    }
}
