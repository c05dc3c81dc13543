//! The board: every promotion's committed counters, where any thread can read them without asking
//! an actor. Shards publish to it before they answer, so it is never behind an answer, and never
//! shows what a failover could take back.

use std::sync::Arc;

use dashmap::DashMap;
use fxhash::FxBuildHasher;
use qiang_engine::promotion::Promotion;
use qiang_engine::routing::shard_of;
use qiang_engine::shard::{Change, Shown};
use qiang_engine::{PromotionId, ShardId};

/// The committed counters of all promotions of this node's shards.
#[derive(Debug, Clone, Default)]
pub struct Board {
    promotions: Arc<DashMap<PromotionId, Arc<Shown>, FxBuildHasher>>,
}

impl Board {
    /// Shows what was committed.
    pub fn publish(&self, change: Change) {
        change.publish(|shown| {
            self.promotions.insert(shown.id().clone(), shown);
        });
    }

    /// Takes away what a shard has shown: it has no replica here any more, or begins from nothing.
    pub fn forget(&self, shard: ShardId) {
        self.promotions.retain(|id, _| shard_of(id) != shard);
    }

    /// A promotion as it was last committed.
    pub fn get(&self, promotion_id: &PromotionId) -> Option<Promotion> {
        self.look(promotion_id, Shown::promotion)
    }

    /// Looks at a promotion as it was last committed. Nothing takes its place meanwhile.
    pub fn look<T>(&self, promotion_id: &PromotionId, look: impl FnOnce(&Shown) -> T) -> Option<T> {
        let shown = self.promotions.get(promotion_id)?;
        Some(look(&shown))
    }

    /// Looks at every promotion, in no particular order.
    pub fn for_each(&self, mut look: impl FnMut(&Promotion)) {
        self.promotions
            .iter()
            .for_each(|shown| look(&shown.promotion()));
    }
}
