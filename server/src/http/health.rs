//! What operators' tools look at: `/livez`, `/readyz` and `/metrics`.
//!
//! Invariant: a node says that it is ready only where it would serve a grab of any of its shards.

use std::collections::BTreeSet;

use qiang_raft::{GroupStatus, NodeReport};

use super::Http;
use super::problem::{Problem, ShardProblem};
use super::response::{Media, Outcome, Reply};

/// What the group of the cluster's own state is called.
pub(super) const META: &str = "meta";

/// The process answers.
pub(super) fn livez() -> Reply {
    Reply::new(200, Media::Text, &b"ok\n"[..])
}

/// The node should get traffic, or not and why.
pub(super) fn readyz(http: &Http) -> Outcome {
    let status = http.service.status();
    let cluster = http.service.node().cluster();
    check_not_removed(&cluster.removed, status.node_id)?;
    readiness(&status)?;
    Ok(Reply::new(200, Media::Text, &b"ready\n"[..]))
}

/// The page that Prometheus scrapes.
pub(super) fn metrics(http: &Http) -> Reply {
    Reply::new(200, Media::OpenMetrics, http.metrics.page())
}

/// Whether a node should get traffic.
///
/// # Errors
/// 503 saying why not, and which of its groups do not serve.
pub(super) fn readiness(status: &NodeReport) -> Result<(), Problem> {
    if let Some(fault) = &status.fault {
        return Err(Problem::not_ready(
            format!("the store takes no more writes: {fault}"),
            Vec::new(),
        ));
    }
    if let Some(fenced) = &status.fenced {
        return Err(Problem::not_ready(
            format!("this node is out of the cluster: {fenced}"),
            Vec::new(),
        ));
    }
    let hosted = || status.groups.iter().filter(|group| group.hosted);
    if !hosted().any(|group| group.group == META) {
        return Err(Problem::not_ready(
            "this node waits to be added to its cluster, with `qiang raft add-node`".to_owned(),
            Vec::new(),
        ));
    }
    let shards: Vec<ShardProblem> = hosted()
        .filter_map(|group| shard_problem(status.node_id, group))
        .collect();
    if let Some(first) = shards.first() {
        let count = shards.len();
        let detail = format!(
            "{count} of {} groups do not serve; {}: {}",
            hosted().count(),
            first.shard,
            first.reason
        );
        return Err(Problem::not_ready(detail, shards));
    }
    if status.draining {
        return Err(Problem::not_ready(
            "draining: the node is about to stop".to_owned(),
            Vec::new(),
        ));
    }
    Ok(())
}

/// A node that was removed goes on running, and nobody tells it anything any more.
fn check_not_removed(removed: &BTreeSet<u64>, node_id: u64) -> Result<(), Problem> {
    if removed.contains(&node_id) {
        let detail = format!("node {node_id} was removed from the cluster: stop it");
        return Err(Problem::not_ready(detail, Vec::new()));
    }
    Ok(())
}

fn shard_problem(node_id: u64, group: &GroupStatus) -> Option<ShardProblem> {
    let reason = match &group.stopped {
        Some(stopped) => format!("stopped: {stopped}"),
        None if !group.has_quorum => "no quorum".to_owned(),
        None if group.leader == Some(node_id) && !group.deciding => {
            "its new leader has not applied everything yet".to_owned()
        }
        None => return None,
    };
    Some(ShardProblem {
        shard: group.group.clone(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn group(name: &str) -> GroupStatus {
        GroupStatus {
            group: name.to_owned(),
            hosted: true,
            voters: vec![1],
            learners: Vec::new(),
            leader: Some(1),
            term: 2,
            last_index: 9,
            committed_index: 8,
            changing: false,
            applied_index: 7,
            has_quorum: true,
            deciding: true,
            pending_entries: 0,
            mailbox_depth: 0,
            orders: 3,
            digest: None,
            leads: true,
            quiescent: false,
            stopped: None,
        }
    }

    fn status() -> NodeReport {
        NodeReport {
            node_id: 1,
            info: qiang_raft::NodeInfo {
                name: "node-1".to_owned(),
                dc: "a".to_owned(),
                http_address: "127.0.0.1:7400".to_owned(),
                peer_address: "127.0.0.1:7500".to_owned(),
            },
            cluster_id: "c".to_owned(),
            incarnation: 1,
            version: "0.1.0".to_owned(),
            fenced: None,
            started_at: 1000,
            draining: false,
            fault: None,
            groups: vec![group("0"), group("1"), group(META)],
        }
    }

    /// The problem document of a node that is not ready.
    fn unready(status: &NodeReport) -> Value {
        let mut out = Vec::new();
        readiness(status).unwrap_err().write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_node_is_ready_when_all_its_groups_serve() {
        assert_eq!(readiness(&status()), Ok(()));
        let mut follower = status();
        follower.groups[0].leader = Some(2);
        follower.groups[0].deciding = false;
        assert_eq!(readiness(&follower), Ok(()));
    }

    #[test]
    fn a_node_that_was_removed_is_not_ready() {
        assert_eq!(check_not_removed(&[2, 3].into(), 1), Ok(()));
        let problem = check_not_removed(&[2, 3].into(), 3).unwrap_err();
        assert_eq!((problem.status(), problem.code()), (503, "not_ready"));
    }

    #[test]
    fn a_node_outside_the_cluster_says_whether_it_waits_or_was_left_behind() {
        let mut waiting = status();
        waiting.groups[2].hosted = false;
        let told = unready(&waiting)["detail"].to_string();
        assert!(told.contains("add-node"), "{told}");
        let mut fenced = status();
        fenced.fenced = Some("incarnation 2 has begun".to_owned());
        let told = unready(&fenced)["detail"].to_string();
        assert!(told.contains("out of the cluster"), "{told}");
    }

    #[test]
    fn a_node_that_is_not_ready_says_why_and_where() {
        let mut draining = status();
        draining.draining = true;
        assert!(
            unready(&draining)["detail"]
                .to_string()
                .contains("draining")
        );

        let mut faulted = status();
        faulted.fault = Some("no space left on device".to_owned());
        assert!(unready(&faulted)["detail"].to_string().contains("no space"));

        let mut lonely = status();
        lonely.groups[1].has_quorum = false;
        lonely.groups[0].deciding = false;
        lonely.groups[2].stopped = Some("digest differs".to_owned());
        let problem = unready(&lonely);
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&json!(503), &json!("not_ready"))
        );
        let reasons = json!([
            {"shard": "0", "reason": "its new leader has not applied everything yet"},
            {"shard": "1", "reason": "no quorum"},
            {"shard": "meta", "reason": "stopped: digest differs"},
        ]);
        assert_eq!(problem["shards"], reasons);
    }
}
