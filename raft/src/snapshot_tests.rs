//! What snapshots are made of, and what leaves a log for one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::RaftStateMachine;
use qiang_engine::promotion::{Counters, Promotion, Terms};
use qiang_engine::{Batch, Place, PromotionId, Record, Tag, UnixMs};
use qiang_storage::Store;
use tempfile::TempDir;

use super::*;
use crate::groups::Presence;
use crate::log_store::encode_log_id;
use crate::mailbox::{LogEvent, Mailbox};
use crate::shard_machine::ShardMachine;
use crate::testing::{empty_store, log_id};
use crate::types::{Entry, Payload, encode_entry};

const GROUP: GroupId = GroupId(0);

/// A log of one shard, and its snapshots.
struct Shelf {
    log: GroupLog,
    snapshots: SnapshotDir,
    _store: Store,
    _dir: TempDir,
}

impl Shelf {
    fn new() -> Self {
        let (dir, store) = empty_store();
        Shelf {
            log: store.log(GROUP).expect("a new log"),
            snapshots: store.snapshots(GROUP),
            _store: store,
            _dir: dir,
        }
    }

    fn append(&self, range: Range<u64>) {
        let written = Box::new(|written: Result<(), _>| written.expect("it is taken"));
        self.log
            .append(range.start, range.map(entry).collect(), written);
    }

    fn committed(&self, index: u64) {
        self.log
            .save_committed(index, encode_log_id(&log_id(index)));
    }

    fn build(&self, index: u64) -> Result<(), String> {
        let builder = SnapshotBuilder {
            group: GROUP,
            shards: 1,
            log: self.log.clone(),
            snapshots: self.snapshots.clone(),
            last_log_id: Some(log_id(index)),
        };
        builder.build().map_err(|error| error.to_string())
    }

    /// How many promotions the snapshot of this index has.
    fn promotions(&self, index: u64) -> usize {
        let mut reader = self.snapshots.open(index).expect("a snapshot");
        let state = load(&mut reader).expect("a state");
        state.shards[0].promotions().len()
    }
}

fn tag(index: u64) -> Tag {
    Tag {
        stint: 1,
        seq: index,
    }
}

/// The entry that puts the promotion of its number on sale.
fn entry(index: u64) -> Bytes {
    let terms = Arc::new(Terms::default());
    let promotion = Promotion {
        id: PromotionId::new(&format!("P{index}")).expect("an id"),
        terms: terms.clone(),
        created_terms: terms,
        counters: Counters::default(),
        stopped: false,
        closed: None,
        version: 1,
        created_at: UnixMs(index),
    };
    let record = Record::PromotionCreated {
        promotion: Box::new(promotion),
    };
    let before = index.checked_sub(1).map_or(Tag::default(), tag);
    let batch = Batch::encode_decided(tag(index), before, &[(Place(0), record)]);
    encode_entry(&Entry::new_normal(
        log_id(index),
        Payload(Bytes::from(batch)),
    ))
}

#[test]
fn what_is_left_when_flows_were_deleted_is_folded_after_a_snapshot_only() {
    let shelf = Shelf::new();
    shelf.append(0..10);
    shelf.committed(9);
    shelf.build(6).expect("all is there");
    let floor = shelf.log.purge(6, encode_log_id(&log_id(6)));
    floor.expect("it is taken");
    shelf.log.forget_below(5).expect("it is below the floor");
    shelf.build(8).expect("the snapshot has what is gone");
    assert_eq!(shelf.promotions(8), 9);

    for known in shelf.snapshots.list().expect("snapshots") {
        std::fs::remove_file(known.path).expect("a file");
    }
    let why = shelf.build(9).expect_err("half a log is no state");
    let told = "no good snapshot reaches log index 4";
    assert!(why.contains(told), "{why}");
    assert!(shelf.snapshots.list().expect("none").is_empty());
}

#[tokio::test]
async fn who_hears_of_a_snapshot_reads_nothing_that_it_may_contradict() {
    let theirs = Shelf::new();
    theirs.append(0..10);
    theirs.build(9).expect("all is there");
    let sent = theirs.snapshots.open(9).expect("a snapshot");
    let meta = read_meta(&sent).expect("a header");
    let file = SnapshotFile {
        index: 9,
        path: sent.path().to_owned(),
    };
    // A leader that was deposed, and does not know it, has written the last of these.
    let mine = Shelf::new();
    mine.append(0..5);
    mine.committed(3);
    let mailbox = Mailbox::new();
    let mut machine = ShardMachine {
        group: GROUP,
        shards: 1,
        node_id: 1,
        mailbox: mailbox.clone(),
        log: mine.log.clone(),
        snapshots: mine.snapshots.clone(),
        inherited_to: None,
        log_bytes: Arc::default(),
        applied: Some(log_id(3)),
        membership: StoredMembership::default(),
        presence: Presence::new().0,
    };
    let installed = machine.install_snapshot(&meta, file).await;
    installed.expect("it is taken in");
    let heard = mailbox.take_log();
    assert!(matches!(heard, Some(LogEvent::Snapshot { index: 9, .. })));
    let left: Vec<u64> = mine.log.runs().into_iter().flatten().collect();
    assert_eq!(left, [0, 1, 2, 3]);
    let floor = mine.log.floor().map(|(floor, _)| floor);
    assert_eq!(floor, Some(9), "where it goes on after a crash");
    assert_eq!(mine.promotions(9), 10);
}
