//! What a group that is stopped has still to say.

use bytes::Bytes;
use qiang_storage::GroupLog;
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::mailbox::Mailbox;
use crate::peer::{Credentials, Tcp};
use crate::testing::{empty_store, log_id};
use crate::types::Payload;

const GROUP: GroupId = GroupId(3);

/// More entries than find room in a mailbox that nobody looks into.
const ENTRIES: u64 = 1_200;

/// Long enough for whatever waits for nothing.
const A_WHILE: Duration = Duration::from_millis(200);

fn groups() -> (TempDir, Arc<Groups>) {
    let (dir, store) = empty_store();
    let group = |log| {
        let (mailbox, timing) = (Mailbox::new(), Timing::default());
        Arc::new(ShardGroup::new(log, Sharing::NONE, mailbox, timing))
    };
    let shards = (0..Sharing::NONE.logs()).map(group).collect();
    let identity = store.identity();
    let credentials = Credentials::new(&identity.cluster_id, identity.incarnation, 1);
    let peers = Peers::new(credentials, Arc::new(Tcp));
    let (config, timing) = (Arc::new(Config::default()), Timing::default());
    let groups = Groups::new(1, NodeInfo::default(), store, peers, shards, config, timing);
    (dir, Arc::new(groups))
}

/// Starts the group, led by this node alone, with an entry in its log.
async fn lead(groups: &Groups) -> GroupLog {
    let started = groups.start(GROUP).await;
    started.expect("a group of nothing starts");
    let led = groups.lead_alone(GROUP, true).await;
    led.expect("it leads itself");
    let raft = groups.raft(GROUP).expect("it runs");
    let log = groups.store.log(GROUP).expect("its log");
    while !raft.is_leader() || log.last_index().is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    log
}

#[tokio::test]
async fn a_group_has_said_everything_when_it_is_to_begin_anew() {
    let (_dir, groups) = groups();
    lead(&groups).await;
    let group = groups.shards[usize::from(GROUP.0)].clone();
    let raft = group.raft().expect("it runs");
    for _ in 0..ENTRIES {
        let raft = raft.clone();
        let entry = Payload(Bytes::from_static(b"entry"));
        tokio::spawn(async move { raft.client_write(entry).await });
    }
    let committed = || {
        let committed = group.look(|metrics| metrics.local_committed);
        let committed = committed.flatten().map(|log_id| log_id.index);
        committed >= Some(ENTRIES)
    };
    while !committed() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(A_WHILE).await;
    drop(raft);
    let stopping = groups.clone();
    let asked = Instant::now();
    let stopping = tokio::spawn(async move { stopping.give_up(GROUP, asked).await });
    sleep(A_WHILE).await;
    let mut heard = 0;
    loop {
        match group.mailbox.take_log() {
            Some(LogEvent::Reset) => break,
            Some(_) => heard += 1,
            None => sleep(Duration::from_millis(1)).await,
        }
    }
    assert!(heard >= ENTRIES, "{heard} of {ENTRIES}, and the first ones");
    let stopped = stopping.await.expect("it does not panic");
    assert!(stopped.expect("it is cleared"));
    sleep(A_WHILE).await;
    assert!(
        group.mailbox.take_log().is_none(),
        "nothing of its former life comes after its end"
    );
}

#[tokio::test]
async fn a_group_that_has_left_is_remembered_and_one_that_came_back_is_kept() {
    let (_dir, groups) = groups();
    let log = lead(&groups).await;
    let asked = Instant::now();
    groups.note_heard(GROUP);
    let given_up = groups.give_up(GROUP, asked).await;
    assert!(
        !given_up.expect("it goes on"),
        "its leader has spoken since"
    );
    assert!(groups.raft(GROUP).is_some() && !log.is_empty());

    sleep(Duration::from_millis(1)).await;
    let given_up = groups.give_up(GROUP, Instant::now()).await;
    assert!(given_up.expect("it is cleared"));
    assert!(groups.raft(GROUP).is_none() && log.is_empty());
    let tombstone = LogStore::new(log.clone()).tombstone();
    let tombstone = tombstone.expect("it is read");
    assert!(tombstone.is_some());
    for (candidate, outlives) in [(None, true), (tombstone, false)] {
        let told = groups.outlives(GROUP, candidate);
        assert_eq!(told.expect("it is read"), outlives, "{candidate:?}");
    }

    // It comes back, has nothing yet, and leaves again.
    groups.called(GROUP).await.expect("it is begun anew");
    sleep(Duration::from_millis(1)).await;
    let given_up = groups.give_up(GROUP, Instant::now()).await;
    assert!(given_up.expect("it is cleared"));
    let still = LogStore::new(log.clone()).tombstone();
    assert_eq!(still.expect("it is read"), tombstone);

    // With a snapshot of before.
    let before = log_id(0);
    let went_on = log.go_on_after(0, encode_log_id(&before));
    went_on.expect("it is taken");
    assert!(Some(before) < tombstone);
    let given_up = groups.give_up(GROUP, Instant::now()).await;
    assert!(given_up.expect("it is cleared"));
    let still = LogStore::new(log.clone()).tombstone();
    assert_eq!(still.expect("it is read"), tombstone);
}
