//! The words of the golden transcripts: commands as people would type them, answers as people would
//! say them. Times are milliseconds after the script's beginning, written `+N`.

use std::str::FromStr;

use qiang_engine::command::{
    CartOutcome, Granted, PromotionChange, Rejection, TryGrab, TryRole, sum_items,
};
use qiang_engine::order::{GrantedItem, Items, Order, OrderState, ReturnReason};
use qiang_engine::promotion::{Channel, Channels, Limits, PromotionView, Rate, Terms};
use qiang_engine::{Answer, Command, Refusal, TryId, UnixMs};

use crate::support::{ip, order_id, pin, promotion_id};

/// When scripts begin, in milliseconds of Unix time.
pub const BEGINNING: UnixMs = UnixMs(1_750_000_000_000);

/// One line, split: a verb, plain words and `key=value` pairs.
pub struct Words<'l> {
    pub verb: &'l str,
    plain: Vec<&'l str>,
    pairs: Vec<(&'l str, &'l str)>,
}

impl<'l> Words<'l> {
    pub fn of(line: &'l str) -> Self {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("a verb");
        let (pairs, plain): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('='));
        let pairs = pairs.into_iter().filter_map(|pair| pair.split_once('='));
        Words {
            verb,
            plain,
            pairs: pairs.collect(),
        }
    }

    /// The plain word at a place.
    pub fn word(&self, place: usize) -> &'l str {
        self.plain
            .get(place)
            .unwrap_or_else(|| panic!("`{}` lacks a word", self.verb))
    }

    pub fn says(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    pub fn text(&self, key: &str) -> Option<&'l str> {
        self.pairs
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    pub fn number<T: FromStr>(&self, key: &str) -> Option<T> {
        let parse = |text: &str| text.parse().ok().unwrap_or_else(|| panic!("{key}={text}"));
        self.text(key).map(parse)
    }

    fn time(&self, key: &str) -> Option<UnixMs> {
        let text = self
            .text(key)?
            .strip_prefix('+')
            .expect("a time is written +N");
        Some(BEGINNING.plus_ms(text.parse().expect("milliseconds")))
    }

    fn rate(&self) -> Option<Rate> {
        let (attempts, window_ms) = self.text("rate")?.split_once('/').expect("attempts/window");
        Some(Rate {
            window_ms: window_ms.parse().unwrap(),
            attempts: attempts.parse().unwrap(),
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            per_order: self.number("per_order"),
            per_pin: self.number("per_pin"),
            per_ip: self.number("per_ip"),
        }
    }

    fn channels(&self) -> Option<Channels> {
        Some(self.text("channels")?.split(',').map(channel).collect())
    }

    fn terms(&self) -> Terms {
        let plain = Terms::default();
        Terms {
            starts_at: self.time("starts"),
            ends_at: self.time("ends"),
            limits: self.limits(),
            rate: self.rate(),
            payment_timeout_ms: self.number("pay_ms").unwrap_or(plain.payment_timeout_ms),
            channels: self.channels().unwrap_or(plain.channels),
            ..plain
        }
    }

    fn change(&self) -> PromotionChange {
        PromotionChange {
            add_quantity: self.number("add"),
            title: self.text("title").map(str::to_owned),
            ends_at: self.time("ends").map(Some),
            limits: (self.limits() != Limits::default()).then(|| self.limits()),
            rate: self.rate().map(Some),
            payment_timeout_ms: self.number("pay_ms"),
            channels: self.channels(),
            price: None,
        }
    }

    fn try_id(&self) -> TryId {
        TryId(self.number("try").expect("try="))
    }

    /// The command that the line says.
    pub fn command(&self) -> Command {
        let named = || promotion_id(self.word(0));
        let order = || order_id(self.word(0));
        match self.verb {
            "create" => Command::CreatePromotion {
                promotion_id: named(),
                quantity: self.number("quantity").expect("quantity="),
                terms: Box::new(self.terms()),
            },
            "change" => Command::ChangePromotion {
                promotion_id: named(),
                change: Box::new(self.change()),
            },
            "stop" => Command::StopPromotion {
                promotion_id: named(),
                stopped: true,
            },
            "resume" => Command::StopPromotion {
                promotion_id: named(),
                stopped: false,
            },
            "delete" => Command::DeletePromotion {
                promotion_id: named(),
            },
            "promotion" => Command::GetPromotion {
                promotion_id: named(),
            },
            "list" => Command::ListPromotions {
                state: None,
                after: self.text("after").map(promotion_id),
                limit: self.number("limit").unwrap_or(100),
            },
            "grab" => Command::Grab(self.grab()),
            "try" => Command::TryGrab(Box::new(self.try_grab())),
            "seal" => Command::Seal {
                order_id: order(),
                try_id: self.try_id(),
                pay_by: self.time("pay_by").expect("pay_by="),
                items: self.sealed_items(),
            },
            "undo" => Command::Undo {
                order_id: order(),
                try_id: self.try_id(),
            },
            "resolve" => Command::Resolve {
                order_id: order(),
                try_id: self.try_id(),
            },
            "follow" => Command::Follow {
                order_id: order(),
                try_id: self.try_id(),
                outcome: self.outcome(),
            },
            "told" => Command::Told {
                order_id: order(),
                outcome: self.outcome(),
            },
            "confirm" => Command::Confirm { order_id: order() },
            "cancel" => Command::Cancel {
                order_id: order(),
                reason: reason(self.word(1)),
                refund: self.says("refund"),
                promotion_id: self.text("of").map(promotion_id),
            },
            "order" => Command::GetOrder { order_id: order() },
            verb => panic!("no such verb: {verb}"),
        }
    }

    fn grab(&self) -> qiang_engine::command::Grab {
        qiang_engine::command::Grab {
            order_id: order_id(self.word(0)),
            pin: pin(self.word(1)),
            ip: ip(self.word(2)),
            channel: self.text("channel").map_or(Channel::App, channel),
            items: items(self.plain[3..].iter().copied()),
        }
    }

    fn try_grab(&self) -> TryGrab {
        let role = match self.text("guest_of") {
            Some(home) => TryRole::Guest {
                home: promotion_id(home),
            },
            None => TryRole::Home {
                items: items(self.text("whole").expect("whole=").split(',')),
            },
        };
        TryGrab {
            grab: self.grab(),
            try_id: self.try_id(),
            tentative_until: self.time("until").expect("until="),
            role,
        }
    }

    /// `A:1:99` is one of A, of which 99 remained.
    fn sealed_items(&self) -> Vec<GrantedItem> {
        let item = |text: &str| {
            let (item, remaining) = text.rsplit_once(':').expect("promotion:quantity:remaining");
            let item = items([item].into_iter()).pop().expect("one item");
            GrantedItem {
                promotion_id: item.promotion_id,
                quantity: item.quantity,
                remaining: remaining.parse().unwrap(),
            }
        };
        self.text("items")
            .expect("items=")
            .split(',')
            .map(item)
            .collect()
    }

    fn outcome(&self) -> CartOutcome {
        match self.word(1) {
            "undecided" => CartOutcome::Undecided,
            "undone" => CartOutcome::Undone,
            "sealed" => CartOutcome::Sealed {
                pay_by: self.time("pay_by").expect("pay_by="),
            },
            "confirmed" => CartOutcome::Confirmed,
            returned => CartOutcome::Returned {
                reason: reason(returned),
            },
        }
    }
}

fn channel(name: &str) -> Channel {
    let all = Channel::ALL.into_iter();
    all.into_iter()
        .find(|channel| channel.as_str() == name)
        .expect("a channel")
}

fn reason(name: &str) -> ReturnReason {
    use ReturnReason::{Downstream, Expired, Stock, User};
    let all = [User, Stock, Downstream, Expired];
    all.into_iter()
        .find(|reason| reason.as_str() == name)
        .expect("a reason")
}

fn items<'t>(texts: impl Iterator<Item = &'t str>) -> Items {
    let item = |text: &str| {
        let (promotion, quantity) = text.rsplit_once(':').expect("promotion:quantity");
        (
            promotion_id(promotion),
            quantity.parse().expect("a quantity"),
        )
    };
    sum_items(texts.map(item)).unwrap()
}

/// A time as scripts write it.
pub fn time(at: UnixMs) -> String {
    format!("+{}", at.ms_since(BEGINNING))
}

/// An answer as people would say it.
pub fn answer(answer: &Answer, now: UnixMs) -> String {
    match answer {
        Answer::Granted(granted) => say_granted(granted),
        Answer::Order(order) => say_order(order),
        Answer::Promotion { view, created } => {
            format!(
                "{}{}",
                if *created { "created " } else { "" },
                say_promotion(view, now)
            )
        }
        Answer::Promotions(views) => {
            let views: Vec<String> = views.iter().map(|view| say_promotion(view, now)).collect();
            views.join("\n")
        }
        Answer::Outcome(outcome) => say_outcome(*outcome),
        Answer::Done => "done".to_owned(),
    }
}

pub fn rejection(rejection: &Rejection) -> String {
    let about = rejection
        .promotion_id
        .as_ref()
        .map(|id| format!(" about {id}"));
    format!("refused {:?}{}", rejection.code, about.unwrap_or_default())
}

pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Rejected(rejected) => rejection(rejected),
        other => format!("refused {other:?}"),
    }
}

fn say_items(items: &[GrantedItem]) -> String {
    let item = |item: &GrantedItem| {
        format!(
            "{}:{} ({} left)",
            item.promotion_id, item.quantity, item.remaining
        )
    };
    items.iter().map(item).collect::<Vec<_>>().join(", ")
}

fn say_granted(granted: &Granted) -> String {
    let verb = if granted.replayed {
        "granted before"
    } else {
        "granted"
    };
    format!(
        "{verb} {}: {}, pay by {}",
        granted.order_id,
        say_items(&granted.items),
        time(granted.pay_by)
    )
}

fn say_order(order: &Order) -> String {
    let state = match order.state {
        OrderState::Tentative | OrderState::Held => order.state.as_str().to_owned(),
        OrderState::Confirmed { at } => format!("confirmed at {}", time(at)),
        OrderState::Returned { at, reason } => {
            format!("returned at {} ({})", time(at), reason.as_str())
        }
    };
    let buyer = order
        .buyer
        .as_ref()
        .map_or("nobody".to_owned(), |buyer| buyer.pin.to_string());
    format!(
        "order {} of {buyer}, {state}: {}",
        order.order_id,
        say_items(order.all_items())
    )
}

fn say_promotion(view: &PromotionView, now: UnixMs) -> String {
    let (promotion, counters) = (&view.promotion, &view.promotion.counters);
    format!(
        "{} {}: {}{:+} offered = {} remaining + {} held + {} confirmed; {} granted, {} returned, {} attempts, version {}",
        promotion.id,
        promotion.state(now).as_str(),
        counters.original,
        counters.added,
        counters.remaining,
        counters.held,
        counters.confirmed,
        counters.granted,
        counters.returned,
        view.attempts,
        promotion.version,
    )
}

pub fn say_outcome(outcome: CartOutcome) -> String {
    match outcome {
        CartOutcome::Undecided => "undecided".to_owned(),
        CartOutcome::Undone => "undone".to_owned(),
        CartOutcome::Sealed { pay_by } => format!("sealed, pay by {}", time(pay_by)),
        CartOutcome::Confirmed => "confirmed".to_owned(),
        CartOutcome::Returned { reason } => format!("returned ({})", reason.as_str()),
    }
}
