//! `qiang raft snapshot save`, `status` and `restore`: the whole cluster in one file, and a new cluster from it.
//!
//! Invariant: a file has its name only once every byte of it was verified and is on the disk; whatever fails before
//! leaves nothing behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use qiang_engine::UnixMs;
use qiang_raft::NodeInfo;
use qiang_raft::backup::{
    BackupError, Contents, Header, RestoreError, RestoreOptions, Restored, inspect, restore, verify,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::output::{Output, printable};
use super::super::values::Ask;
use super::super::{Client, Failure};
use super::progress::{Progress, Stage};
use crate::node_config::NodeConfig;

/// How long the node may take, beyond any other answer, to choose where to cut and to verify the snapshots it begins with.
const BEGIN_TIMEOUT: Duration = Duration::from_mins(2);

/// After so long without a byte the node counts as gone. It may fold a large shard before the next byte.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// Blocks between the connection and the disk.
const BLOCKS_MAX: usize = 16;

/// The permissions of a backup: it has every buyer's account and address in it.
const FILE_MODE: u32 = 0o600;

/// What to do with backups.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  qiang raft snapshot save backup.qiang\n  qiang raft snapshot status backup.qiang\n  \
    qiang raft snapshot restore backup.qiang --data-dir /var/lib/qiang-new"
)]
pub(crate) enum SnapshotCommand {
    /// Save the state of the whole cluster to a file
    #[command(
        after_help = "Example:\n  qiang raft snapshot save backup.qiang\n  qiang raft snapshot save backup.qiang --yes --server 127.0.0.1:7402\n\n\
        Ask a node that holds every shard, as each of up to four nodes does. The cluster goes on meanwhile; whatever was\n\
        acknowledged before is in the file, and no order over several shards is torn. Flows are not in it: it holds what\n\
        they add up to. A file that exists is replaced only with --yes."
    )]
    Save(SaveArgs),
    /// Verify a file to its last byte and show what is in it; exit code 6 if it is damaged or cut short
    #[command(after_help = "Example:\n  qiang raft snapshot status backup.qiang\n\n\
        Offline: no node is asked.")]
    Status(StatusArgs),
    /// Make the data directory of a new one-node cluster from a file
    #[command(
        after_help = "Example:\n  qiang raft snapshot restore backup.qiang --data-dir /var/lib/qiang-new\n  \
        qiang serve --data-dir /var/lib/qiang-new\n\n\
        Offline. The new cluster has an id of its own and never mixes with the old one, which must not go on serving beside\n\
        it: both would sell the same units. Start it without --bootstrap, and add nodes with add-node. Orders and\n\
        counters are as they were when the file was saved; GET /v1/flows begins after it. Orders whose payment time has\n\
        passed meanwhile are returned at once."
    )]
    Restore(RestoreArgs),
}

/// Where to save to.
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The file
    file: PathBuf,
}

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The file
    file: PathBuf,
}

/// What to make from which file.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file
    file: PathBuf,
    /// The new node's data directory, absent or empty
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Number of the new node, as its settings will say
    #[arg(long, value_name = "NUMBER", default_value_t = NodeConfig::default().node.id, value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// The data centre it stands in
    #[arg(long, value_name = "NAME", default_value_t = NodeConfig::default().node.dc)]
    dc: String,
    /// Where it will listen for its peers
    #[arg(long, value_name = "ADDRESS", default_value_t = NodeConfig::default().peer_address())]
    peer: String,
}

/// Runs the command.
pub(super) async fn run(
    command: SnapshotCommand,
    ask: Ask,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save(args) => save(&args.file, ask, client, out).await,
        SnapshotCommand::Status(args) => status(&args.file, out),
        SnapshotCommand::Restore(args) => make(&args, out),
    }
}

async fn save(file: &Path, ask: Ask, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let shown = file.display();
    if file.is_dir() || file.file_name().is_none() {
        return Err(Failure::Usage(format!("{shown} is not the name of a file")));
    }
    if file.exists() {
        ask.confirm(&format!("{shown} exists. Replace it?"))?;
    }
    let unfinished = Unfinished::create(file)?;
    let body = client
        .post_streamed("/v1/cluster/snapshot", BEGIN_TIMEOUT)
        .await?;
    let (header, bytes) = receive(body, &unfinished, client).await?;
    unfinished.finish(file)?;
    if out.is_json() {
        let mut told = header_json(&header);
        told["file"] = json!(file.to_string_lossy());
        told["bytes"] = json!(bytes);
        return out.json(&told.to_string());
    }
    out.text(&format!("{}: {bytes} bytes in {shown}", whose(&header)))
}

/// A file until it is whole: under another name, and removed if it never is.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut name = target.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&path);
        let file = opened.map_err(|error| {
            Failure::Usage(format!("cannot create {}: {error}", path.display()))
        })?;
        Ok(Unfinished { path, file })
    }

    /// Gives the file its name, for good.
    fn finish(self, target: &Path) -> Result<(), Failure> {
        let finish = || -> io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.path, target)?;
            let parent = target
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        finish()
            .map_err(|error| Failure::Server(format!("cannot write {}: {error}", target.display())))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is gone already if it has its name; otherwise there is nothing better to do than to try.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes what the node sends, and verifies it on the way. Its header and the bytes of the file.
async fn receive(
    mut body: Incoming,
    unfinished: &Unfinished,
    client: &Client,
) -> Result<(Header, u64), Failure> {
    let file = unfinished.file.try_clone()?;
    let (blocks, incoming) = mpsc::channel(BLOCKS_MAX);
    let mut copy = Copy {
        incoming,
        block: Bytes::new(),
        file: BufWriter::new(file),
        bytes: 0,
    };
    let written = tokio::task::spawn_blocking(move || {
        let mut progress = Progress::new("the cluster is saved".to_owned(), "groups");
        let mut done = 0;
        let verified = verify(&mut copy, |_, groups| {
            done += 1;
            progress.show(&Stage::of(done, groups));
        });
        progress.end();
        let header = verified?;
        copy.file.flush()?;
        Ok::<_, BackupError>((header, copy.bytes))
    });
    let sent = pass_on(&mut body, &blocks, client).await;
    drop(blocks);
    let written = written
        .await
        .map_err(|error| Failure::Server(format!("writing the file failed: {error}")))?;
    // A connection that broke off is told rather than that the file is cut short.
    sent?;
    written.map_err(|error| {
        Failure::Server(match error {
            BackupError::Io(error) => {
                format!("cannot write {}: {error}", unfinished.path.display())
            }
            error => format!("what {} sent cannot be used: {error}", client.server()),
        })
    })
}

/// Hands on what comes until it ends or nobody takes it.
async fn pass_on(
    body: &mut Incoming,
    blocks: &mpsc::Sender<Bytes>,
    client: &Client,
) -> Result<(), Failure> {
    loop {
        let Ok(frame) = timeout(SILENCE_MAX, body.frame()).await else {
            let (server, seconds) = (client.server(), SILENCE_MAX.as_secs());
            return Err(Failure::Server(format!(
                "{server} sent nothing for {seconds} s"
            )));
        };
        let Some(frame) = frame else {
            return Ok(());
        };
        let frame = frame.map_err(|error| client.broken_off(&error))?;
        if let Ok(block) = frame.into_data()
            && blocks.send(block).await.is_err()
        {
            // The other side has failed and says why.
            return Ok(());
        }
    }
}

/// Reads what comes, and writes it to the file.
struct Copy {
    incoming: mpsc::Receiver<Bytes>,
    block: Bytes,
    file: BufWriter<File>,
    bytes: u64,
}

impl Read for Copy {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            let Some(block) = self.incoming.blocking_recv() else {
                return Ok(0);
            };
            self.file.write_all(&block)?;
            self.bytes += block.len() as u64;
            self.block = block;
        }
        let given = buffer.len().min(self.block.len());
        buffer[..given].copy_from_slice(&self.block.split_to(given));
        Ok(given)
    }
}

fn status(file: &Path, out: &mut Output) -> Result<(), Failure> {
    let contents = inspect(file).map_err(|error| unusable(file, &error))?;
    if out.is_json() {
        return out.json(&contents_json(&contents).to_string());
    }
    out.text(&whose(&contents.header))?;
    out.table(&COLUMNS, &rows(&contents))
}

const COLUMNS: [&str; 6] = [
    ">GROUP",
    ">INDEX",
    ">TERM",
    ">ORDERS",
    ">PROMOTIONS",
    ">BYTES",
];

fn rows(contents: &Contents) -> Vec<Vec<String>> {
    let groups = contents.groups.iter();
    groups
        .map(|group| {
            vec![
                group.group.clone(),
                group.cut.index.to_string(),
                group.cut.term.to_string(),
                group.orders.to_string(),
                group.promotions.to_string(),
                group.bytes.to_string(),
            ]
        })
        .collect()
}

/// What a file is no use for is a failed check; that it cannot be read is this machine's error.
fn unusable(file: &Path, error: &BackupError) -> Failure {
    let told = format!("{}: {error}", file.display());
    match error {
        BackupError::Io(_) => Failure::Server(told),
        _ => Failure::Check(told),
    }
}

fn make(args: &RestoreArgs, out: &mut Output) -> Result<(), Failure> {
    let names_port = |peer: &str| {
        let port = peer.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    if !names_port(&args.peer) {
        let peer = &args.peer;
        return Err(Failure::Usage(format!(
            "--peer {peer:?} is not an address: give host:port"
        )));
    }
    let defaults = NodeConfig::default();
    let options = RestoreOptions {
        data_dir: args.data_dir.clone(),
        node_id: args.node_id,
        info: NodeInfo {
            peer_address: args.peer.clone(),
            http_address: defaults.http.listen.to_string(),
            dc: args.dc.clone(),
            name: format!("node-{}", args.node_id),
        },
        storage: qiang_storage::Options {
            wal_warm_bytes: 0,
            ..defaults.storage_options()
        },
    };
    let restored = restore(&args.file, &options).map_err(|error| match &error {
        RestoreError::Backup(error) => unusable(&args.file, error),
        RestoreError::Dc(_) | RestoreError::Witness | RestoreError::NotEmpty { .. } => {
            Failure::Usage(error.to_string())
        }
        _ => Failure::Server(error.to_string()),
    })?;
    if out.is_json() {
        return out.json(&restored_json(&restored, args).to_string());
    }
    out.text(&format!(
        "{} is node {} of the new cluster {}, as it was in the {}\nStart it: qiang serve --data-dir {} --node-id {} --dc {} --peer-listen {}",
        args.data_dir.display(),
        args.node_id,
        restored.cluster_id,
        whose(restored.header()),
        args.data_dir.display(),
        args.node_id,
        args.dc,
        args.peer,
    ))
}

/// The backup in words.
fn whose(header: &Header) -> String {
    format!(
        "backup of cluster {}, incarnation {}, taken {} from node {}",
        printable(&header.cluster_id),
        header.incarnation,
        time(header.at),
        header.node_id
    )
}

fn time(at: UnixMs) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0.cast_signed());
    at.map_or_else(|_| "-".to_owned(), |at| format!("{at:.3}"))
}

fn header_json(header: &Header) -> Value {
    json!({
        "cluster_id": header.cluster_id,
        "incarnation": header.incarnation,
        "node_id": header.node_id,
        "version": header.version,
        "at": time(header.at),
    })
}

fn contents_json(contents: &Contents) -> Value {
    let group = |group: &qiang_raft::backup::GroupContents| {
        json!({
            "group": group.group,
            "index": group.cut.index,
            "term": group.cut.term,
            "orders": group.orders,
            "promotions": group.promotions,
            "bytes": group.bytes,
        })
    };
    let mut told = header_json(&contents.header);
    told["revision"] = json!(contents.meta.cluster.revision);
    told["groups"] = contents.groups.iter().map(group).collect();
    told
}

fn restored_json(restored: &Restored, args: &RestoreArgs) -> Value {
    json!({
        "cluster_id": restored.cluster_id,
        "node_id": args.node_id,
        "data_dir": args.data_dir.to_string_lossy(),
        "revision": restored.contents.meta.cluster.revision + 1,
        "backup": header_json(restored.header()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_a_failed_check_and_an_absent_one_an_error() {
        let file = Path::new("backup.qiang");
        let cut = unusable(file, &BackupError::CutShort { bytes: 7 });
        assert_eq!(cut.exit_code(), 6);
        assert_eq!(
            cut.to_string(),
            "backup.qiang: it is cut short after 7 bytes"
        );
        let absent = BackupError::Io(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(unusable(file, &absent).exit_code(), 5);
    }

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(time(UnixMs(1_500)), "1970-01-01T00:00:01.500Z");
    }
}
