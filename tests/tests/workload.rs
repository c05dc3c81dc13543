//! Many buyers at once against little stock: grabs, retries, carts, confirms, cancels, refunds, changes and expiries.
//!
//! Invariant, by the flows and by what every buyer was told: never oversold, `original + added == remaining + held +
//! confirmed`, limits equal the sums over live orders, every order at most once, every cart whole or not at all.

use qiang_tests::{
    Answer, Audit, Client, Node, Random, audit, id_on_another_shard, id_on_shard, shard_of,
    wait_until,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const BUYERS: u64 = 6;
const STEPS: usize = 1000;

/// What a buyer was told about one order.
#[derive(Debug, Default, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing a buyer was told, and they come in many combinations"
)]
struct Told {
    body: Value,
    granted: bool,
    confirmed: bool,
    cancelled: bool,
    refunded: bool,
    /// Cancelled before it was ever granted.
    early: bool,
}

#[test]
fn buyers_who_do_everything_at_once_never_break_the_books() {
    let random = Random::from_environment();
    let node = Node::start();
    let promotions = open_the_shop(&node);
    let (told, added) = std::thread::scope(|scope| {
        let shopkeeper = {
            let (promotions, node) = (&promotions, &node);
            let mut random = random.fork(1000);
            scope.spawn(move || change_quantities(node, promotions, &mut random))
        };
        let buyers: Vec<_> = (0..BUYERS)
            .map(|buyer| {
                let (promotions, node) = (&promotions, &node);
                let random = random.fork(buyer);
                scope.spawn(move || Buyer::new(node, buyer, promotions, random).shop())
            })
            .collect();
        let mut told = BTreeMap::new();
        for buyer in buyers {
            told.extend(buyer.join().expect("a buyer"));
        }
        (told, shopkeeper.join().expect("the shopkeeper"))
    });
    everything_settles(&node, &promotions);
    let folded = audit(&node);
    for (id, added) in &added {
        node.offered(id).balances_with(*added);
    }
    for (order, told) in &told {
        what_was_told_is_true(&node, &folded, order, told);
    }
    let granted = told.values().filter(|told| told.granted).count();
    eprintln!("{} orders, {granted} granted", told.len());
    assert!(granted > 50, "too few grants to mean anything: {granted}");
}

/// Six promotions on four shards: tiny stock, short deadlines, limits.
fn open_the_shop(client: &Client) -> Vec<String> {
    let first = "W".to_owned();
    let same = id_on_shard("same", shard_of(&first));
    let other = id_on_another_shard("other", &[&first]);
    let third = id_on_another_shard("third", &[&first, &other]);
    let fourth = id_on_another_shard("fourth", &[&first, &other, &third]);
    let beside = id_on_shard("beside", shard_of(&other));
    client
        .promotion(&first)
        .quantity(20)
        .payment_timeout_ms(400)
        .create();
    client
        .promotion(&same)
        .quantity(15)
        .payment_timeout_ms(900)
        .per_pin(3)
        .create();
    client
        .promotion(&other)
        .quantity(10)
        .payment_timeout_ms(600)
        .per_ip(6)
        .create();
    client
        .promotion(&third)
        .quantity(25)
        .payment_timeout_ms(300)
        .per_order(2)
        .create();
    client
        .promotion(&fourth)
        .quantity(12)
        .payment_timeout_ms(700)
        .per_pin(2)
        .per_ip(4)
        .create();
    client
        .promotion(&beside)
        .quantity(30)
        .payment_timeout_ms(500)
        .create();
    vec![first, same, other, third, fourth, beside]
}

/// Adds and takes quantity now and then; gives what was added in all.
fn change_quantities(
    client: &Client,
    promotions: &[String],
    random: &mut Random,
) -> BTreeMap<String, i64> {
    let mut added: BTreeMap<String, i64> = promotions.iter().map(|id| (id.clone(), 0)).collect();
    for _ in 0..120 {
        let id = random.pick(promotions);
        let change = i64::try_from(random.below(9)).expect("small") - 4;
        if change == 0 {
            continue;
        }
        let answer = client.offered(id).patch(&json!({"add_quantity": change}));
        match answer.status {
            200 => *added.get_mut(id).expect("a known promotion") += change,
            _ => drop(answer.refused(409, "insufficient_remaining")),
        }
    }
    added
}

struct Buyer<'a> {
    client: Client,
    name: String,
    promotions: &'a [String],
    random: Random,
    told: BTreeMap<String, Told>,
    orders: Vec<String>,
}

impl<'a> Buyer<'a> {
    fn new(client: &Client, number: u64, promotions: &'a [String], random: Random) -> Self {
        Self {
            client: Client::new(client.address()),
            name: format!("buyer{number}"),
            promotions,
            random,
            told: BTreeMap::new(),
            orders: Vec::new(),
        }
    }

    fn shop(mut self) -> BTreeMap<String, Told> {
        for step in 0..STEPS {
            match self.random.below(10) {
                0..=3 => self.grab_new(step),
                4 | 5 => self.grab_again(),
                6 | 7 => self.confirm(),
                8 => self.cancel(),
                _ => self.refund_or_cancel_early(step),
            }
        }
        self.told
    }

    fn draw_grab(&mut self, order: &str) -> Value {
        let mut items = Vec::new();
        for _ in 0..=self.random.below(3) {
            let quantity = 1 + self.random.below(2);
            items.push(
                json!({"promotion_id": self.random.pick(self.promotions), "quantity": quantity}),
            );
        }
        // Buyers share pins and addresses, so that limits meet.
        json!({"order_id": order, "pin": format!("pin{}", self.random.below(8)),
               "ip": format!("10.0.0.{}", self.random.below(5)), "channel": "app", "items": items})
    }

    fn grab_new(&mut self, step: usize) {
        let order = format!("{}-{step}", self.name);
        let body = self.draw_grab(&order);
        self.told.insert(
            order.clone(),
            Told {
                body,
                ..Told::default()
            },
        );
        self.orders.push(order.clone());
        self.send_grab(&order);
    }

    fn grab_again(&mut self) {
        if let Some(order) = self.draw_order() {
            self.send_grab(&order);
        }
    }

    fn draw_order(&mut self) -> Option<String> {
        // Mostly a late one: early ones have ended.
        let recent = self.orders.len().saturating_sub(12);
        (!self.orders.is_empty()).then(|| self.random.pick(&self.orders[recent..]).clone())
    }

    fn send_grab(&mut self, order: &str) {
        let told = self.told.get_mut(order).expect("an order of ours");
        let answer = self.client.post("/v1/grabs", &told.body);
        if answer.status == 200 {
            let replayed = answer.json()["replayed"] == true;
            assert_eq!(
                replayed, told.granted,
                "granted twice, or a replay of nothing: {answer}"
            );
            assert!(!told.cancelled, "granted after its cancel: {answer}");
            told.granted = true;
            return;
        }
        let problem = answer.problem(answer.status);
        let code = problem["code"].as_str().expect("a code");
        let known = [
            "sold_out",
            "pin_limit",
            "ip_limit",
            "order_limit",
            "order_returned",
        ];
        assert!(known.contains(&code), "{answer}");
        if code == "order_returned" {
            assert!(
                told.granted || told.early,
                "returned, but it never was: {answer}"
            );
            assert!(
                !told.confirmed || told.refunded,
                "returned after it was paid: {answer}"
            );
        } else {
            assert!(
                !told.granted,
                "an order that was granted is refused: {answer}"
            );
        }
    }

    fn confirm(&mut self) {
        let Some(order) = self.draw_order() else {
            return;
        };
        let answer = self.route(&order, "confirm", &json!({}));
        let told = self.told.get_mut(&order).expect("an order of ours");
        match answer.status {
            200 => {
                assert!(told.granted && !told.cancelled, "{answer} after {told:?}");
                told.confirmed = true;
            }
            404 => assert!(!told.granted, "{answer} after {told:?}"),
            _ => {
                answer.refused(409, "order_returned");
                assert!(!told.confirmed || told.refunded, "{answer} after {told:?}");
            }
        }
    }

    fn cancel(&mut self) {
        let Some(order) = self.draw_order() else {
            return;
        };
        let answer = self.route(&order, "cancel", &json!({"reason": "user"}));
        let told = self.told.get_mut(&order).expect("an order of ours");
        match answer.status {
            200 => {
                assert!(told.granted || told.early, "{answer} after {told:?}");
                assert!(!told.confirmed || told.refunded, "{answer} after {told:?}");
                told.cancelled = true;
            }
            404 => assert!(!told.granted, "{answer} after {told:?}"),
            _ => {
                answer.refused(409, "order_confirmed");
                assert!(told.confirmed, "{answer} after {told:?}");
            }
        }
    }

    fn refund_or_cancel_early(&mut self, step: usize) {
        if self.random.below(2) == 0 {
            let order = format!("{}-{step}", self.name);
            let body = self.draw_grab(&order);
            let items = body["items"].as_array().expect("items");
            let promotions: Vec<&Value> = items.iter().map(|item| &item["promotion_id"]).collect();
            let cancel = json!({"reason": "downstream", "promotion_ids": promotions});
            self.client
                .post(&format!("/v1/orders/{order}/cancel"), &cancel)
                .expect(200);
            self.told.insert(
                order.clone(),
                Told {
                    body,
                    cancelled: true,
                    early: true,
                    ..Told::default()
                },
            );
            self.orders.push(order);
            return;
        }
        let Some(order) = self.draw_order() else {
            return;
        };
        let answer = self.route(&order, "cancel", &json!({"reason": "user", "refund": true}));
        let told = self.told.get_mut(&order).expect("an order of ours");
        if answer.status == 200 {
            assert!(told.granted || told.early, "{answer} after {told:?}");
            told.refunded |= told.confirmed;
            told.cancelled = true;
        } else {
            answer.refused(404, "order_not_found");
            assert!(!told.granted, "{answer} after {told:?}");
        }
    }

    /// A route of the order, sometimes straight to its shard and sometimes to whoever knows it.
    fn route(&mut self, order: &str, verb: &str, body: &Value) -> Answer {
        let told = &self.told[order];
        let home = told.body["items"][0]["promotion_id"]
            .as_str()
            .expect("a promotion")
            .to_owned();
        let query = if self.random.below(2) == 0 {
            format!("?promotion_id={home}")
        } else {
            String::new()
        };
        let path = format!("/v1/orders/{order}/{verb}{query}");
        if verb == "confirm" {
            self.client.post_text(&path, "")
        } else {
            self.client.post(&path, body)
        }
    }
}

/// Every deadline has passed and every shard has heard: nothing is held any more.
fn everything_settles(node: &Node, promotions: &[String]) {
    wait_until(Duration::from_secs(15), "nothing is held", || {
        let held: Vec<String> = promotions
            .iter()
            .map(|id| node.offered(id).view())
            .filter(|view| {
                let number = |member: &str| view[member].as_i64().expect("a number");
                number("granted") - number("returned") - number("confirmed") != 0
            })
            .map(|view| view.to_string())
            .collect();
        held.is_empty().then_some(()).ok_or(format!("{held:?}"))
    });
}

#[track_caller]
fn what_was_told_is_true(node: &Node, folded: &Audit, order: &str, told: &Told) {
    let items = told.body["items"].as_array().expect("items");
    let promotions: Vec<&str> = items
        .iter()
        .map(|item| item["promotion_id"].as_str().expect("an id"))
        .collect();
    let expected = if told.confirmed && !told.refunded {
        "confirmed"
    } else {
        "returned"
    };
    for promotion in &promotions {
        let part = folded.order(promotion, order);
        if !told.granted {
            let taken = part.is_some_and(|part| part.items.iter().any(|(_, units)| *units > 0));
            assert!(
                !taken,
                "{order} took units without a grant: {part:?} {told:?}"
            );
            continue;
        }
        let part =
            part.unwrap_or_else(|| panic!("{order} was granted and is not in the flows: {told:?}"));
        assert_eq!(
            part.state, expected,
            "{order} at {promotion}: {part:?} {told:?}"
        );
    }
    if told.granted {
        for promotion in promotions {
            assert_eq!(
                node.order(order).at(promotion).state(),
                expected,
                "{order} at {promotion}: {told:?}"
            );
        }
    }
}
