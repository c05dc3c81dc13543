//! The data directory of a restore while it is made.
//!
//! It is made below the one asked for, under a name that no node takes for data, and moved up when it is whole, the identity
//! last: `qiang serve` refuses whatever a restore that died has left.
//!
//! Invariants: a directory that holds anything is left as it is; what a restore that fails has made is removed again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::restore::RestoreError;

/// Where the data is made before it is moved up.
const UNFINISHED: &str = "restoring";

/// What is moved up last: it makes a directory one that a node takes.
const IDENTITY: &str = "identity.json";

/// What a file system of its own holds when it is empty.
const LOST_AND_FOUND: &str = "lost+found";

/// The directory while it is made; dropped before its end, what was made of it is removed again.
pub(super) struct Place {
    dir: PathBuf,
    /// Directories that did not exist before, the innermost first.
    made: Vec<PathBuf>,
    /// What was moved up already.
    moved: Vec<PathBuf>,
    finished: bool,
}

impl Place {
    /// Begins the directory `dir`, absent or empty.
    pub(super) fn make(dir: &Path) -> Result<Self, RestoreError> {
        let absent = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let mut place = Place {
            dir: dir.to_owned(),
            made: dir
                .ancestors()
                .take_while(absent)
                .map(Path::to_owned)
                .collect(),
            moved: Vec::new(),
            finished: false,
        };
        fs::create_dir_all(dir).map_err(system("create", dir))?;
        let unfinished = place.unfinished();
        // Not of the directory's parents alone: whoever else restores here has made it already, and it is theirs.
        let made = check_empty(dir)
            .and_then(|()| fs::create_dir(&unfinished).map_err(system("create", &unfinished)));
        if let Err(error) = made {
            place.finished = true;
            remove_empty(&place.made);
            return Err(error);
        }
        Ok(place)
    }

    /// Where the data is to be made.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.dir.join(UNFINISHED)
    }

    /// Moves everything up, the identity last.
    pub(super) fn finish(mut self) -> Result<(), RestoreError> {
        let dir = self.dir.clone();
        self.move_up().map_err(system("finish", &dir))?;
        self.finished = true;
        Ok(())
    }

    fn move_up(&mut self) -> io::Result<()> {
        let unfinished = self.unfinished();
        let mut names = Vec::new();
        for entry in fs::read_dir(&unfinished)? {
            names.push(entry?.file_name());
        }
        names.retain(|name| name != IDENTITY);
        for name in names {
            let target = self.dir.join(&name);
            fs::rename(unfinished.join(&name), &target)?;
            self.moved.push(target);
        }
        for made in &self.made {
            match made.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => sync(parent)?,
                _ => {}
            }
        }
        sync(&self.dir)?;
        fs::rename(unfinished.join(IDENTITY), self.dir.join(IDENTITY))?;
        self.moved.push(self.dir.join(IDENTITY));
        fs::remove_dir(&unfinished)?;
        sync(&self.dir)
    }

    fn remove(&self) -> io::Result<()> {
        let unfinished = self.unfinished();
        // The identity goes first: without it no node takes the rest.
        for path in self.moved.iter().rev().chain([&unfinished]) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        remove_empty(&self.made);
        Ok(())
    }
}

/// Removes directories as far as nobody else has put anything into them.
fn remove_empty(dirs: &[PathBuf]) {
    for dir in dirs {
        if fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = self.remove() {
            tracing::warn!(dir = %self.dir.display(), %error, "what a failed restore made could not be removed");
        }
    }
}

/// Refuses a directory that holds anything.
pub(super) fn check_empty(dir: &Path) -> Result<(), RestoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look into", dir)(error)),
    };
    for entry in entries {
        let found = entry.map_err(system("look into", dir))?.file_name();
        if found != LOST_AND_FOUND {
            return Err(RestoreError::NotEmpty {
                dir: dir.to_owned(),
                found: found.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

fn system(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::System {
        doing,
        path,
        source,
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
