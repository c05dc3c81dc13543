//! Random stories: what happens to one shard, drawn by proptest, over so few ids that everything
//! meets everything. A story is told to a shard; whoever listens checks what it says.

use proptest::prelude::*;

use qiang_engine::command::{CartOutcome, Grab, PromotionChange, TryGrab, TryRole, sum_items};
use qiang_engine::order::{CartRole, GrantedItem, Item, Items, ReturnReason};
use qiang_engine::promotion::{Channel, Channels, Limits, Price, PromotionState, Rate, Terms};
use qiang_engine::shard::{Due, Moment};
use qiang_engine::{
    Answer, Command, OrderId, PromotionId, Record, Rejection, Shard, TryId, UnixMs,
};

use crate::support::{self, Driven};

/// When a story begins, in milliseconds of Unix time.
const BEGINS_AT: u64 = 1_750_000_000_000;

/// How long a guest that asked home waits before it asks again, in milliseconds.
pub const ASK_AGAIN_MS: u64 = 500;

/// How long closed orders of closed promotions are kept, in milliseconds.
pub const RETENTION_MS: u64 = 30_000;

const PROMOTIONS: [&str; 4] = ["A", "B", "C", "never-created"];
const PINS: [&str; 3] = ["alice", "bob", "carol-with-a-long-name"];
const IPS: [&str; 3] = ["1.2.3.4", "5.6.7.8", "2001:db8::1"];
const ORDERS: [&str; 7] = ["o-1", "o-2", "o-3", "order-4", "order-000005", "o:6", "o.7"];

/// Items as drawn: places in `PROMOTIONS` with quantities; the same promotion may come twice.
type Drawn = Vec<(usize, u32)>;

/// One thing that happens. Numbers are places in the lists above.
#[derive(Debug, Clone)]
pub enum Step {
    Grab {
        order: usize,
        pin: usize,
        ip: usize,
        channel: usize,
        items: Drawn,
    },
    Try {
        order: usize,
        pin: usize,
        ip: usize,
        items: Drawn,
        try_id: u64,
        within_ms: u64,
        guest: bool,
    },
    /// One of the latest grabs or tries comes again.
    Again {
        back: usize,
    },
    Seal {
        order: usize,
        try_id: u64,
        own: bool,
        pay_within_ms: u64,
    },
    Undo {
        order: usize,
        try_id: u64,
        own: bool,
    },
    Resolve {
        order: usize,
        try_id: u64,
        own: bool,
    },
    Follow {
        order: usize,
        try_id: u64,
        own: bool,
        outcome: CartOutcome,
    },
    Told {
        order: usize,
        outcome: Option<CartOutcome>,
    },
    Confirm {
        order: usize,
    },
    Cancel {
        order: usize,
        reason: ReturnReason,
        refund: bool,
        promotion: Option<usize>,
    },
    GetOrder {
        order: usize,
    },
    Create {
        promotion: usize,
        quantity: u64,
        terms: Terms,
    },
    Change {
        promotion: usize,
        change: PromotionChange,
    },
    Stop {
        promotion: usize,
        stopped: bool,
    },
    Delete {
        promotion: usize,
    },
    Get {
        promotion: usize,
    },
    List {
        state: Option<PromotionState>,
        after: Option<usize>,
        limit: usize,
    },
    /// Time passes, and what it brings about happens.
    Wait {
        ms: u64,
    },
    /// Closed orders past their retention are forgotten.
    Forget,
    /// The digest is recorded.
    Checkpoint,
}

/// Hears a story as it is told.
pub trait Listener {
    /// A command is about to be executed.
    fn before_command(&mut self, _command: &Command, _moment: &Moment, _shard: &Shard) {}
    /// A command was executed.
    fn on_command(
        &mut self,
        _command: &Command,
        _moment: &Moment,
        _answer: &Result<Answer, Rejection>,
    ) {
    }
    /// An order's time has come. Called before anything is done about it.
    fn on_due(&mut self, _order_id: &OrderId, _due: &Due, _now: UnixMs) {}
    /// A promotion was closed because its end had come.
    fn on_end(&mut self, _promotion_id: &PromotionId, _now: UnixMs) {}
    /// Everything that time brings about until `now` has happened.
    fn on_time(&mut self, _now: UnixMs) {}
    /// This was forgotten, if anything was.
    fn on_forgotten(&mut self, _record: Option<&Record>, _now: UnixMs) {}
    /// A record was applied.
    fn on_record(&mut self, _record: &Record, _after: &Shard) {}
    /// A step is over.
    fn on_step(&mut self, _shard: &Shard, _moment: &Moment) {}
}

/// Tells a story to a new shard and returns it.
pub fn tell(steps: &[Step], default_rate: Option<Rate>, listener: &mut impl Listener) -> Driven {
    let mut told = Telling {
        driven: Driven::new(7),
        moment: Moment {
            now: UnixMs(BEGINS_AT),
            default_rate,
            rate_percent: 100,
        },
        grabs: Vec::new(),
        listener,
    };
    for step in steps {
        told.step(step);
        told.listener.on_step(&told.driven.shard, &told.moment);
    }
    told.driven
}

struct Telling<'l, L> {
    driven: Driven,
    moment: Moment,
    /// Grabs and tries that came, to let them come again.
    grabs: Vec<Command>,
    listener: &'l mut L,
}

impl<L: Listener> Telling<'_, L> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait { ms } => {
                self.moment.now = self.moment.now.plus_ms(*ms);
                self.pass_time();
            }
            Step::Forget => self.forget(),
            Step::Checkpoint => {
                let digest = self.driven.shard.digest();
                self.apply(Record::Checkpoint {
                    digest,
                    at: self.moment.now,
                });
            }
            Step::Again { back } => {
                if let Some(place) = self.grabs.len().checked_sub(back + 1) {
                    let command = self.grabs[place].clone();
                    self.execute(&command);
                }
            }
            step => {
                if let Some(command) = self.command(step) {
                    if matches!(command, Command::Grab(_) | Command::TryGrab(_)) {
                        self.grabs.push(command.clone());
                    }
                    self.execute(&command);
                }
            }
        }
    }

    fn execute(&mut self, command: &Command) {
        let records = self.driven.records.len();
        let shard = &self.driven.shard;
        self.listener.before_command(command, &self.moment, shard);
        let answer = self.driven.execute(command, &self.moment);
        self.listener.on_command(command, &self.moment, &answer);
        for record in &self.driven.records[records..] {
            self.listener.on_record(record, &self.driven.shard);
        }
    }

    fn apply(&mut self, record: Record) {
        self.driven.apply(record);
        let record = self.driven.records.last().unwrap();
        self.listener.on_record(record, &self.driven.shard);
    }

    fn pass_time(&mut self) {
        let now = self.moment.now;
        while let Some((slot, due)) = self.driven.shard.next_due(now) {
            let order_id = match &due {
                Due::Ask { order_id, .. } | Due::Record(Record::Returned { order_id, .. }) => {
                    order_id
                }
                Due::Record(Record::Undone {
                    order: Some(order), ..
                }) => &order.order_id,
                Due::Record(other) => panic!("not what time brings about: {other:?}"),
            };
            self.listener.on_due(order_id, &due, now);
            match due {
                Due::Record(record) => self.apply(record),
                Due::Ask { .. } => self.driven.shard.postpone(slot, now.plus_ms(ASK_AGAIN_MS)),
            }
        }
        for record in self.driven.shard.ended(now, usize::MAX) {
            if let Record::PromotionClosed { promotion_id, .. } = &record {
                self.listener.on_end(promotion_id, now);
            }
            self.apply(record);
        }
        self.listener.on_time(now);
    }

    fn forget(&mut self) {
        let now = self.moment.now;
        let (record, _) = self
            .driven
            .shard
            .forgettable(0, now, RETENTION_MS, |_| Some(UnixMs(0)));
        self.listener.on_forgotten(record.as_ref(), now);
        if let Some(record) = record {
            self.apply(record);
        }
    }

    /// The nonce of a step: the order's own where the story says so, else the one drawn.
    fn try_id(&self, order: usize, drawn: u64, own: bool) -> TryId {
        let known = support::try_of(&self.driven.shard, &support::order_id(ORDERS[order]));
        known.filter(|_| own).unwrap_or_else(|| nonce(order, drawn))
    }

    /// The command of a step, if the step makes sense now.
    fn command(&self, step: &Step) -> Option<Command> {
        let order_at = |place: &usize| support::order_id(ORDERS[*place]);
        let promotion_at = |place: &usize| support::promotion_id(PROMOTIONS[*place]);
        let command = match step {
            Step::Grab {
                order,
                pin,
                ip,
                channel,
                items,
            } => Command::Grab(drawn_grab(*order, *pin, *ip, *channel, items)),
            Step::Try {
                order,
                pin,
                ip,
                items,
                try_id,
                within_ms,
                guest,
            } => {
                let grab = drawn_grab(*order, *pin, *ip, 0, items);
                Command::TryGrab(Box::new(TryGrab {
                    role: if *guest {
                        TryRole::Guest {
                            home: support::promotion_id("elsewhere"),
                        }
                    } else {
                        TryRole::Home {
                            items: whole_cart(&grab.items),
                        }
                    },
                    grab,
                    try_id: nonce(*order, *try_id),
                    tentative_until: self.moment.now.plus_ms(*within_ms),
                }))
            }
            Step::Seal {
                order,
                try_id,
                own,
                pay_within_ms,
            } => self.seal(*order, *try_id, *own, *pay_within_ms)?,
            Step::Undo { order, try_id, own } => {
                let order_id = order_at(order);
                Command::Undo {
                    try_id: self.try_id(*order, *try_id, *own),
                    order_id,
                }
            }
            Step::Resolve { order, try_id, own } => {
                let order_id = order_at(order);
                Command::Resolve {
                    try_id: self.try_id(*order, *try_id, *own),
                    order_id,
                }
            }
            Step::Follow {
                order,
                try_id,
                own,
                outcome,
            } => {
                let order_id = order_at(order);
                let outcome = match outcome {
                    CartOutcome::Sealed { pay_by } => CartOutcome::Sealed {
                        pay_by: self.moment.now.plus_ms(pay_by.0),
                    },
                    outcome => *outcome,
                };
                Command::Follow {
                    try_id: self.try_id(*order, *try_id, *own),
                    order_id,
                    outcome,
                }
            }
            Step::Told { order, outcome } => {
                let order_id = order_at(order);
                let untold = self
                    .driven
                    .shard
                    .untold_of(&order_id)
                    .map(|tell| tell.outcome);
                Command::Told {
                    outcome: outcome.or(untold)?,
                    order_id,
                }
            }
            Step::Confirm { order } => Command::Confirm {
                order_id: order_at(order),
            },
            Step::Cancel {
                order,
                reason,
                refund,
                promotion,
            } => Command::Cancel {
                order_id: order_at(order),
                reason: *reason,
                refund: *refund,
                promotion_id: promotion.as_ref().map(promotion_at),
            },
            Step::GetOrder { order } => Command::GetOrder {
                order_id: order_at(order),
            },
            Step::Create {
                promotion,
                quantity,
                terms,
            } => Command::CreatePromotion {
                promotion_id: promotion_at(promotion),
                quantity: *quantity,
                terms: Box::new(from_now(terms, self.moment.now)),
            },
            Step::Change { promotion, change } => {
                let mut change = change.clone();
                if let Some(Some(end)) = &mut change.ends_at {
                    *end = self.moment.now.plus_ms(end.0);
                }
                Command::ChangePromotion {
                    promotion_id: promotion_at(promotion),
                    change: Box::new(change),
                }
            }
            Step::Stop { promotion, stopped } => Command::StopPromotion {
                promotion_id: promotion_at(promotion),
                stopped: *stopped,
            },
            Step::Delete { promotion } => Command::DeletePromotion {
                promotion_id: promotion_at(promotion),
            },
            Step::Get { promotion } => Command::GetPromotion {
                promotion_id: promotion_at(promotion),
            },
            Step::List {
                state,
                after,
                limit,
            } => Command::ListPromotions {
                state: *state,
                after: after.as_ref().map(promotion_at),
                limit: *limit,
            },
            Step::Again { .. } | Step::Wait { .. } | Step::Forget | Step::Checkpoint => {
                return None;
            }
        };
        Some(command)
    }

    /// Only home is ever asked to seal, and with the whole order.
    fn seal(&self, order: usize, drawn: u64, own: bool, pay_within_ms: u64) -> Option<Command> {
        let order_id = support::order_id(ORDERS[order]);
        let known = self.driven.shard.order(&order_id);
        let whole = match known.and_then(|order| order.cart) {
            Some(cart) => match cart.role {
                CartRole::Guest { .. } => return None,
                CartRole::Home { items, .. } => items.to_vec(),
            },
            None => Vec::new(),
        };
        let remained = |(place, item): (usize, GrantedItem)| GrantedItem {
            remaining: place as u64 * 3 + 1,
            ..item
        };
        Some(Command::Seal {
            try_id: self.try_id(order, drawn, own),
            order_id,
            pay_by: self.moment.now.plus_ms(pay_within_ms),
            items: whole.into_iter().enumerate().map(remained).collect(),
        })
    }
}

/// A nonce names one attempt at one order.
fn nonce(order: usize, drawn: u64) -> TryId {
    TryId(order as u64 * 10 + drawn)
}

/// Times of drawn terms count from the moment of the command.
fn from_now(terms: &Terms, now: UnixMs) -> Terms {
    Terms {
        starts_at: terms.starts_at.map(|at| now.plus_ms(at.0)),
        ends_at: terms.ends_at.map(|at| now.plus_ms(at.0)),
        ..terms.clone()
    }
}

fn drawn_grab(order: usize, pin: usize, ip: usize, channel: usize, items: &Drawn) -> Grab {
    let named = items
        .iter()
        .map(|(place, quantity)| (support::promotion_id(PROMOTIONS[*place]), *quantity));
    Grab {
        order_id: support::order_id(ORDERS[order]),
        pin: support::pin(PINS[pin]),
        ip: support::ip(IPS[ip]),
        channel: Channel::ALL[channel],
        items: sum_items(named).unwrap(),
    }
}

/// A whole cart: this shard's items and one of another shard.
fn whole_cart(here: &Items) -> Items {
    let elsewhere = Item {
        promotion_id: support::promotion_id("elsewhere"),
        quantity: 1,
    };
    here.iter().cloned().chain([elsewhere]).collect()
}

// How stories are drawn.

fn drawn_items() -> impl Strategy<Value = Drawn> {
    let place = prop_oneof![6 => 0..3usize, 1 => Just(3usize)];
    prop::collection::vec((place, 1..=3u32), 1..=3)
}

fn limit() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![2 => Just(None), 1 => (1..=5u32).prop_map(Some)]
}

fn limits() -> impl Strategy<Value = Limits> {
    (limit(), limit(), limit()).prop_map(|(per_order, per_pin, per_ip)| Limits {
        per_order,
        per_pin,
        per_ip,
    })
}

fn rate() -> impl Strategy<Value = Option<Rate>> {
    let rate = (prop_oneof![Just(100u64), Just(1_000)], 0..=6u64);
    prop_oneof![3 => Just(None), 1 => rate.prop_map(|(window_ms, attempts)| Some(Rate { window_ms, attempts }))]
}

fn channels() -> impl Strategy<Value = Channels> {
    prop_oneof![
        4 => Just(Channels::ALL),
        1 => Just([Channel::App, Channel::Qq].into_iter().collect::<Channels>()),
    ]
}

fn payment_timeout_ms() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1u64), Just(63), Just(64), Just(1_000), Just(100_000)]
}

fn price() -> impl Strategy<Value = Option<Price>> {
    let price = (1..=9u64).prop_map(|cents| Price {
        original_cents: 10,
        promotion_cents: cents,
        currency: "CNY".into(),
    });
    prop::option::of(price)
}

prop_compose! {
    fn terms()(
        kind in 0..2u32,
        starts_at in prop_oneof![5 => Just(None), 1 => (0..2_000u64).prop_map(|ms| Some(UnixMs(ms)))],
        ends_at in prop_oneof![3 => Just(None), 1 => (100..5_000u64).prop_map(|ms| Some(UnixMs(ms)))],
        limits in limits(),
        rate in rate(),
        payment_timeout_ms in payment_timeout_ms(),
        channels in channels(),
        price in price(),
    ) -> Terms {
        Terms { kind, title: "Phone".into(), sku_ids: vec!["sku".into()], starts_at, ends_at, limits, rate, payment_timeout_ms, channels, price }
    }
}

prop_compose! {
    fn change()(
        add_quantity in prop_oneof![
            1 => Just(None),
            6 => (-6..=6i64).prop_map(Some),
            1 => prop_oneof![Just(1i64 << 31), Just(i64::MIN), Just(i64::MAX)].prop_map(Some),
        ],
        title in prop::option::weighted(0.2, Just("Telephone".to_owned())),
        ends_at in prop::option::weighted(0.2, prop::option::of((0..3_000u64).prop_map(UnixMs))),
        limits in prop::option::weighted(0.3, limits()),
        rate in prop::option::weighted(0.3, rate()),
        payment_timeout_ms in prop::option::weighted(0.2, payment_timeout_ms()),
        channels in prop::option::weighted(0.2, channels()),
        price in prop::option::weighted(0.2, price()),
    ) -> PromotionChange {
        PromotionChange { add_quantity, title, ends_at, limits, rate, payment_timeout_ms, channels, price }
    }
}

fn reason() -> impl Strategy<Value = ReturnReason> {
    prop_oneof![
        Just(ReturnReason::User),
        Just(ReturnReason::Stock),
        Just(ReturnReason::Downstream)
    ]
}

fn outcome() -> impl Strategy<Value = CartOutcome> {
    prop_oneof![
        1 => Just(CartOutcome::Undecided),
        1 => Just(CartOutcome::Undone),
        3 => (0..5_000u64).prop_map(|ms| CartOutcome::Sealed { pay_by: UnixMs(ms) }),
        2 => Just(CartOutcome::Confirmed),
        2 => reason().prop_map(|reason| CartOutcome::Returned { reason }),
    ]
}

fn wait_ms() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(1),
        Just(30),
        Just(64),
        Just(128),
        Just(700),
        Just(2_000),
        Just(61_000),
    ]
}

fn state() -> impl Strategy<Value = PromotionState> {
    use PromotionState::{Active, Deleted, Ended, Scheduled, SoldOut, Stopped};
    prop::sample::select(vec![Scheduled, Active, SoldOut, Stopped, Ended, Deleted])
}

fn step() -> impl Strategy<Value = Step> {
    let order = || 0..ORDERS.len();
    let promotion = || 0..PROMOTIONS.len();
    let try_id = || 1..=9u64;
    let own = || prop::bool::weighted(0.95);
    let channel = prop_oneof![3 => Just(0usize), 1 => 0..4usize];
    let tries = (
        order(),
        0..PINS.len(),
        0..IPS.len(),
        drawn_items(),
        try_id(),
        prop_oneof![Just(50u64), Just(1_000), Just(5_000)],
        prop::bool::weighted(0.4),
    );
    prop_oneof![
        20 => (order(), 0..PINS.len(), 0..IPS.len(), channel, drawn_items())
            .prop_map(|(order, pin, ip, channel, items)| Step::Grab { order, pin, ip, channel, items }),
        10 => tries.prop_map(|(order, pin, ip, items, try_id, within_ms, guest)| {
            Step::Try { order, pin, ip, items, try_id, within_ms, guest }
        }),
        8 => (0..6usize).prop_map(|back| Step::Again { back }),
        10 => (order(), try_id(), own(), 0..5_000u64)
            .prop_map(|(order, try_id, own, pay_within_ms)| Step::Seal { order, try_id, own, pay_within_ms }),
        3 => (order(), try_id(), own()).prop_map(|(order, try_id, own)| Step::Undo { order, try_id, own }),
        3 => (order(), try_id(), own()).prop_map(|(order, try_id, own)| Step::Resolve { order, try_id, own }),
        6 => (order(), try_id(), own(), outcome())
            .prop_map(|(order, try_id, own, outcome)| Step::Follow { order, try_id, own, outcome }),
        4 => (order(), prop::option::weighted(0.2, outcome())).prop_map(|(order, outcome)| Step::Told { order, outcome }),
        6 => order().prop_map(|order| Step::Confirm { order }),
        8 => (order(), reason(), any::<bool>(), prop::option::of(promotion()))
            .prop_map(|(order, reason, refund, promotion)| Step::Cancel { order, reason, refund, promotion }),
        2 => order().prop_map(|order| Step::GetOrder { order }),
        6 => (0..3usize, 0..12u64, terms()).prop_map(|(promotion, quantity, terms)| Step::Create { promotion, quantity, terms }),
        6 => (promotion(), change()).prop_map(|(promotion, change)| Step::Change { promotion, change }),
        3 => (promotion(), prop::bool::weighted(0.3)).prop_map(|(promotion, stopped)| Step::Stop { promotion, stopped }),
        1 => promotion().prop_map(|promotion| Step::Delete { promotion }),
        2 => promotion().prop_map(|promotion| Step::Get { promotion }),
        1 => (prop::option::of(state()), prop::option::of(promotion()), 0..4usize)
            .prop_map(|(state, after, limit)| Step::List { state, after, limit }),
        8 => wait_ms().prop_map(|ms| Step::Wait { ms }),
        2 => Just(Step::Forget),
        1 => Just(Step::Checkpoint),
    ]
}

/// A story that begins with three promotions on sale.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let plain = payment_timeout_ms().prop_map(|payment_timeout_ms| Terms {
        payment_timeout_ms,
        ..Terms::default()
    });
    let terms = prop_oneof![plain, terms()].boxed();
    let sales = (0..3usize).map(|promotion| {
        (4..20u64, terms.clone()).prop_map(move |(quantity, terms)| Step::Create {
            promotion,
            quantity,
            terms,
        })
    });
    let sales: Vec<_> = sales.collect();
    (sales, prop::collection::vec(step(), 1..150)).prop_map(|(mut sales, steps)| {
        sales.extend(steps);
        sales
    })
}

pub fn default_rate() -> impl Strategy<Value = Option<Rate>> {
    let rate = Rate {
        window_ms: 1_000,
        attempts: 10,
    };
    prop::option::weighted(0.2, Just(rate))
}

/// Nobody listens.
impl Listener for () {}
