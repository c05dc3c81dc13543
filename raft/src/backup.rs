//! Backups: the state of every group at one moment of a running cluster in one file, and a new cluster from it.
//!
//! `format` is the file. `cut` chooses where each group is cut, `take` writes the file on a node that holds every
//! group from their `source`s, `restore` makes the data directory of a new one-node cluster from it in its `place`.
//! Flows before the backup are not in it.
//!
//! Invariants: a file that was damaged or cut short anywhere is refused before anything is made of it; a cluster that
//! was restored has an id of its own, so that it never mixes with the one the backup was taken of.

mod cut;
mod format;
mod place;
mod restore;
mod source;
mod take;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use qiang_engine::{Replica, codec};

use crate::groups::{META_GROUP, name};
use crate::meta::MetaState;
use crate::world::random_u64;

pub use format::{BackupError, Cut, Header, Reader, VERSION, Writer};
pub use restore::{RestoreError, RestoreOptions, Restored, restore};
pub use take::{Backup, TakeError};

/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// Most bytes of the meta group's state: a hundred versions of a document of one MiB, and the cluster.
const META_BYTES_MAX: u64 = 128 << 20;

/// What a whole and undamaged backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Whose backup it is, from when.
    pub header: Header,
    /// Every group: the shards' in order, then `meta`.
    pub groups: Vec<GroupContents>,
    /// The cluster's own state.
    pub meta: MetaState,
}

impl Contents {
    /// How many logs the shards share.
    fn logs(&self) -> u16 {
        let sharing = self.header.sharing();
        sharing.expect("a whole backup names all groups").logs()
    }
}

/// What a backup holds of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupContents {
    /// The number of the first of its shards, or `meta`.
    pub group: String,
    /// Where the group is cut.
    pub cut: Cut,
    /// Bytes of its state.
    pub bytes: u64,
    /// Orders in it, in any state; 0 for `meta`.
    pub orders: usize,
    /// Promotions in it; 0 for `meta`.
    pub promotions: usize,
}

/// Reads a backup from its beginning to its end and checks every checksum; `on_group` is told of each group with its
/// bytes.
///
/// # Errors
/// See [`BackupError`].
pub fn verify(
    input: impl Read,
    mut on_group: impl FnMut(&Cut, u64),
) -> Result<Header, BackupError> {
    let mut reader = Reader::begin(input)?;
    while let Some(cut) = reader.next_group()? {
        let bytes = reader.skip_group()?;
        on_group(&cut, bytes);
    }
    Ok(reader.header().clone())
}

/// Verifies the backup at `path`, then decodes every group's state.
///
/// # Errors
/// See [`BackupError`]; they do not name the file.
pub fn inspect(path: &Path) -> Result<Contents, BackupError> {
    let mut sizes = Vec::new();
    verify(open(path)?, |_, bytes| sizes.push(bytes))?;
    let mut reader = Reader::begin(open(path)?)?;
    let mut groups = Vec::new();
    let mut meta = None;
    for bytes in sizes {
        let Some(cut) = reader.next_group()? else {
            break;
        };
        let group = name(cut.group_id());
        let (mut orders, mut promotions) = (0, 0);
        if cut.group_id() == META_GROUP {
            meta = Some(read_meta_state(&mut reader)?);
        } else {
            let replica = Replica::load(&mut reader, random_u64())
                .map_err(|error| undecodable(&group, &error))?;
            (orders, promotions) = (replica.order_count(), replica.promotion_count());
        }
        if reader.skip_group()? != bytes {
            return Err(undecodable(&group, &"something follows its state"));
        }
        groups.push(GroupContents {
            group,
            cut,
            bytes,
            orders,
            promotions,
        });
    }
    let meta = meta.ok_or_else(|| undecodable("meta", &"it is missing"))?;
    Ok(Contents {
        header: reader.header().clone(),
        groups,
        meta,
    })
}

fn open(path: &Path) -> Result<impl Read, BackupError> {
    Ok(BufReader::with_capacity(READ_BYTES, File::open(path)?))
}

fn read_meta_state(reader: &mut Reader<impl Read>) -> Result<MetaState, BackupError> {
    let mut bytes = Vec::new();
    reader.take(META_BYTES_MAX).read_to_end(&mut bytes)?;
    codec::decode(&bytes).map_err(|error| undecodable("meta", &error))
}

fn undecodable(group: &str, why: &dyn std::fmt::Display) -> BackupError {
    BackupError::Damaged {
        detail: format!("the state of group {group} cannot be read: {why}"),
    }
}
