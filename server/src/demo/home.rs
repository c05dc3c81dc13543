//! Where the nodes' data and logs lie.
//!
//! Invariant: data that was begun with one number of nodes is never started with another, which would put nodes into
//! other data centres or leave some out.

use std::path::{Path, PathBuf};

use crate::cli::Failure;

/// Beside the nodes' data: how many nodes the demo was begun with.
const BEGUN: &str = "demo-nodes";

pub(super) struct Home {
    path: PathBuf,
    /// Removed when dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Home {
    /// The directory given, or a temporary one.
    pub(super) fn open(given: Option<&Path>, nodes: u16) -> Result<Self, Failure> {
        let cannot =
            |error| Failure::Server(format!("cannot create the demo's data directory: {error}"));
        let Some(path) = given else {
            let temporary = tempfile::TempDir::with_prefix("qiang-demo-").map_err(cannot)?;
            return Ok(Self {
                path: temporary.path().to_owned(),
                temporary: Some(temporary),
            });
        };
        std::fs::create_dir_all(path).map_err(cannot)?;
        let home = Self {
            path: std::path::absolute(path).map_err(cannot)?,
            temporary: None,
        };
        match home.begun_with()? {
            Some(begun) if begun != nodes => Err(Failure::Usage(format!(
                "{} holds a demo of {begun} nodes: start it with --nodes {begun}, or name another directory",
                home.path.display()
            ))),
            _ => {
                // Before the first node starts: a demo that is stopped while it forms goes on forming the next time.
                std::fs::write(home.path.join(BEGUN), format!("{nodes}\n")).map_err(cannot)?;
                Ok(home)
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is removed at the end.
    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Where a node's data lies.
    pub(super) fn data_dir(&self, node: u64) -> PathBuf {
        self.path.join(format!("node-{node}"))
    }

    /// Where a node's log is written: beside its data directory, which is the store's alone.
    pub(super) fn log(&self, node: u64) -> PathBuf {
        self.path.join(format!("node-{node}.log"))
    }

    /// How many nodes there is data of, if any.
    fn begun_with(&self) -> Result<Option<u16>, Failure> {
        if !self.data_dir(1).exists() {
            return Ok(None);
        }
        let file = self.path.join(BEGUN);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            // Before clusters came there were demos of one node, without the note.
            Err(_) if !self.data_dir(2).exists() => "1".to_owned(),
            Err(_) => return Ok(None),
        };
        let nodes = text.trim().parse().map_err(|_| {
            Failure::Server(format!(
                "{} does not say how many nodes the demo has: remove the directory, or name another",
                file.display()
            ))
        })?;
        Ok(Some(nodes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_so_many_nodes_is_started_with_as_many_only() {
        let folder = tempfile::tempdir().unwrap();
        let open = |nodes| Home::open(Some(folder.path()), nodes);
        // Nothing was begun yet: the number may still change.
        assert!(open(2).is_ok());
        assert!(open(4).is_ok());
        std::fs::create_dir(folder.path().join("node-1")).unwrap();
        assert!(open(4).is_ok());
        let refused = open(2).err().expect("a refusal");
        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_string().contains("--nodes 4"), "{refused}");
        std::fs::write(folder.path().join(BEGUN), "many").unwrap();
        assert_eq!(open(4).err().expect("a refusal").exit_code(), 5);
    }

    #[test]
    fn a_demo_of_the_time_before_clusters_has_one_node() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("node-1")).unwrap();
        let open = |nodes| Home::open(Some(folder.path()), nodes);
        assert!(open(1).is_ok());
        assert_eq!(open(4).err().expect("a refusal").exit_code(), 2);
    }
}
