//! How late a simulated thread is. A real one may be descheduled between any two instructions, while the others go on; a
//! simulation's only thread lets a task go on until it waits, so what may come in between is drawn here.
//!
//! Invariant: outside a simulation nobody is late.

use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::life::{Life, present};
use super::{Random, is_simulated, random_below};

/// Spells of lateness come after so many milliseconds at most, and last so many at most: a fifth of the time.
const BETWEEN_SPELLS_MS_MAX: u64 = 800;
const SPELL_MS_MAX: u64 = 200;

/// How long the threads of a process that stood still come back one by one.
const COMING_BACK: Duration = Duration::from_millis(100);

/// In a spell a thread is late once in so many times, and so late at most: long beside a commit.
const LATE_ONE_IN: u32 = 3;
const LATE_MAX: Duration = Duration::from_millis(60);

/// How long an actor is held up at most while its node leads without a lease: long enough for the lease to come back.
const HELD_UP_MAX: Duration = Duration::from_millis(150);

/// When one thread is late, in a simulation.
pub(super) struct Lateness {
    /// When it begins to be late, and when it no longer is.
    spell: (Instant, Instant),
    /// Its process, if it is known.
    life: Option<Life>,
}

impl Lateness {
    /// That of a thread of this task's process; `None` outside a simulation.
    pub fn new() -> Option<Self> {
        is_simulated().then(|| Lateness {
            spell: spell_after(Instant::now()),
            life: present(),
        })
    }

    /// How late it is this time.
    pub fn draw(&mut self) -> Duration {
        let now = Instant::now();
        if self.spell.1 <= now {
            self.spell = spell_after(now);
        }
        let went_on = self.life.as_ref().and_then(Life::went_on_at);
        let comes_back = went_on.is_some_and(|at| now < at + COMING_BACK);
        let in_spell = self.spell.0 <= now || comes_back;
        if in_spell && Random.random_range(0..LATE_ONE_IN) == 0 {
            random_below(LATE_MAX)
        } else {
            Duration::ZERO
        }
    }
}

fn spell_after(now: Instant) -> (Instant, Instant) {
    let begins = now + Duration::from_millis(Random.random_range(0..BETWEEN_SPELLS_MS_MAX));
    let lasts = Duration::from_millis(Random.random_range(0..SPELL_MS_MAX));
    (begins, begins + lasts)
}

/// When an actor's thread is held up in a simulation: in spells, between hearing the log and deciding and between deciding and acting;
/// and before deciding every other time while its node leads without a lease, since a proposal may be refused then while the next is
/// decided on top of it.
pub(crate) struct HoldUps {
    /// Absent outside a simulation.
    lateness: Option<Lateness>,
    /// How long the next hold-up before deciding lasts.
    next: Duration,
}

impl HoldUps {
    pub fn new() -> Self {
        HoldUps {
            lateness: Lateness::new(),
            next: Duration::ZERO,
        }
    }

    /// Between two rounds: whoever is ready to speak goes first, so that what comes together is decided together. Not where
    /// a hold-up is next: that thread was quick, and has heard before anybody took what it proposed.
    pub async fn end_round(&mut self, in_doubt: impl FnOnce() -> bool) {
        if let Some(lateness) = &mut self.lateness {
            self.next = if in_doubt() && Random.random_range(0..2) == 0 {
                random_below(HELD_UP_MAX)
            } else {
                lateness.draw()
            };
        }
        if self.next.is_zero() {
            tokio::task::yield_now().await;
        }
    }

    /// Within a round, between hearing and deciding.
    pub async fn before_deciding(&mut self) {
        pass(std::mem::take(&mut self.next)).await;
    }

    /// Within a round, between deciding and saying what came of it.
    pub async fn before_acting(&mut self) {
        if let Some(lateness) = &mut self.lateness {
            pass(lateness.draw()).await;
        }
    }
}

async fn pass(held_up: Duration) {
    if !held_up.is_zero() {
        sleep(held_up).await;
    }
}
