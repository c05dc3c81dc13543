//! When promotions of other shards were closed, as far as this node has asked. An order over several shards is kept by the shard that decides
//! about it for as long as any of its promotions is, and those of the others it knows by name alone.
//!
//! Invariant: what is noted was committed, and a closed promotion stays closed.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use fxhash::FxBuildHasher;
use qiang_engine::{PromotionId, UnixMs};
use tokio::time::Instant;

/// How long a promotion that was not closed when somebody asked is not asked about again: little beside the time that orders are kept.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What is known of promotions elsewhere. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Closings {
    known: Arc<DashMap<PromotionId, Known, FxBuildHasher>>,
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Asked(Instant),
    Closed(UnixMs),
}

impl Closings {
    /// When a promotion was closed, if that is known; otherwise `ask` is called now and then, for somebody to ask and [note](Self::note) it.
    pub fn of(&self, promotion_id: &PromotionId, ask: impl FnOnce()) -> Option<UnixMs> {
        let known = self.known.get(promotion_id).map(|known| *known);
        match known {
            Some(Known::Closed(at)) => return Some(at),
            Some(Known::Asked(at)) if at.elapsed() < ASK_AGAIN => {}
            Some(Known::Asked(_)) | None => {
                let now = Known::Asked(Instant::now());
                self.known.insert(promotion_id.clone(), now);
                ask();
            }
        }
        None
    }

    /// Notes that a promotion was closed at this time.
    pub fn note(&self, promotion_id: PromotionId, at: UnixMs) {
        self.known.insert(promotion_id, Known::Closed(at));
    }
}
