//! How far a run is, on stderr: a bar with the live rate and p99 where a person watches, a line every few seconds otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::drive::{Limit, Watch};
use crate::record::{Point, Seconds};

/// Between lines where nobody watches a bar.
const LINE_EVERY_SECONDS: usize = 10;

/// Shows one run.
#[derive(Debug)]
pub struct Progress {
    limit: Limit,
    from: Option<Instant>,
    bar: Option<ProgressBar>,
    /// The second after which the next line is due.
    line_after: usize,
}

impl Progress {
    /// Progress of a run called `title`.
    pub fn new(title: &str, limit: Limit) -> Self {
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| bar(title, length(limit)));
        Self {
            limit,
            from: None,
            bar,
            line_after: LINE_EVERY_SECONDS,
        }
    }

    /// Nothing is shown.
    pub fn hidden(limit: Limit) -> Self {
        Self {
            limit,
            from: None,
            bar: None,
            line_after: usize::MAX,
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Progress {
    fn on_start(&mut self, from: Instant) {
        self.from = Some(from);
    }

    fn on_seconds(&mut self, seconds: &Seconds) {
        let last = seconds.last();
        if let Some(bar) = &self.bar {
            let passed = self.from.map_or(Duration::ZERO, |from| from.elapsed());
            bar.set_position(match self.limit {
                Limit::Duration(_) => passed.as_millis() as u64,
                Limit::Orders(_) => seconds.answers(),
            });
            bar.set_message(last.map_or_else(|| "warming up".to_owned(), |point| text(&point)));
            return;
        }
        if let Some(point) = last.filter(|point| point.second >= self.line_after) {
            self.line_after = point.second + LINE_EVERY_SECONDS;
            eprintln!("second {}: {}", point.second, text(&point));
        }
    }
}

fn length(limit: Limit) -> u64 {
    match limit {
        Limit::Duration(duration) => duration.as_millis() as u64,
        Limit::Orders(orders) => orders,
    }
}

fn text(point: &Point) -> String {
    let p99_ms = point.p99_us as f64 / 1000.0;
    format!("{} answers/s, p99 {p99_ms:.2} ms", point.answers)
}

fn bar(title: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {msg}, {elapsed}")
        .expect("the template is well formed, as a test shows");
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar.set_prefix(title.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn() {
        let bar = bar("spread", 10);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_position(3);
        assert_eq!((bar.position(), bar.length()), (3, Some(10)));
        bar.finish_and_clear();
    }

    #[test]
    fn the_live_figures_are_the_rate_and_p99() {
        let point = Point {
            second: 3,
            requests: 10,
            answers: 70_000,
            granted: 0,
            p50_us: 0,
            p99_us: 1_234,
            max_us: 0,
        };
        assert_eq!(text(&point), "70000 answers/s, p99 1.23 ms");
    }
}
