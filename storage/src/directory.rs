//! The data directory: whose it is, who holds it, and what lies where in it.
//!
//! ```text
//! lock              locked (flock) while a process uses the directory
//! identity.json     format version, cluster, node, incarnation; its presence says that the directory is complete
//! identity.json.new the same during creation only: nothing was ever acknowledged from such a directory
//! identity.json.next the same with a new incarnation, until it takes the place of the old
//! db/               RocksDB
//! snapshots/<group>/<index>.snapshot
//! ```
//! Invariant: the lock is taken before anything is read that another process could be writing, a directory that is refused is
//! left as it was, and its incarnation never goes down.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::identity::{self, IDENTITY};
use crate::{Identity, IncarnationError, OpenError};

const LOCK: &str = "lock";
const IDENTITY_NEW: &str = "identity.json.new";
/// Not the name used during creation: left behind beside a lost identity, it must not pass for a creation that may be begun again.
const IDENTITY_NEXT: &str = "identity.json.next";
const DATABASE: &str = "db";
/// A file that is there if the database is.
const DATABASE_CURRENT: &str = "CURRENT";
const SNAPSHOTS: &str = "snapshots";

/// How long a lock is tried for: a node that was just killed, or a child that it was just starting, may
/// still be on its way out.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);
const LOCK_RETRY: Duration = Duration::from_millis(5);

impl Identity {
    /// Whose data the directory holds; `None` if it is absent, empty, or its creation was never finished.
    ///
    /// # Errors
    /// If it is not a data directory, or its identity cannot be read.
    pub fn read(root: &Path) -> Result<Option<Self>, OpenError> {
        match fs::metadata(root) {
            Ok(found) if !found.is_dir() => Err(not_a_directory(root)),
            Ok(_) => match recognise(root)? {
                Known::Complete => identity::read(root).map(Some),
                _ => Ok(None),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::from_io("looking at", root, &error)),
        }
    }
}

/// A data directory held by this process until it is dropped.
pub(crate) struct Directory {
    root: PathBuf,
    /// What is on disk. Held while a new incarnation is written, so that two at once cannot take it back.
    identity: Mutex<Identity>,
    is_new: bool,
    #[cfg_attr(
        not(feature = "simulation"),
        expect(dead_code, reason = "held, not looked at")
    )]
    lock: File,
}

impl Directory {
    /// Takes the directory for `identity`, beginning its creation if there is none. A new one exists for good only after
    /// [`Directory::finish_creation`].
    ///
    /// `has_database` says whether the database of a complete directory is there.
    pub(crate) fn take(
        root: &Path,
        identity: &Identity,
        has_database: impl FnOnce(&Path) -> io::Result<bool>,
    ) -> Result<Self, OpenError> {
        let io = |action, path: &Path, error: &io::Error| OpenError::from_io(action, path, error);
        match fs::metadata(root) {
            Ok(found) if !found.is_dir() => return Err(not_a_directory(root)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(root).map_err(|error| io("creating", root, &error))?;
            }
            Err(error) => return Err(io("looking at", root, &error)),
        }
        let known = recognise(root)?;
        let lock = lock(root, known == Known::Empty)?;
        // Another process may have created the directory between the first look and the lock.
        let known = recognise(root)?;
        let is_new = known != Known::Complete;
        let found = if is_new {
            identity.clone()
        } else {
            let found = identity::read(root)?;
            identity::check(root, &found, identity)?;
            found
        };
        let directory = Self {
            root: root.to_path_buf(),
            identity: Mutex::new(found),
            is_new,
            lock,
        };
        if directory.is_new {
            directory.begin_creation(identity)?;
        } else {
            directory.check_database(has_database)?;
        }
        let snapshots = directory.snapshots();
        fs::create_dir_all(&snapshots).map_err(|error| io("creating", &snapshots, &error))?;
        Ok(directory)
    }

    /// Takes an existing directory, whosever it is.
    pub(crate) fn take_existing(root: &Path) -> Result<Self, OpenError> {
        match fs::metadata(root) {
            Ok(found) if !found.is_dir() => return Err(not_a_directory(root)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Missing {
                    dir: root.to_path_buf(),
                });
            }
            Err(error) => return Err(OpenError::from_io("looking at", root, &error)),
        }
        if recognise(root)? != Known::Complete {
            return Err(OpenError::Missing {
                dir: root.to_path_buf(),
            });
        }
        let lock = lock(root, false)?;
        let identity = identity::read(root)?;
        let directory = Self {
            root: root.to_path_buf(),
            identity: Mutex::new(identity),
            is_new: false,
            lock,
        };
        directory.check_database(has_database)?;
        Ok(directory)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes the identity anew with `incarnation`, durable on return. The same incarnation again is written again: an earlier
    /// attempt may have failed after its rename.
    pub(crate) fn set_incarnation(&self, incarnation: u64) -> Result<(), IncarnationError> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if incarnation < identity.incarnation {
            return Err(IncarnationError::Backwards {
                dir: self.root.clone(),
                found: identity.incarnation,
                given: incarnation,
            });
        }
        let next = Identity {
            incarnation,
            outlived_by: identity.outlived_by.filter(|by| *by > incarnation),
            ..identity.clone()
        };
        self.replace(&mut identity, next)
    }

    /// Writes down, durable on return, that the cluster lives on in this incarnation without the node; nothing if it is known, or the node's own.
    pub(crate) fn set_outlived_by(&self, incarnation: u64) -> Result<(), IncarnationError> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if incarnation <= identity.incarnation || Some(incarnation) <= identity.outlived_by {
            return Ok(());
        }
        let next = Identity {
            outlived_by: Some(incarnation),
            ..identity.clone()
        };
        self.replace(&mut identity, next)
    }

    fn replace(&self, identity: &mut Identity, next: Identity) -> Result<(), IncarnationError> {
        let replaced = || -> io::Result<()> {
            let unfinished = self.root.join(IDENTITY_NEXT);
            identity::write(&unfinished, &next)?;
            fs::rename(&unfinished, self.root.join(IDENTITY))?;
            // From here on this is what an open finds, unless the power fails before the last step.
            *identity = next;
            sync_directory(&self.root)
        };
        replaced().map_err(|error| IncarnationError::Io {
            path: self.root.join(IDENTITY),
            source: error,
        })
    }

    /// Whether this open creates the directory.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join(DATABASE)
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join(SNAPSHOTS)
    }

    /// Declares a new directory complete, once its database exists on disk.
    pub(crate) fn finish_creation(&self) -> Result<(), OpenError> {
        if !self.is_new {
            return Ok(());
        }
        let identity = self.root.join(IDENTITY);
        let finish = || -> io::Result<()> {
            // The directory's own name must survive too; a parent that may not be read is not ours.
            let parent = self
                .root
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            match parent.map_or(Ok(()), sync_directory) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
            sync_directory(&self.root)?;
            fs::rename(self.root.join(IDENTITY_NEW), &identity)?;
            sync_directory(&self.root)
        };
        finish().map_err(|error| OpenError::from_io("writing", &identity, &error))
    }

    fn begin_creation(&self, identity: &Identity) -> Result<(), OpenError> {
        let path = self.root.join(IDENTITY_NEW);
        let begin = || -> io::Result<()> {
            identity::write(&path, identity)?;
            sync_directory(&self.root)?;
            // What an interrupted creation left: it was never opened for use.
            match fs::remove_dir_all(self.database()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        begin().map_err(|error| OpenError::from_io("writing", &path, &error))
    }

    /// A complete directory without its database has lost its votes: starting it empty could break the cluster's promises.
    fn check_database(
        &self,
        has_database: impl FnOnce(&Path) -> io::Result<bool>,
    ) -> Result<(), OpenError> {
        let current = self.database().join(DATABASE_CURRENT);
        match has_database(&current) {
            Ok(true) => Ok(()),
            Ok(false) => Err(OpenError::Corrupt {
                file: current,
                detail: "the file is missing".into(),
            }),
            Err(error) => Err(OpenError::from_io("looking at", &current, &error)),
        }
    }

    /// Frees the directory for another process before this one drops it.
    #[cfg(feature = "simulation")]
    pub(crate) fn release(&self) -> io::Result<()> {
        Ok(flock(&self.lock, FlockOperation::Unlock)?)
    }
}

/// Whether the file is there that every database has.
pub(crate) fn has_database(current: &Path) -> io::Result<bool> {
    fs::exists(current)
}

/// Makes a rename or a new name in `dir` survive a power failure.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[derive(Debug, PartialEq, Eq)]
enum Known {
    Empty,
    HalfCreated,
    Complete,
}

/// What a directory holds, judged by names alone; a stranger's directory is refused before anything is written into it.
fn recognise(root: &Path) -> Result<Known, OpenError> {
    let mut stranger = None;
    let mut half_created = false;
    let entries =
        fs::read_dir(root).map_err(|error| OpenError::from_io("listing", root, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| OpenError::from_io("listing", root, &error))?;
        match entry.file_name().to_str() {
            Some(IDENTITY) => return Ok(Known::Complete),
            Some(IDENTITY_NEW) => half_created = true,
            Some(LOCK | "lost+found") => {}
            _ => stranger = Some(entry.file_name()),
        }
    }
    match stranger {
        _ if half_created => Ok(Known::HalfCreated),
        None => Ok(Known::Empty),
        Some(name) => Err(OpenError::NotADataDirectory {
            dir: root.to_path_buf(),
            detail: format!("it has no {IDENTITY} but holds {}", name.display()),
        }),
    }
}

fn lock(root: &Path, create: bool) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = match opened {
        Ok(file) => file,
        // Reading offline from a write-protected copy: a lock needs no right to write.
        Err(error) if !create && error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            File::open(&path).map_err(|_| OpenError::from_io("locking", &path, &error))?
        }
        Err(error) => return Err(OpenError::from_io("locking", &path, &error)),
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(LOCK_RETRY);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse {
                    dir: root.to_path_buf(),
                });
            }
            Err(error) => return Err(OpenError::from_io("locking", &path, &error.into())),
        }
    }
}

fn not_a_directory(root: &Path) -> OpenError {
    OpenError::NotADataDirectory {
        dir: root.to_path_buf(),
        detail: "it is not a directory".into(),
    }
}
