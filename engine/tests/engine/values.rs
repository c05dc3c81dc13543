//! The small values: ids, times, channels, sums of items, and the bounds of deadlines and forgetting.

use qiang_engine::command::sum_items;
use qiang_engine::ids::{IdError, check_id};
use qiang_engine::limits::{DEADLINE_BUCKET_MS_LOG2, FORGET_BITE, QUANTITY_MAX};
use qiang_engine::promotion::{Channel, Channels, Counters};
use qiang_engine::shard::Due;
use qiang_engine::{Command, OrderId, Record, UnixMs};

use crate::support::{Driven, create, grab, order_id, promotion_id};

#[test]
fn ids_are_1_to_64_bytes_of_their_alphabet() {
    let longest = "x".repeat(64);
    for id in ["a", "Z9", "a.b_c:d-e", "0", longest.as_str()] {
        assert_eq!(check_id(id), Ok(()), "{id:?}");
        assert_eq!(id.parse::<OrderId>().unwrap().as_str(), id);
    }
    assert_eq!(check_id(""), Err(IdError::Empty));
    assert_eq!(
        check_id(&"x".repeat(65)),
        Err(IdError::TooLong { bytes: 65 })
    );
    for (id, offset) in [
        ("a b", 1),
        ("é", 0),
        ("ab/", 2),
        ("a\n", 1),
        ("\0", 0),
        ("a,b", 1),
    ] {
        assert_eq!(check_id(id), Err(IdError::OddByte { offset }), "{id:?}");
    }
}

#[test]
fn times_neither_overflow_nor_run_backwards() {
    assert_eq!(UnixMs(u64::MAX - 1).plus_ms(5), UnixMs(u64::MAX));
    assert_eq!(UnixMs(5).ms_since(UnixMs(7)), 0);
    assert_eq!(UnixMs(7).ms_since(UnixMs(5)), 2);
}

#[test]
fn a_set_of_channels_holds_what_was_put_in() {
    let some: Channels = [Channel::Web, Channel::App, Channel::Web]
        .into_iter()
        .collect();
    assert_eq!(
        some.iter().collect::<Vec<_>>(),
        [Channel::App, Channel::Web]
    );
    assert!(!some.contains(Channel::Qq));
    assert_eq!(Channels::ALL.iter().collect::<Vec<_>>(), Channel::ALL);
}

#[test]
fn counters_that_do_not_add_up_are_noticed() {
    let counters = Counters::offered(5);
    assert!(counters.balanced());
    assert!(
        !Counters {
            remaining: 4,
            ..counters
        }
        .balanced()
    );
    assert!(
        !Counters {
            granted: 1,
            ..counters
        }
        .balanced()
    );
    assert!(
        Counters {
            added: -5,
            remaining: 0,
            ..counters
        }
        .balanced()
    );
}

#[test]
fn items_of_one_promotion_are_summed_where_it_was_first_named() {
    let named = [("B", 1), ("A", 2), ("B", 3), ("C", 1), ("A", 1)];
    let items = sum_items(named.map(|(id, quantity)| (promotion_id(id), quantity))).unwrap();
    let summed: Vec<_> = items
        .iter()
        .map(|item| (item.promotion_id.as_str(), item.quantity))
        .collect();
    assert_eq!(summed, [("B", 4), ("A", 3), ("C", 1)]);
}

#[test]
fn a_sum_beyond_what_an_order_holds_is_refused_by_name() {
    let most = u32::try_from(QUANTITY_MAX).unwrap();
    let sum = |first, second| {
        sum_items([("A", 1), ("B", first), ("B", second)].map(|(id, n)| (promotion_id(id), n)))
    };
    assert_eq!(sum(most - 1, 1).unwrap()[1].quantity, most);
    assert_eq!(sum(most, 1), Err(promotion_id("B")));
    assert_eq!(sum(u32::MAX, u32::MAX), Err(promotion_id("B")));
}

/// Orders granted at odd moments with odd timeouts, looked at every millisecond: none is due early,
/// and none later than one bucket after its time.
#[test]
fn no_deadline_is_early_and_none_is_later_than_its_bucket() {
    let bucket_ms = 1 << DEADLINE_BUCKET_MS_LOG2;
    let mut driven = Driven::new(1);
    driven.at(1, &create("A", 1_000)).unwrap();
    for number in 0..200u64 {
        let pay_ms = 1 + number * 7 % 300;
        let change = qiang_engine::command::PromotionChange {
            payment_timeout_ms: Some(pay_ms),
            ..Default::default()
        };
        let change = Command::ChangePromotion {
            promotion_id: promotion_id("A"),
            change: Box::new(change),
        };
        driven.at(1 + number, &change).unwrap();
        let order = grab(&format!("o-{number}"), "alice", "1.2.3.4", &[("A", 1)]);
        driven.at(1 + number, &Command::Grab(order)).unwrap();
    }
    let mut expired = 0;
    for now in 0..1_000 {
        while let Some((_, due)) = driven.shard.next_due(UnixMs(now)) {
            let Due::Record(record) = due else {
                panic!("no order has a cart")
            };
            let Record::Returned { order_id, .. } = &record else {
                panic!("{record:?}")
            };
            let pay_by = driven.shard.order(order_id).unwrap().pay_by.0;
            assert!(pay_by <= now, "{order_id} is early: {now} before {pay_by}");
            assert!(
                now <= pay_by + bucket_ms,
                "{order_id} is late: {now} after {pay_by}"
            );
            driven.apply(record);
            expired += 1;
        }
    }
    assert_eq!(expired, 200);
}

fn closed_with_orders(orders: usize) -> Driven {
    let mut driven = Driven::new(1);
    driven.at(1_000, &create("A", 100_000)).unwrap();
    for number in 0..orders {
        let order = grab(&format!("o-{number}"), "alice", "1.2.3.4", &[("A", 1)]);
        driven.at(1_000, &Command::Grab(order)).unwrap();
        let order_id = order_id(&format!("o-{number}"));
        driven.at(1_000, &Command::Confirm { order_id }).unwrap();
    }
    driven
        .at(
            2_000,
            &Command::DeletePromotion {
                promotion_id: promotion_id("A"),
            },
        )
        .unwrap();
    driven
}

#[test]
fn forgetting_takes_bounded_bites_and_comes_round_to_every_order() {
    let mut driven = closed_with_orders(5_000);
    let (nothing, _) = driven
        .shard
        .forgettable(0, UnixMs(11_999), 10_000, |_| None);
    assert!(nothing.is_none(), "nothing is forgotten before its time");
    let (mut cursor, mut looks) = (3_000, 0);
    while driven.shard.order_count() > 0 {
        let (record, next) = driven
            .shard
            .forgettable(cursor, UnixMs(12_000), 10_000, |_| None);
        if let Some(record) = record {
            let Record::Forgotten { orders, .. } = &record else {
                panic!("{record:?}")
            };
            assert!(orders.len() <= FORGET_BITE);
            driven.apply(record);
        }
        cursor = next;
        looks += 1;
        assert!(
            looks < 100,
            "{} orders are left",
            driven.shard.order_count()
        );
    }
    let promotion = driven.shard.promotion(&promotion_id("A")).unwrap();
    assert_eq!(
        promotion.counters.confirmed, 5_000,
        "what was sold stays counted"
    );
    assert_eq!(driven.shard.pin_units().count(), 0);
}

#[test]
fn open_orders_of_a_closed_promotion_are_not_forgotten() {
    let mut driven = closed_with_orders(1);
    driven.at(2_000, &create("B", 5)).unwrap();
    driven
        .at(
            2_000,
            &Command::Grab(grab("held", "bob", "1.2.3.4", &[("B", 1)])),
        )
        .unwrap();
    driven
        .at(
            2_000,
            &Command::DeletePromotion {
                promotion_id: promotion_id("B"),
            },
        )
        .unwrap();
    let (record, _) = driven
        .shard
        .forgettable(0, UnixMs(50_000), 10_000, |_| None);
    driven.apply(record.expect("the paid order is forgotten"));
    assert_eq!(driven.shard.order_count(), 1);
    assert!(driven.shard.order(&order_id("held")).is_some());
}

/// The same promotion twice on one order id, again and again: slots and texts are used anew.
#[test]
fn memory_of_forgotten_orders_is_used_again() {
    let mut driven = Driven::new(1);
    driven.at(1, &create("A", 10)).unwrap();
    for round in 0..300u64 {
        let name = "o".repeat(1 + usize::try_from(round % 64).unwrap());
        let order = grab(&name, &name, "2001:db8::1", &[("A", 10)]);
        driven.at(1, &Command::Grab(order)).unwrap();
        assert_eq!(driven.shard.pin_units().count(), 1);
        let record = driven.records.pop().unwrap();
        driven.shard.revert(&record).unwrap();
        assert_eq!(
            (driven.shard.order_count(), driven.shard.pin_units().count()),
            (0, 0)
        );
    }
}
