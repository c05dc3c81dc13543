//! Whether there is one order of all that several asked of one promotion at once that explains what each was told.
//!
//! Every change that takes effect makes the next version, so the order of changes is known. One that was answered made the version it was
//! told, or found that version as it would have it; one without an answer made some version or none; one that was refused, none. Whoever
//! was told only a fact of the promotion saw a version of which it is true. And what begins when something else has ended comes after it.
//!
//! Invariant: each call is given the oldest version that it can have seen, in the order in which calls begin. That leaves most room for
//! those that follow, so if one finds none there is no such order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use qiang_engine::promotion::{CloseReason, Price, Promotion, Terms};

/// What partners change of a promotion.
#[derive(Clone, PartialEq, Eq)]
struct State {
    terms: Arc<Terms>,
    added: i64,
    stopped: bool,
    deleted: bool,
}

/// As short as a trace can use it.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Terms {
            title,
            limits,
            price,
            ..
        } = &*self.terms;
        let price = price.as_ref().map(|price| price.promotion_cents);
        let limit = limits.per_order;
        let (added, stopped, deleted) = (self.added, self.stopped, self.deleted);
        write!(
            f,
            "({title:?} for {price:?}, limit {limit:?}, {added} added, stopped {stopped}, deleted {deleted})"
        )
    }
}

/// A change that somebody asks for. Any two that can make the same version of the same one before are alike.
#[derive(Debug, Clone)]
pub enum Change {
    Create,
    /// A title and a price that no other change gives; both or neither.
    Name(u64),
    /// Units that one order may take.
    LimitOrders(Option<u32>),
    /// So many units as no other change adds; negative takes away.
    Add(i64),
    Stop(bool),
    Delete,
}

/// What somebody asks.
#[derive(Debug, Clone)]
pub enum Question {
    Change(Change),
    /// What it is, with everything that was acknowledged before.
    Read,
    /// What it is or was.
    StaleRead,
}

/// What somebody was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It may have been done, or may be at any time.
    Nothing,
    /// That nothing was done, and nothing of the promotion.
    Refused,
    Version(u64),
    Fact(Fact),
}

/// Something that is true of some versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    NotThere,
    Deleted,
    Stopped,
    /// An order of so many units is sold.
    Sells(u32),
    /// An order of so many units is too large.
    Limits(u32),
    /// So many units remain, where none are sold.
    Remains(u64),
}

#[derive(Debug)]
struct Call {
    question: Question,
    told: Told,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Begins(usize),
    Ends(usize),
}

/// What was asked and told of one promotion.
#[derive(Debug)]
pub struct History {
    /// Units it has at first.
    units: u64,
    numbers: u64,
    calls: Vec<Call>,
    events: Vec<Event>,
    /// Versions that somebody was told, or that are known to be committed.
    versions: BTreeMap<u64, State>,
}

/// The title that a change gives.
pub fn title(number: u64) -> String {
    format!("the {number}th")
}

/// The price that a change gives.
pub fn price(number: u64) -> Price {
    Price {
        original_cents: 2 * number,
        promotion_cents: number,
        currency: "CNY".to_owned(),
    }
}

impl Change {
    /// What it makes of a promotion of so many units at first, that may not be there; `None` where it is refused.
    fn after(&self, before: Option<&State>, units: u64) -> Option<State> {
        let Some(before) = before else {
            let created = State {
                terms: Arc::default(),
                added: 0,
                stopped: false,
                deleted: false,
            };
            return matches!(self, Change::Create).then_some(created);
        };
        if before.deleted && !matches!(self, Change::Delete) {
            return None;
        }
        let mut after = before.clone();
        match self {
            Change::Create => {}
            Change::Name(number) => {
                let terms = Arc::make_mut(&mut after.terms);
                terms.title = title(*number);
                terms.price = Some(price(*number));
            }
            Change::LimitOrders(limit) => Arc::make_mut(&mut after.terms).limits.per_order = *limit,
            Change::Add(more) => after.added += more,
            Change::Stop(stopped) => after.stopped = *stopped,
            Change::Delete => after.deleted = true,
        }
        units.checked_add_signed(after.added).map(|_| after)
    }

    /// Whether a node asks for it once more when it gets no answer: what is told may then be what came of the second time.
    fn is_repeated(&self) -> bool {
        matches!(self, Change::Create | Change::Delete)
    }
}

impl Fact {
    fn is_true(self, state: Option<&State>, units: u64) -> bool {
        let Some(state) = state else {
            return self == Fact::NotThere;
        };
        let is_open = !state.deleted && !state.stopped;
        let allows = |asked| {
            let limit = state.terms.limits.per_order;
            limit.is_none_or(|limit| asked <= limit)
        };
        match self {
            Fact::NotThere => false,
            Fact::Deleted => state.deleted,
            Fact::Stopped => state.stopped && !state.deleted,
            Fact::Sells(asked) => is_open && allows(asked),
            Fact::Limits(asked) => is_open && !allows(asked),
            Fact::Remains(left) => units.checked_add_signed(state.added) == Some(left),
        }
    }
}

impl History {
    /// Of a promotion that is to have so many units at first.
    pub fn new(units: u64) -> Self {
        History {
            units,
            numbers: 0,
            calls: Vec::new(),
            events: Vec::new(),
            versions: BTreeMap::new(),
        }
    }

    /// A call begins; its number.
    pub fn begin(&mut self, question: Question) -> usize {
        let told = Told::Nothing;
        self.calls.push(Call { question, told });
        let call = self.calls.len() - 1;
        self.events.push(Event::Begins(call));
        call
    }

    /// A call ends with this answer; what was asked.
    pub fn end(&mut self, call: usize, told: Told) -> &Question {
        self.events.push(Event::Ends(call));
        self.calls[call].told = told;
        &self.calls[call].question
    }

    /// A number that no change was given yet.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Somebody was told, or it is committed, that this is what the promotion is at its version: always the same.
    pub fn is(&mut self, promotion: &Promotion) -> Result<(), String> {
        let state = State {
            terms: promotion.terms.clone(),
            added: promotion.counters.added,
            stopped: promotion.stopped,
            deleted: matches!(promotion.closed, Some((CloseReason::Deleted, _))),
        };
        let counters = &promotion.counters;
        if counters.original != self.units || !counters.balanced() {
            return Err(format!("it was created with {}: {promotion:?}", self.units));
        }
        let version = promotion.version;
        let known = self.versions.entry(version).or_insert(state.clone());
        if *known == state {
            Ok(())
        } else {
            Err(format!("version {version} is {known:?} and {state:?}"))
        }
    }

    /// Whether one order of all calls explains what was told, where this version is the last.
    pub fn judge(&self, last: u64) -> Result<(), String> {
        let floors = self.judge_calls(last)?;
        self.judge_versions(last, &floors)
    }

    /// Gives each call the oldest version it can have seen. By call, the newest of those that had ended when it began.
    fn judge_calls(&self, last: u64) -> Result<Vec<u64>, String> {
        let mut floor = 0;
        let mut floors = vec![0; self.calls.len()];
        let mut seen = vec![0; self.calls.len()];
        for event in &self.events {
            match *event {
                Event::Begins(call) => {
                    let oldest = self.oldest_seen(&self.calls[call], floor, last);
                    seen[call] = oldest.ok_or_else(|| {
                        let call = &self.calls[call];
                        format!("{call:?} where {floor} of {last} versions had been seen")
                    })?;
                    floors[call] = floor;
                }
                Event::Ends(call) => floor = floor.max(seen[call]),
            }
        }
        Ok(floors)
    }

    fn oldest_seen(&self, call: &Call, floor: u64, last: u64) -> Option<u64> {
        let is_stale = matches!(call.question, Question::StaleRead);
        match call.told {
            Told::Nothing | Told::Refused => Some(0),
            Told::Version(version) => {
                (version <= last && (version >= floor || is_stale)).then_some(version)
            }
            Told::Fact(fact) => (floor..=last).find(|version| {
                // Of a version that nobody was told, and that is not kept, anything may be true.
                if !self.is_known(*version) {
                    return true;
                }
                let state = self.versions.get(version);
                let is_refused = match &call.question {
                    Question::Change(change) => change.after(state, self.units).is_none(),
                    Question::Read | Question::StaleRead => true,
                };
                is_refused && fact.is_true(state, self.units)
            }),
        }
    }

    /// Whether it is known what the promotion is at a version. At version 0 it is not there.
    fn is_known(&self, version: u64) -> bool {
        version == 0 || self.versions.contains_key(&version)
    }

    /// Finds for each version a change that made it, and for each change that was told a version that it made it or was content with it.
    fn judge_versions(&self, last: u64, floors: &[u64]) -> Result<(), String> {
        let mut told: BTreeMap<u64, Vec<(usize, &Change)>> = BTreeMap::new();
        let mut in_doubt = Vec::new();
        for (call, Call { question, told: is }) in self.calls.iter().enumerate() {
            let Question::Change(change) = question else {
                continue;
            };
            if let Told::Version(version) = is {
                told.entry(*version).or_default().push((call, change));
            }
            if *is == Told::Nothing || change.is_repeated() && *is != Told::Refused {
                in_doubt.push((call, change));
            }
        }
        for version in 1..=last {
            let Some(is) = self.versions.get(&version) else {
                continue;
            };
            let told = told.remove(&version).unwrap_or_default();
            let is_content =
                |change: &Change| change.after(Some(is), self.units).as_ref() == Some(is);
            let (content, made): (Vec<_>, Vec<_>) =
                told.iter().partition(|(_, change)| is_content(change));
            if made.len() > 1 {
                return Err(format!(
                    "version {version} was made by each of {made:?}, they were told"
                ));
            }
            if !self.is_known(version - 1) {
                continue;
            }
            let before = self.versions.get(&(version - 1));
            let can_make = |(call, change): &(usize, &Change)| {
                floors[*call] < version && change.after(before, self.units).as_ref() == Some(is)
            };
            let is_made = match made.first() {
                Some(made) => can_make(made),
                None => {
                    content.iter().any(can_make) || {
                        let maker = in_doubt.iter().position(can_make);
                        maker.map(|place| in_doubt.swap_remove(place)).is_some()
                    }
                }
            };
            if !is_made {
                return Err(format!(
                    "version {version} is {is:?}, and nobody can have made that of {before:?}; told so were {told:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qiang_engine::promotion::Counters;
    use qiang_engine::{PromotionId, UnixMs};

    use super::*;

    /// A history in which this was asked and answered, one after the other.
    fn history(calls: &[(Change, Told)]) -> History {
        let mut history = History::new(10);
        for (change, told) in calls {
            let call = history.begin(Question::Change(change.clone()));
            if *told != Told::Nothing {
                history.end(call, *told);
            }
        }
        history
    }

    /// Makes it known that a version has so many units more, and is stopped.
    fn known(history: &mut History, version: u64, added: i64, stopped: bool) {
        let mut counters = Counters::offered(10);
        counters.added = added;
        counters.remaining = counters.remaining.saturating_add_signed(added);
        let promotion = Promotion {
            id: PromotionId::new("A").expect("an id"),
            terms: Arc::default(),
            created_terms: Arc::default(),
            counters,
            stopped,
            closed: None,
            version,
            created_at: UnixMs(0),
        };
        history.is(&promotion).expect("it is new");
    }

    #[test]
    fn a_change_without_an_answer_may_have_been_done_once_or_not_at_all() {
        let calls = [
            (Change::Create, Told::Version(1)),
            (Change::Add(3), Told::Nothing),
        ];
        let mut history = history(&calls);
        known(&mut history, 1, 0, false);
        assert_eq!(history.judge(1), Ok(()));
        known(&mut history, 2, 3, false);
        assert_eq!(history.judge(2), Ok(()));
        known(&mut history, 3, 6, false);
        assert!(history.judge(3).is_err(), "it was done twice");
    }

    #[test]
    fn two_changes_are_not_told_the_same_version_unless_one_was_content() {
        let created = (Change::Create, Told::Version(1));
        let stop = (Change::Stop(true), Told::Version(2));
        let mut stopped = history(&[created.clone(), stop.clone(), stop]);
        known(&mut stopped, 1, 0, false);
        known(&mut stopped, 2, 0, true);
        assert_eq!(stopped.judge(2), Ok(()));
        let add = (Change::Add(3), Told::Version(2));
        let mut added = history(&[created, add.clone(), add]);
        known(&mut added, 1, 0, false);
        known(&mut added, 2, 3, false);
        assert!(added.judge(2).is_err());
    }

    #[test]
    fn what_had_been_seen_is_seen_by_whoever_asks_afterwards() {
        let calls = [
            (Change::Create, Told::Version(1)),
            (Change::Stop(true), Told::Version(2)),
        ];
        let mut history = history(&calls);
        known(&mut history, 1, 0, false);
        known(&mut history, 2, 0, true);
        let stale = history.begin(Question::StaleRead);
        history.end(stale, Told::Version(1));
        assert_eq!(history.judge(2), Ok(()));
        let visit = history.begin(Question::Read);
        history.end(visit, Told::Fact(Fact::Sells(1)));
        assert!(history.judge(2).is_err(), "it was stopped");
    }

    #[test]
    fn who_sees_a_fact_between_two_versions_leaves_the_older_to_nobody_after() {
        let calls = [(Change::Create, Told::Version(1))];
        let mut history = history(&calls);
        known(&mut history, 1, 0, false);
        known(&mut history, 2, 0, true);
        known(&mut history, 3, 0, false);
        let stop = history.begin(Question::Change(Change::Stop(true)));
        let resume = history.begin(Question::Change(Change::Stop(false)));
        let visit = history.begin(Question::Read);
        history.end(visit, Told::Fact(Fact::Stopped));
        history.end(stop, Told::Version(2));
        history.end(resume, Told::Version(3));
        assert_eq!(history.judge(3), Ok(()));
        let read = history.begin(Question::Read);
        history.end(read, Told::Version(2));
        assert!(history.judge(3).is_err(), "it was resumed before");
    }
}
