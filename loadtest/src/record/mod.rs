//! What is measured: latencies, answers by code, and both by the second.
//!
//! Invariant: only answers inside the measured window count, and each counts once. Workers record for themselves and hand
//! over each second when it is past, so that nothing is shared between them while they measure.

mod seconds;

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

pub use seconds::{Point, Second, Seconds};

use crate::client::{Answer, CODES, Code};
use crate::workload::Kind;

/// The longest latency told apart, in microseconds: ten minutes, far beyond any timeout.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// Latencies in microseconds.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_US, LATENCY_DIGITS)
        .expect("the bounds are valid, as a test shows")
}

/// When answers count.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The end of the warm-up.
    pub from: Instant,
    /// The end of the run; `None` where a number of orders ends it.
    pub until: Option<Instant>,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        at >= self.from && self.until.is_none_or(|until| at < until)
    }
}

/// Answers by code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts([u64; CODES]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; CODES])
    }
}

impl Counts {
    /// Counts one answer.
    pub fn add(&mut self, code: Code) {
        self.0[code.index()] += 1;
    }

    /// Counts another's answers too.
    pub fn merge(&mut self, other: &Counts) {
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count += other;
        }
    }

    /// How many answers had this code.
    pub fn of(&self, code: Code) -> u64 {
        self.0[code.index()]
    }

    /// The codes that came at all, most frequent first.
    pub fn by_frequency(&self) -> Vec<(Code, u64)> {
        let mut found: Vec<_> = Code::all()
            .map(|code| (code, self.of(code)))
            .filter(|(_, count)| *count > 0)
            .collect();
        found.sort_by_key(|(code, count)| (std::cmp::Reverse(*count), *code));
        found
    }

    /// All answers.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Figures of one kind of request.
#[derive(Debug, Clone)]
pub struct KindRecord {
    /// Latency of requests.
    pub latency: Histogram<u64>,
    /// Their answers; a batch has many.
    pub answers: Counts,
}

/// Figures of one worker, or of all.
#[derive(Debug)]
pub struct Record {
    /// By kind, in the order of [`Kind::ALL`]; `None` where there were none.
    pub kinds: [Option<Box<KindRecord>>; Kind::ALL.len()],
    /// Requests that ended at all, the warm-up included.
    pub requests_ever: u64,
    /// Answers to them; a batch has many.
    pub answers_ever: u64,
    /// Connections that were lost, except those a workload gives up on purpose.
    pub connections_lost: u64,
    /// What was wrong with the last answer that could not be understood.
    pub broken: Option<String>,
    /// The last answer that counted.
    pub last: Option<Instant>,
}

impl Record {
    fn new() -> Self {
        Self {
            kinds: Default::default(),
            requests_ever: 0,
            answers_ever: 0,
            connections_lost: 0,
            broken: None,
            last: None,
        }
    }

    fn kind(&mut self, kind: Kind) -> &mut KindRecord {
        self.kinds[kind as usize].get_or_insert_with(|| {
            Box::new(KindRecord {
                latency: latencies(),
                answers: Counts::default(),
            })
        })
    }

    /// Adds another worker's figures.
    pub fn merge(&mut self, other: Record) {
        for (kind, other) in Kind::ALL.into_iter().zip(other.kinds) {
            if let Some(other) = other {
                let mine = self.kind(kind);
                mine.latency.add(&other.latency).expect("equal bounds");
                mine.answers.merge(&other.answers);
            }
        }
        self.requests_ever += other.requests_ever;
        self.answers_ever += other.answers_ever;
        self.connections_lost += other.connections_lost;
        self.broken = self.broken.take().or(other.broken);
        self.last = self.last.max(other.last);
    }

    /// Latencies of all requests.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = latencies();
        for kind in self.kinds.iter().flatten() {
            all.add(&kind.latency).expect("equal bounds");
        }
        all
    }

    /// Answers to all requests.
    pub fn answers(&self) -> Counts {
        let mut all = Counts::default();
        for kind in self.kinds.iter().flatten() {
            all.merge(&kind.answers);
        }
        all
    }
}

/// Records for one worker.
#[derive(Debug)]
pub struct Recorder {
    window: Window,
    record: Record,
    second: Second,
    past: Sender<Second>,
}

impl Recorder {
    /// A recorder that hands its past seconds to `past`.
    pub fn new(window: Window, past: Sender<Second>) -> Self {
        Self {
            window,
            record: Record::new(),
            second: Second::new(0),
            past,
        }
    }

    /// An answer came `now` to a request of which `started` counts as the start.
    pub fn on_answers(&mut self, kind: Kind, started: Instant, now: Instant, answers: &[Answer]) {
        self.record.requests_ever += 1;
        self.record.answers_ever += answers.len() as u64;
        if !self.window.holds(now) {
            return;
        }
        let number = (now - self.window.from).as_secs() as usize;
        if number != self.second.number {
            self.hand_over(number);
        }
        let latency_us = micros(now - started);
        let record = self.record.kind(kind);
        record.latency.saturating_record(latency_us);
        self.second.latency.saturating_record(latency_us);
        for answer in answers {
            record.answers.add(answer.code);
            self.second.answers.add(answer.code);
        }
        self.record.last = Some(now);
    }

    /// A connection was lost; `broken` says what was wrong with its last answer.
    pub fn on_lost(&mut self, broken: Option<String>) {
        self.record.connections_lost += 1;
        self.record.broken = broken.or(self.record.broken.take());
    }

    /// The figures, at the end.
    pub fn finish(mut self) -> Record {
        self.hand_over(0);
        self.record
    }

    fn hand_over(&mut self, next: usize) {
        let past = std::mem::replace(&mut self.second, Second::new(next));
        // Whoever draws the progress may be gone; the figures of the whole run are here.
        if past.answers.total() > 0 {
            drop(self.past.send(past));
        }
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(count: usize) -> Vec<Answer> {
        let answer = Answer {
            status: 200,
            code: Code::GRANTED,
        };
        vec![answer; count]
    }

    #[test]
    fn only_answers_inside_the_window_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let window = Window {
            from: at(100),
            until: Some(at(3_100)),
        };
        let (past, seconds) = std::sync::mpsc::channel();
        let mut recorder = Recorder::new(window, past);
        for now in [50, 100, 1_099, 1_100, 3_099, 3_100] {
            recorder.on_answers(Kind::Grab, at(now - 10), at(now), &granted(1));
        }
        let record = recorder.finish();
        assert_eq!(record.answers().total(), 4);
        assert_eq!((record.requests_ever, record.answers_ever), (6, 6));
        assert_eq!(record.latency().len(), 4);
        let seconds: Vec<_> = seconds.iter().collect();
        let told: Vec<_> = seconds
            .iter()
            .map(|second| (second.number, second.answers.total()))
            .collect();
        assert_eq!(told, [(0, 2), (1, 1), (2, 1)]);
    }

    #[test]
    fn a_batch_has_one_latency_and_many_answers() {
        let start = Instant::now();
        let window = Window {
            from: start,
            until: None,
        };
        let (past, _seconds) = std::sync::mpsc::channel();
        let mut recorder = Recorder::new(window, past.clone());
        let later = start + Duration::from_micros(1_500);
        recorder.on_answers(Kind::Batch, start, later, &granted(1_000));
        let mut record = recorder.finish();
        record.merge(Recorder::new(window, past).finish());
        assert_eq!(record.latency().len(), 1);
        assert!((1_499..=1_501).contains(&record.latency().max()));
        assert_eq!(record.answers().by_frequency(), [(Code::GRANTED, 1_000)]);
        assert_eq!(record.last, Some(later));
    }
}
