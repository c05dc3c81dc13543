//! Whose data a directory holds: the file `identity.json`. Invariant: a file of a newer format is told from a damaged one, because only
//! its version is read before that is known to be ours.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::OpenError;

/// The version of everything under a data directory that this program writes, and the newest that it reads. Version 2 added the
/// incarnation to the identity, version 3 the number of logs, version 4 by which incarnation it is outlived.
pub const FORMAT_VERSION: u64 = 4;

/// The incarnation of a new cluster, and of one whose directories were made before there were any.
const FIRST_INCARNATION: u64 = 1;

/// The logs that shards had before they could share one: one each.
const LOGS_WITHOUT_SHARING: u16 = 16;

/// The file under the data directory.
pub(crate) const IDENTITY: &str = "identity.json";

/// Whose data a directory holds. Written when the directory is created; cluster and node are checked at every open, and the
/// directory's incarnation wins over the one given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The node in the cluster.
    pub node_id: u64,
    /// Which life of the cluster this is, 1 for a new one: `recover` after the loss of a data centre begins the next one; nodes
    /// of different incarnations refuse each other.
    pub incarnation: u64,
    /// A later life of the cluster that this node has heard of and has no part in: it is not to be recovered, but by force.
    pub outlived_by: Option<u64>,
    /// How many logs the cluster's shards share, as it was begun.
    pub logs: u16,
}

impl Identity {
    /// A node of a new cluster whose shards share so many logs.
    pub fn new(cluster_id: impl Into<String>, node_id: u64, logs: u16) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            node_id,
            incarnation: FIRST_INCARNATION,
            outlived_by: None,
            logs,
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
    /// Absent in version 1.
    #[serde(default = "first_incarnation")]
    incarnation: u64,
    /// Absent before version 4.
    #[serde(default)]
    outlived_by: Option<u64>,
    /// Absent before version 3.
    #[serde(default = "logs_without_sharing")]
    logs: u16,
}

fn logs_without_sharing() -> u16 {
    LOGS_WITHOUT_SHARING
}

fn first_incarnation() -> u64 {
    FIRST_INCARNATION
}

/// Writes `identity` to `path` and syncs the file; its name is not synced.
pub(crate) fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    let file = IdentityFile {
        format: FORMAT_VERSION,
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        outlived_by: identity.outlived_by,
        logs: identity.logs,
    };
    let text = serde_json::to_string_pretty(&file).expect("plain fields always have a JSON form");
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub(crate) fn read(root: &Path) -> Result<Identity, OpenError> {
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
        incarnation: file.incarnation,
        outlived_by: file.outlived_by,
        logs: file.logs,
    })
}

pub(crate) fn check(root: &Path, found: &Identity, expected: &Identity) -> Result<(), OpenError> {
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
