//! Figures of single measurements, and what several of them come to. Invariant: a figure that was not measured is not a number, and
//! is printed as a dash.

use serde::Serialize;

use super::contender::Sample;
use super::disk::Disk;
use crate::run::{Used, rate};

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// The row's figure, in its unit.
    pub value: f64,
    /// Answers a second.
    pub rate: f64,
    /// Median latency, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 requests took at most so long, in milliseconds.
    pub p99_ms: f64,
    /// The longest request, in milliseconds.
    pub max_ms: f64,
    /// Processor time of the servers for an answer, in microseconds; equally seconds for a million.
    pub server_cpu_us: f64,
    /// The same of the generator.
    pub client_cpu_us: f64,
    /// Bytes written to the disk for an answer, by the servers and by whoever else used it meanwhile.
    pub written_bytes: f64,
    /// Bytes of a grab's record in qiang's log.
    pub record_bytes: f64,
    /// Bytes of the servers' files at the end, for an answer.
    pub stored_bytes: f64,
    /// The disk just before.
    pub disk: Disk,
}

impl Figures {
    /// The figures of a sample, with the rate as the row's.
    pub fn of(sample: &Sample) -> Self {
        let record = &sample.driven.record;
        let latency = record.latency();
        let ms = |us: u64| us as f64 / 1000.0;
        let rate = rate(record.answers().total(), sample.driven.measured);
        let each = |all: f64| all / record.answers_ever as f64;
        let server = |figure: fn(&Used) -> f64| {
            sample
                .server
                .as_ref()
                .map_or(f64::NAN, |used| each(figure(used)))
        };
        Self {
            value: rate,
            rate,
            p50_ms: ms(latency.value_at_quantile(0.5)),
            p99_ms: ms(latency.value_at_quantile(0.99)),
            max_ms: ms(latency.max()),
            server_cpu_us: server(|used| used.cpu_seconds * 1e6),
            client_cpu_us: each(sample.client_cpu_seconds * 1e6),
            written_bytes: server(|used| used.disk_bytes.map_or(f64::NAN, |bytes| bytes as f64)),
            record_bytes: f64::NAN,
            stored_bytes: f64::NAN,
            disk: sample.disk,
        }
    }
}

/// The middle of several numbers, and their ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; of an even number the average of the two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of some numbers; not a number if there are none.
    pub fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.filter(|number| !number.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            let nothing = f64::NAN;
            return Self {
                min: nothing,
                median: nothing,
                max: nothing,
            };
        };
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[half - 1], sorted[half])
        } else {
            sorted[half]
        };
        Self { min, median, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let spread = |numbers: &[f64]| Spread::of(numbers.iter().copied());
        let odd = spread(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert!((spread(&[4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert!(spread(&[]).median.is_nan());
        assert!((spread(&[f64::NAN, 5.0]).median - 5.0).abs() < 1e-9);
    }
}
