//! A steady load of grabs from several threads that remembers what was acknowledged.
//!
//! Invariant: an order is remembered as acknowledged only after its `200` was read to the end.

use crate::{Client, Random};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A grab the node said yes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// What was sent, to send it again.
    pub body: Value,
    /// When it has to be paid, as answered.
    pub pay_by: String,
}

impl Acknowledged {
    /// The order's id.
    pub fn order_id(&self) -> &str {
        self.body["order_id"]
            .as_str()
            .expect("a grab names its order")
    }

    /// The promotion of its first item.
    pub fn promotion_id(&self) -> &str {
        self.body["items"][0]["promotion_id"]
            .as_str()
            .expect("a grab names its promotion")
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    count: AtomicUsize,
    acknowledged: Mutex<Vec<Acknowledged>>,
    unknown: Mutex<Vec<Value>>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `threads` buyers that grab from `promotions`, one or two at a time, until [`Self::stop`].
    ///
    /// Order ids start with `name`, which must be fresh. A worker ends by itself when the node no longer answers.
    pub fn start(
        client: &Client,
        name: &str,
        promotions: &[String],
        threads: u64,
        random: &Random,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (0..threads)
            .map(|thread| {
                // Connections of its own: a worker must not wait for another's.
                let client = Client::new(client.address());
                let (shared, promotions) = (Arc::clone(&shared), promotions.to_vec());
                let (name, mut random) = (format!("{name}-{thread}"), random.fork(thread));
                std::thread::spawn(move || {
                    grab_on(&client, &name, &promotions, &mut random, &shared);
                })
            })
            .collect();
        Self { shared, workers }
    }

    /// Grabs acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Ends the load and gives what was acknowledged and what was left without an answer.
    pub fn stop(self) -> (Vec<Acknowledged>, Vec<Value>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().expect("a buyer's thread does not panic");
        }
        let take = "no thread is left to hold it";
        (
            std::mem::take(&mut *self.shared.acknowledged.lock().expect(take)),
            std::mem::take(&mut *self.shared.unknown.lock().expect(take)),
        )
    }
}

fn grab_on(
    client: &Client,
    name: &str,
    promotions: &[String],
    random: &mut Random,
    shared: &Shared,
) {
    const LOCK: &str = "no holder of this lock panics";
    for number in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let mut items = vec![json!({"promotion_id": random.pick(promotions), "quantity": 1})];
        if random.below(3) == 0 {
            items.push(json!({"promotion_id": random.pick(promotions), "quantity": 1}));
        }
        let body = json!({
            "order_id": format!("{name}-{number}"), "pin": format!("pin-{}", random.below(500)),
            "ip": format!("10.1.{}.{}", random.below(8), random.below(250)), "channel": "app", "items": items,
        });
        match client.try_post("/v1/grabs", &body) {
            Ok(answer) if answer.status == 200 => {
                let pay_by = answer.json()["pay_by"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let acknowledged = Acknowledged { body, pay_by };
                shared.acknowledged.lock().expect(LOCK).push(acknowledged);
                shared.count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) if answer.status < 500 => {}
            Ok(_) => shared.unknown.lock().expect(LOCK).push(body),
            Err(_) => {
                shared.unknown.lock().expect(LOCK).push(body);
                return;
            }
        }
    }
}
