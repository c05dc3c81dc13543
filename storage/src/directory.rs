//! The data directory: whose it is, who holds it, and what lies where in it.
//!
//! ```text
//! lock              locked (flock) while a process uses the directory
//! identity.json     format version, cluster, node; its presence says that the directory is complete
//! identity.json.new the same during creation only: nothing was ever acknowledged from such a directory
//! db/               RocksDB
//! snapshots/<group>/<index>.snapshot
//! ```
//! Invariant: the lock is taken before anything is read that another process could be writing, and a directory that is refused is
//! left as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::OpenError;

/// The version of everything under a data directory that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

const LOCK: &str = "lock";
pub(crate) const IDENTITY: &str = "identity.json";
const IDENTITY_NEW: &str = "identity.json.new";
const DATABASE: &str = "db";
const SNAPSHOTS: &str = "snapshots";

/// How long a lock is tried for: a node that was just killed, or a child that it was just starting, may
/// still be on its way out.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Whose data a directory holds. Written when the directory is created, checked at every open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The node in the cluster.
    pub node_id: u64,
}

impl Identity {
    /// Whose data the directory holds; `None` if it is absent, empty, or its creation was never finished.
    ///
    /// # Errors
    /// If it is not a data directory, or its identity cannot be read.
    pub fn read(root: &Path) -> Result<Option<Self>, OpenError> {
        match fs::metadata(root) {
            Ok(found) if !found.is_dir() => Err(not_a_directory(root)),
            Ok(_) => match recognise(root)? {
                Known::Complete => read_identity(root).map(Some),
                _ => Ok(None),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::from_io("looking at", root, &error)),
        }
    }
}

/// `identity.json`. Only `format` is read before the version is known to be ours.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u64,
    cluster_id: String,
    node_id: u64,
}

/// A data directory held by this process until it is dropped.
pub(crate) struct Directory {
    root: PathBuf,
    identity: Identity,
    is_new: bool,
    _lock: File,
}

impl Directory {
    /// Takes the directory for `identity`, beginning its creation if there is none. A new one exists for good only after
    /// [`Directory::finish_creation`].
    pub(crate) fn take(root: &Path, identity: &Identity) -> Result<Self, OpenError> {
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
        let directory = Self {
            root: root.to_path_buf(),
            identity: identity.clone(),
            is_new: known != Known::Complete,
            _lock: lock,
        };
        if directory.is_new {
            directory.begin_creation()?;
        } else {
            check_identity(root, &read_identity(root)?, identity)?;
            directory.check_database()?;
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
        let identity = read_identity(root)?;
        let directory = Self {
            root: root.to_path_buf(),
            identity,
            is_new: false,
            _lock: lock,
        };
        directory.check_database()?;
        Ok(directory)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
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

    fn begin_creation(&self) -> Result<(), OpenError> {
        let path = self.root.join(IDENTITY_NEW);
        let file = IdentityFile {
            format: FORMAT_VERSION,
            cluster_id: self.identity.cluster_id.clone(),
            node_id: self.identity.node_id,
        };
        let text =
            serde_json::to_string_pretty(&file).expect("plain fields always have a JSON form");
        let begin = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
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
    fn check_database(&self) -> Result<(), OpenError> {
        let current = self.database().join("CURRENT");
        match fs::metadata(&current) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Corrupt {
                file: current,
                detail: "the file is missing".into(),
            }),
            Err(error) => Err(OpenError::from_io("looking at", &current, &error)),
        }
    }
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

fn read_identity(root: &Path) -> Result<Identity, OpenError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u64,
    }
    let path = root.join(IDENTITY);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => OpenError::Corrupt {
            file: path.clone(),
            detail: error.to_string(),
        },
        _ => OpenError::from_io("reading", &path, &error),
    })?;
    let corrupt = |error: serde_json::Error| OpenError::Corrupt {
        file: path.clone(),
        detail: error.to_string(),
    };
    let Versioned { format } = serde_json::from_str(&text).map_err(corrupt)?;
    if format > FORMAT_VERSION {
        return Err(OpenError::NewerFormat {
            dir: root.to_path_buf(),
            found: format,
            supported: FORMAT_VERSION,
        });
    }
    let file: IdentityFile = serde_json::from_str(&text).map_err(corrupt)?;
    Ok(Identity {
        cluster_id: file.cluster_id,
        node_id: file.node_id,
    })
}

fn check_identity(root: &Path, found: &Identity, expected: &Identity) -> Result<(), OpenError> {
    let dir = root.to_path_buf();
    if found.cluster_id != expected.cluster_id {
        return Err(OpenError::OtherCluster {
            dir,
            found: found.cluster_id.clone(),
            expected: expected.cluster_id.clone(),
        });
    }
    if found.node_id != expected.node_id {
        return Err(OpenError::OtherNode {
            dir,
            found: found.node_id,
            expected: expected.node_id,
        });
    }
    Ok(())
}

fn not_a_directory(root: &Path) -> OpenError {
    OpenError::NotADataDirectory {
        dir: root.to_path_buf(),
        detail: "it is not a directory".into(),
    }
}
