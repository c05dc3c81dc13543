//! Orders of several items, on one shard and over several.
//!
//! Invariant: a cart is all or nothing, and afterwards all shards tell the same of it.

use qiang_tests::{Node, audit, id_on_another_shard, id_on_shard, shard_of, wait_until};
use serde_json::json;
use std::time::Duration;

/// Three promotions, `X` and `Y` on one shard and `Z` on another one.
fn three_promotions() -> [String; 3] {
    let x = "X".to_owned();
    let y = id_on_shard("Y", shard_of(&x));
    let z = id_on_another_shard("Z", &[&x]);
    [x, y, z]
}

#[test]
fn a_cart_on_one_shard_is_all_or_nothing() {
    let node = Node::start();
    let [x, y, _] = three_promotions();
    node.promotion(&x).quantity(10).create();
    node.promotion(&y).quantity(1).create();
    let granted = node.grab("o-1", "alice").of(&x, 2).of(&y, 1).granted();
    assert_eq!(
        granted["items"],
        json!([{"promotion_id": x, "quantity": 2, "remaining": 8},
               {"promotion_id": y, "quantity": 1, "remaining": 0}])
    );
    let problem = node
        .grab("o-2", "bob")
        .of(&x, 1)
        .of(&y, 1)
        .refused(409, "sold_out");
    assert_eq!(
        (&problem["promotion_id"], &problem["remaining"]),
        (&json!(y), &json!(0))
    );
    assert_eq!(
        node.offered(&x).remaining(),
        8,
        "nothing of the refused cart was taken"
    );
    node.order("o-2").answer().refused(404, "order_not_found");
    audit(&node);
}

#[test]
fn carts_and_grabs_of_several_shards_in_one_batch_are_answered_in_the_order_given() {
    let node = Node::start();
    let [x, y, z] = three_promotions();
    for id in [&x, &y, &z] {
        node.promotion(id).quantity(100).create();
    }
    // Over one shard, over another one, over both, and a wrong one, again and again.
    let grab = |number: usize| {
        let grab = node.grab(&format!("o-{number}"), &format!("buyer-{number}"));
        match number % 5 {
            0 => grab.of(&z, 1),
            1 => grab.of(&x, 1),
            2 => grab.of(&x, 1).of(&z, 1),
            3 => grab.of(&y, 1),
            _ => grab,
        }
    };
    let grabs: Vec<_> = (0..40).map(|number| grab(number).body()).collect();
    let answer = node
        .post("/v1/grabs/batch", &json!({"grabs": grabs}))
        .expect(200);
    let results = answer["results"].as_array().expect("results are a list");
    assert_eq!(results.len(), grabs.len(), "{answer}");
    for (number, result) in results.iter().enumerate() {
        if number % 5 == 4 {
            assert_eq!(result["status"], 400, "no items: {result}");
            continue;
        }
        assert_eq!(result["status"], 200, "{result}");
        assert_eq!(result["order_id"], format!("o-{number}"), "{result}");
        let items = result["items"].as_array().expect("items are a list");
        let expected = if number % 5 == 2 { 2 } else { 1 };
        assert_eq!(items.len(), expected, "{result}");
    }
    audit(&node);
}

#[test]
fn a_cart_over_several_shards_is_all_or_nothing() {
    let node = Node::start();
    let [x, y, z] = three_promotions();
    node.promotion(&x).quantity(10).create();
    node.promotion(&y).quantity(10).create();
    node.promotion(&z).quantity(1).create();
    let cart = node.grab("o-1", "alice").of(&x, 2).of(&z, 1).of(&y, 3);
    let mut granted = cart.granted();
    assert_eq!(
        granted["items"],
        json!([{"promotion_id": x, "quantity": 2, "remaining": 8},
               {"promotion_id": z, "quantity": 1, "remaining": 0},
               {"promotion_id": y, "quantity": 3, "remaining": 7}])
    );
    granted["replayed"] = true.into();
    assert_eq!(cart.replayed(), granted);

    let refused = node.grab("o-2", "bob").of(&x, 1).of(&z, 1).of(&y, 1);
    for _ in 0..2 {
        let problem = refused.refused(409, "sold_out");
        assert_eq!(problem["promotion_id"], z, "{problem}");
        assert_eq!(problem["remaining"], 0, "{problem}");
    }
    settles(&node, &x, 8);
    settles(&node, &y, 7);
    node.order("o-2").answer().refused(404, "order_not_found");
    audit(&node);
}

/// Units set aside for an attempt go back when it is undone: at once or a moment after the refusal.
#[track_caller]
fn settles(node: &Node, promotion: &str, remaining: i64) {
    wait_until(
        Duration::from_secs(10),
        "an undone cart's units are back",
        || {
            let now = node.offered(promotion).remaining();
            (now == remaining)
                .then_some(())
                .ok_or(format!("{promotion}: {now}, expected {remaining}"))
        },
    );
}

#[test]
fn a_refused_cart_can_be_tried_again_when_units_come_back() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x).quantity(5).create();
    node.promotion(&z).quantity(1).create();
    node.grab("o-1", "alice").of(&z, 1).granted();
    let cart = node.grab("o-2", "bob").of(&x, 1).of(&z, 1);
    cart.refused(409, "sold_out");
    node.order("o-1").cancel("user").expect(200);
    cart.granted();
    cart.replayed();
    settles(&node, &x, 4);
    audit(&node);
}

#[test]
fn the_first_failing_item_in_the_order_given_names_the_code() {
    let node = Node::start();
    let [x, y, z] = three_promotions();
    node.promotion(&x).quantity(1).create();
    node.promotion(&y).create().stop().expect(200);
    node.promotion(&z).per_order(1).create();
    let sold_out = |order: &str| node.grab(order, "alice").of(&x, 2);
    for (cart, status, code, named) in [
        (sold_out("o-1").of(&y, 1).of(&z, 2), 409, "sold_out", &x),
        (
            node.grab("o-2", "alice").of(&y, 1).of(&z, 2).of(&x, 2),
            409,
            "stopped",
            &y,
        ),
        (
            node.grab("o-3", "alice").of(&z, 2).of(&x, 2).of(&y, 1),
            409,
            "order_limit",
            &z,
        ),
        (
            node.grab("o-4", "alice").of("none", 1).of(&x, 2),
            404,
            "promotion_not_found",
            &"none".to_owned(),
        ),
        (
            node.grab("o-5", "alice").of(&x, 1).of("none", 1),
            404,
            "promotion_not_found",
            &"none".to_owned(),
        ),
    ] {
        let problem = cart.refused(status, code);
        assert_eq!(problem["promotion_id"], *named, "{problem}");
    }
    settles(&node, &x, 1);
    audit(&node);
}

#[test]
fn confirm_and_cancel_of_a_cart_reach_every_shard() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x).quantity(10).create();
    node.promotion(&z).quantity(10).create();
    node.grab("paid", "alice").of(&x, 1).of(&z, 2).granted();
    node.grab("left", "bob").of(&x, 3).of(&z, 4).granted();
    // Asked at the guest's shard, decided at home.
    node.order("paid").at(&z).confirm().expect(200);
    node.order("left").at(&z).cancel("user").expect(200);
    wait_until(Duration::from_secs(10), "both shards tell the same", || {
        let seen = [&x, &z].map(|at| {
            (
                node.order("paid").at(at).state(),
                node.order("left").at(at).state(),
                node.offered(at).view(),
            )
        });
        let agreed = seen.iter().zip([(9, 1), (8, 2)]).all(
            |((paid, left, view), (remaining, confirmed))| {
                paid == "confirmed"
                    && left == "returned"
                    && view["remaining"] == remaining
                    && view["confirmed"] == confirmed
            },
        );
        agreed.then_some(()).ok_or(format!("{seen:?}"))
    });
    node.grab("left", "bob")
        .of(&x, 3)
        .of(&z, 4)
        .refused(409, "order_returned");
    node.order("left").confirm().refused(409, "order_returned");
    audit(&node);
}

#[test]
fn a_cart_over_several_shards_expires_on_all_of_them() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x)
        .quantity(10)
        .payment_timeout_ms(1000)
        .create();
    node.promotion(&z)
        .quantity(10)
        .payment_timeout_ms(60_000)
        .create();
    node.grab("o-1", "alice").of(&x, 1).of(&z, 2).granted();
    settles(&node, &x, 10);
    settles(&node, &z, 10);
    assert_eq!(node.order("o-1").state(), "returned");
    node.order("o-1").confirm().refused(409, "order_returned");
    audit(&node);
}

#[test]
fn a_cart_of_32_promotions_over_many_shards_is_one_order() {
    let node = Node::start();
    let ids: Vec<String> = (0..32).map(|number| format!("P{number}")).collect();
    let mut cart = node.grab("o-1", "alice");
    for id in &ids {
        node.promotion(id).quantity(1).create();
        cart = cart.of(id, 1);
    }
    let granted = cart.granted();
    assert_eq!(
        granted["items"].as_array().map(Vec::len),
        Some(32),
        "{granted}"
    );
    let order = node.order("o-1").view();
    let listed: Vec<&str> = order["items"]
        .as_array()
        .expect("items are a list")
        .iter()
        .map(|item| {
            item["promotion_id"]
                .as_str()
                .expect("an item names its promotion")
        })
        .collect();
    assert_eq!(listed, ids, "the whole order, as it was given");
    node.order("o-1").cancel("stock").expect(200);
    for id in &ids {
        settles(&node, id, 1);
    }
    audit(&node);
}

#[test]
fn an_order_id_reused_on_another_shard_is_ambiguous_until_the_promotion_is_named() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x).create();
    node.promotion(&z).create();
    node.grab("o-1", "alice").of(&x, 1).granted();
    node.grab("o-1", "bob").of(&z, 2).granted();
    node.order("o-1").answer().refused(409, "ambiguous_order");
    node.order("o-1").confirm().refused(409, "ambiguous_order");
    node.order("o-1")
        .cancel("user")
        .refused(409, "ambiguous_order");
    assert_eq!(node.order("o-1").at(&x).view()["pin"], "alice");
    assert_eq!(node.order("o-1").at(&z).view()["pin"], "bob");
    node.order("o-1").at(&z).confirm().expect(200);
    assert_eq!(node.order("o-1").at(&x).state(), "held");
    assert_eq!(node.order("o-1").at(&z).state(), "confirmed");
}

#[test]
fn a_cancel_before_its_cart_wins_on_every_shard_it_names() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x).create();
    node.promotion(&z).create();
    let early = json!({"reason": "downstream", "promotion_ids": [x, z]});
    node.order("o-1").cancel_with(&early).expect(200);
    node.order("o-1").cancel_with(&early).expect(200);
    node.grab("o-1", "alice")
        .of(&x, 1)
        .of(&z, 1)
        .refused(409, "order_returned");
    node.grab("o-1", "alice")
        .of(&x, 1)
        .refused(409, "order_returned");
    settles(&node, &x, 100);
    settles(&node, &z, 100);
    audit(&node);
}

#[test]
fn carts_that_want_the_same_units_in_opposite_orders_never_both_win() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x).quantity(20).create();
    node.promotion(&z).quantity(20).create();
    let granted: i64 = std::thread::scope(|scope| {
        let buyers: Vec<_> = (0..4)
            .map(|buyer| {
                let (x, z, node) = (&x, &z, &node);
                scope.spawn(move || {
                    let mut granted = 0;
                    for number in 0..10 {
                        let (first, second) = if buyer % 2 == 0 { (x, z) } else { (z, x) };
                        let order = format!("o-{buyer}-{number}");
                        let answer = node.grab(&order, "p").of(first, 1).of(second, 1).answer();
                        granted += i64::from(answer.status == 200);
                    }
                    granted
                })
            })
            .collect();
        buyers
            .into_iter()
            .map(|buyer| buyer.join().expect("a buyer"))
            .sum()
    });
    settles(&node, &x, 20 - granted);
    settles(&node, &z, 20 - granted);
    assert!(
        (1..=20).contains(&granted),
        "{granted} carts were granted out of 20 pairs"
    );
    audit(&node);
}

#[test]
fn the_same_cart_from_many_at_once_is_granted_once_and_replayed_to_the_others() {
    let node = Node::start();
    let [x, _, z] = three_promotions();
    node.promotion(&x).quantity(100).create();
    node.promotion(&z).quantity(100).create();
    for round in 0..10 {
        let order = format!("o-{round}");
        let firsts = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..4)
                .map(|_| {
                    let cart = node.grab(&order, "alice").of(&x, 1).of(&z, 1);
                    scope.spawn(move || cart.answer().expect(200)["replayed"] == false)
                })
                .collect();
            let answers = askers
                .into_iter()
                .map(|asker| asker.join().expect("an asker"));
            answers.filter(|first| *first).count()
        });
        assert_eq!(firsts, 1, "{order}");
    }
    settles(&node, &x, 90);
    settles(&node, &z, 90);
    audit(&node);
}
