//! The second fold, flow by flow: from the routes' JSON and from the log's records to the same counters.

use super::*;
use serde_json::json;

fn fold(flows: &[Value]) -> Result<Tally, Contradiction> {
    let mut tally = Tally::default();
    for flow in flows {
        tally.fold(Change::from_line(&flow.to_string())?)?;
    }
    Ok(tally)
}

fn created(promotion: &str, quantity: i64) -> Value {
    json!({"type": "promotion_created", "promotion_id": promotion, "quantity": quantity})
}

fn granted(order: &str, promotion: &str, quantity: i64) -> Value {
    json!({"type": "granted", "order_id": order, "items": [{"promotion_id": promotion, "quantity": quantity}]})
}

fn about(kind: &str, order: &str) -> Value {
    json!({"type": kind, "order_id": order})
}

fn counters(tally: &Tally, promotion: &str) -> [i64; 5] {
    tally.promotion(promotion).unwrap().values()
}

#[test]
fn every_kind_of_flow_moves_its_units() {
    let flows = [
        created("A", 10),
        granted("o-1", "A", 2),
        granted("o-2", "A", 3),
        granted("o-3", "A", 1),
        about("confirmed", "o-1"),
        about("returned", "o-2"),
        about("undone", "o-3"),
        json!({"type": "promotion_changed", "promotion_id": "A", "add_quantity": 5}),
        json!({"type": "promotion_changed", "promotion_id": "A"}),
        json!({"type": "checkpoint", "digest": 1}),
        about("returned", "o-1"),
    ];
    let tally = fold(&flows).unwrap();
    // original, remaining, granted, returned, confirmed
    assert_eq!(counters(&tally, "A"), [10, 15, 5, 5, 0]);
    assert_eq!(tally.flows(), flows.len() as u64);
    let before = fold(&flows[..6]).unwrap();
    assert_eq!(counters(&before, "A"), [10, 7, 6, 3, 2]);
}

#[test]
fn a_cancel_before_its_grab_moves_nothing() {
    let tally = fold(&[created("A", 10), about("returned", "o-1")]).unwrap();
    assert_eq!(counters(&tally, "A"), [10, 10, 0, 0, 0]);
    let again = fold(&[
        created("A", 10),
        about("returned", "o-1"),
        granted("o-1", "A", 1),
    ]);
    assert_eq!(
        again.unwrap_err(),
        Contradiction::GrantedTwice("o-1".into())
    );
}

#[test]
fn a_forgotten_order_id_may_come_again() {
    let flows = [
        created("A", 10),
        granted("o-1", "A", 1),
        about("confirmed", "o-1"),
        json!({"type": "forgotten", "order_ids": ["o-1"]}),
        granted("o-1", "A", 2),
    ];
    assert_eq!(counters(&fold(&flows).unwrap(), "A"), [10, 7, 3, 0, 1]);
}

#[test]
fn flows_that_contradict_themselves_are_found() {
    let twice = fold(&[created("A", 1), created("A", 1)]).unwrap_err();
    assert_eq!(twice, Contradiction::Twice("A".into()));
    let granted_twice = fold(&[
        created("A", 9),
        granted("o-1", "A", 1),
        granted("o-1", "A", 1),
    ])
    .unwrap_err();
    assert_eq!(granted_twice, Contradiction::GrantedTwice("o-1".into()));
    let returned_twice = [
        created("A", 9),
        granted("o-1", "A", 1),
        about("returned", "o-1"),
        about("returned", "o-1"),
    ];
    assert!(matches!(
        fold(&returned_twice),
        Err(Contradiction::OutOfTurn { .. })
    ));
    assert_eq!(
        fold(&[granted("o-1", "A", 1)]).unwrap_err(),
        Contradiction::NoPromotion("A".into())
    );
    assert_eq!(
        fold(&[about("confirmed", "o-1")]).unwrap_err(),
        Contradiction::NoOrder("o-1".into())
    );
    assert!(matches!(
        fold(&[json!({"type": "granted"})]),
        Err(Contradiction::Incomplete { .. })
    ));
    assert!(matches!(
        fold(&[json!({})]),
        Err(Contradiction::Unreadable(_))
    ));
}

#[test]
fn where_the_first_flows_are_gone_only_later_promotions_are_told() {
    let mut tally = Tally::of_a_part();
    let both = json!({"type": "granted", "order_id": "o-2", "items": [
        {"promotion_id": "old", "quantity": 1}, {"promotion_id": "new", "quantity": 2}]});
    for flow in [
        granted("o-1", "old", 1),
        about("confirmed", "o-0"),
        created("new", 5),
        both,
        about("confirmed", "o-2"),
    ] {
        tally
            .fold(Change::from_line(&flow.to_string()).unwrap())
            .unwrap();
    }
    assert_eq!(tally.promotion("old"), None);
    assert_eq!(counters(&tally, "new"), [5, 3, 2, 0, 2]);
}
