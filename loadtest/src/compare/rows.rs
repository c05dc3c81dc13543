//! What is compared: the rows of the comparison, who runs in each, and what is to be reached.
//!
//! Invariant: everybody in a row is asked for the same, by the same generator, one after the other.

use super::contender::Contender;
use super::figures::Figures;
use super::redis::{Persistence, Settings};
use crate::client::RedisScript;
use crate::workload::Name;

/// What is measured of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Answers a second in a closed loop.
    Rate,
    /// p99 in milliseconds in an open loop at half of the rate that a closed loop just reached.
    HalfOfSaturation,
    /// Resident bytes an order, of a number of orders that are granted after as many others.
    Memory,
    /// Bytes written to the disk for a grab.
    Written,
}

impl Method {
    /// The unit of the figure.
    pub fn unit(self) -> &'static str {
        match self {
            Method::Rate => "answers/s",
            Method::HalfOfSaturation => "p99 ms",
            Method::Memory => "bytes/order",
            Method::Written => "bytes/grab",
        }
    }
}

/// One contender at one load.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it is called.
    pub label: &'static str,
    /// Who.
    pub contender: Contender,
    /// What is asked for.
    pub workload: Name,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each.
    pub pipeline: usize,
}

/// What is to be reached, of the case with this number.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// So many times the figure of another case.
    Times {
        /// The case.
        of: usize,
        /// The other one.
        to: usize,
        /// At least.
        least: f64,
    },
    /// A figure of at least so much.
    Least {
        /// The case.
        of: usize,
        /// At least.
        least: f64,
    },
    /// Something else at most so much.
    Most {
        /// The case.
        of: usize,
        /// What, in words.
        what: &'static str,
        /// The figure.
        figure: fn(&Figures) -> f64,
        /// At most, and that in words.
        most: fn(&Figures) -> f64,
    },
}

/// A row of the comparison.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// How it is measured.
    pub method: Method,
    /// Who runs.
    pub cases: Vec<Case>,
    /// What is to be reached.
    pub goals: Vec<Goal>,
}

const fn redis(script: RedisScript, persistence: Persistence, replicas: u16) -> Contender {
    Contender::Redis(Settings {
        script,
        persistence,
        replicas,
    })
}

const MEMORY_WHOLE: Contender = redis(RedisScript::Whole, Persistence::Memory, 0);
const MEMORY_FEWEST: Contender = redis(RedisScript::Fewest, Persistence::Memory, 0);
const ALWAYS_FEWEST: Contender = redis(RedisScript::Fewest, Persistence::Always, 0);
const REPLICATED_FEWEST: Contender = redis(RedisScript::Fewest, Persistence::Always, 3);

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut rows = one_node();
    rows.extend(four_nodes());
    rows.extend(sold_out());
    rows.extend(costs());
    rows
}

fn case(label: &'static str, contender: Contender, workload: Name, connections: usize) -> Case {
    Case {
        label,
        contender,
        workload,
        connections,
        pipeline: 1,
    }
}

fn one_node() -> Vec<Row> {
    let grabs = |workload, connections| {
        vec![
            case("qiang, one node", Contender::One, workload, connections),
            case(
                "Redis q.lua, in memory",
                MEMORY_WHOLE,
                workload,
                connections,
            ),
            case(
                "Redis q_min.lua, always",
                ALWAYS_FEWEST,
                workload,
                connections,
            ),
            case("bare hyper", Contender::Bare, workload, connections),
        ]
    };
    let memory = |least| Goal::Times {
        of: 0,
        to: 1,
        least,
    };
    let always = Goal::Times {
        of: 0,
        to: 2,
        least: 2.0,
    };
    let batch = case("qiang, one node", Contender::One, Name::Batch, 8);
    vec![
        Row {
            name: "grabs-64",
            title: "Grabs of 1,000 promotions over 64 connections, one per request, one node",
            method: Method::Rate,
            cases: grabs(Name::Spread, 64),
            goals: vec![memory(1.5), always, cpu("server CPU µs a grab", 10)],
        },
        Row {
            name: "hot-64",
            title: "Grabs of one promotion over 64 connections, one per request, one node",
            method: Method::Rate,
            cases: grabs(Name::Hot, 64),
            goals: vec![memory(1.5), always],
        },
        Row {
            name: "grabs-1024",
            title: "Grabs of 1,000 promotions over 1,024 connections, one per request, one node",
            method: Method::Rate,
            cases: grabs(Name::Spread, 1_024),
            goals: vec![memory(2.0)],
        },
        Row {
            name: "batch",
            title: "Batches of 1,000 grabs over 8 connections, one node",
            method: Method::Rate,
            cases: vec![batch],
            goals: vec![
                Goal::Least {
                    of: 0,
                    least: 500_000.0,
                },
                cpu("server CPU µs a grab", 1),
            ],
        },
    ]
}

fn cpu(what: &'static str, most_us: u8) -> Goal {
    let most: fn(&Figures) -> f64 = if most_us == 1 { |_| 1.0 } else { |_| 10.0 };
    Goal::Most {
        of: 0,
        what,
        figure: |figures| figures.server_cpu_us,
        most,
    }
}

fn four_nodes() -> Vec<Row> {
    let row = |name, title, connections, least| Row {
        name,
        title,
        method: Method::Rate,
        cases: vec![
            case(
                "qiang, four nodes",
                Contender::Four { asked: 4 },
                Name::Spread,
                connections,
            ),
            case(
                "Redis q_min.lua, 1 + 3, always, WAIT 2",
                REPLICATED_FEWEST,
                Name::Spread,
                connections,
            ),
            // As Redis is: its clients know where its master is.
            case(
                "qiang, four nodes, all connections to the first",
                Contender::Four { asked: 1 },
                Name::Spread,
                connections,
            ),
        ],
        goals: vec![Goal::Times {
            of: 0,
            to: 1,
            least,
        }],
    };
    vec![
        row(
            "cluster-64",
            "Grabs of 1,000 promotions over 64 connections, four nodes on this machine",
            64,
            3.0,
        ),
        row(
            "cluster-1024",
            "Grabs of 1,000 promotions over 1,024 connections, four nodes on this machine",
            1_024,
            4.0,
        ),
    ]
}

fn sold_out() -> Vec<Row> {
    let cases = |pipeline| {
        let with = |label, contender| Case {
            pipeline,
            ..case(label, contender, Name::Stampede, 64)
        };
        vec![
            with("qiang, one node", Contender::One),
            with("bare hyper", Contender::Bare),
            with("Redis q_min.lua, in memory", MEMORY_FEWEST),
        ]
    };
    vec![
        Row {
            name: "sold-out-64",
            title: "Stampede on 100 units over 64 connections, one per request, one node",
            method: Method::Rate,
            cases: cases(1),
            goals: vec![Goal::Times {
                of: 0,
                to: 1,
                least: 0.8,
            }],
        },
        Row {
            name: "sold-out-x16",
            title: "Stampede on 100 units over 64 connections, 16 pipelined, one node",
            method: Method::Rate,
            cases: cases(16),
            goals: vec![Goal::Least {
                of: 0,
                least: 1_000_000.0,
            }],
        },
    ]
}

fn costs() -> Vec<Row> {
    let pipelined = |label, contender, workload| Case {
        pipeline: 16,
        ..case(label, contender, workload, 64)
    };
    vec![
        Row {
            name: "p99",
            title: "p99 at half of saturation, open loop, 64 connections, one node",
            method: Method::HalfOfSaturation,
            cases: vec![case("qiang, one node", Contender::One, Name::Spread, 64)],
            goals: vec![
                Goal::Most {
                    of: 0,
                    what: "p99 ms (at most 5 × fdatasync to a recycled file + 1 ms)",
                    figure: |figures| figures.p99_ms,
                    most: |figures| 5.0 * figures.disk.recycled_us as f64 / 1000.0 + 1.0,
                },
                Goal::Most {
                    of: 0,
                    what: "longest ms",
                    figure: |figures| figures.max_ms,
                    most: |_| 50.0,
                },
            ],
        },
        Row {
            name: "memory",
            title: "Resident memory of each held order, after as many others",
            method: Method::Memory,
            cases: vec![
                pipelined("qiang, one node", Contender::One, Name::Spread),
                pipelined("Redis q.lua, in memory", MEMORY_WHOLE, Name::Spread),
                pipelined("Redis q_min.lua, in memory", MEMORY_FEWEST, Name::Spread),
            ],
            goals: vec![Goal::Most {
                of: 0,
                what: "bytes of RSS an order",
                figure: |figures| figures.value,
                most: |_| 150.0,
            }],
        },
        written(
            "written-64",
            "Written to the disk for each grab, over 64 connections, 16 pipelined",
            64,
            16,
        ),
        written(
            "written-1024",
            "Written to the disk for each grab, over 1,024 connections, one per request",
            1_024,
            1,
        ),
    ]
}

fn written(name: &'static str, title: &'static str, connections: usize, pipeline: usize) -> Row {
    let with = |label, contender| Case {
        pipeline,
        ..case(label, contender, Name::Spread, connections)
    };
    Row {
        name,
        title,
        method: Method::Written,
        cases: vec![
            with("qiang, one node", Contender::One),
            with("Redis q_min.lua, always", ALWAYS_FEWEST),
        ],
        goals: vec![Goal::Most {
            of: 0,
            what: "bytes a grab (at most 1.5 × its record + 32)",
            figure: |figures| figures.value,
            most: |figures| 1.5 * figures.record_bytes + 32.0,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_about_cases_that_are_there() {
        for row in rows() {
            for goal in &row.goals {
                let cases = match *goal {
                    Goal::Times { of, to, .. } => [of, to],
                    Goal::Least { of, .. } | Goal::Most { of, .. } => [of, of],
                };
                assert!(
                    cases.iter().all(|case| *case < row.cases.len()),
                    "{}",
                    row.name
                );
                assert_eq!(cases[0], 0, "goals are qiang's, the first case");
            }
        }
    }

    #[test]
    fn rows_have_different_names() {
        let mut names: Vec<_> = rows().iter().map(|row| row.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
