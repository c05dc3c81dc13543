//! `qiang raft recover`: going on in one data centre after the other is lost.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::output::Output;
use super::super::values::Ask;
use super::super::{Client, ClusterView, Failure};
use super::listed;
use super::progress::{Progress, Stage};
use super::wait::wait;

/// How long recovery may take beyond any other answer: every step of it on every survivor.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(2);

/// What is left.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The data centre that is left
    #[arg(long, value_name = "NAME")]
    pub(super) dc: String,
    /// Also where acknowledged grabs are lost: those of a majority that is lost, or of a later life of the cluster that is lost, too
    #[arg(long)]
    pub(super) force: bool,
}

pub(super) async fn run(
    args: &RecoverArgs,
    ask: Ask,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let before = ClusterView::ask(client, true).await?;
    ask.confirm(&question(&before, args))?;
    let answer = client
        .post_waiting(
            "/v1/cluster/recover",
            &json!({"dc": args.dc, "force": args.force}),
            RECOVERY_TIMEOUT,
        )
        .await?;
    let recovered = answer.json()?;
    let progress = Progress::new("groups elect their leaders".to_owned(), "groups");
    wait(client, before.revision, progress, |view| Ok(decided(view))).await?;
    if out.is_json() {
        return out.json(answer.text()?);
    }
    out.text(&told(&recovered))
}

/// What is asked before: who is out, how they come back, and what may be lost with them.
pub(super) fn question(view: &ClusterView, RecoverArgs { dc, force }: &RecoverArgs) -> String {
    let lost = view.nodes.iter().filter(|node| node.dc != *dc);
    let lost: Vec<u64> = lost.map(|node| node.id).collect();
    let risk = if *force {
        " With --force grabs may be lost that were acknowledged."
    } else {
        ""
    };
    format!(
        "Go on with data centre {dc} alone? What is not in it (nodes {}) is out of the cluster for good: should such a \
         node return, it is fenced, and it can only be wiped and added under a new number.{risk}",
        listed(&lost)
    )
}

/// How many groups decide again.
pub(super) fn decided(view: &ClusterView) -> Stage {
    let decide = view.groups().filter(|group| group.has_quorum == Some(true));
    Stage::of(decide.count(), view.groups_count())
}

/// What recovery came to.
pub(super) fn told(recovered: &Value) -> String {
    let numbers = |member: &str| {
        let items = recovered[member].as_array();
        let numbers: Vec<u64> = items
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        listed(&numbers)
    };
    format!(
        "{} groups go on with nodes {}; nodes {} are out of the cluster. This is incarnation {}",
        recovered["groups"],
        numbers("survivors"),
        numbers("abandoned"),
        recovered["incarnation"]
    )
}
