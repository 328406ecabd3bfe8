//! What certificates are in a cluster's directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::CertsError;
use crate::quic::identity::{Identity, Role};

/// One certificate of a cluster's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Where it is, below the directory.
    pub file: PathBuf,
    /// Which of the two CAs it is of: `peer-ca` or `client-ca`.
    pub ca: &'static str,
    /// Whether it is that CA's own.
    pub is_ca: bool,
    /// Who it says its holder is: the URI, or the name of a CA.
    pub who: String,
    /// The name of the CA that signed it.
    pub issuer: String,
    /// Its serial number in hexadecimal, by which it can be revoked.
    pub serial: String,
    /// SHA-256 of it, in hexadecimal.
    pub fingerprint: String,
    /// From when it is good, in seconds of Unix time.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// Whether a revocation list names it.
    pub revoked: bool,
    /// Whether it leads to a CA of the bundle.
    pub trusted: bool,
    /// The permission bits of its private key's file, if that is there.
    pub key_mode: Option<u32>,
    /// Of whom it is, if its URI names somebody.
    pub role: Option<Role>,
    /// DNS names and addresses by which clients reach an edge.
    pub(super) hosts: Vec<String>,
    /// Names the key that signed it.
    pub(super) signer: Vec<u8>,
    /// Names its own key, if it is a CA's.
    pub(super) key_id: Vec<u8>,
}

pub(super) const STEMS: [&str; 2] = ["peer-ca", "client-ca"];

/// Every certificate of a directory that [`init`](super::init) made: CAs, nodes, clients. Needs no
/// private key.
///
/// # Errors
/// If a file cannot be read or is not what it should be.
pub fn show(dir: impl AsRef<Path>) -> Result<Vec<CertificateInfo>, CertsError> {
    let dir = dir.as_ref();
    let mut all = Vec::new();
    for stem in STEMS {
        all.extend(read(dir, &format!("{stem}.pem"), stem)?);
    }
    let cas = all.clone();
    for (name, stem) in leaves(dir)? {
        // What stands behind the first is its chain.
        let leaf = read(dir, &name, stem)?.into_iter().next();
        all.extend(leaf);
    }
    let revoked = [revoked(dir, STEMS[0])?, revoked(dir, STEMS[1])?];
    for info in &mut all {
        let list = &revoked[usize::from(info.ca == STEMS[1])];
        info.revoked = list.contains(&info.serial);
        let signs = |ca: &&CertificateInfo| ca.ca == info.ca && ca.key_id == info.signer;
        info.trusted = info.is_ca || cas.iter().any(|ca| signs(&ca));
    }
    Ok(all)
}

/// The files of the nodes' and clients' certificates, with the CA that they are of.
fn leaves(dir: &Path) -> Result<Vec<(String, &'static str)>, CertsError> {
    let mut nodes: Vec<u64> = names(dir)?
        .iter()
        .filter_map(|name| name.strip_prefix("node-")?.parse().ok())
        .collect();
    nodes.sort_unstable();
    let mut found = Vec::new();
    for node in nodes {
        let files = [("peer", STEMS[0]), ("edge", STEMS[1])];
        found.extend(files.map(|(name, stem)| (format!("node-{node}/{name}.pem"), stem)));
    }
    let clients = dir.join("clients");
    if clients.is_dir() {
        let mut clients = names(&clients)?;
        clients.retain(|name| name.ends_with(".pem"));
        clients.sort_unstable();
        let file = |name: &String| (format!("clients/{name}"), STEMS[1]);
        found.extend(clients.iter().map(file));
    }
    found.retain(|(name, _)| dir.join(name).exists());
    Ok(found)
}

fn names(dir: &Path) -> Result<Vec<String>, CertsError> {
    let failed = |source| CertsError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}

pub(super) fn read_text(path: PathBuf) -> Result<String, CertsError> {
    fs::read_to_string(&path).map_err(|source| CertsError::Read { path, source })
}

fn read(dir: &Path, name: &str, stem: &'static str) -> Result<Vec<CertificateInfo>, CertsError> {
    let path = dir.join(name);
    let text = read_text(path.clone())?;
    let bad = || CertsError::Content(path.clone());
    let mut all = Vec::new();
    for der in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let der = der.map_err(|_| bad())?;
        let mut info = inspect(&der, name, stem).ok_or_else(bad)?;
        let key = path.with_extension("key");
        let mode = fs::metadata(key).map(|it| it.permissions().mode() & 0o7777);
        info.key_mode = mode.ok();
        all.push(info);
    }
    match all.is_empty() {
        true => Err(bad()),
        false => Ok(all),
    }
}

fn inspect(der: &CertificateDer<'_>, name: &str, stem: &'static str) -> Option<CertificateInfo> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let identity = Identity::of_certificate(der).ok();
    let subject = common_name(parsed.subject());
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let (signer, key_id) = key_ids(&parsed);
    Some(CertificateInfo {
        file: name.into(),
        ca: stem,
        is_ca: parsed.is_ca(),
        who: identity.as_ref().map_or(subject, Identity::to_string),
        issuer: common_name(parsed.issuer()),
        serial: hex(plain(parsed.raw_serial())),
        fingerprint: hex(digest.as_ref()),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        revoked: false,
        trusted: false,
        key_mode: None,
        role: identity.map(|identity| identity.role),
        hosts: hosts(&parsed),
        signer,
        key_id,
    })
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> String {
    let mut names = name.iter_common_name();
    let text = names.next().and_then(|name| name.as_str().ok());
    text.unwrap_or_default().to_owned()
}

/// The identifiers of the key that signed it and of its own; empty where it states none.
fn key_ids(parsed: &X509Certificate<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut signer, mut own) = (Vec::new(), Vec::new());
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                signer = id
                    .key_identifier
                    .as_ref()
                    .map_or(Vec::new(), |id| id.0.to_vec());
            }
            ParsedExtension::SubjectKeyIdentifier(id) => own = id.0.to_vec(),
            _ => {}
        }
    }
    (signer, own)
}

fn hosts(parsed: &X509Certificate<'_>) -> Vec<String> {
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            bytes => {
                let sixteen: [u8; 16] = bytes.try_into().ok()?;
                Some(std::net::Ipv6Addr::from(sixteen).to_string())
            }
        },
        _ => None,
    };
    names.iter().filter_map(host).collect()
}

/// The serial numbers on all lists of a CA's file.
pub(super) fn revoked(dir: &Path, stem: &str) -> Result<Vec<String>, CertsError> {
    let path = dir.join(format!("{stem}.crl"));
    let text = read_text(path.clone())?;
    let mut serials = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(text.as_bytes()) {
        let der = der.map_err(|_| CertsError::Content(path.clone()))?;
        let parsed = x509_parser::parse_x509_crl(&der);
        let (_, list) = parsed.map_err(|_| CertsError::Content(path.clone()))?;
        let revoked = list.iter_revoked_certificates();
        serials.extend(revoked.map(|one| hex(plain(one.raw_serial()))));
    }
    Ok(serials)
}

/// Without the zeros in front that DER puts before a set top bit.
pub(super) fn plain(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
