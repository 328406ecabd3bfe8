//! A node's certificate, key and trust: what a transport cannot be built without.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};

use super::expiry::{ends, lists};
use super::identity::{Identity, IdentityError, Role};
use super::tls::{Clock, Fallen, Trust, Verifiers, provider};
use crate::types::{ClusterId, NodeId};

/// Where a node's credentials are: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The peer CA, or several while a cluster moves from one to another.
    pub ca: PathBuf,
    /// This node's peer certificate, and intermediates after it if there are any.
    pub cert: PathBuf,
    /// Its private key; readable by its owner only.
    pub key: PathBuf,
    /// The revocation lists, one of every CA (if empty).
    pub crl: PathBuf,
}

impl CredentialFiles {
    /// The files of node `node` in a directory that `certs init` wrote.
    pub fn in_dir(dir: impl AsRef<Path>, node: NodeId) -> Self {
        let dir = dir.as_ref();
        let of_node = dir.join(format!("node-{node}"));
        Self {
            ca: dir.join("peer-ca.pem"),
            cert: of_node.join("peer.pem"),
            key: of_node.join("peer.key"),
            crl: dir.join("peer-ca.crl"),
        }
    }
}

/// Why credentials cannot be used; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; `conveyor-raft certs init` makes one", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner can read the private key.
    #[error("{} has mode {mode:04o}: others can read the private key; run `chmod 600 {}`",
        path.display(), path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The private key belongs to another user.
    #[error("{} belongs to user {owner}; run `chown {me} {}`", path.display(), path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who this process is.
        me: u32,
    },
    /// PEM text without what it should hold.
    #[error("no valid {what} in the {from}: {why}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Where.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// The private key is not the certificate's.
    #[error("the private key does not belong to the certificate; give both from one issue")]
    KeyMismatch,
    /// The certificate names nobody who could be a peer.
    #[error("{0}; give the node's own peer.pem")]
    Identity(#[from] IdentityError),
    /// The certificate would be refused by every peer.
    #[error("the certificate would be refused by its own CA bundle: {0}; issue a new one")]
    Untrusted(String),
    /// The CA bundle or the revocation lists cannot be used.
    #[error("the CA bundle or revocation lists cannot be used: {0}")]
    Trust(String),
    /// TLS refused the settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The cipher suite that QUIC's first packets need is missing.
    #[error("the crypto provider lacks AES-128-GCM, which QUIC needs")]
    Suite,
}

/// A node's certificate, private key, CA bundle and revocation lists, checked against each other.
///
/// Cheap to clone. Printing it never shows the key.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    cluster: ClusterId,
    node: NodeId,
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    verifiers: Verifiers,
    clock: Clock,
    /// Name and end of each certificate that a connection of this node hangs on.
    ends: Vec<(String, UnixTime)>,
    /// Name and time of issue of each revocation list.
    lists: Vec<(String, UnixTime)>,
}

/// The same four things as PEM text.
#[derive(Clone, Copy)]
pub(crate) struct PemTexts<'a> {
    pub(crate) ca: &'a [u8],
    pub(crate) cert: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) crl: &'a [u8],
}

impl Credentials {
    /// Reads and checks a node's credentials.
    ///
    /// # Errors
    /// Names the file and what to do: unreadable, not PEM, a key that others can read, a key that
    /// is not the certificate's, a certificate that names no peer or that its own CA refuses.
    pub fn load(files: &CredentialFiles) -> Result<Self, CredentialsError> {
        check_key_file(&files.key)?;
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CredentialsError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let (ca, cert) = (read(&files.ca)?, read(&files.cert)?);
        let (key, crl) = (read(&files.key)?, read(&files.crl)?);
        let texts = PemTexts {
            ca: &ca,
            cert: &cert,
            key: &key,
            crl: &crl,
        };
        let name = |path: &Path| path.display().to_string();
        let names = [&files.ca, &files.cert, &files.key, &files.crl].map(|path| name(path));
        Self::build(texts, &names, Clock::system())
    }

    /// Checks credentials given as PEM text: CA bundle, certificate, key, revocation lists.
    ///
    /// # Errors
    /// As [`Credentials::load`], without the files.
    pub fn from_pem(
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
        crl: &[u8],
    ) -> Result<Self, CredentialsError> {
        Self::from_pem_with_clock(ca, cert, key, crl, Arc::new(SystemTime::now))
    }

    /// The same, with a clock of the caller's in place of the system's for the dates of
    /// certificates, own and others': for tests of what happens as they expire. It is here in every build since
    /// those tests run against the crate as it is; nothing in the crate calls it but [`from_pem`](Self::from_pem),
    /// and no setting, file or argument of the program leads to it. Not for production: with a clock that stands
    /// still nothing ever expires. Chains, names and revocation are verified all the same.
    ///
    /// # Errors
    /// As [`Credentials::load`], without the files.
    #[doc(hidden)]
    pub fn from_pem_with_clock(
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
        crl: &[u8],
        clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    ) -> Result<Self, CredentialsError> {
        let texts = PemTexts { ca, cert, key, crl };
        let names = [
            "CA bundle",
            "certificate",
            "private key",
            "revocation lists",
        ];
        Self::build(texts, &names.map(str::to_owned), Clock(clock))
    }

    fn build(
        texts: PemTexts<'_>,
        names: &[String; 4],
        clock: Clock,
    ) -> Result<Self, CredentialsError> {
        let [ca_name, cert_name, key_name, crl_name] = names;
        let cas = all::<CertificateDer<'static>>(texts.ca, "CA certificate", ca_name)?;
        let chain = all::<CertificateDer<'static>>(texts.cert, "certificate", cert_name)?;
        let crls =
            all::<CertificateRevocationListDer<'static>>(texts.crl, "revocation list", crl_name)?;
        let key = PrivateKeyDer::from_pem_slice(texts.key)
            .map_err(|error| pem_error("private key", key_name, error.to_string()))?;
        let key = match CertifiedKey::from_der(chain, key, &provider()) {
            Err(rustls::Error::InconsistentKeys(_)) => return Err(CredentialsError::KeyMismatch),
            other => Arc::new(other?),
        };
        Self::check(cas, crls, key, clock)
    }

    pub(super) fn check(
        cas: Vec<CertificateDer<'static>>,
        crls: Vec<CertificateRevocationListDer<'static>>,
        key: Arc<CertifiedKey>,
        clock: Clock,
    ) -> Result<Self, CredentialsError> {
        let leaf = key.end_entity_cert()?;
        let identity = Identity::of_certificate(leaf)?;
        let Role::Peer(_) = identity.role else {
            return Err(IdentityError::NotPeer.into());
        };
        let node = Identity::peer_of(leaf, identity.cluster)?;
        let ends = ends(("peer", Some(leaf)), ("peer-ca", &cas));
        let lists = lists("peer-ca", &crls);
        let mut roots = RootCertStore::empty();
        for ca in cas {
            roots
                .add(ca)
                .map_err(|error| CredentialsError::Trust(error.to_string()))?;
        }
        let trust = Trust {
            clock: clock.clone(),
            cluster: identity.cluster,
            roots: Arc::new(roots),
            crls,
            key: Arc::clone(&key),
        };
        let verifiers = Verifiers {
            dialers: trust.client_verifier()?,
            dialled: trust.server_verifier()?,
        };
        // Better refused here, with a reason, than by every peer later.
        let intermediates = key.cert.get(1..).unwrap_or_default();
        verifiers
            .dialers
            .verify_client_cert(leaf, intermediates, clock.now())
            .map_err(|error| CredentialsError::Untrusted(error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            cluster: identity.cluster,
            node,
            server: trust.server_config(Arc::clone(&verifiers.dialers))?,
            client: trust.client_config(Arc::clone(&verifiers.dialled))?,
            verifiers,
            clock,
            ends,
            lists,
        })))
    }

    /// The cluster that the certificate names.
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// The node that the certificate names.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Whether a connection to `node`, which showed `chain` when it began, may stand; with `strict` not
    /// if that has expired.
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        node: NodeId,
        dialled: bool,
        strict: bool,
    ) -> Result<(), Fallen> {
        let now = self.0.clock.now();
        self.0.verifiers.judge(chain, (node, dialled), now, strict)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Until when the own certificate (`peer`) and each CA of the bundle (`peer-ca`, then
    /// `peer-ca-2` and so on) are good.
    pub(crate) fn ends(&self) -> &[(String, UnixTime)] {
        &self.0.ends
    }

    /// Since when each revocation list is: `peer-ca`, then `peer-ca-2` and so on.
    pub(crate) fn lists(&self) -> &[(String, UnixTime)] {
        &self.0.lists
    }

    pub(crate) fn server(&self) -> Arc<QuicServerConfig> {
        Arc::clone(&self.0.server)
    }

    pub(crate) fn client(&self) -> Arc<QuicClientConfig> {
        Arc::clone(&self.0.client)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("cluster", &self.0.cluster)
            .field("node", &self.0.node)
            .finish_non_exhaustive()
    }
}

/// Everything of one kind in a PEM text; at least one.
fn all<T: PemObject>(
    text: &[u8],
    what: &'static str,
    from: &str,
) -> Result<Vec<T>, CredentialsError> {
    let found: Vec<T> = T::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(what, from, error.to_string()))?;
    if found.is_empty() {
        return Err(pem_error(what, from, "there is none".to_owned()));
    }
    Ok(found)
}

fn pem_error(what: &'static str, from: &str, why: String) -> CredentialsError {
    let from = from.to_owned();
    CredentialsError::Pem { what, from, why }
}

/// A private key that others can read is as good as published.
///
/// # Errors
/// If the file cannot be examined, is open to group or others, or belongs to somebody else
/// (root's files are fine for anybody who can read them).
pub fn check_key_file(path: &Path) -> Result<(), CredentialsError> {
    let path = path.to_owned();
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(source) => return Err(CredentialsError::Read { path, source }),
    };
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::Mode { path, mode });
    }
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != me && owner != 0 {
        return Err(CredentialsError::Owner { path, owner, me });
    }
    Ok(())
}
