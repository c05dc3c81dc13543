//! `/v1/cluster` and what is below it: the cluster as it is and as it should be, and what operators ask of it.
//!
//! A change is written to the cluster's document and answered with the document's revision; the nodes bring it about
//! afterwards, and `GET /v1/cluster` shows how far they are.
//!
//! Invariant: a refusal changes nothing and says why; a change that may have been made is never answered as refused.

mod bodies;
mod group_view;
mod route;
mod snapshot;
mod view;
#[cfg(test)]
mod view_tests;

use qiang_raft::placement::Move;
use qiang_raft::{ClusterChange, MetaAnswer, RecoverError};
use serde::Serialize;

pub(super) use route::ClusterRoute;

use self::bodies::{AddBody, DcBody, DrainBody, LeaderBody, RecoverBody, check_address, check_dc};
use self::view::{Heard, Known};
use super::Http;
use super::health::META;
use super::json::{Object, parse};
use super::orders::check_no_body;
use super::problem::Problem;
use super::query::{Query, parse_number};
use super::response::{Outcome, Reply};
use super::router::Asked;

/// What a change is answered with.
#[derive(Debug, Serialize)]
struct Changed {
    revision: u64,
}

/// What a rebalance would move.
#[derive(Debug, Serialize)]
struct MovesShape {
    revision: u64,
    moves: Vec<MoveShape>,
}

#[derive(Debug, Serialize)]
struct MoveShape {
    /// The shard's number, or `meta`.
    group: String,
    add: Vec<u64>,
    remove: Vec<u64>,
    lead: Option<LeadShape>,
}

/// From whom the leadership goes to whom.
#[derive(Debug, Serialize)]
struct LeadShape {
    from: Option<u64>,
    to: u64,
}

/// Answers a request below `/v1/cluster`: each of its routes has one method.
pub(super) async fn answer(http: &Http, route: ClusterRoute<'_>, asked: Asked<'_>) -> Outcome {
    let Asked { query, body, .. } = asked;
    match route {
        ClusterRoute::Whole => show(http, query).await,
        ClusterRoute::Nodes => add_node(http, query, body).await,
        ClusterRoute::Node(id) => remove_node(http, id, query).await,
        ClusterRoute::NodeDrain(id) => drain_node(http, id, query, body).await,
        ClusterRoute::PreferredDc => prefer_dc(http, query, body).await,
        ClusterRoute::ShardLeader(shard) => lead_shard(http, shard, query, body).await,
        ClusterRoute::Moves => moves(http, query),
        ClusterRoute::Rebalance => rebalance(http, query, body).await,
        ClusterRoute::Recover => recover(http, query, body).await,
        ClusterRoute::Snapshot => snapshot::take(http, query, body).await,
    }
}

/// Nodes and groups: as all nodes tell them, or, with `local=true`, as this one alone knows them.
async fn show(http: &Http, query: Option<&str>) -> Outcome {
    let mut query = Query::parse(query)?;
    let local = query.take_flag("local")?;
    query.finish()?;
    let node = http.service.node();
    let known = if local {
        Known::by_one(node.cluster(), node.report())
    } else {
        // Read first: a document of after the survey could name nodes that were not asked.
        let cluster = node.cluster();
        let survey = node.survey().await;
        let heard = survey.into_iter().map(|(id, (info, report))| {
            let heard = report.map_or(Heard::Silence, |report| Heard::Report(Box::new(report)));
            (id, (info, heard))
        });
        Known::by_all(cluster, node.node_id(), heard.collect())
    };
    Ok(Reply::json(200, &known.shape()))
}

async fn add_node(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let Object(body) = parse::<Object<AddBody>>(body)?;
    check_address(&body.address)?;
    check_dc(&body.dc)?;
    let learner = body.learner.unwrap_or(false);
    let node = http.service.node();
    let added = node
        .add_node(body.node_id.0, &body.address, &body.dc, learner)
        .await;
    changed(added)
}

async fn remove_node(http: &Http, id: &str, query: Option<&str>) -> Outcome {
    let node_id = parse_number("node_id", id, 1, u64::MAX)?;
    let mut query = Query::parse(query)?;
    let force = query.take_flag("force")?;
    query.finish()?;
    of_node(http, node_id, ClusterChange::Remove { node_id, force }).await
}

async fn drain_node(http: &Http, id: &str, query: Option<&str>, body: &[u8]) -> Outcome {
    let node_id = parse_number("node_id", id, 1, u64::MAX)?;
    Query::parse(query)?.finish()?;
    let Object(DrainBody { drain }) = parse(body)?;
    of_node(http, node_id, ClusterChange::Drain { node_id, drain }).await
}

async fn prefer_dc(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let Object(DcBody { dc }) = parse(body)?;
    check_dc(&dc)?;
    change(http, ClusterChange::PreferDc { dc }).await
}

async fn lead_shard(http: &Http, shard: &str, query: Option<&str>, body: &[u8]) -> Outcome {
    let shard = parse_number("shard", shard, 0, u64::from(u16::MAX))?;
    let shard = u16::try_from(shard).expect("the bound fits 16 bits");
    Query::parse(query)?.finish()?;
    let Object(LeaderBody { node_id }) = parse(body)?;
    let node_id = node_id.0;
    if shard >= qiang_engine::routing::SHARDS {
        return Err(Problem::new(
            404,
            "shard_not_found",
            "No such shard",
            format!("there is no shard {shard}"),
        ));
    }
    of_node(http, node_id, ClusterChange::Lead { shard, node_id }).await
}

fn moves(http: &Http, query: Option<&str>) -> Outcome {
    Query::parse(query)?.finish()?;
    let node = http.service.node();
    let shape = MovesShape {
        revision: node.cluster().revision,
        moves: node.planned_moves().into_iter().map(move_shape).collect(),
    };
    Ok(Reply::json(200, &shape))
}

fn move_shape((shard, planned): (Option<u16>, Move)) -> MoveShape {
    MoveShape {
        group: shard.map_or_else(|| META.to_owned(), |shard| shard.to_string()),
        add: planned.add,
        remove: planned.remove,
        lead: planned.lead.map(|(from, to)| LeadShape { from, to }),
    }
}

async fn rebalance(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    check_no_body(body)?;
    change(http, ClusterChange::Rebalance).await
}

async fn recover(http: &Http, query: Option<&str>, body: &[u8]) -> Outcome {
    Query::parse(query)?.finish()?;
    let Object(RecoverBody { dc, force }) = parse(body)?;
    check_dc(&dc)?;
    // A caller that leaves must not stop it halfway.
    let node = http.service.node().clone();
    let recovery = tokio::spawn(async move { node.recover(&dc, force.unwrap_or(false)).await });
    let recovered = recovery
        .await
        .map_err(|error| Problem::internal(format!("recovery ended early: {error}")))?;
    let recovered = recovered.map_err(|error| match &error {
        RecoverError::Refused(_) => Problem::new(
            409,
            "recovery_refused",
            "Recovery refused",
            error.to_string(),
        ),
        RecoverError::Interrupted(_) => Problem::new(
            503,
            "recovery_interrupted",
            "Recovery interrupted",
            error.to_string(),
        ),
    })?;
    Ok(Reply::json(200, &recovered))
}

/// A change that concerns one node; 404 where the cluster has none of this number.
async fn of_node(http: &Http, node_id: u64, wanted: ClusterChange) -> Outcome {
    let outcome = change(http, wanted).await;
    let is_known = || {
        let cluster = http.service.node().cluster();
        cluster.nodes.contains_key(&node_id)
    };
    outcome.map_err(|problem| {
        if problem.code() == REFUSED && !is_known() {
            Problem::new(
                404,
                "node_not_found",
                "No such node",
                format!("the cluster has no node {node_id}"),
            )
        } else {
            problem
        }
    })
}

async fn change(http: &Http, change: ClusterChange) -> Outcome {
    changed(http.service.node().change_cluster(change).await)
}

/// The code of what a rule of the cluster refuses.
const REFUSED: &str = "cluster_refused";

fn changed(answer: Result<u64, MetaAnswer>) -> Outcome {
    match answer {
        Ok(revision) | Err(MetaAnswer::Done(revision)) => {
            Ok(Reply::json(200, &Changed { revision }))
        }
        Err(MetaAnswer::Refused(why)) => {
            Err(Problem::new(409, REFUSED, "Refused by the cluster", why))
        }
        // Neither has done anything: nobody leads, or others changed the document all the while.
        Err(MetaAnswer::Elsewhere { .. } | MetaAnswer::Conflict(_)) => Err(Problem::unavailable()),
        Err(MetaAnswer::Unknown) => Err(Problem::outcome_unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn code(answer: MetaAnswer) -> (u16, &'static str) {
        let problem = changed(Err(answer)).unwrap_err();
        (problem.status(), problem.code())
    }

    #[test]
    fn what_was_not_done_is_told_apart_from_what_may_have_been() {
        let refused = MetaAnswer::Refused("node 3 is already a member".to_owned());
        let problem = changed(Err(refused)).unwrap_err();
        assert_eq!(problem.detail(), "node 3 is already a member");
        assert_eq!((problem.status(), problem.code()), (409, "cluster_refused"));
        assert_eq!(
            code(MetaAnswer::Elsewhere { leader: None }),
            (503, "unavailable")
        );
        assert_eq!(code(MetaAnswer::Conflict(3)), (503, "unavailable"));
        assert_eq!(code(MetaAnswer::Unknown), (504, "outcome_unknown"));
        let done = changed(Ok(7)).unwrap();
        let body: Value = serde_json::from_slice(&done.body).unwrap();
        assert_eq!((done.status, body), (200, json!({"revision": 7})));
    }

    #[test]
    fn a_move_says_which_group_changes_and_how() {
        let planned = Move {
            group: qiang_raft::placement::Group::Log(1),
            add: vec![5],
            remove: vec![1],
            lead: Some((Some(1), 2)),
        };
        let shown = serde_json::to_value(move_shape((Some(3), planned))).unwrap();
        let expected =
            json!({"group": "3", "add": [5], "remove": [1], "lead": {"from": 1, "to": 2}});
        assert_eq!(shown, expected);
    }
}
