//! What the client knows of every order it sent: one byte each.
//!
//! Invariant: an acknowledgement is never forgotten. Later words about an order only add to what is known; a word that
//! contradicts an acknowledgement is kept as a contradiction, for the audit to name.

/// What was learnt about the grab of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grab {
    /// It was never sent.
    Unsent,
    /// It was granted: the server's word.
    Granted,
    /// Every attempt was refused.
    Refused,
    /// An attempt may have been granted: no answer, or one that says so.
    Unknown,
    /// It was granted, and then told that it was not.
    Contradicted,
}

/// What was learnt about a confirm or a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It was never asked for.
    Unasked,
    /// It was done: the server's word.
    Done,
    /// It was refused.
    Refused,
    /// It may have been done.
    Unknown,
}

/// One order: three bits for its grab, two for each of confirm and cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry(u8);

const GRABS: [Grab; 5] = [
    Grab::Unsent,
    Grab::Granted,
    Grab::Refused,
    Grab::Unknown,
    Grab::Contradicted,
];
const WORDS: [Word; 4] = [Word::Unasked, Word::Done, Word::Refused, Word::Unknown];
const GRAB_MASK: u8 = 0b111;
const CONFIRM_SHIFT: u8 = 3;
const CANCEL_SHIFT: u8 = 5;
const WORD_MASK: u8 = 0b11;

impl Entry {
    /// What is known of the grab.
    pub fn grab(self) -> Grab {
        GRABS[usize::from(self.0 & GRAB_MASK)]
    }

    /// What is known of the confirm.
    pub fn confirm(self) -> Word {
        self.word(CONFIRM_SHIFT)
    }

    /// What is known of the cancel.
    pub fn cancel(self) -> Word {
        self.word(CANCEL_SHIFT)
    }

    /// Adds what an attempt to grab ended with.
    pub fn on_grab(&mut self, now: Grab) {
        let all = match (self.grab(), now) {
            (Grab::Contradicted, _) | (_, Grab::Contradicted) => Grab::Contradicted,
            (Grab::Granted, _) | (_, Grab::Granted) => Grab::Granted,
            (Grab::Unknown, _) | (_, Grab::Unknown) => Grab::Unknown,
            (Grab::Refused, _) | (_, Grab::Refused) => Grab::Refused,
            (Grab::Unsent, Grab::Unsent) => Grab::Unsent,
        };
        self.0 = (self.0 & !GRAB_MASK) | all as u8;
    }

    /// Adds what a confirm ended with.
    pub fn on_confirm(&mut self, now: Word) {
        self.on_word(CONFIRM_SHIFT, now);
    }

    /// Adds what a cancel ended with.
    pub fn on_cancel(&mut self, now: Word) {
        self.on_word(CANCEL_SHIFT, now);
    }

    fn word(self, shift: u8) -> Word {
        WORDS[usize::from(self.0 >> shift & WORD_MASK)]
    }

    fn on_word(&mut self, shift: u8, now: Word) {
        let all = match (self.word(shift), now) {
            (Word::Done, _) | (_, Word::Done) => Word::Done,
            (Word::Unknown, _) | (_, Word::Unknown) => Word::Unknown,
            (Word::Refused, _) | (_, Word::Refused) => Word::Refused,
            (Word::Unasked, Word::Unasked) => Word::Unasked,
        };
        self.0 = (self.0 & !(WORD_MASK << shift)) | ((all as u8) << shift);
    }
}

/// The orders of one worker: each numbers its own without asking the others.
#[derive(Debug)]
pub struct Stripe {
    worker: u64,
    workers: u64,
    entries: Vec<Entry>,
}

impl Stripe {
    /// The orders of worker number `worker` of `workers`: it and every `workers`-th after it.
    pub fn new(worker: u64, workers: u64) -> Self {
        assert!(worker < workers, "workers are numbered from 0");
        Self {
            worker,
            workers,
            entries: Vec::new(),
        }
    }

    /// The next order's number.
    pub fn begin(&mut self) -> u64 {
        let number = self.entries.len() as u64 * self.workers + self.worker;
        self.entries.push(Entry::default());
        number
    }

    /// How many orders were begun.
    pub fn begun(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What is known of an order of this worker.
    pub fn entry(&mut self, order: u64) -> &mut Entry {
        debug_assert_eq!(order % self.workers, self.worker);
        &mut self.entries[(order / self.workers) as usize]
    }
}

/// The orders of a run.
#[derive(Debug)]
pub struct Ledger {
    stripes: Vec<Stripe>,
}

impl Ledger {
    /// All orders, from the stripes of all workers.
    pub fn new(mut stripes: Vec<Stripe>) -> Self {
        stripes.sort_by_key(|stripe| stripe.worker);
        Self { stripes }
    }

    /// What is known of an order; an order that was never begun is unsent.
    pub fn entry(&self, order: u64) -> Entry {
        let workers = self.stripes.len() as u64;
        let stripe = &self.stripes[(order % workers) as usize];
        let entry = stripe.entries.get((order / workers) as usize);
        entry.copied().unwrap_or_default()
    }

    /// Every order begun, with what is known of it.
    pub fn orders(&self) -> impl Iterator<Item = (u64, Entry)> {
        self.stripes.iter().flat_map(|stripe| {
            let numbers = (stripe.worker..).step_by(stripe.workers as usize);
            numbers.zip(stripe.entries.iter().copied())
        })
    }

    /// One more than the greatest number begun.
    pub fn end(&self) -> u64 {
        let ends = self
            .stripes
            .iter()
            .map(|stripe| stripe.entries.len() as u64 * stripe.workers);
        ends.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_never_forgotten() {
        let mut entry = Entry::default();
        entry.on_grab(Grab::Refused);
        entry.on_grab(Grab::Unknown);
        assert_eq!(entry.grab(), Grab::Unknown);
        entry.on_grab(Grab::Granted);
        entry.on_grab(Grab::Unknown);
        entry.on_grab(Grab::Refused);
        assert_eq!(entry.grab(), Grab::Granted);
        entry.on_grab(Grab::Contradicted);
        entry.on_grab(Grab::Granted);
        assert_eq!(entry.grab(), Grab::Contradicted);
    }

    #[test]
    fn grab_confirm_and_cancel_do_not_touch_each_other() {
        let mut entry = Entry::default();
        entry.on_grab(Grab::Granted);
        entry.on_confirm(Word::Unknown);
        entry.on_cancel(Word::Refused);
        entry.on_confirm(Word::Done);
        entry.on_confirm(Word::Refused);
        assert_eq!(
            (entry.grab(), entry.confirm(), entry.cancel()),
            (Grab::Granted, Word::Done, Word::Refused)
        );
    }

    #[test]
    fn workers_number_their_orders_without_meeting() {
        let mut stripes: Vec<Stripe> = (0..3).map(|worker| Stripe::new(worker, 3)).collect();
        assert_eq!((stripes[1].begin(), stripes[1].begin()), (1, 4));
        assert_eq!(stripes[0].begin(), 0);
        stripes[1].entry(4).on_grab(Grab::Granted);
        stripes.reverse();
        let ledger = Ledger::new(stripes);
        assert_eq!(ledger.entry(4).grab(), Grab::Granted);
        assert_eq!(ledger.entry(1).grab(), Grab::Unsent);
        assert_eq!(ledger.entry(7).grab(), Grab::Unsent);
        assert_eq!(ledger.end(), 6);
        let numbers: Vec<u64> = ledger.orders().map(|(number, _)| number).collect();
        assert_eq!(numbers, [0, 1, 4]);
    }
}
