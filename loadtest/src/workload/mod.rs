//! The workloads: which promotions a run sells, and what each order asks for.
//!
//! Invariant: what order number *n* asks for follows from the seed and *n* alone, whoever sends it and whenever, so that
//! a repeat is the same request and the audit knows what should have been granted.

mod script;
mod step;

use clap::ValueEnum;
use serde_json::{Value, json};
use smallvec::SmallVec;

pub use script::{Ending, Orders, Script};
pub use step::{Kind, Step};

use crate::chance::Chance;
use crate::identity::RunId;

/// Payment deadline of promotions whose orders live on: longer than most runs, and the product's own default.
const PAYMENT_MS: u64 = 1_200_000;

/// Payment deadline of promotions whose orders are to expire during the run.
const EXPIRING_PAYMENT_MS: u64 = 1_000;

/// In `mixed`, every so many-th promotion lets its orders expire.
const EXPIRING_EVERY: u32 = 4;

/// Units one order or pin may take: above what any workload asks, so that the check is made and never fails.
const UNITS_PER_BUYER: u32 = 1_000;

/// Units one ip may take: some ips buy often by chance, and shall not fail for it.
const UNITS_PER_IP: u32 = 1_000_000_000;

/// Attempts in a window: never used up; 2^53 − 1 is the most that the contract allows.
const ATTEMPTS: u64 = (1 << 53) - 1;

/// Items of a cart: at least, at most.
const CART_ITEMS: (u32, u32) = (2, 5);

/// Streams of a seed, so that what an order asks for and how its buyer behaves do not depend on each other.
const BEHAVIOUR: u64 = 0x6265_6861_7669_6f75;

/// The workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Grabs spread evenly over 1,000 promotions
    Spread,
    /// All grabs of one promotion
    Hot,
    /// 100 units and everybody else refused
    Stampede,
    /// Buyers that ask again, and buyers whose connection breaks and who then ask again
    Retry,
    /// Grabs, confirms, cancels before and after the grab, expiries, reads
    Mixed,
    /// 2 to 5 promotions to an order, over several shards
    Cart,
    /// Many independent grabs to a request
    Batch,
}

impl Name {
    /// Promotions, unless told otherwise.
    fn promotions(self) -> u32 {
        match self {
            Name::Spread | Name::Batch => 1_000,
            Name::Hot | Name::Stampede => 1,
            Name::Retry | Name::Mixed | Name::Cart => 64,
        }
    }

    /// Connections, unless told otherwise: batches of 1,000 on 64 would pass the 20,000 grabs that a node lets in.
    pub fn connections(self) -> u32 {
        if self == Name::Batch { 8 } else { 64 }
    }

    /// Units of each promotion, unless told otherwise: plenty where being sold out is not the point.
    fn quantity(self) -> u32 {
        match self {
            Name::Spread | Name::Hot | Name::Batch => 2_000_000_000,
            Name::Stampede => 100,
            Name::Cart => 100_000,
            // Some are to be sold out in a run of seconds, and to be restocked by cancels.
            Name::Retry | Name::Mixed => 2_000,
        }
    }
}

/// One line of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The promotion's number.
    pub promotion: u32,
    /// Units of it.
    pub quantity: u32,
}

/// The lines of an order; no promotion twice.
pub type Items = SmallVec<[Item; CART_ITEMS.1 as usize]>;

/// How the buyer of an order behaves in `retry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Asks once.
    Plain,
    /// Asks again after the answer.
    Repeats,
    /// Leaves at once after asking, and asks again.
    Leaves,
    /// Leaves when the answer is there, without reading it, and asks again.
    MissesTheAnswer,
}

/// A workload of one run.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Which.
    pub name: Name,
    /// What all of it follows from.
    pub seed: u64,
    /// Promotions on sale.
    pub promotions: u32,
    /// Units of each.
    pub quantity: u32,
    /// Grabs in one request of `batch`.
    pub batch: u32,
    /// Promotions to an order of `cart`: at least, and at most.
    pub cart_items: (u32, u32),
}

impl Workload {
    /// A workload with its usual promotions.
    pub fn new(name: Name, seed: u64) -> Self {
        Self {
            name,
            seed,
            promotions: name.promotions(),
            quantity: name.quantity(),
            batch: 1_000,
            cart_items: CART_ITEMS,
        }
    }

    /// What an order asks for.
    pub fn items(&self, order: u64) -> Items {
        let mut chance = Chance::new(self.seed, order);
        let mut any = |most: u64| Item {
            promotion: chance.below(u64::from(self.promotions)) as u32,
            quantity: 1 + chance.below(most) as u32,
        };
        match self.name {
            Name::Mixed => Items::from_slice(&[any(2)]),
            Name::Cart => self.cart(order),
            _ => Items::from_slice(&[any(1)]),
        }
    }

    fn cart(&self, order: u64) -> Items {
        let mut chance = Chance::new(self.seed, order);
        let (least, most) = self.cart_items;
        let wanted = least + chance.below(u64::from(most - least + 1)) as u32;
        let wanted = wanted.min(self.promotions) as usize;
        let mut items = Items::new();
        while items.len() < wanted {
            let promotion = chance.below(u64::from(self.promotions)) as u32;
            if items.iter().all(|item| item.promotion != promotion) {
                let quantity = 1 + chance.below(2) as u32;
                items.push(Item {
                    promotion,
                    quantity,
                });
            }
        }
        items
    }

    /// The last three bytes of the buyer's ip, which begins with 10.
    pub fn ip(&self, order: u64) -> [u8; 3] {
        let [a, b, c, ..] = Chance::new(!self.seed, order).number().to_le_bytes();
        [a, b, c]
    }

    /// How the buyer of an order behaves.
    pub fn behaviour(&self, order: u64) -> Behaviour {
        if self.name != Name::Retry {
            return Behaviour::Plain;
        }
        // Connections that break are the dear part: a few in a hundred.
        match Chance::new(self.seed ^ BEHAVIOUR, order).below(100) {
            0..3 => Behaviour::Leaves,
            3..6 => Behaviour::MissesTheAnswer,
            6..36 => Behaviour::Repeats,
            _ => Behaviour::Plain,
        }
    }

    /// The body that creates a promotion.
    pub fn terms(&self, run: &RunId, promotion: u32) -> Value {
        let expires = self.name == Name::Mixed && promotion % EXPIRING_EVERY == EXPIRING_EVERY - 1;
        json!({
            "promotion_id": run.promotion(promotion),
            "title": "load test",
            "quantity": self.quantity,
            "limits": {"per_order": UNITS_PER_BUYER, "per_pin": UNITS_PER_BUYER, "per_ip": UNITS_PER_IP},
            "rate": {"window_ms": 60_000, "attempts": ATTEMPTS},
            "payment_timeout_ms": if expires { EXPIRING_PAYMENT_MS } else { PAYMENT_MS },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_asks_always_for_the_same() {
        for name in Name::value_variants() {
            let (one, two) = (Workload::new(*name, 5), Workload::new(*name, 5));
            for order in [0, 1, 99, 1 << 40] {
                assert_eq!(one.items(order), two.items(order));
                assert_eq!(one.ip(order), two.ip(order));
                assert_eq!(one.behaviour(order), two.behaviour(order));
            }
        }
    }

    #[test]
    fn a_cart_has_as_many_promotions_as_was_asked_for() {
        let mut workload = Workload::new(Name::Cart, 1);
        workload.cart_items = (7, 7);
        assert!((0..100).all(|order| workload.items(order).len() == 7));
    }

    #[test]
    fn a_cart_has_two_to_five_promotions_and_none_twice() {
        let workload = Workload::new(Name::Cart, 1);
        let mut sizes = [0; 6];
        for order in 0..1_000 {
            let items = workload.items(order);
            sizes[items.len()] += 1;
            let mut promotions: Vec<u32> = items.iter().map(|item| item.promotion).collect();
            promotions.sort_unstable();
            promotions.dedup();
            assert_eq!(promotions.len(), items.len());
        }
        assert!(sizes[2..].iter().all(|size| *size > 100), "{sizes:?}");
        assert_eq!(sizes[..2], [0, 0]);
    }

    #[test]
    fn a_cart_is_no_larger_than_the_sale() {
        let mut workload = Workload::new(Name::Cart, 1);
        workload.promotions = 1;
        assert!((0..100).all(|order| workload.items(order).len() == 1));
    }

    #[test]
    fn orders_spread_over_all_promotions() {
        let workload = Workload::new(Name::Spread, 3);
        let mut grabs = vec![0_u32; workload.promotions as usize];
        for order in 0..100_000 {
            grabs[workload.items(order)[0].promotion as usize] += 1;
        }
        assert!(grabs.iter().all(|grabs| (50..200).contains(grabs)));
    }
}
