//! Every way an operation of this crate can fail. Invariant: each message says what was being done, to which file or key, what was
//! wrong and what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::GroupId;

/// Why a data directory was not opened. Whatever the reason, nothing in the directory was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory's lock.
    #[error("data directory {} is in use by another process: stop that node, or give this one a directory of its own", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory belongs to another cluster.
    #[error(
        "data directory {} belongs to cluster {found:?}, not to {expected:?}: correct the data directory or the cluster in the configuration",
        dir.display()
    )]
    OtherCluster {
        /// The data directory.
        dir: PathBuf,
        /// The cluster it was created for.
        found: String,
        /// The cluster it was opened for.
        expected: String,
    },
    /// The directory belongs to another node of the same cluster.
    #[error(
        "data directory {} belongs to node {found}, not to node {expected}: correct the data directory or the node id in the configuration",
        dir.display()
    )]
    OtherNode {
        /// The data directory.
        dir: PathBuf,
        /// The node it was created for.
        found: u64,
        /// The node it was opened for.
        expected: u64,
    },
    /// The directory was written by a newer version of the product.
    #[error(
        "{} says that the data directory has format version {found}, this program reads versions up to {supported}: run the newer program that wrote it",
        dir.join(crate::identity::IDENTITY).display()
    )]
    NewerFormat {
        /// The data directory.
        dir: PathBuf,
        /// The directory's format version.
        found: u64,
        /// The newest version that this program reads.
        supported: u64,
    },
    /// The directory or a file in it may not be written.
    #[error("{} cannot be written ({cause}): give this user the right to write it, or mount it writable", path.display())]
    NotWritable {
        /// What could not be written.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The disk is full.
    #[error("no space left for {} ({cause}): make space and start again; nothing acknowledged is lost", path.display())]
    NoSpace {
        /// What could not be written.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A file is damaged or gone.
    #[error(
        "{} is damaged: {detail}; nothing was changed: restore the data directory from a replica or a backup before starting this node",
        file.display()
    )]
    Corrupt {
        /// The damaged file, or the directory that misses one.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The path is something else than a data directory.
    #[error("{} is not a data directory: {detail}; give an empty or absent directory, or one that this program made", dir.display())]
    NotADataDirectory {
        /// The path given.
        dir: PathBuf,
        /// Why it is not one.
        detail: String,
    },
    /// Opened offline, but there is nothing.
    #[error("there is no data directory at {}: correct the path", dir.display())]
    Missing {
        /// The path given.
        dir: PathBuf,
    },
    /// Any other failure of the system.
    #[error("{action} {}: {cause}: see to the disk or the file system and start again", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
}

impl OpenError {
    /// Gives a failed system call on `path` its right name.
    pub(crate) fn from_io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        let cause = error.to_string();
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, cause }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, cause }
            }
            io::ErrorKind::NotADirectory => Self::NotADataDirectory {
                dir: path,
                detail: cause,
            },
            _ => Self::Io {
                action,
                path,
                cause,
            },
        }
    }

    /// Gives a failure inside RocksDB its right name. RocksDB reports system errors only as text.
    pub(crate) fn from_rocksdb(action: &'static str, path: &Path, error: &rocksdb::Error) -> Self {
        let cause = error.to_string();
        let path = path.to_path_buf();
        if cause.contains("No space left on device") || cause.contains("Disk quota exceeded") {
            Self::NoSpace { path, cause }
        } else if cause.contains("Permission denied") || cause.contains("Read-only file system") {
            Self::NotWritable { path, cause }
        } else if matches!(error.kind(), rocksdb::ErrorKind::Corruption)
            || cause.contains("No such file or directory")
        {
            Self::Corrupt {
                file: path,
                detail: cause,
            }
        } else {
            Self::Io {
                action,
                path,
                cause,
            }
        }
    }
}

/// Why a directory's incarnation was not set.
#[derive(Debug, thiserror::Error)]
pub enum IncarnationError {
    /// The directory has lived on already; what it holds may be known only to the newer incarnation.
    #[error(
        "data directory {} is of incarnation {found}, it does not go back to {given}: nothing was changed; see which nodes belong to the cluster as it is now",
        dir.display()
    )]
    Backwards {
        /// The data directory.
        dir: PathBuf,
        /// The incarnation it has.
        found: u64,
        /// The incarnation given.
        given: u64,
    },
    /// The store was opened offline, for reading.
    #[error("data directory {} was opened offline, for reading: nothing was changed", dir.display())]
    ReadOnly {
        /// The data directory.
        dir: PathBuf,
    },
    /// The file could not be replaced.
    #[error("writing {}: {source}; the old incarnation or the new one is found at the next open: see to the disk and try again", path.display())]
    Io {
        /// The file of the identity.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why something that should be on disk was not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// A stored value does not match its checksum, or cannot be read. The group must stop: skipping it would lose a flow.
    #[error(
        "group {group} entry {index} (key {key}) in {} is corrupt: {detail}; stop this group and restore it from a replica",
        file.display()
    )]
    Corrupt {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: u64,
        /// The entry's key, in hex, as a RocksDB tool takes it.
        key: String,
        /// Where it is: the database's directory; `detail` names the file where RocksDB knows it.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A small piece of state (floor, vote, …) does not match its checksum, or contradicts the log.
    #[error("the {what} of group {group} (key {key}) in {} is corrupt: {detail}; restore this group from a replica", file.display())]
    CorruptState {
        /// The group.
        group: GroupId,
        /// Which piece of state.
        what: &'static str,
        /// Its key, in hex.
        key: String,
        /// The database's directory.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The group's number is beyond what a store holds.
    #[error("group {group} does not exist: groups are numbered from 0 to {max}")]
    NoSuchGroup {
        /// The group asked for.
        group: GroupId,
        /// The greatest group number.
        max: u16,
    },
    /// The database could not be read at all.
    #[error("reading {} failed: {detail}; see to the disk and start again", file.display())]
    Io {
        /// The database's directory.
        file: PathBuf,
        /// What RocksDB said.
        detail: String,
    },
}

/// Why something was not written. Cloned to everyone whose write was in the failed batch.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum WriteError {
    /// A write failed, this one or an earlier one; the store writes no more until it is opened again.
    #[error("the store takes no more writes: {reason}; see to the disk and restart this node")]
    Faulted {
        /// The first failure.
        reason: Arc<str>,
    },
    /// The store was closed.
    #[error("the store is closed: nothing was written")]
    Closed,
    /// The store was opened offline, for reading.
    #[error("the data directory was opened offline, for reading: nothing was written")]
    ReadOnly,
    /// An append would leave a hole or overwrite.
    #[error(
        "group {group}: append starts at index {given}, the log goes on at {expected}: nothing was written"
    )]
    NotConsecutive {
        /// The group.
        group: GroupId,
        /// The index the log goes on at.
        expected: u64,
        /// The index given.
        given: u64,
    },
    /// A truncation below the floor, or a retention above it.
    #[error("group {group}: {action} {index} crosses the floor {floor}: nothing was changed")]
    AcrossFloor {
        /// The group.
        group: GroupId,
        /// What was asked.
        action: &'static str,
        /// The index given.
        index: u64,
        /// The floor: the last purged index, or "none".
        floor: String,
    },
}

/// Why a snapshot file was not written or not trusted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is damaged, cut, or not a snapshot.
    #[error("snapshot {} is not usable: {detail}; delete it, an older one or the log takes its place", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file belongs to another group or index than asked for.
    #[error("snapshot {} is of group {found_group} at index {found_index}, not of group {group}: it was not taken", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// The group of the directory it was given to.
        group: GroupId,
        /// The group in the file's header.
        found_group: GroupId,
        /// The index in the file's header.
        found_index: u64,
    },
    /// The system failed.
    #[error("{action} snapshot {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SnapshotError {
    /// Names the file of a failed system call, telling damage found while reading from failures of the system.
    pub(crate) fn from_io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt {
                path,
                detail: source.to_string(),
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}
