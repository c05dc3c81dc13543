//! How long a run keeps what is over: in every other run longer than it lasts, and in the others so short that closed orders are
//! forgotten, and flows deleted, while people still ask for them.

use qiang_engine::UnixMs;
use qiang_engine::record::Record;
use qiang_engine::routing::shard_of;
use qiang_engine::shard::Shard;
use qiang_raft::world::Random;
use qiang_server::cluster_config::ClusterConfig;
use rand::RngExt;

/// The shortest and the longest time that closed orders are kept where they are forgotten soon, in milliseconds.
const ORDERS_MS: (u64, u64) = (500, 4_000);

/// The same for flows. Clocks that differ by forty seconds delete them sooner than this, others hardly.
const FLOWS_MS: (u64, u64) = (4_000, 45_000);

/// How long a run keeps what is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    orders_ms: u64,
    flows_ms: u64,
}

impl Retention {
    /// As it is if nobody sets it.
    pub fn long() -> Self {
        let usual = ClusterConfig::default();
        Retention {
            orders_ms: usual.order_retention_ms,
            flows_ms: usual.flow_retention_ms,
        }
    }

    /// Some run's.
    pub fn any() -> Self {
        if Random.random_range(0..2) == 0 {
            return Self::long();
        }
        Retention {
            orders_ms: Random.random_range(ORDERS_MS.0..ORDERS_MS.1),
            flows_ms: Random.random_range(FLOWS_MS.0..FLOWS_MS.1),
        }
    }

    /// Whether anything may be gone before a run is over.
    pub fn is_short(self) -> bool {
        self != Self::long()
    }

    /// The configuration that sets it.
    pub fn config(self) -> ClusterConfig {
        ClusterConfig {
            order_retention_ms: self.orders_ms,
            flow_retention_ms: self.flows_ms,
            ..ClusterConfig::default()
        }
    }

    /// Whether a record that is about to be applied forgets nothing too early: no order before its promotions have been closed for
    /// as long as it is to be kept. `others` are what the shards of a cart's other promotions have become.
    pub fn allows(self, shard: &Shard, record: &Record, others: &[Shard]) -> bool {
        let Record::Forgotten { orders, at, .. } = record else {
            return true;
        };
        let is_over = |closed: UnixMs| at.ms_since(closed) >= self.orders_ms;
        let mut items = orders
            .iter()
            .flat_map(|order| order.items.iter().chain(order.all_items()));
        items.all(|item| {
            let id = &item.promotion_id;
            let elsewhere = || others[usize::from(shard_of(id).0)].promotion(id);
            let promotion = shard.promotion(id).or_else(elsewhere);
            promotion
                .and_then(|promotion| promotion.closed)
                .is_some_and(|(_, closed)| is_over(closed))
        })
    }
}
