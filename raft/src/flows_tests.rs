//! What a reader makes of one log: where it goes on, where it ends, and what it says of gaps.

use bytes::Bytes;
use openraft::entry::RaftEntry;
use qiang_engine::routing::Sharing;
use qiang_engine::{Tag, TryId};
use qiang_storage::{GroupId, Store};
use tempfile::TempDir;

use super::*;
use crate::log_store::encode_log_id;
use crate::mailbox::Mailbox;
use crate::options::Timing;
use crate::testing::{empty_store, log_id};
use crate::types::{Entry, Payload, encode_entry};

/// A log, and a reader of its only shard.
struct Shelf {
    reader: FlowReader,
    _store: Store,
    _dir: TempDir,
}

impl Shelf {
    fn new() -> Self {
        let (dir, store) = empty_store();
        let log = store.log(GroupId(0)).expect("a new log");
        let group = ShardGroup::new(0, Sharing::NONE, Mailbox::new(), Timing::default());
        Shelf {
            reader: FlowReader {
                group: Arc::new(group),
                place: Place(0),
                log,
            },
            _store: store,
            _dir: dir,
        }
    }

    /// Appends an entry with so many records, which hold so many nonces each, and applies it.
    fn append(&self, index: u64, records: usize, nonces: usize) {
        let record = Record::Forgotten {
            orders: Vec::new(),
            tries: vec![(TryId(u64::MAX), UnixMs(u64::MAX)); nonces],
            at: UnixMs(1),
        };
        let records = vec![(Place(0), record); records];
        let tag = Tag {
            stint: 1,
            seq: index,
        };
        let batch = Batch::encode_decided(tag, Tag::default(), &records);
        let entry = Entry::new_normal(log_id(index), Payload(Bytes::from(batch)));
        let written = Box::new(|written: Result<(), _>| written.expect("it is taken"));
        self.reader
            .log
            .append(index, vec![encode_entry(&entry)], written);
        self.reader
            .log
            .save_committed(index, encode_log_id(&log_id(index)));
        self.applied(index);
    }

    fn applied(&self, index: u64) {
        let applied = &self.reader.group.applied;
        applied.send_if_modified(|shown| std::mem::replace(shown, index) != index);
    }

    /// A snapshot takes the place of everything up to `index`.
    fn skip_to(&self, index: u64) {
        let purged = self.reader.log.purge(index, encode_log_id(&log_id(index)));
        purged.expect("it is taken");
        self.applied(index);
    }

    /// Cursors, as entry and position, and the gap.
    fn read(&self, after: u64, limit: usize) -> (Vec<(u64, u64)>, Option<u64>) {
        let page = self.reader.read(after, limit, |_| true).expect("flows");
        let place = |flow: &Flow| (flow.index, flow.cursor & LAST);
        (page.flows.iter().map(place).collect(), page.gap)
    }
}

fn cursor(index: u64, position: u64) -> u64 {
    index << POSITION_BITS | position
}

#[test]
fn a_reader_goes_on_within_an_entry_and_behind_it() {
    let shelf = Shelf::new();
    shelf.append(1, 2, 0);
    shelf.append(2, 1, 0);
    let all = vec![(1, 0), (1, LAST), (2, LAST)];
    assert_eq!(shelf.read(before(1), 10), (all.clone(), None));
    assert_eq!(shelf.read(before(1), 1), (all[..1].to_vec(), None));
    assert_eq!(shelf.read(cursor(1, 0), 10), (all[1..].to_vec(), None));
    assert_eq!(shelf.read(cursor(1, LAST), 10), (all[2..].to_vec(), None));
    assert_eq!(shelf.read(cursor(2, LAST), 10), (vec![], None));
    // The last record's own number, as cursors once had it.
    assert_eq!(shelf.read(cursor(1, 1), 10), (all[2..].to_vec(), None));
    assert_eq!(shelf.read(cursor(2, 0), 10), (vec![], None));
    assert_eq!(shelf.read(u64::MAX, 10), (vec![], None));
    assert_eq!(shelf.read(cursor(0, 7), 10), (all, None));
}

#[test]
fn what_ends_at_a_gap_says_so_and_what_begins_in_one_is_not_here() {
    let shelf = Shelf::new();
    shelf.append(1, 1, 0);
    shelf.append(2, 1, 0);
    shelf.skip_to(4);
    let both = vec![(1, LAST), (2, LAST)];
    assert_eq!(shelf.read(before(1), 10), (both.clone(), Some(3)));
    shelf.append(5, 1, 0);
    assert_eq!(shelf.read(before(1), 10), (both.clone(), Some(3)));
    assert_eq!(shelf.read(before(1), 2), (both.clone(), None));
    assert_eq!(shelf.read(cursor(2, 0), 10), (vec![], Some(3)));
    assert_eq!(shelf.read(cursor(3, 7), 10), (vec![], Some(3)));
    assert_eq!(shelf.read(before(5), 10), (vec![(5, LAST)], None));
    let goes_on = |after| shelf.reader.goes_on_after(after).expect("known");
    assert!(goes_on(before(1)) && goes_on(cursor(2, 0)) && goes_on(before(5)));
    assert!(goes_on(cursor(5, 0)), "what comes next will be here");
    assert!(!goes_on(before(3)) && !goes_on(cursor(4, 0)));
    assert!(!goes_on(before(6)), "others may be further");
}

#[test]
fn what_a_log_has_and_has_not_applied_yet_it_may_have() {
    let shelf = Shelf::new();
    shelf.append(1, 1, 0);
    shelf.append(2, 1, 0);
    shelf.skip_to(4);
    shelf.append(5, 1, 0);
    shelf.applied(0);
    for (after, is_here) in [
        (before(1), true),
        (cursor(1, 0), true),
        (cursor(2, 0), true),
        (before(3), false),
        (before(5), true),
        (before(6), false),
    ] {
        let goes_on = shelf.reader.goes_on_after(after);
        assert_eq!(goes_on, Ok(false), "nothing is applied: {after}");
        assert_eq!(shelf.reader.may_have_after(after), is_here, "{after}");
    }
}

#[test]
fn where_a_log_begins_too_late_it_says_where_it_begins() {
    let shelf = Shelf::new();
    shelf.skip_to(7);
    let forgotten = |after| shelf.reader.read(after, 10, |_| true);
    let oldest = before(8);
    assert_eq!(forgotten(before(1)), Err(FlowError::Forgotten { oldest }));
    assert_eq!(shelf.read(oldest, 10), (vec![], None), "at its end");
    let part_of_an_entry = forgotten(cursor(7, 3));
    assert_eq!(part_of_an_entry, Err(FlowError::Forgotten { oldest }));
    assert_eq!(shelf.reader.goes_on_after(oldest), Ok(true));
    assert_eq!(shelf.reader.goes_on_after(cursor(8, 0)), Ok(true));
    assert_eq!(shelf.reader.goes_on_after(cursor(9, 0)), Ok(false));
    shelf.append(8, 1, 0);
    assert_eq!(forgotten(before(1)), Err(FlowError::Forgotten { oldest }));
    let whole_entry = forgotten(before(7));
    assert_eq!(whole_entry, Err(FlowError::Forgotten { oldest }));
    let part_of_an_entry = forgotten(cursor(7, 3));
    assert_eq!(part_of_an_entry, Err(FlowError::Forgotten { oldest }));
    assert_eq!(shelf.read(oldest, 10), (vec![(8, LAST)], None));
}

#[test]
fn large_records_are_given_out_in_pages_that_fit_a_message() {
    let shelf = Shelf::new();
    // Somewhat more than an eighth of a mebibyte each.
    for index in 1..=12 {
        shelf.append(index, 1, 7_500);
    }
    let (first, gap) = shelf.read(before(1), 10_000);
    assert_eq!((first.len(), gap), (8, None));
    let (rest, gap) = shelf.read(cursor(8, 0), 10_000);
    assert_eq!((rest.len(), gap), (4, None));
}

#[test]
fn of_two_failures_the_one_that_tells_more_is_told() {
    let forgotten = |oldest| FlowError::Forgotten { oldest };
    let damaged = || FlowError::Storage("damaged".to_owned());
    assert_eq!(forgotten(2).or(forgotten(1)), forgotten(1));
    assert_eq!(FlowError::Unavailable.or(forgotten(1)), forgotten(1));
    assert_eq!(forgotten(1).or(FlowError::Unavailable), forgotten(1));
    assert_eq!(FlowError::Unavailable.or(damaged()), damaged());
    assert_eq!(damaged().or(FlowError::Unavailable), damaged());
    assert_eq!(damaged().or(forgotten(1)), damaged());
    assert_eq!(forgotten(1).or(damaged()), damaged());

    let unasked = |oldest| FlowError::Unasked { node: 3, oldest };
    assert_eq!(FlowError::Unavailable.or(unasked(None)), unasked(None));
    assert_eq!(unasked(None).or(FlowError::Unavailable), unasked(None));
    assert_eq!(forgotten(2).or(unasked(None)), unasked(Some(2)));
    assert_eq!(unasked(Some(2)).or(forgotten(1)), unasked(Some(1)));
    assert_eq!(unasked(Some(1)).or(forgotten(2)), unasked(Some(1)));
}
