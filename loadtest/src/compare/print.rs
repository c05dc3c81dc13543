//! The comparison for people and for programs. Invariant: a goal is printed beside what was reached, whether it was reached or not.

use serde::Serialize;

use super::figures::{Figures, Spread};
use super::rows::{Goal, Method, Row};
use crate::report::{table, thousands};

/// One contender of a row.
#[derive(Debug, Clone, Serialize)]
pub struct ComparedCase {
    /// What it is called.
    pub label: &'static str,
    /// The row's figure.
    pub figure: Spread,
    /// Every measurement, in order.
    pub samples: Vec<Figures>,
}

/// A goal and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// What was to be reached, in words.
    pub goal: String,
    /// The target.
    pub target: f64,
    /// What was reached: of a ratio the median over the rounds, otherwise the median.
    pub reached: Spread,
    /// Whether it was reached.
    pub is_reached: bool,
}

/// A row that was compared.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Its name.
    pub row: &'static str,
    /// What it is.
    pub title: &'static str,
    /// The unit of its figure.
    pub unit: &'static str,
    /// Who ran.
    pub cases: Vec<ComparedCase>,
    /// The goals that could be judged.
    pub goals: Vec<Judged>,
}

impl Compared {
    /// A row with the measurements of each case.
    pub(super) fn new(row: &Row, samples: Vec<Vec<Figures>>) -> Self {
        let cases = row.cases.iter().zip(samples).filter_map(|(case, samples)| {
            (!samples.is_empty()).then(|| ComparedCase {
                label: case.label,
                figure: Spread::of(samples.iter().map(|figures| figures.value)),
                samples,
            })
        });
        let cases: Vec<ComparedCase> = cases.collect();
        let find = |number: usize| {
            let label = row.cases[number].label;
            cases.iter().find(|case| case.label == label)
        };
        let goals = row.goals.iter().filter_map(|goal| reached(*goal, find));
        Self {
            row: row.name,
            title: row.title,
            unit: row.method.unit(),
            goals: goals.collect(),
            cases,
        }
    }
}

/// What became of a goal; `None` where somebody it needs did not run.
fn reached<'a>(goal: Goal, find: impl Fn(usize) -> Option<&'a ComparedCase>) -> Option<Judged> {
    match goal {
        Goal::Times { of, to, least } => {
            let (of, to) = (find(of)?, find(to)?);
            // Neighbours in time are compared, so that a slow minute falls on both.
            let pairs = of.samples.iter().zip(&to.samples);
            let ratios = Spread::of(pairs.map(|(of, to)| of.value / to.value));
            Some(Judged {
                goal: format!("{} / {}", of.label, to.label),
                target: least,
                reached: ratios,
                is_reached: ratios.median >= least,
            })
        }
        Goal::Least { of, least } => {
            let of = find(of)?;
            Some(Judged {
                goal: of.label.to_owned(),
                target: least,
                reached: of.figure,
                is_reached: of.figure.median >= least,
            })
        }
        Goal::Most {
            of,
            what,
            figure,
            most,
        } => {
            let of = find(of)?;
            let figures = Spread::of(of.samples.iter().map(figure));
            let target = Spread::of(of.samples.iter().map(most)).median;
            Some(Judged {
                goal: format!("{}: {what}", of.label),
                target,
                reached: figures,
                is_reached: figures.median <= target,
            })
        }
    }
}

/// All rows as tables.
pub fn tables(compared: &[Compared]) -> String {
    let tables: Vec<String> = compared.iter().map(one).collect();
    tables.join("\n\n")
}

fn one(row: &Compared) -> String {
    let median = |case: &ComparedCase, figure: fn(&Figures) -> f64| {
        number(Spread::of(case.samples.iter().map(figure)).median)
    };
    let first = row
        .cases
        .first()
        .map_or(f64::NAN, |case| case.figure.median);
    let cases: Vec<Vec<String>> = row
        .cases
        .iter()
        .map(|case| {
            vec![
                case.label.to_owned(),
                number(case.figure.min),
                number(case.figure.median),
                number(case.figure.max),
                number(first / case.figure.median),
                median(case, |figures| figures.p50_ms),
                median(case, |figures| figures.p99_ms),
                median(case, |figures| figures.server_cpu_us),
                median(case, |figures| figures.client_cpu_us),
                median(case, |figures| figures.written_bytes),
                median(case, |figures| figures.disk.growing_us as f64),
                median(case, |figures| figures.disk.recycled_us as f64),
            ]
        })
        .collect();
    let columns = [
        row.unit,
        ">MIN",
        ">MEDIAN",
        ">MAX",
        ">QIANG ÷ THIS",
        ">P50 MS",
        ">P99 MS",
        ">SERVER CPU S/M",
        ">OWN CPU S/M",
        ">WRITTEN B",
        ">GROWING µS",
        ">RECYCLED µS",
    ];
    let mut text = format!("{}: {}\n{}", row.row, row.title, table(&columns, &cases));
    if row.unit == Method::Written.unit() {
        let sizes = row.cases.iter().map(|case| {
            let record = median(case, |figures| figures.record_bytes);
            let stored = median(case, |figures| figures.stored_bytes);
            format!(
                "\n{}: record {record} bytes, files at the end {stored} bytes a grab",
                case.label
            )
        });
        text.extend(sizes);
    }
    if !row.goals.is_empty() {
        let goals: Vec<Vec<String>> = row.goals.iter().map(goal).collect();
        let columns = ["TO REACH", ">TARGET", ">REACHED", ">MIN", ">MAX", ""];
        text.push('\n');
        text.push_str(&table(&columns, &goals));
    }
    text
}

fn goal(goal: &Judged) -> Vec<String> {
    vec![
        goal.goal.clone(),
        number(goal.target),
        number(goal.reached.median),
        number(goal.reached.min),
        number(goal.reached.max),
        if goal.is_reached { "reached" } else { "missed" }.to_owned(),
    ]
}

/// A number with as many digits as say something; a dash for none.
fn number(number: f64) -> String {
    if number.is_nan() {
        "-".to_owned()
    } else if number.abs() >= 1_000.0 {
        thousands(number)
    } else if number.abs() >= 100.0 {
        format!("{number:.0}")
    } else {
        format!("{number:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::disk::Disk;
    use crate::compare::rows;

    fn figures(value: f64) -> Figures {
        Figures {
            value,
            rate: value,
            p50_ms: 1.0,
            p99_ms: 2.0,
            max_ms: 3.0,
            server_cpu_us: 9.0,
            client_cpu_us: 4.0,
            written_bytes: f64::NAN,
            record_bytes: f64::NAN,
            stored_bytes: f64::NAN,
            disk: Disk {
                growing_us: 400,
                recycled_us: 110,
            },
        }
    }

    fn row(name: &str) -> Row {
        let mut rows = rows().into_iter();
        rows.find(|row| row.name == name).unwrap()
    }

    #[test]
    fn a_ratio_is_of_neighbours() {
        let samples = [[100.0, 10.0], [50.0, 5.0], [25.0, 5.0], [0.0, 0.0]];
        let samples = samples.map(|values| values.map(figures).to_vec()).to_vec();
        let compared = Compared::new(&row("grabs-64"), samples);
        let ratio = &compared.goals[0];
        // Each round twice as fast, although the machine was ten times slower in the second.
        assert_eq!((ratio.reached.min, ratio.reached.max), (2.0, 2.0));
        assert!(ratio.is_reached);
        let always = &compared.goals[1];
        assert!((always.reached.median - 3.0).abs() < 1e-9);
    }

    #[test]
    fn without_redis_the_rest_is_told() {
        let samples = vec![vec![figures(100.0)], vec![], vec![], vec![figures(200.0)]];
        let compared = Compared::new(&row("grabs-64"), samples);
        assert_eq!(compared.cases.len(), 2);
        let goals: Vec<_> = compared.goals.iter().map(|goal| &goal.goal[..]).collect();
        assert_eq!(goals, ["qiang, one node: server CPU µs a grab"]);
        let text = tables(&[compared]);
        assert!(
            text.contains("bare hyper") && text.contains("reached"),
            "{text}"
        );
    }

    #[test]
    fn a_goal_that_was_missed_is_told_so() {
        let compared = Compared::new(&row("batch"), vec![vec![figures(400_000.0)]]);
        assert!(!compared.goals[0].is_reached);
        assert!(tables(&[compared]).contains("missed"));
    }

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let told = [f64::NAN, 0.114, 12.345, 123.4, 12_345.6].map(number);
        assert_eq!(told, ["-", "0.11", "12.35", "123", "12,346"]);
    }
}
