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

use qiang_engine::routing::{SHARDS, Sharing};
use qiang_engine::{Replica, Shard, codec};

use crate::groups::{META_GROUP, name};
use crate::meta::MetaState;
use crate::world::random_u64;

pub use format::{BackupError, Cut, Header, Reader, VERSION, Writer};
pub use restore::{RestoreError, RestoreOptions, Restored, fill, restore};
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
    /// Every shard, in order, then `meta`.
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

/// What a backup holds of one shard, or of the meta group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupContents {
    /// The shard's number, or `meta`.
    pub group: String,
    /// Where its log is cut.
    pub cut: Cut,
    /// Bytes of the state of all that share its log.
    pub bytes: u64,
    /// Orders in it, in any state; 0 for `meta`.
    pub orders: usize,
    /// Promotions in it; 0 for `meta`.
    pub promotions: usize,
}

/// Reads a backup from its beginning to its end and checks every checksum; `on_group` is told the bytes of each group, and how
/// many there are.
///
/// # Errors
/// See [`BackupError`].
pub fn verify(
    input: impl Read,
    mut on_group: impl FnMut(u64, usize),
) -> Result<Header, BackupError> {
    let mut reader = Reader::begin(input)?;
    while reader.next_group()?.is_some() {
        let bytes = reader.skip_group()?;
        on_group(bytes, reader.header().cuts.len());
    }
    Ok(reader.header().clone())
}

/// Verifies the backup at `path`, then decodes every group's state.
///
/// # Errors
/// See [`BackupError`]; they do not name the file.
pub fn inspect(path: &Path) -> Result<Contents, BackupError> {
    let mut sizes = Vec::new();
    verify(open(path)?, |bytes, _| sizes.push(bytes))?;
    let mut reader = Reader::begin(open(path)?)?;
    let mut groups = Vec::new();
    let mut meta = None;
    for bytes in sizes {
        let Some(cut) = reader.next_group()? else {
            break;
        };
        let group = name(cut.group_id());
        let contents = |group: String, shard: Option<&Shard>| GroupContents {
            group,
            cut,
            bytes,
            orders: shard.map_or(0, Shard::order_count),
            promotions: shard.map_or(0, |shard| shard.promotions().len()),
        };
        if cut.group_id() == META_GROUP {
            meta = Some(read_meta_state(&mut reader)?);
            groups.push((SHARDS, contents(group.clone(), None)));
        } else {
            let replica = Replica::load(&mut reader, random_u64())
                .map_err(|error| undecodable(&group, &error))?;
            let sharing = reader.header().sharing().unwrap_or(Sharing::NONE);
            if replica.shards.len() != sharing.shards_per_log() {
                return Err(undecodable(&group, &"it is not that of its shards"));
            }
            for (number, shard) in sharing.shards_of(cut.group).zip(&replica.shards) {
                groups.push((number.0, contents(number.to_string(), Some(shard))));
            }
        }
        if reader.skip_group()? != bytes {
            return Err(undecodable(&group, &"something follows its state"));
        }
    }
    groups.sort_by_key(|(number, _)| *number);
    let groups = groups.into_iter().map(|(_, contents)| contents).collect();
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
