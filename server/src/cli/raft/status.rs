//! `qiang raft status`: every node of the cluster on a line, whether it answers or not.

use clap::Args;
use serde_json::Value;

use super::super::output::{Output, printable, table};
use super::super::{Client, ClusterView, Failure, GroupView};

/// Whom to ask.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct StatusArgs {
    /// Only what the node asked knows itself, which may be old; no other node is asked
    #[arg(long)]
    stale: bool,
}

const COLUMNS: [&str; 9] = [
    ">ID",
    "NAME",
    "DC",
    "ADDRESS",
    "STATE",
    "VOTER",
    ">SHARDS-LED",
    ">COMMIT",
    ">LAG",
];

pub(super) async fn run(
    args: StatusArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let path = if args.stale {
        "/v1/cluster?local=true"
    } else {
        "/v1/cluster"
    };
    let answer = client.get(path).await?;
    let told: Value = answer.json()?;
    let view = ClusterView::parse(told)?;
    if out.is_json() {
        out.json(answer.text()?)?;
    } else {
        out.text(&rows(&view))?;
        for line in troubles(&view) {
            eprintln!("{line}");
        }
        if args.stale {
            eprintln!("this is what node {} knows by itself", view.told_by);
        }
    }
    check_quorum(&view)
}

/// The table.
pub(super) fn rows(view: &ClusterView) -> String {
    let number =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let row = |node: &super::super::cluster_view::NodeView| {
        let voter = match (node.voter, node.duty.as_deref()) {
            (true, _) => "yes",
            (false, Some("learner")) => "learner",
            (false, _) => "no",
        };
        vec![
            node.id.to_string(),
            printable(&node.name),
            printable(&node.dc),
            printable(&node.http_address),
            printable(&node.state),
            voter.to_owned(),
            node.leads.to_string(),
            number(node.commit_index),
            number(node.lag),
        ]
    };
    let rows: Vec<_> = view.nodes.iter().map(row).collect();
    table(&COLUMNS, &rows)
}

/// Why nodes are faulted or fenced, a line for each.
pub(super) fn troubles(view: &ClusterView) -> Vec<String> {
    let reasons = view.nodes.iter().filter_map(|node| {
        let why = node.fenced.as_ref().or(node.fault.as_ref())?;
        Some(format!("node {}: {}", node.id, printable(why)))
    });
    reasons.collect()
}

/// Whether every group decides, as far as the nodes asked can tell.
pub(super) fn check_quorum(view: &ClusterView) -> Result<(), Failure> {
    let lost = view
        .groups()
        .filter(|group| group.has_quorum == Some(false));
    let lost: Vec<String> = lost.map(GroupView::name).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!(
        "{} of {} groups have no leader with a quorum: {}",
        lost.len(),
        view.groups_count(),
        lost.join(", ")
    )))
}
