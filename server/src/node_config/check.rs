//! What the types of settings cannot say: bounds, and settings that do not go together.

use super::NodeConfig;
use super::effective::{Effective, Error};

/// Shortest election timeout, in milliseconds: heartbeats every beat, which a slow sync still leaves room for.
const ELECTION_TIMEOUT_MS_MIN: u64 = 100;

/// Longest election timeout, in milliseconds: nobody wants to wait longer for the next leader.
const ELECTION_TIMEOUT_MS_MAX: u64 = 60_000;

/// Fewest bytes of a memtable, 1 MiB: below it the log is cut into more files than merging keeps up with.
const MEMTABLE_BYTES_MIN: usize = 1 << 20;

/// Most bytes of a memtable, 1 GiB: four of them may exist at a time.
const MEMTABLE_BYTES_MAX: usize = 1 << 30;

impl Effective {
    /// Checks what the types cannot say.
    pub(super) fn check(&self) -> Result<(), Error> {
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
        let tls = [
            ("peer.tls_certificate", &peer.tls_certificate),
            ("peer.tls_key", &peer.tls_key),
            ("peer.tls_authority", &peer.tls_authority),
        ];
        let is_empty = |path: &std::path::Path| path.as_os_str().is_empty();
        if tls.iter().any(|(_, path)| !is_empty(path))
            && let Some((key, _)) = tls.iter().find(|(_, path)| is_empty(path))
        {
            let detail = "TLS between nodes needs a certificate, its key and an authority: name all three files, or none";
            return Err(wrong(key, &"empty", detail));
        }
        if self.config.sharing().is_none() {
            return Err(wrong(
                "storage.logs",
                &storage.logs,
                "must be 1, 2, 4, 8 or 16, or 0 for as many as suit this node",
            ));
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

/// Data centres and nodes are named like everything else that has an id.
fn check_name(name: &str) -> Result<(), String> {
    qiang_engine::ids::check_id(name).map_err(|error| error.to_string())
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
