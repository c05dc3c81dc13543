//! The snapshot files of one group. Invariant: a file under its final name was written to its end and synced; whether it still is what
//! was written, its checksums say.

mod file;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use file::{SnapshotReader, SnapshotWriter};

use crate::directory::sync_directory;
use crate::{GroupId, SnapshotError};

const EXTENSION: &str = "snapshot";
/// The extension of a file that is still being written.
const UNFINISHED: &str = "part";

/// The snapshots of one group, each named by the last index it contains.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    dir: PathBuf,
    group: GroupId,
}

/// One snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last index it contains.
    pub index: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its length, framing included.
    pub bytes: u64,
}

impl SnapshotDir {
    pub(crate) fn new(snapshots: &Path, group: GroupId) -> Self {
        Self {
            dir: snapshots.join(group.to_string()),
            group,
        }
    }

    /// The finished snapshots, oldest first, good or bad.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let fail = |error| SnapshotError::from_io("listing", &self.dir, error);
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            if let Some(index) = index_of(&path) {
                let bytes = entry
                    .metadata()
                    .map_err(|error| SnapshotError::from_io("looking at", &path, error))?
                    .len();
                found.push(SnapshotInfo { index, path, bytes });
            }
        }
        found.sort_by_key(|snapshot| snapshot.index);
        Ok(found)
    }

    /// Begins a snapshot of everything up to `index`. `meta` is opaque and kept in the header. It exists once
    /// [`SnapshotWriter::finish`] has returned; one of the same index is replaced then.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(&self, index: u64, meta: &[u8]) -> Result<SnapshotWriter, SnapshotError> {
        let path = self.path(index);
        fs::create_dir_all(&self.dir)
            .map_err(|error| SnapshotError::from_io("creating", &path, error))?;
        SnapshotWriter::create(&path, self.group, index, meta)
    }

    /// Opens the snapshot at `index`. Every block is verified as it is read, and the end when it is reached.
    ///
    /// # Errors
    /// If it is not there, or its header is damaged.
    pub fn open(&self, index: u64) -> Result<SnapshotReader, SnapshotError> {
        let reader = SnapshotReader::open(&self.path(index))?;
        self.check_is_ours(&reader)?;
        if reader.index() == index {
            Ok(reader)
        } else {
            let detail = format!("its name says index {index}, its header {}", reader.index());
            Err(SnapshotError::Corrupt {
                path: self.path(index),
                detail,
            })
        }
    }

    /// The newest snapshot that verifies to its last byte. Bad ones are passed over with a warning that names them.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn newest_good(&self) -> Result<Option<SnapshotReader>, SnapshotError> {
        for snapshot in self.list()?.into_iter().rev() {
            let verified = self
                .open(snapshot.index)
                .and_then(|reader| reader.verify().map(|()| reader));
            match verified {
                Ok(reader) => return Ok(Some(reader)),
                Err(error) => {
                    tracing::warn!(group = self.group.0, %error, "a snapshot is passed over");
                }
            }
        }
        Ok(None)
    }

    /// Deletes all but the newest `count` snapshots.
    ///
    /// # Errors
    /// If one cannot be deleted; older ones are then deleted already.
    pub fn keep_newest(&self, count: usize) -> Result<(), SnapshotError> {
        let found = self.list()?;
        let surplus = found.len().saturating_sub(count);
        for snapshot in &found[..surplus] {
            fs::remove_file(&snapshot.path)
                .map_err(|error| SnapshotError::from_io("deleting", &snapshot.path, error))?;
        }
        Ok(())
    }

    /// Deletes all snapshots.
    ///
    /// # Errors
    /// If one cannot be deleted.
    pub fn delete_all(&self) -> Result<(), SnapshotError> {
        self.keep_newest(0)
    }

    /// Removes every snapshot file of the group, also damaged and unfinished ones, for the group has left this node: durable on
    /// return. A snapshot that is being written meanwhile fails. After a crash in between some may be left.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn clear(&self) -> Result<(), SnapshotError> {
        let clear = || -> io::Result<()> {
            match fs::remove_dir_all(&self.dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.dir.parent().map_or(Ok(()), sync_directory)
        };
        clear().map_err(|error| SnapshotError::from_io("removing", &self.dir, error))
    }

    /// Takes in a snapshot file that came from elsewhere (another replica, a backup): verifies it to its end, then moves it here, or copies
    /// it if `path` is on another file system. `path` is gone afterwards only if it was moved.
    ///
    /// # Errors
    /// If it is damaged or of another group; nothing is taken then.
    pub fn import(&self, path: &Path) -> Result<SnapshotInfo, SnapshotError> {
        let reader = SnapshotReader::open(path)?;
        self.check_is_ours(&reader)?;
        reader.verify()?;
        let target = self.path(reader.index());
        let take = || -> io::Result<u64> {
            fs::create_dir_all(&self.dir)?;
            let file = File::open(path)?;
            file.sync_all()?;
            match fs::rename(path, &target) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    let unfinished = file::unfinished_path(&target);
                    fs::copy(path, &unfinished)?;
                    File::open(&unfinished)?.sync_all()?;
                    fs::rename(&unfinished, &target)?;
                }
                moved => moved?,
            }
            sync_directory(&self.dir)?;
            Ok(file.metadata()?.len())
        };
        let bytes = take().map_err(|error| SnapshotError::from_io("taking in", &target, error))?;
        Ok(SnapshotInfo {
            index: reader.index(),
            path: target,
            bytes,
        })
    }

    fn path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:020}.{EXTENSION}"))
    }

    fn check_is_ours(&self, reader: &SnapshotReader) -> Result<(), SnapshotError> {
        if reader.group() == self.group {
            return Ok(());
        }
        Err(SnapshotError::Other {
            path: reader.path().to_path_buf(),
            group: self.group,
            found_group: reader.group(),
            found_index: reader.index(),
        })
    }
}

/// Removes what writers that were killed left behind, under the directory of all groups' snapshots.
pub(crate) fn remove_unfinished(snapshots: &Path) -> io::Result<()> {
    for group in fs::read_dir(snapshots)? {
        let group = group?.path();
        if !group.is_dir() {
            continue;
        }
        for file in fs::read_dir(&group)? {
            let path = file?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == UNFINISHED)
            {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

fn index_of(path: &Path) -> Option<u64> {
    let is_snapshot = path
        .extension()
        .is_some_and(|extension| extension == EXTENSION);
    path.file_stem()
        .filter(|_| is_snapshot)?
        .to_str()?
        .parse()
        .ok()
}
