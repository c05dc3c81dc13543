//! Where every log is cut, so that no order over several shards is torn: an effect of another shard's decision is in
//! the backup only together with that decision.
//!
//! A cart is decided by records on several logs. What one shard has committed may rest on what another has committed
//! before: home seals because its guests have set units aside, a guest seals, confirms or returns because home has.
//! Those causes, and no others, have to be in the cut too; whatever else is missing the shards find out by asking home.
//!
//! Invariant: the cut only grows, and only up to what was committed when it was looked at.

use std::collections::HashMap;

use qiang_engine::routing::shard_of;
use qiang_engine::{OrderId, Record, ShardId};

/// A record that others may rest on, or that rests on others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The shard that committed it.
    pub shard: u16,
    /// The number of its log.
    pub log: u16,
    /// Index of its log entry.
    pub index: u64,
    /// The order.
    pub order_id: OrderId,
    /// What it is.
    pub kind: StepKind,
}

/// What a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepKind {
    /// Units were set aside for a cart.
    SetAside,
    /// Home granted a cart; the other shards it is on.
    SealedAtHome {
        /// Ascending.
        guests: Vec<u16>,
    },
    /// A guest followed.
    SealedAtGuest,
    /// Confirmed or returned; at home or at a guest, which the record does not say.
    Closed,
}

/// The step that a record is, if it is one.
pub fn step_of(shard: ShardId, log: u16, index: u64, record: &Record) -> Option<Step> {
    let (order_id, kind) = match record {
        Record::Granted(granted) if granted.cart.is_some() => {
            (&granted.order_id, StepKind::SetAside)
        }
        Record::Sealed {
            order_id, items, ..
        } if items.is_empty() => (order_id, StepKind::SealedAtGuest),
        Record::Sealed {
            order_id, items, ..
        } => {
            let shards = items.iter().map(|item| shard_of(&item.promotion_id).0);
            let mut guests: Vec<u16> = shards.filter(|guest| *guest != shard.0).collect();
            guests.sort_unstable();
            guests.dedup();
            (order_id, StepKind::SealedAtHome { guests })
        }
        Record::Confirmed { order_id, .. } | Record::Returned { order_id, .. } => {
            (order_id, StepKind::Closed)
        }
        _ => return None,
    };
    Some(Step {
        shard: shard.0,
        log,
        index,
        order_id: order_id.clone(),
        kind,
    })
}

/// Whether `effect`, if it is in the backup, may rest on `cause` of another shard.
fn rests_on(effect: &Step, cause: &Step) -> bool {
    let elsewhere = effect.shard != cause.shard;
    elsewhere
        && match (&effect.kind, &cause.kind) {
            (StepKind::SealedAtHome { guests }, StepKind::SetAside) => {
                guests.contains(&cause.shard)
            }
            // What home is of the two closings is not known: both go in, which is one too many at worst.
            (StepKind::SealedAtGuest, StepKind::SealedAtHome { .. })
            | (StepKind::Closed, StepKind::Closed) => true,
            _ => false,
        }
}

/// Grows `cut`, an index by log, until every step in it has in it what it rests on, as far as `steps` know; whether it
/// grew.
pub fn close(cut: &mut [u64], steps: &[Step]) -> bool {
    let mut by_order: HashMap<&OrderId, Vec<&Step>> = HashMap::new();
    for step in steps {
        by_order.entry(&step.order_id).or_default().push(step);
    }
    let orders: Vec<Vec<&Step>> = by_order
        .into_values()
        .filter(|steps| steps.iter().any(|step| step.shard != steps[0].shard))
        .collect();
    let mut grown = false;
    loop {
        let mut growing = false;
        for steps in &orders {
            for effect in steps {
                if effect.index > cut[usize::from(effect.log)] {
                    continue;
                }
                for cause in steps.iter().filter(|cause| rests_on(effect, cause)) {
                    let reached = &mut cut[usize::from(cause.log)];
                    growing |= cause.index > *reached;
                    *reached = cause.index.max(*reached);
                }
            }
        }
        if !growing {
            return grown;
        }
        grown = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(shard: u16, index: u64, order: &str, kind: StepKind) -> Step {
        Step {
            shard,
            log: shard,
            index,
            order_id: OrderId::new(order).expect("a plain id"),
            kind,
        }
    }

    fn sealed(guests: &[u16]) -> StepKind {
        StepKind::SealedAtHome {
            guests: guests.to_vec(),
        }
    }

    #[test]
    fn a_cart_sealed_at_home_brings_what_its_guests_set_aside() {
        let steps = [
            step(0, 9, "o", StepKind::SetAside),
            step(0, 10, "o", sealed(&[1])),
            step(1, 7, "o", StepKind::SetAside),
            step(1, 8, "o", StepKind::SealedAtGuest),
        ];
        let mut cut = [10, 5];
        assert!(close(&mut cut, &steps));
        assert_eq!(cut, [10, 7], "the cause and not the effect");
        assert!(!close(&mut cut, &steps));
    }

    #[test]
    fn a_guest_that_followed_brings_home_and_all_other_guests() {
        let steps = [
            step(0, 10, "o", sealed(&[1, 2])),
            step(1, 8, "o", StepKind::SealedAtGuest),
            step(2, 4, "o", StepKind::SetAside),
        ];
        let mut cut = [9, 8, 3];
        assert!(close(&mut cut, &steps));
        assert_eq!(cut, [10, 8, 4]);
    }

    #[test]
    fn a_chain_over_several_orders_is_followed_to_its_end() {
        let steps = [
            step(1, 8, "o", StepKind::SealedAtGuest),
            step(0, 20, "o", sealed(&[1])),
            // Comes in with the prefix of shard 0, and brings a part of its own.
            step(0, 15, "p", StepKind::Closed),
            step(2, 6, "p", StepKind::Closed),
        ];
        let mut cut = [10, 8, 3];
        assert!(close(&mut cut, &steps));
        assert_eq!(cut, [20, 8, 6]);
    }

    #[test]
    fn what_rests_on_nothing_else_leaves_the_cut_as_it_is() {
        let steps = [
            // Set aside and not sealed: home will be asked.
            step(0, 10, "o", StepKind::SetAside),
            step(1, 8, "o", StepKind::SetAside),
            // Orders of one shard.
            step(0, 11, "p", StepKind::Closed),
            step(1, 9, "q", StepKind::Closed),
            // After the cut.
            step(0, 30, "r", sealed(&[1])),
            step(1, 9, "r", StepKind::SetAside),
        ];
        let mut cut = [12, 7];
        assert!(!close(&mut cut, &steps));
        assert_eq!(cut, [12, 7]);
    }
}
