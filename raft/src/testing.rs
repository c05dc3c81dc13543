//! What several tests begin with.

use openraft::impls::leader_id_adv::LeaderId;
use qiang_storage::{Identity, Options, Store};
use tempfile::TempDir;

use crate::types::LogId;

/// An empty store in a directory of its own.
pub fn empty_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let identity = Identity::new("tested", 1, 16);
    let options = Options {
        wal_warm_bytes: 0,
        ..Options::default()
    };
    let store = Store::open(dir.path(), &identity, &options).expect("an empty directory opens");
    (dir, store)
}

/// The log id of this index, of the first term's only leader.
pub fn log_id(index: u64) -> LogId {
    let leader_id = LeaderId {
        term: 1,
        node_id: 1,
    };
    LogId::new(leader_id, index)
}
