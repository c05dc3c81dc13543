//! The board: every promotion's committed counters, where any thread can read them without asking
//! an actor. Shards publish to it before they answer, so it is never behind an answer, and never
//! shows what a failover could take back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use fxhash::FxBuildHasher;
use qiang_engine::promotion::Promotion;
use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::{PromotionId, ShardId};

/// The committed counters of all promotions of this node's shards.
#[derive(Debug, Clone)]
pub struct Board {
    promotions: Arc<DashMap<PromotionId, Shown, FxBuildHasher>>,
    /// Promotions with attempts that were refused early and not yet counted by their actor, by shard.
    refused_early: Arc<[Mutex<Vec<PromotionId>>]>,
}

#[derive(Debug)]
struct Shown {
    promotion: Promotion,
    /// Attempts that were refused early and not yet counted by the actor.
    early: AtomicU64,
}

impl Default for Board {
    fn default() -> Self {
        Board {
            promotions: Arc::default(),
            refused_early: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Board {
    /// Shows a promotion as it is committed.
    pub fn publish(&self, promotion: Promotion) {
        match self.promotions.entry(promotion.id.clone()) {
            Entry::Occupied(mut shown) => shown.get_mut().promotion = promotion,
            Entry::Vacant(place) => {
                let early = AtomicU64::new(0);
                place.insert(Shown { promotion, early });
            }
        }
    }

    /// Takes away what a shard has shown: it has no replica here any more, or begins from nothing.
    pub fn forget(&self, shard: ShardId) {
        self.promotions.retain(|id, _| shard_of(id) != shard);
    }

    /// A promotion as it was last committed.
    pub fn get(&self, promotion_id: &PromotionId) -> Option<Promotion> {
        self.look(promotion_id, Promotion::clone)
    }

    /// Looks at a promotion as it was last committed.
    pub fn look<T>(
        &self,
        promotion_id: &PromotionId,
        look: impl FnOnce(&Promotion) -> T,
    ) -> Option<T> {
        let shown = self.promotions.get(promotion_id)?;
        Some(look(&shown.promotion))
    }

    /// Notes an attempt that was refused early, for the actor to count.
    pub fn count_early(&self, promotion_id: &PromotionId) {
        let first = |shown: &Shown| shown.early.fetch_add(1, Ordering::AcqRel) == 0;
        if self
            .promotions
            .get(promotion_id)
            .is_some_and(|it| first(&it))
        {
            self.uncounted(shard_of(promotion_id))
                .push(promotion_id.clone());
        }
    }

    /// The attempts of a shard's promotions that were refused early since the last call.
    pub fn take_early(&self, shard: ShardId) -> Vec<(PromotionId, u64)> {
        let promotions = std::mem::take(&mut *self.uncounted(shard));
        let taken = promotions.into_iter().filter_map(|promotion_id| {
            let shown = self.promotions.get(&promotion_id)?;
            let attempts = shown.early.swap(0, Ordering::AcqRel);
            drop(shown);
            Some((promotion_id, attempts))
        });
        taken.collect()
    }

    fn uncounted(&self, shard: ShardId) -> MutexGuard<'_, Vec<PromotionId>> {
        let uncounted = &self.refused_early[usize::from(shard.0)];
        uncounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at every promotion, in no particular order.
    pub fn for_each(&self, mut look: impl FnMut(&Promotion)) {
        self.promotions
            .iter()
            .for_each(|shown| look(&shown.promotion));
    }
}
