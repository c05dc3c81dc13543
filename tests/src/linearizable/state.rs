//! A configuration of the search: which calls took place, the state they lead to, and which calls may come next.
//!
//! Invariant: `undo_to` is the exact inverse of `take_place`; both cost the same however long the history is.

use std::collections::BTreeMap;

use super::model::{Item, Kind, Model, Standing, Status};

/// No entry: the end of the list.
const NONE: usize = usize::MAX;

/// Kinds and quantities of unknown calls that can be counted instead of named; any beyond these are named, which is only slower.
pub const LANES: usize = 8;

/// A call that took place.
pub struct Placed {
    pub call: usize,
    /// It changed the state.
    effect: bool,
    /// It is counted in this lane.
    lane: Option<usize>,
}

/// How many calls of unknown fate, whose effects nobody looks at, took place, by lane.
///
/// Such calls are means without an end: a configuration that spent no more of any of them, all else being equal, can go on as any other
/// can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent([u8; LANES]);

impl Spent {
    /// Whether no lane has more than in `other`.
    pub fn no_more_than(self, other: Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own <= other)
    }
}

/// Calls are numbers of `model.items`. The list has an entry for each call's invocation, at its number, and for each completion,
/// at its number plus the number of calls, in the order of time; what took place is unlinked (Knuth's dancing links).
pub struct State<'a> {
    pub model: &'a Model,
    next: Vec<usize>,
    previous: Vec<usize>,
    status: Vec<Status>,
    /// Of each order the answers, not yet placed, that say where it stood.
    pub sightings_left: Vec<usize>,
    /// Of each order the answers, not yet placed, that say that it had not been granted.
    pub fresh_left: Vec<usize>,
    pub remaining: u64,
    /// Calls of known fate that have not taken place.
    pub known_left: usize,
    /// Calls of unknown fate that took place.
    pub unknown_placed: usize,
    /// The lane of each kind (whether it returns) and quantity of unknown calls.
    lanes: BTreeMap<(bool, u64), usize>,
    pub spent: Spent,
    /// The sum of the keys of the calls that took place and are not counted in a lane: which set it is, but for a chance of less
    /// than one in 2^80.
    places: u128,
    /// The calls that took place, in this order.
    pub trail: Vec<Placed>,
}

impl<'a> State<'a> {
    /// The configuration in which nothing took place.
    pub fn new(model: &'a Model) -> Self {
        let count = model.items.len();
        let known = |item: &&Item| item.completed_ns.is_some();
        let of_orders =
            |number: fn(&super::model::Order) -> usize| model.orders.iter().map(number).collect();
        let mut state = Self {
            model,
            next: vec![NONE; 2 * count + 1],
            previous: vec![NONE; 2 * count + 1],
            status: vec![Status::Fresh; model.orders.len()],
            sightings_left: of_orders(|order| order.sightings),
            fresh_left: of_orders(|order| order.seen_fresh),
            remaining: model.quantity,
            known_left: model.items.iter().filter(known).count(),
            unknown_placed: 0,
            lanes: lanes(model),
            spent: Spent::default(),
            places: 0,
            trail: Vec::new(),
        };
        state.link_all();
        state
    }

    fn link_all(&mut self) {
        let count = self.model.items.len();
        // At the same nanosecond invocations come first: the calls are taken to overlap.
        let mut entries: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * count);
        for (number, item) in self.model.items.iter().enumerate() {
            entries.push((item.invoked_ns, false, number));
            let completion = item.completed_ns.map(|at| (at, true, number + count));
            entries.extend(completion);
        }
        entries.sort_unstable();
        let mut last = 2 * count;
        for (_, _, entry) in entries {
            self.next[last] = entry;
            self.previous[entry] = last;
            last = entry;
        }
    }

    /// The call of this number.
    pub fn item(&self, call: usize) -> &'a Item {
        &self.model.items[call]
    }

    /// What identifies this configuration, apart from what was spent.
    pub fn identity(&self) -> u128 {
        // What remains follows from all calls, but not from those in `places` alone.
        let remaining = u128::from(self.remaining).wrapping_mul(key(usize::MAX));
        self.places.wrapping_add(remaining)
    }

    /// The entries of the list that are left, in the order of time: a call, and whether this is its completion.
    fn entries(&self) -> impl Iterator<Item = (usize, bool)> {
        let count = self.model.items.len();
        let mut entry = 2 * count;
        std::iter::from_fn(move || {
            entry = self.next[entry];
            (entry != NONE).then(|| (entry % count, entry >= count))
        })
    }

    /// The calls that may come next: those invoked before the first completion among all that have not taken place.
    pub fn open(&self) -> impl Iterator<Item = usize> {
        let invoked = self.entries().take_while(|(_, completion)| !completion);
        invoked.map(|(call, _)| call)
    }

    /// What it would mean for `call` to take place now.
    pub fn standing(&self, call: usize) -> Standing {
        let item = self.item(call);
        self.model
            .standing(item, self.status[item.order], self.remaining)
    }

    /// Lets everything take place that fits and changes nothing. An error if some call can never fit any more, with that call.
    ///
    /// That is no choice: whatever could follow without such a call can follow it as well.
    pub fn settle(&mut self) -> Result<(), usize> {
        loop {
            let decided = self
                .open()
                .filter(|call| self.item(*call).completed_ns.is_some())
                .map(|call| (call, self.standing(call)))
                .find(|(_, standing)| matches!(standing, Standing::NoEffect | Standing::Never));
            match decided {
                Some((call, Standing::NoEffect)) => self.take_place(call),
                Some((call, _)) => return Err(call),
                None => return self.out_of_reach().map_or(Ok(()), Err),
            }
        }
    }

    /// A call whose number cannot come about any more: what can be given back or taken before its completion does not make up
    /// the difference. Looks as far as the last completion of the calls that are open now.
    fn out_of_reach(&self) -> Option<usize> {
        let mut open = 0_usize;
        let mut frontier = None;
        let (mut up, mut down) = (0, 0);
        for (call, completion) in self.entries() {
            let item = self.item(call);
            let quantity = self.model.orders[item.order].quantity;
            if !completion {
                let status = self.status[item.order];
                if item.kind.gives_back() && status != Status::Returned {
                    up += quantity;
                } else if item.kind.takes() && status == Status::Fresh {
                    down += quantity;
                }
                open += usize::from(frontier.is_none() && item.completed_ns.is_some());
                continue;
            }
            if let Some(needed) = self.model.needed(item) {
                let own = if item.kind.takes() { quantity } else { 0 };
                if needed > self.remaining + up || self.remaining + own > needed + down {
                    return Some(call);
                }
            }
            let frontier = *frontier.get_or_insert(item.completed_ns);
            if Some(item.invoked_ns) <= frontier {
                open -= 1;
                if open == 0 {
                    return None;
                }
            }
        }
        None
    }

    /// Where to count this call if it takes place now: one of unknown fate whose order nobody will look at any more.
    pub fn lane(&self, call: usize) -> Option<usize> {
        let item = self.item(call);
        let order = &self.model.orders[item.order];
        let unseen = match item.kind {
            Kind::MaybeGranted => {
                !order.saw_held && !order.returns && self.fresh_left[item.order] == 0
            }
            Kind::MaybeReturned => {
                let granted = order.granted || order.saw_held;
                granted && order.returned_by_ns.is_none() && self.sightings_left[item.order] == 0
            }
            _ => return None,
        };
        let class = (item.kind.gives_back(), order.quantity);
        let lane = self.lanes.get(&class).copied();
        lane.filter(|lane| unseen && self.spent.0[*lane] < u8::MAX)
    }

    /// Lets a call take place that fits.
    pub fn take_place(&mut self, call: usize) {
        let effect = self.standing(call) == Standing::Effect;
        let lane = self.lane(call);
        match lane {
            Some(lane) => self.spent.0[lane] += 1,
            None => self.places = self.places.wrapping_add(key(call)),
        }
        let item = self.item(call);
        let quantity = self.model.orders[item.order].quantity;
        if effect && item.kind.takes() {
            self.status[item.order] = Status::Held;
            self.remaining -= quantity;
        } else if effect {
            self.status[item.order] = Status::Returned;
            self.remaining += quantity;
        }
        self.sightings_left[item.order] -= usize::from(item.kind.is_sighting());
        self.fresh_left[item.order] -= usize::from(item.kind.saw_fresh());
        self.unlink(call);
        if item.completed_ns.is_some() {
            self.unlink(call + self.model.items.len());
            self.known_left -= 1;
        } else {
            self.unknown_placed += 1;
        }
        self.trail.push(Placed { call, effect, lane });
    }

    /// Undoes what took place last until `length` calls are left.
    pub fn undo_to(&mut self, length: usize) {
        while self.trail.len() > length {
            let Placed { call, effect, lane } =
                self.trail.pop().expect("the trail is longer than that");
            match lane {
                Some(lane) => self.spent.0[lane] -= 1,
                None => self.places = self.places.wrapping_sub(key(call)),
            }
            let item = self.item(call);
            let quantity = self.model.orders[item.order].quantity;
            if effect && item.kind.takes() {
                self.status[item.order] = Status::Fresh;
                self.remaining += quantity;
            } else if effect {
                self.status[item.order] = Status::Held;
                self.remaining -= quantity;
            }
            self.sightings_left[item.order] += usize::from(item.kind.is_sighting());
            self.fresh_left[item.order] += usize::from(item.kind.saw_fresh());
            // In the reverse order of unlinking, as dancing links need it.
            if item.completed_ns.is_some() {
                self.relink(call + self.model.items.len());
                self.known_left += 1;
            } else {
                self.unknown_placed -= 1;
            }
            self.relink(call);
        }
    }

    fn unlink(&mut self, entry: usize) {
        let (before, after) = (self.previous[entry], self.next[entry]);
        self.next[before] = after;
        if after != NONE {
            self.previous[after] = before;
        }
    }

    fn relink(&mut self, entry: usize) {
        let (before, after) = (self.previous[entry], self.next[entry]);
        self.next[before] = entry;
        if after != NONE {
            self.previous[after] = entry;
        }
    }
}

fn lanes(model: &Model) -> BTreeMap<(bool, u64), usize> {
    let mut lanes = BTreeMap::new();
    for item in model
        .items
        .iter()
        .filter(|item| item.completed_ns.is_none())
    {
        let next = lanes.len();
        if next < LANES {
            let class = (item.kind.gives_back(), model.orders[item.order].quantity);
            lanes.entry(class).or_insert(next);
        }
    }
    lanes
}

/// A random-looking odd key for a number, the same in every run: two outputs of SplitMix64 (Steele, Lea, Flood 2014).
fn key(number: usize) -> u128 {
    let mix = |number: u64| {
        let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        u128::from(z ^ (z >> 31))
    };
    let number = (number as u64).wrapping_mul(2);
    mix(number.wrapping_add(1)) << 64 | mix(number.wrapping_add(2)) | 1
}
