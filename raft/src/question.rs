//! What a caller asks of a shard's actor: commands that are handed over together, and the answers to them.
//!
//! Invariant: every command handed over is answered exactly once. A reply that is dropped
//! answers `outcome_unknown` by itself, so no caller waits for ever or is told what may be wrong.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures::task::AtomicWaker;
use qiang_engine::{Answer, Command, Place, Refusal};
use smallvec::{SmallVec, smallvec};
use tokio::time::{Instant, timeout_at};

/// What a command came to.
pub type Outcome = Result<Answer, Refusal>;

/// One of each command that a caller hands over together, which is most often one: that takes no allocation.
pub type Each<T> = SmallVec<[T; 1]>;

/// The outcome of the only command.
///
/// # Panics
/// If there is none.
pub fn only_outcome(outcomes: Each<Outcome>) -> Outcome {
    let outcome = outcomes.into_iter().next();
    outcome.expect("one command has one outcome")
}

/// Commands that a caller hands over together, independent of each other, and their answers. It is asked once.
pub struct Question {
    commands: Each<Command>,
    gathered: Mutex<Gathered>,
    lacking: AtomicUsize,
    waiter: AtomicWaker,
}

struct Gathered {
    /// `outcome_unknown` until it is there.
    answers: Each<Outcome>,
    /// Who takes all answers, if nobody waits for them.
    taker: Option<Taker>,
}

type Taker = Box<dyn FnOnce(Each<Outcome>) + Send>;

impl Question {
    /// A question whose answers are waited for.
    pub fn new(commands: impl Into<Each<Command>>) -> Arc<Self> {
        Self::with(commands.into(), None)
    }

    /// A question whose answers `taker` is given when all are there.
    pub fn for_taker(
        commands: Each<Command>,
        taker: impl FnOnce(Each<Outcome>) + Send + 'static,
    ) -> Arc<Self> {
        Self::with(commands, Some(Box::new(taker)))
    }

    fn with(commands: Each<Command>, taker: Option<Taker>) -> Arc<Self> {
        let answers = smallvec![Err(Refusal::OutcomeUnknown); commands.len()];
        Arc::new(Question {
            gathered: Mutex::new(Gathered { answers, taker }),
            lacking: AtomicUsize::new(commands.len()),
            waiter: AtomicWaker::new(),
            commands,
        })
    }

    /// What is asked.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The answers that there are by `deadline`, in the order of the commands, and `outcome_unknown` for those that there are
    /// not.
    pub async fn answers(&self, deadline: Instant) -> Each<Outcome> {
        // Whether all are there or the time is over, what is there is told.
        let _ = timeout_at(deadline, self.complete()).await;
        self.told()
    }

    async fn complete(&self) {
        poll_fn(|context| {
            // First be known, then look: an answer that comes in between wakes.
            self.waiter.register(context.waker());
            match self.lacking.load(Ordering::Acquire) {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    fn told(&self) -> Each<Outcome> {
        std::mem::take(&mut self.lock().answers)
    }

    fn answer(&self, position: usize, outcome: Outcome) {
        // A caller that stopped waiting learns the outcome when it repeats the order id.
        if let Some(answer) = self.lock().answers.get_mut(position) {
            *answer = outcome;
        }
        if self.lacking.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let taker = self.lock().taker.take();
        match taker {
            Some(taker) => taker(self.told()),
            None => self.waiter.wake(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reply to one command of a question.
pub struct Reply(Option<(Arc<Question>, usize)>);

impl Reply {
    /// A reply that nobody waits for.
    #[cfg(test)]
    pub fn to_nobody() -> Self {
        Reply(None)
    }

    /// Answers.
    pub fn send(mut self, outcome: Outcome) {
        self.fill(outcome);
    }

    fn fill(&mut self, outcome: Outcome) {
        if let Some((question, position)) = self.0.take() {
            question.answer(position, outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.fill(Err(Refusal::OutcomeUnknown));
    }
}

/// Some of a question's commands on their way to the shard at a place.
pub struct Asked {
    place: Place,
    question: Arc<Question>,
    /// Positions of those that were not taken.
    positions: Range<usize>,
}

impl Asked {
    /// All commands of `question`, so many at a time.
    pub fn all(
        place: Place,
        question: &Arc<Question>,
        at_a_time: usize,
    ) -> impl Iterator<Item = Asked> {
        let count = question.commands.len();
        (0..count).step_by(at_a_time).map(move |first| Asked {
            place,
            question: question.clone(),
            positions: first..count.min(first + at_a_time),
        })
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// The shard and the commands.
    pub fn commands(&self) -> impl Iterator<Item = (Place, &Command)> {
        let commands = &self.question.commands[self.positions.clone()];
        commands.iter().map(|command| (self.place, command))
    }

    /// Has `decide` answer each of the commands, until it fails.
    pub fn decide<E>(
        mut self,
        mut decide: impl FnMut(Place, &Command, Reply) -> Result<(), E>,
    ) -> Result<(), E> {
        let question = self.question.clone();
        for position in self.positions.by_ref() {
            let reply = Reply(Some((question.clone(), position)));
            decide(self.place, &question.commands[position], reply)?;
        }
        Ok(())
    }

    /// Refuses all of them.
    pub fn refuse(mut self, refusal: &Refusal) {
        self.end(refusal);
    }

    fn end(&mut self, refusal: &Refusal) {
        for position in std::mem::take(&mut self.positions) {
            self.question.answer(position, Err(refusal.clone()));
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.end(&Refusal::OutcomeUnknown);
    }
}

#[cfg(test)]
#[path = "question_tests.rs"]
mod tests;
