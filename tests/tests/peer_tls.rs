//! TLS between nodes: who shows a certificate of the cluster's authority is let in, and nobody else is.

use std::fs;
use std::path::Path;

use qiang_tests::{Builder, Cluster, Node, Raw, Run, audit, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::time::Duration;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(30);

/// An authority, and the files of a node that it vouches for.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let home = TempDir::with_prefix("qiang-test-").expect("a temporary directory");
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let own = key();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&own, &authority).expect("a certificate");
        let write = |name: &str, text: String| {
            fs::write(home.path().join(name), text).expect("a file in the test's directory");
        };
        write("authority.pem", authority.pem());
        write("node.pem", certificate.pem());
        write("node.key", own.serialize_pem());
        Authority(home)
    }

    fn file(&self, name: &str) -> String {
        path(&self.0.path().join(name))
    }

    /// A node with its certificate.
    fn vouches_for(&self, node: Builder) -> Builder {
        node.env("QIANG_PEER__TLS_CERTIFICATE", &self.file("node.pem"))
            .env("QIANG_PEER__TLS_KEY", &self.file("node.key"))
            .env("QIANG_PEER__TLS_AUTHORITY", &self.file("authority.pem"))
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("a path that is text").to_owned()
}

/// Has a node join that may not, and waits for its end.
fn join_in_vain(cluster: &Cluster, node: Builder) -> Run {
    let joins = node.join(&cluster.any().peer_address());
    joins.prepare().serve_and_fail(false)
}

#[test]
fn nodes_with_certificates_of_one_authority_are_a_cluster_and_no_others_come_in() {
    let authority = Authority::new();
    let mut cluster = Cluster::of_one(authority.vouches_for(Node::builder()));
    for (id, dc) in [(2, "a"), (3, "b"), (4, "b")] {
        cluster.add_built(authority.vouches_for(Node::builder().number(id, dc)));
    }
    cluster.settle();
    cluster.any().promotion("A").quantity(100).create();
    for node in cluster.running() {
        let order = format!("o-{}", node.id());
        node.grab(&order, "alice").of("A", 1).granted();
    }

    let plain = join_in_vain(&cluster, Node::builder().number(5, "a"));
    assert_ne!(plain.code, Some(0), "{}", plain.stderr);
    let other = Authority::new();
    let stranger = other.vouches_for(Node::builder().number(5, "a"));
    let stranger = join_in_vain(&cluster, stranger);
    assert_ne!(stranger.code, Some(0));
    assert!(
        stranger.stderr.contains("certificate"),
        "{}",
        stranger.stderr
    );
    // Plain words are dropped with one line.
    let node = cluster.node(1);
    let dropped = || {
        let log = node.log();
        let lines = log.lines();
        lines
            .filter(|line| line.contains("a connection on the peer port was dropped"))
            .count()
    };
    let before = dropped();
    Raw::connect(&node.peer_address()).send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    wait_until(WITHIN, "a line in the log", || {
        (dropped() == before + 1)
            .then_some(())
            .ok_or_else(|| node.log())
    });
    // What was refused has not hurt.
    node.grab("o-5", "bob").of("A", 1).granted();
    assert_eq!(node.offered("A").remaining(), 95);
    // Flows are read here, where the grab may have been decided elsewhere.
    cluster.settle();
    audit(node);
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_before_anything_is_begun() {
    let authority = Authority::new();
    let key = authority.file("node.key");
    let cases = [
        ("QIANG_PEER__TLS_KEY", "", "peer.tls_key"),
        (
            "QIANG_PEER__TLS_CERTIFICATE",
            "/no/such/file",
            "/no/such/file",
        ),
        // A key is no certificate.
        ("QIANG_PEER__TLS_AUTHORITY", &*key, "node.key"),
    ];
    for (variable, value, named) in cases {
        let node = authority.vouches_for(Node::builder()).env(variable, value);
        let run = node.prepare().serve_and_fail(true);
        run.fails_naming(2, &[named]);
    }
}
