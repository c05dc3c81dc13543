//! What clients called, when, and what they were told: the material of the checker in [`crate::linearizable`].
//!
//! Invariant: a call's times enclose whatever the product did for it. A call whose fate the client cannot know is recorded as
//! unknown, never as one that did not happen.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};

use crate::{Answer, Client};

/// One call of one client, about one promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who called; a client makes one call after the other.
    pub client: u64,
    /// The promotion.
    pub promotion: String,
    /// When it was sent, in nanoseconds on the recorder's monotonic clock.
    pub invoked_ns: u64,
    /// When its answer was read, or when the client stopped waiting.
    pub completed_ns: u64,
    /// What was asked and answered.
    pub event: Event,
}

/// What was asked of a promotion, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A grab of so many units by one order; an order always asks for the same quantity, of one promotion.
    Grab {
        /// The order's id.
        order: String,
        /// Units asked for.
        quantity: u64,
        /// The answer.
        outcome: GrabOutcome,
    },
    /// A cancel of an order that gives its units back.
    Return {
        /// The order's id.
        order: String,
        /// The answer.
        outcome: ReturnOutcome,
    },
    /// A read of the promotion.
    Read {
        /// Units that were shown to remain; none where no answer came.
        remaining: Option<u64>,
    },
}

impl Event {
    /// The order that it is about.
    pub fn order(&self) -> Option<&str> {
        match self {
            Self::Grab { order, .. } | Self::Return { order, .. } => Some(order),
            Self::Read { .. } => None,
        }
    }
}

/// How a grab ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrabOutcome {
    /// It was granted.
    Granted {
        /// Units left right after it.
        remaining: u64,
    },
    /// The order had been granted before, and that answer was given again.
    Replayed {
        /// Units left right after the grant.
        remaining: u64,
    },
    /// Fewer units remained than were asked for.
    SoldOut {
        /// Units that remained.
        remaining: u64,
    },
    /// The order had been given back before: it never grabs again.
    OrderReturned,
    /// It may have been granted at any time from its invocation on, or never.
    Unknown,
    /// It never happened.
    NotDone,
}

impl GrabOutcome {
    /// Whether the order was granted by then, or may be at any time.
    fn may_be_granted(self) -> bool {
        match self {
            Self::Granted { .. } | Self::Replayed { .. } | Self::Unknown => true,
            Self::SoldOut { .. } | Self::OrderReturned | Self::NotDone => false,
        }
    }
}

/// How a return ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnOutcome {
    /// The order is given back, by this call or by one before it.
    Returned,
    /// The order was never granted.
    NotHeld,
    /// It may have been given back at any time from the invocation on, or never.
    Unknown,
    /// It never happened.
    NotDone,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, event) = (self.client, &self.event);
        let (from, to) = (ms(self.invoked_ns), ms(self.completed_ns));
        write!(f, "client {client}, {from:.3} to {to:.3} ms: {event}")
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grab {
                order,
                quantity,
                outcome,
            } => write!(f, "grab {order} of {quantity} -> {outcome:?}"),
            Self::Return { order, outcome } => write!(f, "return {order} -> {outcome:?}"),
            Self::Read {
                remaining: Some(remaining),
            } => write!(f, "read -> {remaining}"),
            Self::Read { remaining: None } => f.write_str("read -> no answer"),
        }
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Records the calls of many clients at once, on one monotonic clock.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    calls: Mutex<Vec<Call>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// A recorder without calls; its clock starts now.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            calls: Mutex::new(Vec::new()),
        }
    }

    /// Makes a call and records it with the moments just before and just after it.
    ///
    /// A `call` that panics is not recorded, and may have had its effect nevertheless: the test has failed then.
    pub fn record(&self, client: u64, promotion: &str, call: impl FnOnce() -> Event) -> Event {
        let invoked_ns = self.now_ns();
        let event = call();
        let completed_ns = self.now_ns();
        let call = Call {
            client,
            promotion: promotion.to_owned(),
            invoked_ns,
            completed_ns,
            event: event.clone(),
        };
        self.calls
            .lock()
            .expect("nothing panics with the calls locked")
            .push(call);
        event
    }

    /// Sends the grab of one promotion by one order to `node` and records it.
    ///
    /// A node that is left without an answer by a dying leader repeats the order itself, so a call of an order that no call before
    /// it can have granted may be answered as a replay: of itself. That is the grant.
    pub fn grab(
        &self,
        client: u64,
        node: &Client,
        (promotion, order, quantity): (&str, &str, u64),
    ) -> GrabOutcome {
        let mut seen = GrabOutcome::Unknown;
        self.record(client, promotion, || {
            let body = json!({
                "order_id": order, "pin": format!("pin-of-{order}"), "ip": "203.0.113.9", "channel": "app",
                "items": [{"promotion_id": promotion, "quantity": quantity}]
            });
            seen = match grab_outcome(node.try_post("/v1/grabs", &body)) {
                GrabOutcome::Replayed { remaining } if !self.may_be_granted(order) => {
                    GrabOutcome::Granted { remaining }
                }
                seen => seen,
            };
            Event::Grab {
                order: order.to_owned(),
                quantity,
                outcome: seen,
            }
        });
        seen
    }

    /// Whether some grab of this order was recorded before that may have had an effect.
    fn may_be_granted(&self, order: &str) -> bool {
        let calls = self.calls.lock();
        let calls = calls.expect("nothing panics with the calls locked");
        let grabs_it = |call: &Call| match &call.event {
            Event::Grab {
                order: known,
                outcome,
                ..
            } => known == order && outcome.may_be_granted(),
            _ => false,
        };
        calls.iter().any(grabs_it)
    }

    /// Sends the cancel of an order to `node` and records it.
    pub fn cancel(
        &self,
        client: u64,
        node: &Client,
        (promotion, order): (&str, &str),
    ) -> ReturnOutcome {
        let mut seen = ReturnOutcome::Unknown;
        self.record(client, promotion, || {
            let path = format!("/v1/orders/{order}/cancel?promotion_id={promotion}");
            seen = return_outcome(node.try_post(&path, &json!({"reason": "user"})));
            Event::Return {
                order: order.to_owned(),
                outcome: seen,
            }
        });
        seen
    }

    /// Reads a promotion from `node` and records it.
    pub fn read(&self, client: u64, node: &Client, promotion: &str) -> Option<u64> {
        let mut remaining = None;
        self.record(client, promotion, || {
            let answer = node.try_get(&format!("/v1/promotions/{promotion}"));
            remaining = answer
                .ok()
                .filter(|answer| answer.status == 200)
                .map(|answer| units(&answer.json()["remaining"], &answer));
            Event::Read { remaining }
        });
        remaining
    }

    /// Everything recorded so far, in the order of the answers.
    pub fn calls(&self) -> Vec<Call> {
        let calls = self.calls.lock();
        calls.expect("nothing panics with the calls locked").clone()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("no test runs for centuries")
    }
}

/// What the contract's answer to a grab of one item says.
fn grab_outcome(answer: Result<Answer, ureq::Error>) -> GrabOutcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if never_sent(&error) => return GrabOutcome::NotDone,
        Err(_) => return GrabOutcome::Unknown,
    };
    match answer.status {
        429 | 503 => return GrabOutcome::NotDone,
        500.. => return GrabOutcome::Unknown,
        _ => {}
    }
    let body = answer.json();
    match (answer.status, body["code"].as_str()) {
        (200, _) => {
            let remaining = units(&body["items"][0]["remaining"], &answer);
            match body["replayed"].as_bool() {
                Some(false) => GrabOutcome::Granted { remaining },
                Some(true) => GrabOutcome::Replayed { remaining },
                None => panic!("a grant says whether it is replayed: {answer}"),
            }
        }
        (409, Some("sold_out")) => GrabOutcome::SoldOut {
            remaining: units(&body["remaining"], &answer),
        },
        (409, Some("order_returned")) => GrabOutcome::OrderReturned,
        _ => panic!("no answer that this history knows: {answer}"),
    }
}

/// What the contract's answer to a cancel says.
fn return_outcome(answer: Result<Answer, ureq::Error>) -> ReturnOutcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if never_sent(&error) => return ReturnOutcome::NotDone,
        Err(_) => return ReturnOutcome::Unknown,
    };
    match answer.status {
        200 => ReturnOutcome::Returned,
        404 => ReturnOutcome::NotHeld,
        429 | 503 => ReturnOutcome::NotDone,
        500.. => ReturnOutcome::Unknown,
        _ => panic!("no answer that this history knows: {answer}"),
    }
}

/// Whether the call ended before anything was sent: nobody listened.
fn never_sent(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[track_caller]
fn units(value: &Value, answer: &Answer) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number of units: {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, text: &str) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            text: text.to_owned(),
            asked: "POST".to_owned(),
        }
    }

    #[test]
    fn answers_of_the_contract_are_outcomes_of_a_grab() {
        let granted = |replayed| {
            format!(
                r#"{{"outcome":"granted","replayed":{replayed},"items":[{{"promotion_id":"A","quantity":1,"remaining":7}}]}}"#
            )
        };
        for (status, text, outcome) in [
            (200, granted(false), GrabOutcome::Granted { remaining: 7 }),
            (200, granted(true), GrabOutcome::Replayed { remaining: 7 }),
            (
                409,
                r#"{"code":"sold_out","remaining":2}"#.to_owned(),
                GrabOutcome::SoldOut { remaining: 2 },
            ),
            (
                409,
                r#"{"code":"order_returned"}"#.to_owned(),
                GrabOutcome::OrderReturned,
            ),
            (429, String::new(), GrabOutcome::NotDone),
            (503, String::new(), GrabOutcome::NotDone),
            (504, String::new(), GrabOutcome::Unknown),
            (500, String::new(), GrabOutcome::Unknown),
        ] {
            assert_eq!(
                grab_outcome(Ok(answer(status, &text))),
                outcome,
                "{status} {text}"
            );
        }
    }

    #[test]
    fn answers_of_the_contract_are_outcomes_of_a_return() {
        for (status, outcome) in [
            (200, ReturnOutcome::Returned),
            (404, ReturnOutcome::NotHeld),
            (429, ReturnOutcome::NotDone),
            (503, ReturnOutcome::NotDone),
            (504, ReturnOutcome::Unknown),
        ] {
            assert_eq!(
                return_outcome(Ok(answer(status, "{}"))),
                outcome,
                "{status}"
            );
        }
    }

    #[test]
    fn a_call_that_nobody_listens_to_is_not_done_and_one_cut_off_is_unknown() {
        let recorder = Recorder::new();
        let nobody = Client::new(&format!("127.0.0.1:{}", crate::free_port()));
        let outcome = recorder.grab(1, &nobody, ("A", "o-1", 1));
        assert_eq!(outcome, GrabOutcome::NotDone);
        assert!(!recorder.may_be_granted("o-1"));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hangs_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let outcome = recorder.grab(2, &Client::new(&address), ("A", "o-2", 1));
        assert_eq!(outcome, GrabOutcome::Unknown);
        assert!(recorder.may_be_granted("o-2"));
        hangs_up.join().unwrap();
        assert_eq!(recorder.calls().len(), 2);
    }
}
