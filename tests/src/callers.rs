//! Clients whose every call is recorded, for the checker in [`crate::linearizable`].
//!
//! Invariant: a caller asks one node only, so that one which waits for a node that is cut off keeps nobody else waiting.

use crate::{Call, Client, Random, Recorder, wait_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two calls of one caller: a history of some minutes' drills is to stay one that can be searched.
const PACE: Duration = Duration::from_millis(25);

/// Callers at work.
#[derive(Debug)]
pub struct Callers {
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    /// Starts so many callers of each node at `addresses`: they grab one unit at a time of `promotions`, repeat and cancel
    /// grabs of theirs, and read.
    pub fn start(addresses: &[String], each: u64, promotions: &[String], random: &Random) -> Self {
        let (recorder, stop, made) = (Arc::default(), Arc::default(), Arc::default());
        let asked = addresses.iter().cycle();
        let count = each * u64::try_from(addresses.len()).expect("few nodes");
        let threads = (0..count).zip(asked).map(|(number, address)| {
            let mut caller = Caller {
                number,
                address: address.clone(),
                promotions: promotions.to_vec(),
                random: random.fork(1000 + number),
                recorder: Arc::clone(&recorder),
                orders: Vec::new(),
            };
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            std::thread::spawn(move || caller.call_until(&stop, &made))
        });
        let threads = threads.collect();
        Self {
            recorder,
            stop,
            made,
            threads,
        }
    }

    /// Waits for so many further calls.
    #[track_caller]
    pub fn make(&self, more: u64) {
        let wanted = self.made.load(Ordering::Relaxed) + more;
        wait_until(Duration::from_mins(1), "callers get on", || {
            let made = self.made.load(Ordering::Relaxed);
            (made >= wanted)
                .then_some(())
                .ok_or_else(|| format!("{made} of {wanted}"))
        });
    }

    /// Ends the load: every call that was made.
    pub fn stop(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a caller does not panic");
        }
        self.recorder.calls()
    }
}

struct Caller {
    number: u64,
    address: String,
    promotions: Vec<String>,
    random: Random,
    recorder: Arc<Recorder>,
    /// Promotions and orders grabbed so far.
    orders: Vec<(String, String)>,
}

impl Caller {
    fn call_until(&mut self, stop: &AtomicBool, made: &AtomicU64) {
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.call(turn);
            made.fetch_add(1, Ordering::Relaxed);
            // Not a synchronisation: the pace of the load.
            std::thread::sleep(PACE);
        }
    }

    fn call(&mut self, turn: u64) {
        // A connection of its own each time: what became of the last one is not this call's affair.
        let node = Client::new(&self.address);
        let (recorder, number) = (&self.recorder, self.number);
        match self.random.below(10) {
            0..=3 => {
                let promotion = self.random.pick(&self.promotions).clone();
                let order = format!("call-{number}-{turn}");
                recorder.grab(number, &node, (&promotion, &order, 1));
                self.orders.push((promotion, order));
            }
            4 if !self.orders.is_empty() => {
                let (promotion, order) = self.random.pick(&self.orders);
                recorder.grab(number, &node, (promotion, order, 1));
            }
            5 if !self.orders.is_empty() => {
                let (promotion, order) = self.random.pick(&self.orders);
                recorder.cancel(number, &node, (promotion, order));
            }
            _ => {
                let promotion = self.random.pick(&self.promotions);
                recorder.read(number, &node, promotion);
            }
        }
    }
}
