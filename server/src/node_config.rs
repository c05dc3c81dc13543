//! What one node is told before it starts: one commented TOML file, overridden by the environment, overridden by flags.
//!
//! Invariant: nothing given is ignored. An unknown key of the file, an unknown `QIANG_` variable and a value of the
//! wrong type are errors that name the key; the documentation of a setting, its default and its place in the printed
//! file are one declaration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Variables that begin like settings and are none: where the command line finds a node, where `./dev` keeps compiled
/// crates, and which binary the tests run.
const NOT_SETTINGS: [&str; 3] = ["QIANG_SERVER", "QIANG_CACHE_DIR", "QIANG_BIN"];

/// What every variable that is a setting begins with.
const PREFIX: &str = "QIANG_";

/// Most threads that drive shards: there are sixteen shards.
const ACTOR_THREADS_MAX: usize = 16;

/// Shortest election timeout, in milliseconds: heartbeats of 37 ms, which a slow sync still leaves room for.
const ELECTION_TIMEOUT_MS_MIN: u64 = 100;

/// Longest election timeout, in milliseconds: nobody wants to wait longer for the next leader.
const ELECTION_TIMEOUT_MS_MAX: u64 = 60_000;

/// Fewest bytes of a memtable, 1 MiB: below it the log is cut into more files than merging keeps up with.
const MEMTABLE_BYTES_MIN: usize = 1 << 20;

/// Most bytes of a memtable, 1 GiB: four of them may exist at a time.
const MEMTABLE_BYTES_MAX: usize = 1 << 30;

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
    }
}

section! {
    /// The log on disk.
    StorageSection {
        /// Bytes of one memtable, and so about the size of one write-ahead file; up to four exist while the disk lags.
        memtable_bytes: usize = qiang_storage::Options::default().memtable_bytes,
        /// Write-ahead files kept for overwriting: syncing a file that does not grow is several times cheaper.
        recycled_wals: usize = qiang_storage::Options::default().recycled_wals,
        /// Bytes written ahead into the first write-ahead files at each start; best equal to `memtable_bytes`, 0: none.
        wal_warm_bytes: usize = qiang_storage::Options::default().wal_warm_bytes,
        /// Bytes of newest entries kept in memory per shard, so that applying and replicating read no disk.
        tail_bytes_per_group: usize = qiang_storage::Options::default().tail_bytes_per_group,
        /// Writes that may wait for the disk; past it the shards wait, and then refuse.
        queue_operations_max: usize = qiang_storage::Options::default().queue_operations_max,
        /// Bytes after which a batch of writes is synced, so that one batch does not delay everybody.
        batch_bytes_max: usize = qiang_storage::Options::default().batch_bytes_max,
        /// Entries of a shard after which its next snapshot is built, if its log did not grow enough before.
        snapshot_entries: u64 = 20_000,
        /// Bytes of the cache for readers of old flows.
        block_cache_bytes: usize = qiang_storage::Options::default().block_cache_bytes,
    }
}

section! {
    /// Threads.
    RuntimeSection {
        /// Threads that serve HTTP; 0: one for each core.
        http_threads: usize = 0,
        /// Threads that drive the shards; 0: one for each core, at most 16.
        actor_threads: usize = 0,
    }
}

section! {
    /// The log for people, on standard error; not to be confused with the flows.
    LogSection {
        /// Least level told: error, warn, info, debug; and of single modules. Raft tells every vote at info.
        level: String = "info,openraft=warn".to_owned(),
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

/// Why a node's settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key or a value of the wrong type.
    #[error("the configuration file {} is wrong: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where and what.
        detail: String,
    },
    /// A variable that begins with `QIANG_` is no setting.
    #[error("the environment variable {name} is no setting{hint}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// A variable or flag has a value of the wrong type.
    #[error("{origin} is {value:?}: {detail}")]
    Value {
        /// The variable or flag.
        origin: Source,
        /// What it was set to.
        value: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{key} is {value} ({origin}): {detail}")]
    Setting {
        /// Section and key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where it comes from.
        origin: Source,
        /// Why it cannot be used.
        detail: String,
    },
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it.
    Default,
    /// The file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Default => f.write_str("the default"),
            Source::File(path) => write!(f, "from {}", path.display()),
            Source::Variable(name) => write!(f, "the environment variable {name}"),
            Source::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// A setting given as a flag: the flag, the section and key it sets, and its value.
pub type FlagSetting = (&'static str, &'static str, String);

/// The settings in force, with where each comes from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The settings.
    pub config: NodeConfig,
    sources: BTreeMap<String, Source>,
}

impl Effective {
    /// Brings together file, environment and flags: flag over variable over file over default.
    ///
    /// # Errors
    /// See [`Error`]; whatever was given and cannot be used is named.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[FlagSetting],
    ) -> Result<Self, Error> {
        let mut sources = BTreeMap::new();
        let mut config = match file {
            Some(path) => read_file(path, &mut sources)?,
            None => NodeConfig::default(),
        };
        for (name, value) in environment {
            if !name.starts_with(PREFIX) || NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            let key = key_of_variable(&name).ok_or_else(|| unknown_variable(&name))?;
            let origin = Source::Variable(name);
            config = config.with(&key, &value, &origin)?;
            sources.insert(key, origin);
        }
        for (flag, key, value) in flags {
            let origin = Source::Flag(flag);
            config = config.with(key, value, &origin)?;
            sources.insert((*key).to_owned(), origin);
        }
        let effective = Self { config, sources };
        effective.check()?;
        Ok(effective)
    }

    /// The settings as a commented TOML file; the origin of each that is no default is named.
    pub fn to_toml(&self) -> String {
        let table = self.config.to_table();
        let mut out = String::from(
            "# Settings of one node. A flag wins over an environment variable (QIANG_SECTION__KEY, such as\n\
             # QIANG_HTTP__LISTEN), that over this file, that over the default. Unknown keys are errors.\n",
        );
        for (section, docs) in &SECTIONS {
            out.push('\n');
            for line in docs.about {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "[{section}]");
            for (field, lines) in docs.fields {
                for line in *lines {
                    let _ = writeln!(out, "#{line}");
                }
                let value = &table[*section][*field];
                let _ = match self.source(&format!("{section}.{field}")) {
                    Source::Default => writeln!(out, "{field} = {value}"),
                    origin => writeln!(out, "{field} = {value} # {origin}"),
                };
            }
        }
        out
    }

    fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// Checks what the types cannot say.
    fn check(&self) -> Result<(), Error> {
        let NodeConfig {
            node,
            http,
            peer,
            storage,
            log,
            ..
        } = &self.config;
        let wrong =
            |key: &'static str, value: &dyn std::fmt::Display, detail: &str| Error::Setting {
                key,
                value: value.to_string(),
                origin: self.source(key),
                detail: detail.to_owned(),
            };
        let at_least_one = "must be at least 1";
        if node.id == 0 {
            return Err(wrong("node.id", &node.id, "nodes are numbered from 1"));
        }
        check_name(&node.dc).map_err(|detail| wrong("node.dc", &quoted(&node.dc), &detail))?;
        if !node.name.is_empty() {
            check_name(&node.name)
                .map_err(|detail| wrong("node.name", &quoted(&node.name), &detail))?;
        }
        if node.data_dir.as_os_str().is_empty() {
            return Err(wrong("node.data_dir", &"empty", "name a directory"));
        }
        if !http.listen.ip().is_loopback() {
            let detail = "without tokens, which this version does not know, only a loopback address is served; \
                          put a gateway on this host in front of it";
            return Err(wrong("http.listen", &http.listen, detail));
        }
        if peer.listen == http.listen && http.listen.port() != 0 {
            return Err(wrong(
                "peer.listen",
                &peer.listen,
                "http.listen is the same: give each its own port",
            ));
        }
        if !(ELECTION_TIMEOUT_MS_MIN..=ELECTION_TIMEOUT_MS_MAX).contains(&peer.election_timeout_ms)
        {
            let detail = format!("must be {ELECTION_TIMEOUT_MS_MIN} to {ELECTION_TIMEOUT_MS_MAX}");
            return Err(wrong(
                "peer.election_timeout_ms",
                &peer.election_timeout_ms,
                &detail,
            ));
        }
        if peer.advertise.is_empty() && peer.listen.ip().is_unspecified() {
            let detail = "others cannot find a node at an address that stands for all: say which in peer.advertise";
            return Err(wrong("peer.listen", &peer.listen, detail));
        }
        if !(MEMTABLE_BYTES_MIN..=MEMTABLE_BYTES_MAX).contains(&storage.memtable_bytes) {
            let detail = format!("must be {MEMTABLE_BYTES_MIN} to {MEMTABLE_BYTES_MAX}");
            return Err(wrong(
                "storage.memtable_bytes",
                &storage.memtable_bytes,
                &detail,
            ));
        }
        let not_zero = [
            ("http.connections_max", http.connections_max),
            ("storage.queue_operations_max", storage.queue_operations_max),
            ("storage.batch_bytes_max", storage.batch_bytes_max),
        ];
        if let Some((key, value)) = not_zero.into_iter().find(|(_, value)| *value == 0) {
            return Err(wrong(key, &value, at_least_one));
        }
        let not_zero = [
            ("http.header_timeout_ms", http.header_timeout_ms),
            ("http.request_timeout_ms", http.request_timeout_ms),
        ];
        if let Some((key, value)) = not_zero.into_iter().find(|(_, value)| *value == 0) {
            return Err(wrong(key, &value, at_least_one));
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log.level) {
            return Err(wrong("log.level", &quoted(&log.level), &error.to_string()));
        }
        Ok(())
    }
}

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

    /// How many threads serve HTTP.
    pub fn http_threads(&self) -> usize {
        or_else_cores(self.runtime.http_threads)
    }

    /// How many threads drive the shards.
    pub fn actor_threads(&self) -> usize {
        or_else_cores(self.runtime.actor_threads).min(ACTOR_THREADS_MAX)
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

    /// The settings with one of them, which exists, set from text.
    fn with(&self, key: &str, text: &str, origin: &Source) -> Result<Self, Error> {
        let wrong = |detail: String| Error::Value {
            origin: origin.clone(),
            value: text.to_owned(),
            detail,
        };
        let mut table = self.to_table();
        let (section, field) = key.split_once('.').expect("a key is a section and a field");
        let place = &mut table[section][field];
        *place = match place {
            toml::Value::Integer(_) => {
                let number = text
                    .trim()
                    .parse()
                    .map_err(|_| wrong("must be a whole number".to_owned()))?;
                toml::Value::Integer(number)
            }
            _ => toml::Value::String(text.to_owned()),
        };
        Self::deserialize(table).map_err(|error| wrong(error.message().trim().to_owned()))
    }
}

/// Whether `key` (`section.field`) is a setting.
fn is_setting(key: &str) -> bool {
    let found = |section: &str, field: &str| {
        SECTIONS.iter().any(|(name, docs)| {
            *name == section && docs.fields.iter().any(|(name, _)| *name == field)
        })
    };
    key.split_once('.')
        .is_some_and(|(section, field)| found(section, field))
}

/// The setting that a variable names: `QIANG_HTTP__LISTEN` is `http.listen`.
fn key_of_variable(name: &str) -> Option<String> {
    let (section, field) = name.strip_prefix(PREFIX)?.split_once("__")?;
    let key = format!("{section}.{field}");
    // The exact name only: two spellings of one setting would leave open which one wins.
    let exact = key == key.to_ascii_uppercase();
    let key = key.to_ascii_lowercase();
    (exact && is_setting(&key)).then_some(key)
}

fn unknown_variable(name: &str) -> Error {
    let orchestrated = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT");
    let meant = SECTIONS.iter().find_map(|(section, docs)| {
        docs.fields.iter().find_map(|(field, _)| {
            let right = format!("{PREFIX}{section}__{field}").to_ascii_uppercase();
            (right.replace('_', "") == name.to_ascii_uppercase().replace('_', "")).then_some(right)
        })
    });
    let hint = match meant {
        Some(right) => format!("; {right} is"),
        None if orchestrated => {
            ": Kubernetes sets it for a Service of this name; set `enableServiceLinks: false` in the pod".to_owned()
        }
        None => "; settings are named QIANG_SECTION__KEY, and `qiang serve --print-config` lists them: unset it".to_owned(),
    };
    Error::UnknownVariable {
        name: name.to_owned(),
        hint,
    }
}

fn read_file(path: &Path, sources: &mut BTreeMap<String, Source>) -> Result<NodeConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |error: toml::de::Error| Error::File {
        path: path.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    };
    let config = toml::from_str(&text).map_err(wrong)?;
    let given: toml::Table = toml::from_str(&text).map_err(wrong)?;
    for (section, fields) in &given {
        for field in fields.as_table().into_iter().flat_map(toml::Table::keys) {
            sources.insert(format!("{section}.{field}"), Source::File(path.to_owned()));
        }
    }
    Ok(config)
}

/// Data centres and nodes are named like everything else that has an id.
fn check_name(name: &str) -> Result<(), String> {
    qiang_engine::ids::check_id(name).map_err(|error| error.to_string())
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn or_else_cores(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given,
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
#[path = "node_config_tests.rs"]
mod tests;
