//! What only the shard itself can see: that nothing stays in memory of orders that are gone.

use super::{Decision, Moment, Shard};
use crate::command::{Command, Grab, sum_items};
use crate::ids::{OrderId, Pin, PromotionId, UnixMs};
use crate::order::ReturnReason;
use crate::promotion::Channel;
use crate::record::Record;

fn accept(shard: &mut Shard, command: &Command) -> Record {
    match shard.decide(command, &Moment::at(UnixMs(1_000))).unwrap() {
        Decision::Record(record) => {
            shard.apply(&record).unwrap();
            record
        }
        Decision::Answer(answer) => panic!("nothing changed: {answer:?}"),
    }
}

fn promotion_id(name: &str) -> PromotionId {
    PromotionId::new(name).unwrap()
}

fn create(name: &str) -> Command {
    Command::CreatePromotion {
        promotion_id: promotion_id(name),
        quantity: 1_000,
        terms: Box::default(),
    }
}

fn grab(number: usize) -> Command {
    let items = [(promotion_id("A"), 1), (promotion_id("B"), 2)];
    Command::Grab(Grab {
        order_id: OrderId::new(&format!("order-{number}")).unwrap(),
        pin: Pin::new(&format!("pin-{}", number / 2)).unwrap(),
        ip: [10, 0, 0, u8::try_from(number / 4).unwrap()].into(),
        channel: Channel::App,
        items: sum_items(items).unwrap(),
    })
}

fn assert_nothing_is_kept(shard: &Shard) {
    assert_eq!(shard.orders.len(), 0, "orders");
    assert_eq!((shard.pins.len(), shard.ips.len()), (0, 0), "pins and ips");
    assert_eq!(shard.texts.len(), 0, "texts");
    assert!(shard.more_lines.is_empty() && shard.carts.is_empty() && shard.untold.is_empty());
    assert!(shard.deadlines.is_empty(), "deadlines");
}

#[test]
fn nothing_is_kept_of_orders_that_were_reverted() {
    let mut shard = Shard::new(1);
    let mut records = vec![
        accept(&mut shard, &create("A")),
        accept(&mut shard, &create("B")),
    ];
    records.extend((0..100).map(|number| accept(&mut shard, &grab(number))));
    assert_eq!(
        (shard.pins.len(), shard.ips.len()),
        (100, 50),
        "of two promotions"
    );
    for record in records.iter().rev() {
        shard.revert(record).unwrap();
    }
    assert_nothing_is_kept(&shard);
}

#[test]
fn nothing_is_kept_of_orders_that_were_forgotten() {
    let mut shard = Shard::new(1);
    accept(&mut shard, &create("A"));
    accept(&mut shard, &create("B"));
    for number in 0..100 {
        accept(&mut shard, &grab(number));
        let order_id = OrderId::new(&format!("order-{number}")).unwrap();
        let close = if number % 2 == 0 {
            Command::Confirm { order_id }
        } else {
            let (reason, refund, promotion_id) = (ReturnReason::User, false, None);
            Command::Cancel {
                order_id,
                reason,
                refund,
                promotion_id,
            }
        };
        accept(&mut shard, &close);
    }
    let tombstone = Command::Cancel {
        order_id: OrderId::new("never-seen").unwrap(),
        reason: ReturnReason::Stock,
        refund: false,
        promotion_id: Some(promotion_id("A")),
    };
    accept(&mut shard, &tombstone);
    for name in ["A", "B"] {
        accept(
            &mut shard,
            &Command::DeletePromotion {
                promotion_id: promotion_id(name),
            },
        );
    }
    let (record, _) = shard.forgettable(0, UnixMs(2_000), 1_000, |_| None);
    shard.apply(&record.unwrap()).unwrap();
    assert_nothing_is_kept(&shard);
}
