//! Figures by the second, from all workers. Invariant: a second is told only of answers, and one without any is a second with none.

use hdrhistogram::Histogram;

use super::{Counts, LATENCY_MAX_US};
use crate::client::Code;

/// Digits kept of a latency in one second: a plot shows no more.
const SECOND_DIGITS: u8 = 2;

/// One worker's second.
#[derive(Debug)]
pub struct Second {
    /// From the end of the warm-up.
    pub number: usize,
    /// Latency of requests, in microseconds.
    pub latency: Histogram<u32>,
    /// Answers by code.
    pub answers: Counts,
}

impl Second {
    /// A second without answers.
    pub fn new(number: usize) -> Self {
        Self {
            number,
            latency: Histogram::new_with_max(LATENCY_MAX_US, SECOND_DIGITS)
                .expect("the bounds are valid, as a test shows"),
            answers: Counts::default(),
        }
    }
}

/// One second of the run.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Point {
    /// Its number, from the end of the warm-up.
    pub second: usize,
    /// Requests answered.
    pub requests: u64,
    /// Answers; a batch has many.
    pub answers: u64,
    /// Grabs granted.
    pub granted: u64,
    /// Median latency, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 were at most this long, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// The seconds of all workers.
#[derive(Debug, Default)]
pub struct Seconds(Vec<Option<Second>>);

impl Seconds {
    /// Adds a worker's second.
    pub fn add(&mut self, second: Second) {
        if self.0.len() <= second.number {
            self.0.resize_with(second.number + 1, || None);
        }
        match &mut self.0[second.number] {
            Some(all) => {
                all.latency.add(&second.latency).expect("equal bounds");
                all.answers.merge(&second.answers);
            }
            place => *place = Some(second),
        }
    }

    /// The last second of which anything is known.
    pub fn last(&self) -> Option<Point> {
        self.0.iter().flatten().last().map(point)
    }

    /// All answers so far.
    pub fn answers(&self) -> u64 {
        let seconds = self.0.iter().flatten();
        seconds.map(|second| second.answers.total()).sum()
    }

    /// Every second.
    pub fn points(&self) -> Vec<Point> {
        let all = self.0.iter().enumerate();
        all.map(|(number, second)| {
            second
                .as_ref()
                .map_or_else(|| point(&Second::new(number)), point)
        })
        .collect()
    }
}

fn point(second: &Second) -> Point {
    let latency = &second.latency;
    Point {
        second: second.number,
        requests: latency.len(),
        answers: second.answers.total(),
        granted: second.answers.of(Code::GRANTED),
        p50_us: latency.value_at_quantile(0.5),
        p99_us: latency.value_at_quantile(0.99),
        max_us: latency.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_workers_are_added_and_silence_is_told() {
        let mut seconds = Seconds::default();
        for (number, latency_us) in [(0, 100), (2, 300), (0, 200)] {
            let mut second = Second::new(number);
            second.latency.record(latency_us).unwrap();
            second.answers.add(Code::GRANTED);
            seconds.add(second);
        }
        let points = seconds.points();
        let told: Vec<_> = points.iter().map(|p| (p.second, p.granted)).collect();
        assert_eq!(told, [(0, 2), (1, 0), (2, 1)]);
        assert!(points[0].max_us >= 199 && points[1].max_us == 0);
        assert_eq!(seconds.last(), Some(points[2]));
    }
}
