//! A new one-node cluster from a backup: a data directory in which every group begins with its state in the backup, under
//! a membership of the new node alone.
//!
//! Invariant: nothing is made before the whole backup was verified and decoded; how the directory comes to be, `place` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use openraft::impls::Vote;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EntryPayload, Membership};
use qiang_engine::codec;
use qiang_storage::{Identity, OpenError, Options, Store};

use super::format::{BackupError, Cut, Header, Reader};
use super::place::{Place, check_empty};
use super::{Contents, READ_BYTES, inspect};
use crate::cluster::{Cluster, Member};
use crate::groups::{META_GROUP, name};
use crate::log_store::encode_log_id;
use crate::meta::MetaState;
use crate::placement::{DcError, Duty, Placement, WITNESS_DC, check_dc, plan};
use crate::types::{Entry, LogId, NodeInfo, StoredMembership, encode_entry};
use crate::world::random_u64;

/// Who the restored cluster's only node is.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Its data directory: absent or empty.
    pub data_dir: PathBuf,
    /// Its number.
    pub node_id: u64,
    /// Its addresses, data centre and name, until it starts with others.
    pub info: NodeInfo,
    /// How its store is opened.
    pub storage: Options,
}

/// What a restore came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: String,
    /// What it was made from.
    pub contents: Contents,
}

/// Why nothing was restored; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The data centre cannot be.
    #[error(transparent)]
    Dc(#[from] DcError),
    /// A witness cannot lead.
    #[error(
        "a node of data centre {WITNESS_DC:?} only votes: restore in another, and add witnesses afterwards"
    )]
    Witness,
    /// There is something already.
    #[error(
        "{} is not empty, it holds {found}: a backup is restored into an absent or empty directory", .dir.display()
    )]
    NotEmpty {
        /// The data directory.
        dir: PathBuf,
        /// Something in it.
        found: String,
    },
    /// A store could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A group's state could not be written.
    #[error("writing group {group}: {source}")]
    Write {
        /// The group.
        group: String,
        /// Why.
        source: io::Error,
    },
    /// The system refused something.
    #[error("cannot {doing} {}: {source}", .path.display())]
    System {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Makes the data directory of a new one-node cluster from the backup at `path`.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(path: &Path, options: &RestoreOptions) -> Result<Restored, RestoreError> {
    check_dc(&[], &options.info.dc)?;
    if options.info.dc == WITNESS_DC {
        return Err(RestoreError::Witness);
    }
    check_empty(&options.data_dir)?;
    let contents = inspect(path)?;
    let cluster_id = format!("{:016x}", random_u64());
    let place = Place::make(&options.data_dir)?;
    make_store(&place.unfinished(), path, &contents, &cluster_id, options)?;
    place.finish()?;
    Ok(Restored {
        cluster_id,
        contents,
    })
}

/// Begins an empty store with the backup at `path`, as [`restore`] does in the directory that it makes. It waits until what it writes is
/// synced, so a simulated store needs somebody else to do that meanwhile.
///
/// # Errors
/// See [`RestoreError`].
pub fn fill(
    store: &Store,
    path: &Path,
    options: &RestoreOptions,
) -> Result<Contents, RestoreError> {
    let contents = inspect(path)?;
    fill_store(store, path, &contents, options)?;
    Ok(contents)
}

/// Makes a store in `dir` that begins with the backup.
fn make_store(
    dir: &Path,
    backup: &Path,
    contents: &Contents,
    cluster_id: &str,
    options: &RestoreOptions,
) -> Result<(), RestoreError> {
    let logs = contents.logs();
    let identity = Identity::new(cluster_id, options.node_id, logs);
    let store = Store::open(dir, &identity, &options.storage)?;
    let filled = fill_store(&store, backup, contents, options);
    store.close();
    filled
}

fn fill_store(
    store: &Store,
    backup: &Path,
    contents: &Contents,
    options: &RestoreOptions,
) -> Result<(), RestoreError> {
    let file = File::open(backup).map_err(BackupError::Io)?;
    let mut reader = Reader::begin(BufReader::with_capacity(READ_BYTES, file))?;
    if *reader.header() != contents.header {
        return Err(changed().into());
    }
    while let Some(cut) = reader.next_group()? {
        let wrong = |source: io::Error| RestoreError::Write {
            group: name(cut.group_id()),
            source,
        };
        let begin = Beginning::new(&cut, options);
        if cut.group_id() == META_GROUP {
            let state = alone(contents, options.node_id, &options.info);
            let state = codec::encode(&state);
            begin.write(store, &mut &state[..]).map_err(wrong)?;
        } else {
            begin.write(store, &mut reader).map_err(wrong)?;
        }
    }
    Ok(())
}

/// The file was verified before: somebody writes to it.
fn changed() -> BackupError {
    BackupError::Damaged {
        detail: "it has changed since it was verified".to_owned(),
    }
}

/// The cluster's own state when `node_id` is all that is left of it.
fn alone(contents: &Contents, node_id: u64, info: &NodeInfo) -> MetaState {
    let state = &contents.meta;
    let before = &state.cluster;
    let mut removed: BTreeSet<u64> = before.removed.clone();
    removed.extend(before.nodes.keys());
    removed.remove(&node_id);
    let member = Member {
        info: info.clone(),
        duty: Duty::Serves,
    };
    let mut cluster = Cluster {
        revision: before.revision + 1,
        nodes: BTreeMap::from([(node_id, member)]),
        removed,
        preferred_dc: info.dc.clone(),
        placement: Placement::unplaced(usize::from(contents.logs())),
    };
    cluster.placement = plan(&cluster.sites(), &cluster.placement, &cluster.preferred_dc);
    MetaState {
        versions: state.versions.clone(),
        cluster: Arc::new(cluster),
    }
}

/// How a group begins.
struct Beginning<'a> {
    cut: &'a Cut,
    last: LogId,
    /// Above every term of the past.
    leader: LeaderId<u64, u64>,
    options: &'a RestoreOptions,
}

impl<'a> Beginning<'a> {
    fn new(cut: &'a Cut, options: &'a RestoreOptions) -> Self {
        let leader = |term, node_id| LeaderId { term, node_id };
        Beginning {
            cut,
            last: LogId {
                leader_id: leader(cut.term, cut.leader),
                index: cut.index,
            },
            leader: leader(cut.term + 1, options.node_id),
            options,
        }
    }

    /// The snapshot; the log right behind it, begun with a membership of the new node; and the vote that goes with that.
    fn write(&self, store: &Store, state: &mut impl Read) -> io::Result<()> {
        let group = self.cut.group_id();
        let node_id = self.options.node_id;
        let nodes = BTreeMap::from([(node_id, self.options.info.clone())]);
        let membership = Membership::new(vec![BTreeSet::from([node_id])], nodes);
        let membership = membership.map_err(io::Error::other)?;
        let stored = StoredMembership::new(Some(self.last), membership.clone());
        let meta = codec::encode(&(Some(self.last), &stored));
        let snapshots = store.snapshots(group);
        let mut writer = snapshots
            .create(self.cut.index, &meta)
            .map_err(io::Error::other)?;
        io::copy(state, &mut writer)?;
        writer.flush()?;
        writer.finish().map_err(io::Error::other)?;

        let log = store.log(group).map_err(io::Error::other)?;
        log.purge(self.cut.index, encode_log_id(&self.last))
            .map_err(io::Error::other)?;
        let index = self.cut.index + 1;
        let entry = Entry {
            log_id: LogId {
                leader_id: self.leader,
                index,
            },
            payload: EntryPayload::Membership(membership),
        };
        let vote: Vote<LeaderId<u64, u64>> = Vote {
            leader_id: self.leader,
            committed: false,
        };
        let (done, written) = mpsc::channel();
        let appended = done.clone();
        log.save_vote(
            codec::encode(&vote).into(),
            Box::new(move |result| drop(done.send(result))),
        );
        log.append(
            index,
            vec![encode_entry(&entry)],
            Box::new(move |result| drop(appended.send(result))),
        );
        for result in [written.recv(), written.recv()] {
            result
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// What a backup says of itself, for whoever restores it.
impl Restored {
    /// Whose backup it was.
    pub fn header(&self) -> &Header {
        &self.contents.header
    }
}
