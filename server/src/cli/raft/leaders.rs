//! `qiang raft transfer-leader`, `move-leaders` and `rebalance`: who leads what, and where replicas are.

use clap::Args;
use serde_json::{Value, json};

use super::super::GroupView;
use super::super::output::{Output, cell, table};
use super::super::{Client, ClusterView, Failure};
use super::progress::{Progress, Stage};
use super::wait::wait;
use super::{Waiting, done, revision};

/// Which shard is to be led by whom.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// The shard; those that share its log go along
    #[arg(value_name = "SHARD", value_parser = clap::value_parser!(u16).range(0..i64::from(qiang_engine::routing::SHARDS)))]
    shard: u16,
    /// The node that is to lead it; it must hold a replica
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
    #[command(flatten)]
    waiting: Waiting,
}

/// Where leaders are to be.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The data centre
    #[arg(long, value_name = "NAME")]
    dc: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Whether to do it.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RebalanceArgs {
    /// Only show what would be moved
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) async fn transfer(
    args: &TransferArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let (shard, node) = (args.shard, args.node);
    let path = format!("/v1/cluster/shards/{shard}/leader");
    let answer = client.post(&path, Some(&json!({"node_id": node}))).await?;
    let revision = revision(&answer)?;
    if args.waiting.no_wait {
        return done(out, revision, &format!("shard {shard} goes to node {node}"));
    }
    let progress = Progress::new(format!("shard {shard} goes to node {node}"), "shards");
    wait(client, revision, progress, |view| {
        transferred(view, shard, node)
    })
    .await?;
    done(out, revision, &format!("node {node} leads shard {shard}"))
}

/// Whether a shard is led as was asked.
pub(super) fn transferred(view: &ClusterView, shard: u16, node: u64) -> Result<Stage, Failure> {
    let group = view.shards.get(usize::from(shard));
    let group = group.ok_or_else(|| Failure::Server(format!("the node shows no shard {shard}")))?;
    if group.planned_leader != Some(node) {
        return Err(Failure::Refused(format!(
            "somebody else has changed the leader of shard {shard} meanwhile"
        )));
    }
    Ok(Stage::of(usize::from(group.leader == Some(node)), 1))
}

pub(super) async fn move_all(
    args: &MoveArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let dc = &args.dc;
    let before = ClusterView::ask(client, false).await?;
    // Asked for a second time, there is nothing to change, but perhaps still to wait for.
    let revision = if is_moved_on_paper(&before, dc) {
        before.revision
    } else {
        let answer = client
            .post("/v1/cluster/preferred-dc", Some(&json!({"dc": dc})))
            .await?;
        revision(&answer)?
    };
    if args.waiting.no_wait {
        return done(out, revision, &format!("leaders go to data centre {dc}"));
    }
    let progress = Progress::new(format!("leaders go to data centre {dc}"), "shards");
    wait(client, revision, progress, |view| Ok(moved(view))).await?;
    done(out, revision, &format!("data centre {dc} leads all shards"))
}

/// Whether the document has all leaders in `dc` already.
pub(super) fn is_moved_on_paper(view: &ClusterView, dc: &str) -> bool {
    let in_dc = |id: u64| view.node(id).is_some_and(|node| node.dc == dc);
    let planned = |group: &GroupView| group.planned_leader.is_some_and(in_dc);
    view.preferred_dc == dc && view.shards.iter().all(planned)
}

/// How many shards are led as they should be.
pub(super) fn moved(view: &ClusterView) -> Stage {
    let moved = view.shards.iter().filter(|shard| shard.is_led_as_planned());
    Stage::of(moved.count(), view.shards.len())
}

pub(super) async fn rebalance(
    args: RebalanceArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let planned = client.get("/v1/cluster/moves").await?;
    let told = planned.json()?;
    let moves = told["moves"].as_array().map_or(&[][..], Vec::as_slice);
    if args.dry_run || moves.is_empty() {
        if out.is_json() {
            return out.json(planned.text()?);
        }
        return out.text(&plan(moves));
    }
    let answer = client.post("/v1/cluster/rebalance", None).await?;
    let revision = revision(&answer)?;
    if args.waiting.no_wait {
        return done(out, revision, "replicas and leaders are being moved");
    }
    let progress = Progress::new("replicas and leaders move".to_owned(), "groups");
    wait(client, revision, progress, |view| {
        Ok(Stage::of(view.groups_as_planned(), view.groups_count()))
    })
    .await?;
    done(
        out,
        revision,
        &format!("{} groups were changed", moves.len()),
    )
}

/// What would be moved, as a table.
pub(super) fn plan(moves: &[Value]) -> String {
    if moves.is_empty() {
        return "everything is where it should be".to_owned();
    }
    let leader = |lead: &Value| match (&lead["from"], &lead["to"]) {
        (_, Value::Null) => "-".to_owned(),
        (from, to) => format!("{} -> {}", cell(from), cell(to)),
    };
    let row = |planned: &Value| {
        vec![
            cell(&planned["group"]),
            cell(&planned["add"]),
            cell(&planned["remove"]),
            leader(&planned["lead"]),
        ]
    };
    let rows: Vec<_> = moves.iter().map(row).collect();
    table(&[">GROUP", "TO NODES", "FROM NODES", "LEADER"], &rows)
}
