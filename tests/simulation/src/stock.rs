//! Whether a refusal can be true: a promotion that is said to be sold out must have been, at some moment while it was asked for.
//!
//! Of promotions that are sold in orders of their own it is known which orders may hold units: those that were asked for and not surely
//! refused or returned. What not even all of these together held must have remained.
//!
//! Invariant: an order is counted from before it is asked for until after it is known to hold nothing. So what is counted is never less than what is held.

use std::collections::BTreeMap;

use qiang_engine::PromotionId;

/// What may be held of every promotion.
#[derive(Debug, Default)]
pub struct Stock {
    orders: BTreeMap<String, Order>,
    counted: BTreeMap<PromotionId, u64>,
    open: BTreeMap<u64, Open>,
    asked: u64,
}

#[derive(Debug)]
struct Order {
    promotion: PromotionId,
    units: u64,
    /// Grabs of it without an end.
    open: u32,
    /// A grab of it was granted, or may be at any time.
    stays: bool,
    /// It was given back: it never holds anything again.
    returned: bool,
    is_counted: bool,
}

/// A grab without an end.
#[derive(Debug)]
struct Open {
    order: String,
    /// The most units that all other orders may have held at a time since it began.
    most: u64,
}

/// How a grab ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It holds what it asked for, or may come to.
    Held,
    /// It holds nothing.
    Refused,
}

impl Stock {
    /// A grab of an order begins; its number.
    pub fn begin(&mut self, order: &str, promotion: &PromotionId, units: u64) -> u64 {
        let known = self
            .orders
            .entry(order.to_owned())
            .or_insert_with(|| Order {
                promotion: promotion.clone(),
                units,
                open: 0,
                stays: false,
                returned: false,
                is_counted: false,
            });
        known.open += 1;
        self.asked += 1;
        let most = 0;
        let order = order.to_owned();
        self.open.insert(
            self.asked,
            Open {
                order: order.clone(),
                most,
            },
        );
        self.count(&order);
        self.asked
    }

    /// A grab ends; the units that others may have held at most, at one moment of it.
    pub fn end(&mut self, number: u64, end: End) -> u64 {
        let Open { order, most } = self.open.remove(&number).expect("it began");
        let known = self.orders.get_mut(&order).expect("it was asked for");
        known.open -= 1;
        known.stays |= end == End::Held;
        self.count(&order);
        most
    }

    /// An order was given back for good.
    pub fn returned(&mut self, order: &str) {
        if let Some(known) = self.orders.get_mut(order) {
            known.returned = true;
            self.count(order);
        }
    }

    /// From now on these orders hold what they asked for, and no others of before.
    pub fn begin_anew(&mut self, holds: impl Fn(&str) -> bool) {
        let orders: Vec<String> = self.orders.keys().cloned().collect();
        for order in orders {
            let known = self.orders.get_mut(&order).expect("it is one of them");
            (known.stays, known.returned) = (holds(&order), false);
            self.count(&order);
        }
    }

    /// Counts an order if it may hold units, and no longer if it cannot.
    fn count(&mut self, order: &str) {
        let order = self.orders.get_mut(order).expect("it was asked for");
        let may_hold = !order.returned && (order.stays || order.open > 0);
        let was_counted = std::mem::replace(&mut order.is_counted, may_hold);
        let (promotion, units) = (order.promotion.clone(), order.units);
        let counted = self.counted.entry(promotion.clone()).or_default();
        match (was_counted, may_hold) {
            (false, true) => *counted += units,
            (true, false) => *counted -= units,
            _ => {}
        }
        let counted = *counted;
        for open in self.open.values_mut() {
            let own = &self.orders[&open.order];
            if own.promotion == promotion {
                let others = counted - if own.is_counted { own.units } else { 0 };
                open.most = open.most.max(others);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_have_held_is_the_most_at_one_moment() {
        let promotion = PromotionId::new("A").expect("an id");
        let mut stock = Stock::default();
        let first = stock.begin("first", &promotion, 2);
        let second = stock.begin("second", &promotion, 1);
        assert_eq!(stock.end(first, End::Held), 1);
        stock.returned("first");
        assert_eq!(stock.end(second, End::Refused), 2, "while it was asked for");
        let third = stock.begin("third", &promotion, 1);
        let again = stock.begin("first", &promotion, 2);
        assert_eq!(stock.end(again, End::Refused), 1, "the third");
        assert_eq!(
            stock.end(third, End::Refused),
            0,
            "what was returned stays so"
        );
    }

    #[test]
    fn after_a_restore_the_orders_of_the_backup_hold_units() {
        let promotion = PromotionId::new("A").expect("an id");
        let mut stock = Stock::default();
        for order in ["held", "returned since", "granted since"] {
            let grab = stock.begin(order, &promotion, 1);
            stock.end(grab, End::Held);
        }
        stock.returned("returned since");
        stock.begin_anew(|order| order != "granted since");
        let other = stock.begin("other", &promotion, 1);
        assert_eq!(stock.end(other, End::Refused), 2);
    }

    #[test]
    fn an_order_in_doubt_may_hold_units_though_a_repeat_was_refused() {
        let promotion = PromotionId::new("A").expect("an id");
        let mut stock = Stock::default();
        let doubted = stock.begin("first", &promotion, 1);
        stock.end(doubted, End::Held);
        let repeat = stock.begin("first", &promotion, 1);
        assert_eq!(
            stock.end(repeat, End::Refused),
            0,
            "an order is not in its own way"
        );
        let other = stock.begin("second", &promotion, 1);
        assert_eq!(stock.end(other, End::Refused), 1);
    }
}
