//! A node of one voter, through the crate's public face: it decides, it restarts, it remembers.

use std::path::Path;
use std::time::{Duration, Instant};

use qiang_engine::command::{Grab, Granted};
use qiang_engine::order::{Item, Items};
use qiang_engine::promotion::{Channel, Terms};
use qiang_engine::routing::{Sharing, shard_of};
use qiang_engine::{Answer, Command, OrderId, Pin, PromotionId, Refusal};
use qiang_raft::{Begin, Node, NodeInfo, NodeOptions, Policy, StartError, Timing, World};

fn options(dir: &Path, bootstrap: bool) -> NodeOptions {
    NodeOptions {
        node_id: 1,
        info: NodeInfo::default(),
        data_dir: dir.to_owned(),
        begin: if bootstrap {
            Begin::Bootstrap
        } else {
            Begin::Existing
        },
        sharing: Sharing::over(2).expect("an even share"),
        snapshot_entries: 1_000,
        entries_kept: 100,
        timing: Timing::default(),
        version: String::new(),
        storage: qiang_storage::Options {
            wal_warm_bytes: 0,
            ..qiang_storage::Options::default()
        },
    }
}

fn policy() -> Policy {
    Policy {
        default_rate: None,
        rate_percent: 100,
        order_retention_ms: u64::MAX / 2,
        flow_retention_ms: u64::MAX / 2,
    }
}

async fn started(dir: &Path, bootstrap: bool) -> Node {
    let node = Node::start(options(dir, bootstrap), policy(), World::default())
        .await
        .expect("the node starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.group_statuses().iter().all(|group| group.deciding) {
        assert!(
            Instant::now() < deadline,
            "not every group decides: {:#?}",
            node.group_statuses()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(20)
}

fn promotion(id: &str) -> PromotionId {
    PromotionId::new(id).expect("an id")
}

async fn create(node: &Node, id: &str, quantity: u64) {
    let promotion_id = promotion(id);
    let shard = shard_of(&promotion_id);
    let create = Command::CreatePromotion {
        promotion_id,
        quantity,
        terms: Box::new(Terms::default()),
    };
    let answer = node.ask(shard, create, deadline()).await;
    assert!(
        matches!(answer, Ok(Answer::Promotion { created: true, .. })),
        "{answer:?}"
    );
}

async fn grab(node: &Node, order: &str, id: &str) -> Result<Granted, Refusal> {
    let item = Item {
        promotion_id: promotion(id),
        quantity: 1,
    };
    let grab = Grab {
        order_id: OrderId::new(order).expect("an id"),
        pin: Pin::new("alice").expect("an id"),
        ip: [203, 0, 113, 9].into(),
        channel: Channel::App,
        items: Items::from_iter([item]),
    };
    let shard = shard_of(&promotion(id));
    match node.ask(shard, Command::Grab(grab), deadline()).await? {
        Answer::Granted(granted) => Ok(granted),
        other => panic!("a grab was answered {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_grab_survives_a_restart_and_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let node = started(dir.path(), true).await;
    create(&node, "A", 2).await;
    let first = grab(&node, "o-1", "A").await.unwrap();
    assert_eq!((first.replayed, first.items[0].remaining), (false, 1));
    node.stop().await;
    drop(node);

    let node = started(dir.path(), false).await;
    let again = grab(&node, "o-1", "A").await.unwrap();
    assert_eq!(
        again,
        Granted {
            replayed: true,
            ..first
        }
    );
    assert_eq!(grab(&node, "o-2", "A").await.unwrap().items[0].remaining, 0);
    assert!(matches!(
        grab(&node, "o-3", "A").await,
        Err(Refusal::Rejected(_))
    ));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_is_not_begun_without_being_told() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Node::start(options(dir.path(), false), policy(), World::default())
        .await
        .err();
    assert!(
        matches!(refused, Some(StartError::NotBootstrapped { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_grabs_at_once_never_exceed_what_was_offered() {
    let dir = tempfile::tempdir().unwrap();
    let node = started(dir.path(), true).await;
    create(&node, "A", 500).await;
    let orders: Vec<String> = (0..2_000).map(|number| format!("o-{number}")).collect();
    let grabs = orders.iter().map(|order| grab(&node, order, "A"));
    let answers = futures::future::join_all(grabs).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 500);
    let rejected = |answer: &&Result<Granted, Refusal>| matches!(answer, Err(Refusal::Rejected(_)));
    assert_eq!(answers.iter().filter(rejected).count(), 1_500);
    node.stop().await;
}
