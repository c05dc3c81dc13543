//! Histories whose truth is known: clients of a promotion that does everything right, on a simulated clock. Some answers are lost,
//! and some of the calls that they belong to take place late.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use qiang_tests::{Call, Event, GrabOutcome, Random, ReturnOutcome};

/// A simulated cluster that does everything right, and its clients.
pub struct Simulation {
    random: Random,
    now: u64,
    happenings: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    sequence: u64,
    truth: Truth,
    clients: Vec<Client>,
    calls: Vec<Call>,
    unknowns_left: u64,
    plan: Plan,
}

/// What a simulation is to be like.
#[derive(Clone, Copy)]
pub struct Plan {
    pub quantity: u64,
    pub quantities_asked: u64,
    pub calls: usize,
    pub clients: usize,
    pub unknowns: u64,
    /// Of a hundred decisions of a client with an order, how many give it back.
    pub returns: u64,
    /// Of the grabs and returns in the first half, one in so many is of unknown fate, until there are enough.
    pub unknown_share: u64,
}

pub const BUSY: Plan = Plan {
    quantity: 40,
    quantities_asked: 1,
    calls: 4000,
    clients: 16,
    unknowns: 50,
    returns: 60,
    unknown_share: 20,
};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The client's call takes place and its answer is made.
    Effect(usize),
    /// The client has its answer, or gives up.
    Answer(usize),
    /// An abandoned call takes place after all.
    Late(Ask),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Grab(String, u64),
    Return(String),
    Read,
}

struct Client {
    orders: u64,
    /// Its present order.
    order: Option<(String, u64)>,
    invoked: u64,
    ask: Ask,
    /// The answer is lost on the way.
    lost: bool,
    event: Option<Event>,
}

/// The promotion itself.
#[derive(Clone)]
pub struct Truth {
    remaining: u64,
    /// Units, what remained right after the grant, and whether it is still held.
    orders: BTreeMap<String, (u64, u64, bool)>,
}

impl Truth {
    pub fn new(remaining: u64) -> Self {
        Self {
            remaining,
            orders: BTreeMap::new(),
        }
    }

    pub fn answer(&mut self, ask: &Ask) -> Event {
        match ask {
            Ask::Grab(order, quantity) => Event::Grab {
                order: order.clone(),
                quantity: *quantity,
                outcome: self.grab(order, *quantity),
            },
            Ask::Return(order) => {
                let outcome = match self.orders.get_mut(order) {
                    None => ReturnOutcome::NotHeld,
                    Some((quantity, _, held)) => {
                        self.remaining += if *held { *quantity } else { 0 };
                        *held = false;
                        ReturnOutcome::Returned
                    }
                };
                Event::Return {
                    order: order.clone(),
                    outcome,
                }
            }
            Ask::Read => Event::Read {
                remaining: Some(self.remaining),
            },
        }
    }

    fn grab(&mut self, order: &str, quantity: u64) -> GrabOutcome {
        match self.orders.get(order) {
            Some((_, _, false)) => GrabOutcome::OrderReturned,
            Some((_, after, true)) => GrabOutcome::Replayed { remaining: *after },
            None if self.remaining < quantity => GrabOutcome::SoldOut {
                remaining: self.remaining,
            },
            None => {
                self.remaining -= quantity;
                let known = (quantity, self.remaining, true);
                self.orders.insert(order.to_owned(), known);
                GrabOutcome::Granted {
                    remaining: self.remaining,
                }
            }
        }
    }
}

impl Simulation {
    pub fn run(plan: Plan, random: Random) -> Vec<Call> {
        let client = |_| Client {
            orders: 0,
            order: None,
            invoked: 0,
            ask: Ask::Read,
            lost: false,
            event: None,
        };
        let mut simulation = Self {
            random,
            now: 0,
            happenings: BinaryHeap::new(),
            sequence: 0,
            truth: Truth::new(plan.quantity),
            clients: (0..plan.clients).map(client).collect(),
            calls: Vec::new(),
            unknowns_left: plan.unknowns,
            plan,
        };
        for client in 0..plan.clients {
            simulation.invoke(client);
        }
        while let Some(Reverse((time, _, happening))) = simulation.happenings.pop() {
            simulation.now = time;
            simulation.happen(happening);
        }
        simulation.calls
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        let when = self.now + 1 + delay;
        self.happenings
            .push(Reverse((when, self.sequence, happening)));
    }

    fn invoke(&mut self, number: usize) {
        let ask = self.next_ask(number);
        // The unknown calls come in the first half, so that there is time for late effects.
        let early = self.calls.len() < self.plan.calls / 2;
        let lost = early
            && self.unknowns_left > 0
            && ask != Ask::Read
            && self.random.below(self.plan.unknown_share) == 0;
        self.unknowns_left -= u64::from(lost);
        let client = &mut self.clients[number];
        (client.invoked, client.lost, client.event) = (self.now, lost, None);
        client.ask = ask;
        let effect = self.random.below(1000);
        self.later(effect, Happening::Effect(number));
    }

    fn next_ask(&mut self, number: usize) -> Ask {
        let dice = self.random.below(100);
        let quantity = 1 + self.random.below(self.plan.quantities_asked);
        let client = &mut self.clients[number];
        if dice < 10 {
            return Ask::Read;
        }
        match client.order.clone() {
            // Give it back, now and then twice, or ask for it again.
            Some((order, _)) if dice < 10 + self.plan.returns => {
                if !dice.is_multiple_of(8) {
                    client.order = None;
                }
                Ask::Return(order)
            }
            Some((order, quantity)) if dice.is_multiple_of(3) => Ask::Grab(order, quantity),
            _ => {
                client.orders += 1;
                let order = format!("o-{number}-{}", client.orders);
                client.order = Some((order.clone(), quantity));
                Ask::Grab(order, quantity)
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Late(ask) => drop(self.truth.answer(&ask)),
            Happening::Effect(number) => {
                let client = &mut self.clients[number];
                if client.lost {
                    match self.random.below(3) {
                        0 => {}
                        1 => drop(self.truth.answer(&client.ask)),
                        _ => {
                            let ask = client.ask.clone();
                            let delay = self.random.below(200_000);
                            self.later(delay, Happening::Late(ask));
                        }
                    }
                } else {
                    client.event = Some(self.truth.answer(&client.ask));
                }
                let answer = self.random.below(1000);
                self.later(answer, Happening::Answer(number));
            }
            Happening::Answer(number) => {
                let client = &mut self.clients[number];
                let event = client.event.take();
                self.calls.push(Call {
                    client: number as u64,
                    promotion: "A".to_owned(),
                    invoked_ns: client.invoked,
                    completed_ns: self.now,
                    event: event.unwrap_or_else(|| unknown(&client.ask)),
                });
                if self.calls.len() + self.plan.clients <= self.plan.calls {
                    self.now += self.random.below(50);
                    self.invoke(number);
                }
            }
        }
    }
}

pub fn unknown(ask: &Ask) -> Event {
    match ask.clone() {
        Ask::Grab(order, quantity) => Event::Grab {
            order,
            quantity,
            outcome: GrabOutcome::Unknown,
        },
        Ask::Return(order) => Event::Return {
            order,
            outcome: ReturnOutcome::Unknown,
        },
        Ask::Read => Event::Read { remaining: None },
    }
}
