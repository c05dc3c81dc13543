//! The stored form of records, version 1, and of batches, versions 1 and 2: one file of each kind under
//! `tests/golden/records`, as hex.
//! Whatever a later version writes, these bytes must decode to these values for ever.
//!
//! A test never changes a file. `QIANG_GOLDEN=write` adds one that is missing, for a new kind of record.

use std::path::Path;

use qiang_engine::batch::{Batch, Part, Tag};
use qiang_engine::codec::{self, DecodeError};
use qiang_engine::order::{
    Buyer, CartPart, CartRole, GrantedItem, Item, Items, Order, OrderState, ReturnReason, Told,
};
use qiang_engine::promotion::{
    Channel, Channels, CloseReason, Counters, Limits, Price, Promotion, Rate, Terms,
};
use qiang_engine::record::{Granted, PromotionChanged, ReturnedFrom};
use qiang_engine::{Place, Record, TryId, UnixMs};

use crate::support::{ip, order_id, pin, promotion_id};

const AT: UnixMs = UnixMs(1_750_000_000_123);

fn terms() -> Terms {
    Terms {
        kind: 7,
        title: "Phone −500".into(),
        sku_ids: vec!["100012043978".into(), "sku-2".into()],
        starts_at: Some(UnixMs(1_750_000_000_000)),
        ends_at: Some(UnixMs(1_760_000_000_000)),
        limits: Limits {
            per_order: Some(2),
            per_pin: None,
            per_ip: Some(4_000_000_000),
        },
        rate: Some(Rate {
            window_ms: 60_000,
            attempts: 70_000,
        }),
        payment_timeout_ms: 1_200_000,
        channels: [Channel::App, Channel::Web]
            .into_iter()
            .collect::<Channels>(),
        price: Some(Price {
            original_cents: 499_900,
            promotion_cents: 449_900,
            currency: "CNY".into(),
        }),
    }
}

fn item(promotion: &str, quantity: u32) -> Item {
    Item {
        promotion_id: promotion_id(promotion),
        quantity,
    }
}

fn granted_item(promotion: &str, quantity: u32, remaining: u64) -> GrantedItem {
    GrantedItem {
        promotion_id: promotion_id(promotion),
        quantity,
        remaining,
    }
}

fn home() -> CartPart {
    CartPart {
        try_id: TryId(0x0123_4567_89ab_cdef),
        tentative_until: UnixMs(AT.0 + 3_000),
        role: CartRole::Home {
            items: [granted_item("A", 1, 0), granted_item("B", 2, 0)]
                .into_iter()
                .collect(),
            told: Told::Nothing,
        },
    }
}

fn order(state: OrderState) -> Order {
    Order {
        order_id: order_id("order-0000000001"),
        buyer: Some(Buyer {
            pin: pin("alice"),
            ip: ip("2001:db8::7"),
            channel: Channel::Wechat,
        }),
        items: [granted_item("A", 1, 99)].into_iter().collect(),
        granted_at: AT,
        pay_by: UnixMs(AT.0 + 1_200_000),
        state,
        cart: Some(Box::new(home())),
    }
}

fn lines() -> Items {
    [item("A", 1), item("B", 300)].into_iter().collect()
}

/// One record of each kind, and of each kind of what it holds.
pub fn examples() -> Vec<(&'static str, Record)> {
    let promotion = Promotion {
        id: promotion_id("A"),
        terms: terms().into(),
        created_terms: Terms::default().into(),
        counters: Counters::offered(2_147_483_648),
        stopped: false,
        closed: None,
        version: 1,
        created_at: AT,
    };
    let changed = PromotionChanged {
        promotion_id: promotion_id("A"),
        terms_before: Some(Terms::default().into()),
        terms_after: Some(terms().into()),
        add_quantity: -50,
        stopped_before: false,
        stopped_after: true,
        at: AT,
    };
    let granted = |ip_text: &str, cart| {
        Record::Granted(Granted {
            order_id: order_id("order-0000000001"),
            pin: pin("alice"),
            ip: ip(ip_text),
            channel: Channel::Qq,
            items: lines(),
            at: AT,
            pay_within_ms: 1_200_000,
            cart,
        })
    };
    let guest = CartPart {
        role: CartRole::Guest {
            home: promotion_id("Z"),
        },
        ..home()
    };
    let returned = |reason, from| Record::Returned {
        order_id: order_id("o-1"),
        lines: lines(),
        reason,
        from,
        at: AT,
    };
    let confirmed = |from| Record::Confirmed {
        order_id: order_id("o-1"),
        lines: lines(),
        from,
        at: AT,
    };
    let o_1 = || order_id("o-1");
    let closed = |reason, before| Record::PromotionClosed {
        promotion_id: promotion_id("A"),
        reason,
        before,
        at: AT,
    };
    let forgotten = vec![
        order(OrderState::Confirmed { at: AT }),
        Order {
            buyer: None,
            cart: None,
            ..order(OrderState::Returned {
                at: AT,
                reason: ReturnReason::Stock,
            })
        },
    ];
    vec![
        (
            "promotion_created",
            Record::PromotionCreated {
                promotion: Box::new(promotion),
            },
        ),
        (
            "promotion_changed",
            Record::PromotionChanged(Box::new(changed)),
        ),
        ("promotion_closed", closed(CloseReason::Ended, None)),
        (
            "promotion_closed_again",
            closed(CloseReason::Deleted, Some((CloseReason::Ended, AT))),
        ),
        ("granted", granted("203.0.113.9", None)),
        (
            "granted_at_home",
            granted("2001:db8::7", Some(Box::new(home()))),
        ),
        (
            "granted_at_guest",
            granted("203.0.113.9", Some(Box::new(guest))),
        ),
        (
            "sealed",
            Record::Sealed {
                order_id: o_1(),
                lines: lines(),
                pay_by: UnixMs(AT.0 + 60_000),
                pay_by_before: UnixMs(AT.0 + 1_200_000),
                items: [granted_item("A", 1, 99), granted_item("Z", 2, 1_000_000)]
                    .into_iter()
                    .collect(),
                at: AT,
            },
        ),
        ("confirmed", confirmed(OrderState::Held)),
        ("confirmed_at_guest", confirmed(OrderState::Tentative)),
        ("returned", returned(ReturnReason::User, ReturnedFrom::Held)),
        (
            "returned_expired",
            returned(ReturnReason::Expired, ReturnedFrom::Tentative),
        ),
        (
            "returned_refund",
            returned(ReturnReason::Stock, ReturnedFrom::Confirmed { at: AT }),
        ),
        (
            "returned_unknown",
            returned(
                ReturnReason::Downstream,
                ReturnedFrom::Unknown {
                    promotion_id: promotion_id("A"),
                },
            ),
        ),
        (
            "undone",
            Record::Undone {
                try_id: TryId(u64::MAX),
                order: None,
                at: AT,
            },
        ),
        (
            "undone_with_order",
            Record::Undone {
                try_id: TryId(5),
                order: Some(Box::new(order(OrderState::Tentative))),
                at: AT,
            },
        ),
        (
            "told",
            Record::Told {
                order_id: o_1(),
                before: Told::Sealed,
                after: Told::Returned,
                at: AT,
            },
        ),
        (
            "forgotten",
            Record::Forgotten {
                orders: forgotten,
                tries: vec![(TryId(5), AT)],
                at: AT,
            },
        ),
        (
            "checkpoint",
            Record::Checkpoint {
                digest: 0xfedc_ba98_7654_3210,
                at: AT,
            },
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        let digits = line.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<Vec<_>>().concat()
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/records/{name}.hex"));
    if !path.exists() && std::env::var("QIANG_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, hex(bytes)).unwrap();
    }
    let text = std::fs::read_to_string(&path);
    unhex(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn records_of_version_1_decode_and_encode_as_they_were_written() {
    for (name, record) in examples() {
        let bytes = golden(name, &codec::encode(&record));
        assert_eq!(
            codec::decode::<Record>(&bytes).unwrap(),
            record,
            "{name} decoded"
        );
        assert_eq!(hex(&codec::encode(&record)), hex(&bytes), "{name} encoded");
    }
}

#[test]
fn every_kind_of_record_has_a_golden_file() {
    let mut kinds: Vec<&str> = examples()
        .iter()
        .map(|(_, record)| record.type_name())
        .collect();
    kinds.dedup();
    let all = "promotion_created promotion_changed promotion_closed granted sealed confirmed returned \
        undone told forgotten checkpoint";
    assert_eq!(kinds, all.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn a_batch_of_version_1_decodes_as_the_only_shards() {
    let bytes = golden("batch", &[]);
    assert_eq!(bytes[0], 1);
    let records = examples().into_iter().map(|(_, record)| record);
    let parts = vec![Part {
        place: Place(0),
        records: records.take(6).collect(),
    }];
    let decoded = Batch::decode(&bytes).unwrap();
    assert_eq!(decoded.parts, parts);
    let peeked = Batch::peek(&bytes).unwrap();
    assert_eq!(peeked, (decoded.me, decoded.prev));
    let records = Batch::records_of(Place(0), &bytes).unwrap();
    assert_eq!(records, parts[0].records);
    assert_eq!(Batch::records_of(Place(1), &bytes).unwrap(), []);
}

#[test]
fn a_batch_of_version_2_decodes_and_encodes_as_it_was_written() {
    let records: Vec<Record> = examples().into_iter().map(|(_, record)| record).collect();
    let part = |place, records: &[Record]| Part {
        place: Place(place),
        records: records.to_vec(),
    };
    let batch = Batch {
        me: Tag {
            stint: 0x0102_0304_0506_0708,
            seq: 2,
        },
        prev: Tag {
            stint: 9,
            seq: u64::MAX,
        },
        parts: vec![
            part(0, &records[..2]),
            part(1, &records[2..5]),
            part(3, &records[5..6]),
        ],
    };
    let bytes = golden("batch_of_shards", &batch.encode());
    assert_eq!(Batch::decode(&bytes).unwrap(), batch);
    assert_eq!(hex(&batch.encode()), hex(&bytes));
    assert_eq!(Batch::peek(&bytes).unwrap(), (batch.me, batch.prev));
    for part in &batch.parts {
        let records = Batch::records_of(part.place, &bytes).unwrap();
        assert_eq!(records, part.records);
    }
    assert_eq!(Batch::records_of(Place(2), &bytes).unwrap(), []);
    let decided = batch.parts.iter().flat_map(|part| {
        let records = part.records.iter();
        records.map(|record| (part.place, record.clone()))
    });
    let decided: Vec<_> = decided.collect();
    let encoded = Batch::encode_decided(batch.me, batch.prev, &decided);
    assert_eq!(hex(&encoded), hex(&bytes), "as an actor encodes it");
}

#[test]
fn what_is_not_a_record_is_named() {
    let (_, record) = examples().remove(4);
    let bytes = codec::encode(&record);
    assert!(matches!(
        codec::decode::<Record>(&[]),
        Err(DecodeError::Empty)
    ));
    let newer = [&[codec::VERSION + 1], &bytes[1..]].concat();
    let error = codec::decode::<Record>(&newer).unwrap_err();
    assert!(matches!(error, DecodeError::Newer { found: 2 }), "{error}");
    assert!(error.to_string().contains("use a newer binary"));
    let longer = [&bytes[..], &[0, 0, 0]].concat();
    assert!(matches!(
        codec::decode::<Record>(&longer),
        Err(DecodeError::Trailing { bytes: 3 })
    ));
    for length in 1..bytes.len() {
        let cut = codec::decode::<Record>(&bytes[..length]);
        assert!(
            matches!(cut, Err(DecodeError::Malformed(_))),
            "cut to {length} bytes: {cut:?}"
        );
    }
    let no_kind = [codec::VERSION, 200];
    assert!(matches!(
        codec::decode::<Record>(&no_kind),
        Err(DecodeError::Malformed(_))
    ));
}

#[test]
fn an_id_that_is_none_does_not_decode() {
    let told = Record::Told {
        order_id: order_id("o-1"),
        before: Told::Nothing,
        after: Told::Sealed,
        at: AT,
    };
    let mut bytes = codec::encode(&told);
    let at = bytes.windows(3).position(|found| found == b"o-1").unwrap();
    bytes[at + 1] = b'/';
    assert!(matches!(
        codec::decode::<Record>(&bytes),
        Err(DecodeError::Malformed(_))
    ));
}

#[test]
fn what_is_not_a_batch_is_named() {
    let batch = Batch {
        me: Tag::default(),
        prev: Tag::default(),
        parts: vec![Part {
            place: Place(0),
            records: vec![examples().remove(4).1],
        }],
    };
    let bytes = batch.encode();
    assert!(matches!(Batch::decode(&[]), Err(DecodeError::Empty)));
    assert!(matches!(
        Batch::peek(&[9, 9]),
        Err(DecodeError::Newer { found: 9 })
    ));
    const HEAD_BYTES: usize = 33;
    for length in (1..HEAD_BYTES).chain(HEAD_BYTES + 1..bytes.len()) {
        assert!(
            Batch::decode(&bytes[..length]).is_err(),
            "cut to {length} bytes"
        );
    }
    let longer = [&bytes[..], &[1]].concat();
    assert!(matches!(
        Batch::decode(&longer),
        Err(DecodeError::Malformed(_))
    ));
    let mut part_too_long = longer;
    part_too_long[HEAD_BYTES + 1] += 1;
    assert!(matches!(
        Batch::decode(&part_too_long),
        Err(DecodeError::Trailing { bytes: 1 })
    ));
}
