//! `qiang demo`: a cluster with each node a process of its own and sample promotions, for trying things.
//!
//! Invariant: whatever becomes of the demo, no node that it started outlives it. In order it stops them itself; killed,
//! the system does.

mod formation;
mod home;
mod process;
mod samples;
mod signals;
mod told;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use self::formation::{begin, form};
use self::home::Home;
use self::process::{Process, Told};
use self::samples::create_samples;
use self::signals::StopSignals;
use crate::cli::{Failure, Output};

/// Nodes of a demo at most: each is a process with threads and memory of its own on this one machine.
const NODES_MAX: u16 = 16;

/// A node's peer port is its public port and this.
const PEER_PORT_OFFSET: u16 = 100;

const _: () = assert!(
    NODES_MAX < PEER_PORT_OFFSET,
    "public ports end before the peers' begin"
);

/// Pause between two looks at the nodes of a demo that runs.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// What to start, and where.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  qiang demo\n  qiang demo --nodes 1\n  qiang demo --base-port 8400 --data-dir demo-data -o json\n\n\
    The first half of the nodes stands in data centre a, the rest in b. A node that dies, killed or not, does not end\n\
    the demo as long as others are left. Ctrl-C stops everything. Without --data-dir the data is temporary and removed\n\
    at the end."
)]
pub(crate) struct DemoArgs {
    /// How many nodes
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    nodes: u16,
    /// Keep the data here and use it again next time; otherwise it is temporary
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Public port of the first node, the others' follow; peer ports are 100 above
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    base_port: u16,
}

/// What `-o json` prints when everything is ready.
#[derive(Serialize)]
struct Ready {
    nodes: Vec<Told>,
}

/// Runs the demo until it is told to stop, or no node is left.
pub(crate) async fn run(args: &DemoArgs, out: &mut Output) -> Result<(), Failure> {
    check(args)?;
    // Before the first child, so that no signal finds the demo without its hands free.
    let mut stop = StopSignals::listen()?;
    let home = Home::open(args.data_dir.as_deref(), args.nodes)?;
    let mut nodes = Vec::new();
    let outcome = tokio::select! {
        outcome = show_and_watch(args, &mut nodes, &home, out) => outcome,
        () = stop.received() => Ok(()),
    };
    if outcome.is_ok() {
        eprintln!("stopping");
    }
    Process::stop_all(&mut nodes).await;
    outcome
}

fn check(args: &DemoArgs) -> Result<(), Failure> {
    if args.nodes == 0 || args.nodes > NODES_MAX {
        return Err(Failure::Usage(format!(
            "--nodes {}: a demo has 1 to {NODES_MAX}",
            args.nodes
        )));
    }
    // Port 0 would be any port, and the peer port counts from it.
    if args.base_port == 0
        || args
            .base_port
            .checked_add(PEER_PORT_OFFSET + args.nodes)
            .is_none()
    {
        return Err(Failure::Usage(format!(
            "--base-port {}: there is no room for the ports after it",
            args.base_port
        )));
    }
    Ok(())
}

async fn show_and_watch(
    args: &DemoArgs,
    nodes: &mut Vec<Process>,
    home: &Home,
    out: &mut Output,
) -> Result<(), Failure> {
    begin(args, nodes, home).await?;
    let serving = form(nodes).await?;
    create_samples(&nodes[serving].client).await?;
    if out.is_json() {
        let ready = Ready {
            nodes: nodes.iter().map(Process::told).collect(),
        };
        let ready =
            serde_json::to_string(&ready).expect("texts and numbers always have a JSON form");
        out.json_line(&ready)?;
    } else {
        out.text(&told::whole(nodes, home, &told::Shell::here()))?;
    }
    watch(nodes).await
}

/// Ends when no node is left; says so of each that goes.
async fn watch(nodes: &mut [Process]) -> Result<(), Failure> {
    if let [only] = nodes {
        loop {
            only.check_alive()?;
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
    let mut gone = vec![false; nodes.len()];
    loop {
        for (node, gone) in nodes.iter_mut().zip(&mut gone) {
            if *gone {
                continue;
            }
            if let Some(status) = node.exited()? {
                *gone = true;
                eprintln!("{}", told::of_a_death(node, status, &told::Shell::here()));
            }
        }
        if gone.iter().all(|gone| *gone) {
            return Err(Failure::Server(
                "no node that the demo started is left".to_owned(),
            ));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_ports_that_cannot_be_are_refused() {
        let args = |nodes, base_port| DemoArgs {
            nodes,
            data_dir: None,
            base_port,
        };
        for right in [args(1, 7400), args(4, 7400), args(16, 65_000)] {
            assert!(check(&right).is_ok(), "{right:?}");
        }
        for wrong in [args(0, 7400), args(17, 7400), args(1, 0), args(4, 65_432)] {
            assert_eq!(check(&wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
