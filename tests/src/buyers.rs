//! Buyers of a cluster: each asks any node, goes on to the next when one does not answer, and repeats an order until it
//! knows what became of it, as a well-made order service does.
//!
//! Invariant: an order counts as acknowledged only after its `200` was read to the end, with the moment of that.

use crate::{Client, Random, wait_until};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one order is repeated before its buyer says that it failed.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);

/// One acknowledged order.
#[derive(Debug, Clone)]
pub struct Sale {
    /// What was sent.
    pub body: Value,
    /// When the answer was read.
    pub at: Instant,
}

/// The longest time without an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// How long.
    pub length: Duration,
    /// When it began.
    pub from: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sales: Mutex<Vec<Sale>>,
    failed: Mutex<Vec<String>>,
}

/// Buyers at work.
#[derive(Debug)]
pub struct Buyers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

const LOCK: &str = "no holder of this lock panics";

impl Buyers {
    /// Starts `count` buyers of one unit each time, from `promotions`, asking the nodes at `addresses`. Order ids
    /// begin with `name`, which must be fresh. Each pauses for `pause` between two orders.
    pub fn start(
        addresses: &[String],
        name: &str,
        promotions: &[String],
        count: u64,
        pause: Duration,
        random: &Random,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..count)
            .map(|number| {
                let mut buyer = Buyer {
                    addresses: addresses.to_vec(),
                    // Whom each asks first is spread.
                    next: usize::try_from(number).expect("few buyers"),
                    client: None,
                    name: format!("{name}-{number}"),
                    promotions: promotions.to_vec(),
                    random: random.fork(number),
                    shared: Arc::clone(&shared),
                };
                std::thread::spawn(move || buyer.buy(pause))
            })
            .collect();
        Self { shared, threads }
    }

    /// Orders acknowledged so far.
    pub fn count(&self) -> usize {
        self.shared.sales.lock().expect(LOCK).len()
    }

    /// Waits for so many further acknowledged orders.
    #[track_caller]
    pub fn sell(&self, more: usize) {
        let wanted = self.count() + more;
        wait_until(GIVES_UP_AFTER * 2, "buyers get on", || {
            let count = self.count();
            (count >= wanted)
                .then_some(())
                .ok_or_else(|| format!("{count} of {wanted}"))
        });
    }

    /// The orders acknowledged so far, in the order of their times.
    pub fn so_far(&self) -> Vec<Sale> {
        let mut sales = self.shared.sales.lock().expect(LOCK).clone();
        sales.sort_by_key(|sale| sale.at);
        sales
    }

    /// Ends the load: every acknowledged order, and the orders that got no answer in all that time.
    pub fn stop(self) -> (Vec<Sale>, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a buyer's thread does not panic");
        }
        let mut sales = std::mem::take(&mut *self.shared.sales.lock().expect(LOCK));
        sales.sort_by_key(|sale| sale.at);
        let failed = std::mem::take(&mut *self.shared.failed.lock().expect(LOCK));
        (sales, failed)
    }
}

impl Gap {
    /// The longest pause between two sales of `sales`, which are in the order of their times, for the worst of the
    /// promotions when `of` tells them apart.
    pub fn longest(sales: &[Sale], of: impl Fn(&Sale) -> String) -> Self {
        let mut last: std::collections::BTreeMap<String, Instant> =
            std::collections::BTreeMap::new();
        let mut longest = Gap {
            length: Duration::ZERO,
            from: sales.first().map_or_else(Instant::now, |sale| sale.at),
        };
        for sale in sales {
            if let Some(before) = last.insert(of(sale), sale.at) {
                let length = sale.at.saturating_duration_since(before);
                if length > longest.length {
                    longest = Gap {
                        length,
                        from: before,
                    };
                }
            }
        }
        longest
    }
}

struct Buyer {
    addresses: Vec<String>,
    next: usize,
    client: Option<Client>,
    name: String,
    promotions: Vec<String>,
    random: Random,
    shared: Arc<Shared>,
}

impl Buyer {
    fn buy(&mut self, pause: Duration) {
        for number in 0.. {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let promotion = self.random.pick(&self.promotions).clone();
            let body = json!({
                "order_id": format!("{}-{number}", self.name), "pin": format!("pin-{}", self.random.below(500)),
                "ip": "203.0.113.9", "channel": "app",
                "items": [{"promotion_id": promotion, "quantity": 1}],
            });
            match self.order(&body) {
                Ok(true) => {
                    let sale = Sale {
                        body,
                        at: Instant::now(),
                    };
                    self.shared.sales.lock().expect(LOCK).push(sale);
                }
                Ok(false) => {}
                Err(why) => self.shared.failed.lock().expect(LOCK).push(why),
            }
            // Not a synchronisation: the pace of the load.
            std::thread::sleep(pause);
        }
    }

    /// Sends an order until there is a definite answer: whether it was granted.
    fn order(&mut self, body: &Value) -> Result<bool, String> {
        let until = Instant::now() + GIVES_UP_AFTER;
        loop {
            let address = self.addresses[self.next % self.addresses.len()].clone();
            let client = self.client.get_or_insert_with(|| Client::new(&address));
            let why = match client.try_post("/v1/grabs", body) {
                Ok(answer) if answer.status == 200 => return Ok(true),
                // A rule of the shop: sold out, a limit.
                Ok(answer) if answer.status == 409 || answer.status == 422 => return Ok(false),
                Ok(answer) => answer.to_string(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(format!("{body}: {why}"));
            }
            self.next += 1;
            self.client = None;
            // As above: a polite caller does not hammer.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
