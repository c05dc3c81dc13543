//! TLS between nodes: either side shows a certificate that the cluster's own authority has signed, and checks the other's.
//!
//! Invariant: a node that speaks TLS hears nothing from, and says nothing to, whoever shows no such certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{BoxFuture, Dial, Lane, Stream, Tcp};

/// How long whoever connects may take to show its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a node's certificate lies, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate and those between it and the authority. It is good for the host of the address at which
    /// peers find the node, as a server's and as a client's.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose nodes are let in.
    pub authority: PathBuf,
}

/// Why a node cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of what it should.
    #[error("cannot use {}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The files do not go together.
    #[error("cannot use the certificate in {}: {why}", .path.display())]
    Certificate {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// TLS as this node speaks it. Clones share it.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads a node's certificate, its key and its authorities.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let certificates = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| unusable(&files.key, &error))?;
        let mut roots = RootCertStore::empty();
        for authority in self::certificates(&files.authority)? {
            roots
                .add(authority)
                .map_err(|error| unusable(&files.authority, &error))?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let wrong = |error: &dyn std::fmt::Display| TlsError::Certificate {
            path: files.certificate.clone(),
            why: error.to_string(),
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&files.authority, &error))?;
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates.clone(), key.clone_key())
            .map_err(|error| wrong(&error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| wrong(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)
            .map_err(|error| wrong(&error))?;
        Ok(Tls {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
        })
    }

    /// Has whoever has connected show its certificate.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
        let accepting = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "a stranger began no TLS");
        Ok(Box::new(accepting.await.map_err(late)??))
    }
}

impl Dial for Tls {
    fn dial(&self, address: &str, lane: Lane) -> BoxFuture<io::Result<Box<dyn Stream>>> {
        let (connector, address) = (self.connector.clone(), address.to_owned());
        Box::pin(async move {
            let stream = Tcp.dial(&address, lane).await?;
            let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
            let host = host.trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let secured = connector.connect(name, stream).await?;
            Ok(Box::new(secured) as Box<dyn Stream>)
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        why: why.to_string(),
    }
}
