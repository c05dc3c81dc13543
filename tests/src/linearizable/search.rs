//! The search for an order of the calls: take a call, remember the configuration, go on from the most promising one.
//!
//! What keeps it short on this model: most answers name what remained, so that few calls fit at any moment; calls that fit and change
//! nothing take place at once; calls that nothing can tell apart stand for one another (`choices`). A search depth first would repair
//! every mistake with a call of unknown fate and notice only when it has none left; so the order of trying is by how far a
//! configuration came, less what it spent of them.
//!
//! Invariant: configurations are left out only where an equal one, or one that spent less, was tried.

use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::fmt::Write as _;

use super::Verdict;
use super::model::{Kind, Model, about};
use super::state::{Placed, Spent, State};
use crate::Call;

/// How many calls a configuration must have come further to be worth one more call of unknown fate. Measured on simulated
/// histories: at 20 too many mistakes are repaired with them, at 50 the search mostly goes back too far before it uses one. But what
/// is hard at one cost, two simulated histories of 4,000, is easy at another.
const UNKNOWN_COSTS: [usize; 3] = [30, 60, 100];

/// How many calls that came last an explanation shows.
const SHOWN_BEFORE: usize = 8;

/// Searches for an order of all calls of `model`, which were made from `calls`, in up to so many steps at each cost.
pub fn run(model: &Model, calls: &[Call], steps_max: u64) -> Verdict {
    let mut given_up = None;
    for unknown_cost in UNKNOWN_COSTS {
        match search(model, calls, steps_max, unknown_cost) {
            // What stopped the first is told.
            Verdict::Exhausted { explanation, .. } => given_up.get_or_insert(explanation),
            verdict => return verdict,
        };
    }
    Verdict::Exhausted {
        steps: steps_max,
        explanation: given_up.unwrap_or_default(),
    }
}

/// The search at one cost of a call of unknown fate.
fn search(model: &Model, calls: &[Call], steps_max: u64, unknown_cost: usize) -> Verdict {
    let mut state = State::new(model);
    let mut tree = Tree::default();
    let mut seen = Seen::default();
    let mut farthest = Farthest::default();
    let mut waiting = BinaryHeap::from([Waiting::default()]);
    let mut steps = 0;
    while let Some(Waiting { parent, choice, .. }) = waiting.pop() {
        if steps == steps_max {
            let explanation = farthest.explain(model, calls);
            return Verdict::Exhausted { steps, explanation };
        }
        steps += 1;
        tree.go_to(parent, &mut state);
        let from = state.trail.len();
        if let Some(choice) = choice {
            state.take_place(choice);
        }
        let settled = state.settle();
        farthest.note(&state, settled);
        if settled.is_ok() && state.known_left == 0 {
            return Verdict::Linearizable;
        }
        if settled.is_err() || !seen.is_new(state.identity(), state.spent) {
            state.undo_to(from);
            continue;
        }
        let node = Some(tree.add(parent, &state.trail[from..]));
        for (rank, choice) in state.choices().into_iter().enumerate() {
            waiting.push(Waiting {
                promise: promise(&state, choice, unknown_cost),
                age: (steps, rank),
                parent: node,
                choice: Some(choice),
            });
        }
    }
    let explanation = farthest.explain(model, calls);
    Verdict::NotLinearizable { explanation }
}

/// How promising it is to let this call take place. A return is no progress by itself: what needs it is.
fn promise(state: &State<'_>, call: usize, unknown_cost: usize) -> isize {
    let kind = state.item(call).kind;
    let spent = state.unknown_placed + usize::from(kind.is_optional());
    let left = state.known_left - usize::from(kind == Kind::Granted);
    -(spent.saturating_mul(unknown_cost) + left).cast_signed()
}

/// A choice that was not yet tried; the order of the fields is that of trying, the greatest first.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    promise: isize,
    age: (u64, usize),
    parent: Option<usize>,
    choice: Option<usize>,
}

/// The configurations that were reached, by what identifies them, with the least that was spent to reach them.
#[derive(Default)]
struct Seen(HashMap<u128, Vec<Spent>>);

impl Seen {
    /// False if the configuration was reached before and no more was spent then.
    fn is_new(&mut self, identity: u128, spent: Spent) -> bool {
        let known = self.0.entry(identity).or_default();
        if known.iter().any(|known| known.no_more_than(spent)) {
            return false;
        }
        known.retain(|known| !spent.no_more_than(*known));
        known.push(spent);
        true
    }
}

/// The configurations that are gone on from. One state serves all: it moves from one to another by way of where they branch.
#[derive(Default)]
struct Tree {
    nodes: Vec<Node>,
    /// The nodes on the way to the present state, with the length of the trail there.
    path: Vec<(usize, usize)>,
}

struct Node {
    parent: Option<usize>,
    depth: usize,
    /// The calls that took place since the parent.
    calls: Vec<usize>,
}

impl Tree {
    /// Adds what the state came to from `parent`, which is the last node of the path, and goes there.
    fn add(&mut self, parent: Option<usize>, placed: &[Placed]) -> usize {
        let node = self.nodes.len();
        let length = self.path.last().map_or(0, |(_, length)| *length) + placed.len();
        self.nodes.push(Node {
            parent,
            depth: self.path.len(),
            calls: placed.iter().map(|placed| placed.call).collect(),
        });
        self.path.push((node, length));
        node
    }

    /// Brings the state to `target`; none is where nothing took place.
    fn go_to(&mut self, target: Option<usize>, state: &mut State<'_>) {
        let mut missing = Vec::new();
        let mut above = target;
        while let Some(node) = above {
            let depth = self.nodes[node].depth;
            if self.path.get(depth).is_some_and(|(on, _)| *on == node) {
                break;
            }
            missing.push(node);
            above = self.nodes[node].parent;
        }
        self.path
            .truncate(above.map_or(0, |node| self.nodes[node].depth + 1));
        state.undo_to(self.path.last().map_or(0, |(_, length)| *length));
        for node in missing.into_iter().rev() {
            for call in &self.nodes[node].calls {
                state.take_place(*call);
            }
            self.path.push((node, state.trail.len()));
        }
    }
}

/// The farthest configuration reached, for the explanation.
#[derive(Default)]
struct Farthest {
    trail: Vec<usize>,
    open: Vec<usize>,
    /// The call that could never fit any more, where that was the end.
    never: Option<usize>,
    remaining: u64,
    known_left: usize,
}

impl Farthest {
    fn note(&mut self, state: &State<'_>, settled: Result<(), usize>) {
        if self.open.is_empty() || state.known_left < self.known_left {
            *self = Self {
                trail: state.trail.iter().map(|placed| placed.call).collect(),
                open: state.open().collect(),
                never: settled.err(),
                remaining: state.remaining,
                known_left: state.known_left,
            };
        }
    }

    /// How far the search came: what took place last there, and what could not follow.
    fn explain(&self, model: &Model, calls: &[Call]) -> String {
        let optional = |call: &&usize| model.items[**call].kind.is_optional();
        let unknown = self.open.iter().filter(optional).count();
        let mut text = format!(
            "no order of the calls explains all answers; the farthest leaves {} calls out, with {} units remaining after these:",
            self.known_left, self.remaining
        );
        let last = &self.trail[self.trail.len().saturating_sub(SHOWN_BEFORE)..];
        let known = self.open.iter().filter(|call| !optional(call));
        let show = |call: &usize| calls[model.items[*call].source].to_string();
        let heading = format!("and none of these fits next, nor any of {unknown} of unknown fate:");
        let never = self
            .never
            .map(|call| format!("this one cannot fit any more: {}", show(&call)));
        let lines = last
            .iter()
            .map(show)
            .chain([heading])
            .chain(known.clone().map(show))
            .chain(never);
        for line in lines {
            write!(text, "\n  {line}").expect("a text takes all it is given");
        }
        // What was refused, or never came, has no place in the order of events, and may be why.
        let misfits: BTreeSet<&str> = known
            .chain(&self.never)
            .filter_map(|call| calls[model.items[*call].source].event.order())
            .collect();
        for order in misfits {
            let about = about(order, calls);
            write!(text, "\n  all calls of {order}:{about}").expect("a text takes all it is given");
        }
        text
    }
}
