//! How a demo's nodes become one cluster: started, added, and waited for until every group is as it should be.
//!
//! Invariant: on data of an earlier demo nothing is added twice, and a node that recovery has left behind stays out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::DemoArgs;
use super::home::Home;
use super::process::{Begins, Place, Process};
use crate::cli::{ClusterView, Failure, GroupView};

/// How long the cluster may take until every group is as it should be. Nodes replay their logs first, if there are any.
const FORMED_WITHIN: Duration = Duration::from_mins(2);

/// Pause between two looks at a cluster that forms.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long nothing is said while the cluster forms.
const QUIET_FOR: Duration = Duration::from_secs(5);

/// Starts every node. Those without data can only begin when the first one tells them which cluster it is.
pub(super) async fn begin(
    args: &DemoArgs,
    nodes: &mut Vec<Process>,
    home: &Home,
) -> Result<(), Failure> {
    let place = |number| Place::of(number, args.nodes, args.base_port, home);
    let first = place(1);
    let join = Begins::With(first.peer);
    nodes.push(Process::start(first, Begins::Alone)?);
    let mut waited = false;
    for place in (2..=args.nodes).map(place) {
        if !waited && !place.data_dir.exists() {
            nodes[0].wait_alive().await?;
            waited = true;
        }
        nodes.push(Process::start(place, join)?);
    }
    for node in nodes {
        node.wait_alive().await?;
    }
    Ok(())
}

/// Adds the nodes that are not part of the cluster yet, and waits until every group has the voters and the leader that
/// it should have. Which of the nodes belongs to it: one that can be asked for everything.
pub(super) async fn form(nodes: &mut [Process]) -> Result<usize, Failure> {
    let deadline = Instant::now() + FORMED_WITHIN;
    let mut quiet_until = Instant::now() + QUIET_FOR;
    let mut added = Added::default();
    let ids: Vec<u64> = nodes.iter().map(|node| node.place.id).collect();
    loop {
        for node in nodes.iter_mut() {
            node.check_alive()?;
        }
        let seen = look(nodes).await;
        let state = match &seen {
            Some((serving, view)) => {
                added.add_missing(nodes, *serving, view).await?;
                if is_formed(&ids, view) {
                    report_left_behind(&ids, view);
                    return Ok(*serving);
                }
                format!(
                    "{} of {} groups are as they should be",
                    view.groups_as_planned(),
                    view.groups_count()
                )
            }
            None => "no node knows a leader of the cluster yet".to_owned(),
        };
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::Server(format!(
                "the cluster is not formed after {FORMED_WITHIN:?}: {state}{}",
                nodes[0].last_log()
            )));
        }
        if now >= quiet_until {
            quiet_until = now + QUIET_FOR;
            eprintln!("forming the cluster: {state}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The cluster as the first node sees it that reaches the leader of the meta group.
async fn look(nodes: &[Process]) -> Option<(usize, ClusterView)> {
    for (place, node) in nodes.iter().enumerate() {
        if let Ok(view) = ClusterView::ask(&node.client, false).await
            && view.meta.has_quorum == Some(true)
            && view.revision > 0
        {
            return Some((place, view));
        }
    }
    None
}

/// The nodes that this demo has added.
#[derive(Default)]
struct Added {
    surely: BTreeSet<u64>,
    /// The answer was lost: a refusal may mean that it was done.
    perhaps: BTreeSet<u64>,
}

impl Added {
    async fn add_missing(
        &mut self,
        nodes: &[Process],
        serving: usize,
        view: &ClusterView,
    ) -> Result<(), Failure> {
        let client = &nodes[serving].client;
        for place in nodes.iter().map(|node| &node.place) {
            let id = place.id;
            // A node that is asked may not have heard yet of what it has answered.
            let is_known = view.node(id).is_some() || view.removed.contains(&id);
            if is_known || self.surely.contains(&id) {
                continue;
            }
            let body = json!({"node_id": id, "address": place.peer.to_string(), "dc": place.dc});
            match client.post("/v1/cluster/nodes", Some(&body)).await {
                Ok(_) => {
                    self.surely.insert(id);
                }
                Err(Failure::Server(_)) => {
                    self.perhaps.insert(id);
                }
                Err(Failure::Refused(_)) if self.perhaps.contains(&id) => {
                    self.surely.insert(id);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// Whether all nodes of the demo are up and every group is as it should be. A group whose leader should be a node that
/// the demo does not have, because somebody added it, is content with another.
fn is_formed(nodes: &[u64], view: &ClusterView) -> bool {
    let is_up = |id: &u64| {
        let node = view.node(*id);
        view.removed.contains(id)
            || node.is_some_and(|node| matches!(node.state.as_str(), "ready" | "draining"))
    };
    let is_served = |group: &GroupView| {
        let elsewhere = group
            .planned_leader
            .is_some_and(|planned| !nodes.contains(&planned));
        group.votes_as_planned() && (group.is_led_as_planned() || elsewhere)
    };
    nodes.iter().all(is_up) && view.groups().all(is_served)
}

fn report_left_behind(nodes: &[u64], view: &ClusterView) {
    for id in nodes {
        if view.removed.contains(id) {
            eprintln!("node {id} was removed from this cluster before and stays out of it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn group(planned: Option<u64>, leader: u64) -> Value {
        json!({"leader": leader, "planned_leader": planned, "has_quorum": true, "voters": [1, 2],
               "learners": [], "changing": false, "planned_voters": [1, 2], "replicas": []})
    }

    /// A cluster of nodes 1 and 2 with one shard.
    fn told(shard: Value, second: &str) -> ClusterView {
        let node = |id: u64, state: &str| {
            json!({"id": id, "name": "n", "dc": "a", "state": state, "duty": "serves", "voter": true, "leads": 0,
                   "replicas": 1, "http_address": "n:1", "commit_index": 0, "lag": 0, "fault": null, "fenced": null})
        };
        let mut shard = shard;
        shard["shard"] = json!(0);
        let told = json!({
            "revision": 3, "preferred_dc": "a", "told_by": 1, "removed": [4],
            "nodes": [node(1, "ready"), node(2, second)], "shards": [shard], "meta": group(None, 1)
        });
        ClusterView::parse(told).expect("understood")
    }

    #[test]
    fn a_cluster_is_formed_when_its_nodes_are_up_and_lead_as_planned() {
        assert!(is_formed(&[1, 2], &told(group(Some(2), 2), "ready")));
        assert!(!is_formed(&[1, 2], &told(group(Some(2), 1), "ready")));
        assert!(!is_formed(&[1, 2], &told(group(Some(2), 2), "joining")));
        assert!(!is_formed(&[1, 2, 3], &told(group(Some(2), 2), "ready")));
        let mut lost = group(Some(2), 2);
        lost["has_quorum"] = json!(false);
        assert!(!is_formed(&[1, 2], &told(lost, "ready")));
        let mut changing = group(Some(2), 2);
        changing["changing"] = json!(true);
        assert!(!is_formed(&[1, 2], &told(changing, "ready")));
    }

    #[test]
    fn nodes_that_were_removed_or_added_by_others_are_not_waited_for() {
        assert!(is_formed(&[1, 2, 4], &told(group(Some(2), 2), "ready")));
        assert!(is_formed(&[1, 2], &told(group(Some(5), 1), "ready")));
    }
}
