//! What one node is told before it starts: one commented TOML file, overridden by the environment, overridden by flags.
//!
//! Invariant: nothing given is ignored. An unknown key of the file, an unknown `QIANG_` variable and a value of the
//! wrong type are errors that name the key; the documentation of a setting, its default and its place in the printed
//! file are one declaration.

mod check;
mod effective;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use qiang_engine::routing::Sharing;
use qiang_raft::peer::TlsFiles;
use serde::{Deserialize, Serialize};

pub use effective::{Effective, Error, FlagSetting, Source};

/// Declares a section: its type, its defaults and its documentation in one place.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $name {
            const DOCS: Docs = Docs {
                about: &[$($about),+],
                fields: &[$( (stringify!($field), &[$($doc),+]) ),+],
            };
        }
    };
}

/// The documentation of a section, line by line.
struct Docs {
    about: &'static [&'static str],
    fields: &'static [(&'static str, &'static [&'static str])],
}

section! {
    /// Who this node is.
    NodeSection {
        /// Number of this node in its cluster, from 1. It never changes once the data directory exists.
        id: u64 = 1,
        /// The data centre this node stands in.
        dc: String = "a".to_owned(),
        /// What people call this node; empty: "node-" and its number.
        name: String = String::new(),
        /// Where this node keeps its log and snapshots; it belongs to this node alone.
        data_dir: PathBuf = PathBuf::from("qiang-data"),
    }
}

section! {
    /// The public interface.
    HttpSection {
        /// Address of the public HTTP interface. Only a loopback address, because this version knows no tokens.
        listen: SocketAddr = loopback(7400),
        /// Connections served at a time; further ones are closed at once.
        connections_max: usize = 16_384,
        /// Milliseconds a client may take to send a request's head; then its connection is closed.
        header_timeout_ms: u64 = 10_000,
        /// Milliseconds a request may wait for its outcome; then it is answered 504 `outcome_unknown`. Its body must come
        /// within the same time.
        request_timeout_ms: u64 = 5_000,
        /// Milliseconds that requests in flight are given when the node is told to stop.
        drain_timeout_ms: u64 = 10_000,
    }
}

section! {
    /// The interface for other nodes of the cluster.
    PeerSection {
        /// Address on which this node listens for its peers.
        listen: SocketAddr = loopback(7500),
        /// Address at which peers find this node, host:port; empty: the one it listens on.
        advertise: String = String::new(),
        /// Milliseconds without a word from a leader after which the first follower may stand for election; the last
        /// does after half as much again. Heartbeats come about three times as often. At least ten round trips between
        /// data centres.
        election_timeout_ms: u64 = 200,
        /// TLS between nodes, all three or none: this node's certificate with those between it and the authority, a PEM
        /// file. It must be good for the host of `advertise`, as a server's and as a client's.
        tls_certificate: PathBuf = PathBuf::new(),
        /// The certificate's private key, a PEM file.
        tls_key: PathBuf = PathBuf::new(),
        /// Certificates of the authorities whose nodes are let in, a PEM file.
        tls_authority: PathBuf = PathBuf::new(),
    }
}

section! {
    /// The log on disk.
    StorageSection {
        /// How many logs the sixteen shards share: 1, 2, 4, 8 or 16; 0: one for every four threads of this node. Fewer make
        /// larger entries out of little traffic; more keep more processors busy and spread over more nodes: each has four
        /// replicas. For a cluster that begins here; one that exists keeps its number.
        logs: u16 = 0,
        /// Bytes of one memtable, and so about the size of one write-ahead file; up to four exist while the disk lags.
        memtable_bytes: usize = qiang_storage::Options::default().memtable_bytes,
        /// Write-ahead files kept for overwriting: syncing a file that does not grow is several times cheaper.
        recycled_wals: usize = qiang_storage::Options::default().recycled_wals,
        /// Bytes written ahead into the first write-ahead files at each start; best equal to `memtable_bytes`, 0: none.
        wal_warm_bytes: usize = qiang_storage::Options::default().wal_warm_bytes,
        /// Bytes of newest entries kept in memory per log, so that applying and replicating read no disk.
        tail_bytes_per_group: usize = qiang_storage::Options::default().tail_bytes_per_group,
        /// Writes that may wait for the disk; past it the shards wait, and then refuse.
        queue_operations_max: usize = qiang_storage::Options::default().queue_operations_max,
        /// Bytes after which a batch of writes is synced, so that one batch does not delay everybody.
        batch_bytes_max: usize = qiang_storage::Options::default().batch_bytes_max,
        /// Entries of a log after which its next snapshot is built, if it did not grow enough before.
        snapshot_entries: u64 = 100_000,
        /// Bytes of the cache for readers of old flows.
        block_cache_bytes: usize = qiang_storage::Options::default().block_cache_bytes,
    }
}

section! {
    /// Threads.
    RuntimeSection {
        /// Threads that serve requests, each its own connections; 0: one for each core. Beside them one thread for each log
        /// drives its shards and speaks with peers. With 1, one thread does everything.
        threads: usize = 0,
    }
}

section! {
    /// The log for people, on standard error; not to be confused with the flows.
    LogSection {
        /// Least level told: error, warn, info, debug; and of single modules. Raft tells every vote at info.
        level: String = "info,openraft=error".to_owned(),
        /// "text", or "json" with one object a line.
        format: LogFormat = LogFormat::Text,
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Who this node is.
    pub node: NodeSection,
    /// The public interface.
    pub http: HttpSection,
    /// The interface for other nodes.
    pub peer: PeerSection,
    /// The log on disk.
    pub storage: StorageSection,
    /// Threads.
    pub runtime: RuntimeSection,
    /// The log for people.
    pub log: LogSection,
}

/// Every section in the order of the printed file.
const SECTIONS: [(&str, Docs); 6] = [
    ("node", NodeSection::DOCS),
    ("http", HttpSection::DOCS),
    ("peer", PeerSection::DOCS),
    ("storage", StorageSection::DOCS),
    ("runtime", RuntimeSection::DOCS),
    ("log", LogSection::DOCS),
];

impl NodeConfig {
    /// What people call this node.
    pub fn node_name(&self) -> String {
        if self.node.name.is_empty() {
            format!("node-{}", self.node.id)
        } else {
            self.node.name.clone()
        }
    }

    /// Where peers find this node, `host:port`.
    pub fn peer_address(&self) -> String {
        if self.peer.advertise.is_empty() {
            self.peer.listen.to_string()
        } else {
            self.peer.advertise.clone()
        }
    }

    /// Where the certificate for TLS between nodes lies, if there is one.
    pub fn peer_tls(&self) -> Option<TlsFiles> {
        let peer = &self.peer;
        (!peer.tls_certificate.as_os_str().is_empty()).then(|| TlsFiles {
            certificate: peer.tls_certificate.clone(),
            key: peer.tls_key.clone(),
            authority: peer.tls_authority.clone(),
        })
    }

    /// How the shards of a cluster that begins here share logs; `None` where the number is none of those that can be.
    pub fn sharing(&self) -> Option<Sharing> {
        match self.storage.logs {
            0 => Some(Sharing::for_threads(self.threads())),
            given => Sharing::over(given),
        }
    }

    /// How many threads serve requests.
    pub fn threads(&self) -> usize {
        match self.runtime.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        }
    }

    /// How many threads serve requests and nothing else. Where there is but one, it does everything: threads that take turns
    /// on one core would only hand work over to each other.
    pub fn connection_threads(&self) -> usize {
        match self.threads() {
            1 => 0,
            several => several,
        }
    }

    /// How many threads decide, drive Raft and speak with peers: one for each log that these settings begin a cluster with,
    /// where there are as many cores.
    pub fn log_threads(&self) -> usize {
        let logs = self
            .sharing()
            .map_or(1, |sharing| usize::from(sharing.logs()));
        logs.min(self.threads())
    }

    /// The sizes that the store runs with.
    pub fn storage_options(&self) -> qiang_storage::Options {
        let storage = &self.storage;
        qiang_storage::Options {
            memtable_bytes: storage.memtable_bytes,
            recycled_wals: storage.recycled_wals,
            wal_warm_bytes: storage.wal_warm_bytes,
            tail_bytes_per_group: storage.tail_bytes_per_group,
            queue_operations_max: storage.queue_operations_max,
            batch_bytes_max: storage.batch_bytes_max,
            block_cache_bytes: storage.block_cache_bytes,
            ..qiang_storage::Options::default()
        }
    }

    fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self)
            .expect("plain numbers, texts and addresses always have a TOML form")
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
