//! One pair of CAs after another, and one certificate after another, in a cluster's directory.
//!
//! While two pairs overlap the directory `next` holds the new one, and each bundle and each file of
//! lists has the old CA's part first, the new one's second.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair};

use super::files::{blocks, load, make_dir, replace, sync_dir, write_new};
use super::inspect::{CertificateInfo, STEMS, hex, read_text, show};
use super::{Authority, CertsError, ClusterCa, PemPair, random_serial};
use crate::quic::identity::Role;

const NEXT: &str = "next";
/// Is there once certificates of the new CAs are issued, and no others.
const ISSUING: &str = "next/issuing";
/// Is there once the old CAs are on their way out.
const RETIRING: &str = "next/retiring";

/// How far a directory is on its way from one pair of CAs to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// There is one pair.
    Rest,
    /// The bundles are being joined; the same step again finishes.
    Trusting,
    /// The bundles hold both pairs; every certificate is still of the old one.
    Trusted,
    /// Certificates of the new pair are issued; these files are still of the old one.
    Issuing(Vec<PathBuf>),
    /// Every certificate is of the new pair; the bundles hold both.
    Issued,
    /// The old pair is on its way out; the same step again finishes.
    Retiring,
}

/// A step from one pair of CAs to another, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Make the new pair, and have the bundles hold both.
    Trust,
    /// Issue every certificate anew, with a new key, by the new pair.
    Issue,
    /// Have the bundles hold the new pair alone.
    Retire,
}

/// How far the directory is. Needs no private key.
///
/// # Errors
/// If a file cannot be read or is not what it should be.
pub fn rotation(dir: impl AsRef<Path>) -> Result<Rotation, CertsError> {
    let dir = dir.as_ref();
    let all = show(dir)?;
    if !dir.join(NEXT).is_dir() {
        return Ok(Rotation::Rest);
    }
    if dir.join(RETIRING).exists() {
        return Ok(Rotation::Retiring);
    }
    let mut lagging = Vec::new();
    for stem in STEMS {
        let next = blocks(
            &read_text(dir.join(next_stem(stem) + ".pem"))?,
            "CERTIFICATE",
        );
        let bundle = blocks(&read_text(dir.join(format!("{stem}.pem")))?, "CERTIFICATE");
        let lists = blocks(&read_text(dir.join(format!("{stem}.crl")))?, "X509 CRL");
        if !next.iter().all(|new| bundle.contains(new)) || lists.len() != bundle.len() {
            return Ok(Rotation::Trusting);
        }
        let mut cas = all.iter().filter(|info| info.is_ca && info.ca == stem);
        let new = cas.next_back().map(|info| info.key_id.clone());
        let leaves = all.iter().filter(|info| !info.is_ca && info.ca == stem);
        let old = leaves.filter(|info| Some(&info.signer) != new.as_ref());
        lagging.extend(old.map(|info| info.file.clone()));
    }
    Ok(match dir.join(ISSUING).exists() {
        false => Rotation::Trusted,
        true if lagging.is_empty() => Rotation::Issued,
        true => Rotation::Issuing(lagging),
    })
}

/// Takes the step, or finishes it if it was cut off; one that is done already changes nothing.
/// Gives the files that changed.
///
/// # Errors
/// If it is not this step's turn: it names what is to be done first.
pub fn rotate(
    dir: impl AsRef<Path>,
    step: RotationStep,
    days: u32,
) -> Result<Vec<PathBuf>, CertsError> {
    use Rotation::{Issued, Issuing, Rest, Retiring, Trusted, Trusting};
    let dir = dir.as_ref();
    match (step, rotation(dir)?) {
        (RotationStep::Trust, Rest | Trusting) => trust(dir),
        (RotationStep::Trust, Trusted) | (RotationStep::Issue, Issued) => Ok(Vec::new()),
        (RotationStep::Trust, Issuing(_)) => Err(CertsError::Turn("issue")),
        (RotationStep::Trust, Issued) => Err(CertsError::Turn("retire")),
        (RotationStep::Issue, Trusted | Issuing(_)) => issue(dir, days),
        (RotationStep::Issue | RotationStep::Retire, Rest | Trusting) => {
            Err(CertsError::Turn("trust"))
        }
        (RotationStep::Retire, Trusted) => Err(CertsError::Turn("issue")),
        (RotationStep::Retire, Issuing(files)) => Err(CertsError::Lagging(files)),
        (RotationStep::Retire, Issued | Retiring) => retire(dir),
        (_, Retiring) => Err(CertsError::Turn("retire")),
    }
}

/// Whether certificates are to be issued by the new pair.
pub(super) fn issues_next(dir: &Path) -> bool {
    dir.join(ISSUING).exists()
}

pub(super) fn next_stem(stem: &str) -> String {
    format!("{NEXT}/{stem}")
}

/// The certificate and key of the old CA, or of the only one, and of the new one if there are two.
pub(super) fn issuers(
    dir: &Path,
    stem: &str,
) -> Result<Vec<(String, Issuer<'static, KeyPair>)>, CertsError> {
    if dir.join(RETIRING).exists() {
        return Err(CertsError::Turn("retire"));
    }
    let bundle = blocks(&read_text(dir.join(format!("{stem}.pem")))?, "CERTIFICATE");
    let mut issuers = Vec::new();
    for (cert, stem) in bundle.into_iter().zip([stem.to_owned(), next_stem(stem)]) {
        let key = KeyPair::from_pem(&read_text(dir.join(format!("{stem}.key")))?)?;
        let issuer = Issuer::from_ca_cert_pem(&cert, key)?;
        issuers.push((cert, issuer));
    }
    Ok(issuers)
}

fn trust(dir: &Path) -> Result<Vec<PathBuf>, CertsError> {
    // The keys of the old pair are needed until the end: better missed now.
    let label = load(dir)?.label().to_owned();
    if !dir.join(NEXT).is_dir() {
        make_next(dir, &label)?;
    }
    let mut files = Vec::new();
    for (stem, new) in STEMS.into_iter().zip(next_pairs(dir)?) {
        let (pem, crl) = (
            dir.join(format!("{stem}.pem")),
            dir.join(format!("{stem}.crl")),
        );
        let bundle = blocks(&read_text(pem.clone())?, "CERTIFICATE");
        let lists = blocks(&read_text(crl.clone())?, "X509 CRL");
        // The list first: a CA whose list is missing has all its certificates refused.
        if lists.len() < 2 {
            let list = Authority::load(new.clone(), String::new())?.empty_crl()?;
            replace(&crl, &(lists.concat() + &list), false)?;
        }
        if !bundle.contains(&new.cert) {
            replace(&pem, &(bundle.concat() + &new.cert), false)?;
        }
        files.extend([crl, pem]);
    }
    Ok(files)
}

fn next_pairs(dir: &Path) -> Result<Vec<PemPair>, CertsError> {
    let pair = |stem: &str| {
        let stem = next_stem(stem);
        Ok(PemPair {
            cert: blocks(&read_text(dir.join(format!("{stem}.pem")))?, "CERTIFICATE").concat(),
            key: read_text(dir.join(format!("{stem}.key")))?,
        })
    };
    STEMS.into_iter().map(pair).collect()
}

/// The new pair appears whole or not at all.
fn make_next(dir: &Path, label: &str) -> Result<(), CertsError> {
    // Two CAs of one name could not be told apart where lists are looked up by it.
    let mark: String = hex(random_serial()?.as_ref()).chars().take(8).collect();
    let aside = dir.join(format!(".{NEXT}-{mark}"));
    make_dir(&aside)?;
    let made = [("peer-ca", "peer"), ("client-ca", "client")].map(|(stem, kind)| {
        let authority = Authority::generate(&format!("{label} {kind} CA {mark}"))?;
        for (ending, text, secret) in [
            ("pem", &authority.pair.cert, false),
            ("key", &authority.pair.key, true),
        ] {
            let path = aside.join(format!("{stem}.{ending}"));
            write_new(&path, text, secret).map_err(|source| CertsError::Write { path, source })?;
        }
        Ok::<_, CertsError>(())
    });
    made.into_iter().collect::<Result<(), _>>()?;
    rename(&aside, &dir.join(NEXT))?;
    sync_dir(dir)
}

fn issue(dir: &Path, days: u32) -> Result<Vec<PathBuf>, CertsError> {
    mark(dir, ISSUING)?;
    let Rotation::Issuing(lagging) = rotation(dir)? else {
        return Ok(Vec::new());
    };
    let all = show(dir)?;
    let old: Vec<_> = all
        .iter()
        .filter(|info| lagging.contains(&info.file) && !info.is_ca)
        .collect();
    reissue(dir, &load(dir)?.days(days)?, &old)
}

fn retire(dir: &Path) -> Result<Vec<PathBuf>, CertsError> {
    mark(dir, RETIRING)?;
    let mut files = Vec::new();
    for stem in STEMS {
        let (pem, crl) = (
            dir.join(format!("{stem}.pem")),
            dir.join(format!("{stem}.crl")),
        );
        let last = |path: &Path, label| {
            let all = blocks(&read_text(path.to_owned())?, label);
            let none = || CertsError::Content(path.to_owned());
            all.into_iter().last().ok_or_else(none)
        };
        let (new, list) = (last(&pem, "CERTIFICATE")?, last(&crl, "X509 CRL")?);
        // The bundle first, as it was last when the CA came.
        replace(&pem, &new, false)?;
        replace(&crl, &list, false)?;
        let (key, next) = (
            dir.join(format!("{stem}.key")),
            dir.join(next_stem(stem) + ".key"),
        );
        if next.exists() {
            keep_old(dir, &key, &format!("{stem}-{}", short_name(&key)?))?;
            rename(&next, &key)?;
        }
        files.extend([pem, crl]);
    }
    let next = dir.join(NEXT);
    let removed = fs::remove_dir_all(&next);
    removed.map_err(|source| CertsError::Write { path: next, source })?;
    sync_dir(dir)?;
    Ok(files)
}

/// Issues certificates anew for whoever holds these, with new keys. The old keys go to `old`.
pub(super) fn reissue(
    dir: &Path,
    ca: &ClusterCa,
    old: &[&CertificateInfo],
) -> Result<Vec<PathBuf>, CertsError> {
    let mut files = Vec::new();
    for info in old {
        let pair = match &info.role {
            Some(Role::Peer(node)) => ca.issue_peer(*node)?,
            Some(Role::Edge(node)) => ca.issue_edge(*node, &info.hosts)?,
            Some(Role::Client(role, name)) => ca.issue_client(*role, name)?,
            None => return Err(CertsError::Content(dir.join(&info.file))),
        };
        let cert = dir.join(&info.file);
        let key = cert.with_extension("key");
        if key.exists() {
            let stem = info.file.with_extension("");
            keep_old(dir, &key, &format!("{}-{}", stem.display(), info.serial))?;
        }
        // Cut off in between, the old certificate is still there and the step begins anew.
        replace(&key, &pair.key, true)?;
        replace(&cert, &pair.cert, false)?;
        files.extend([cert, key]);
    }
    Ok(files)
}

/// No key is ever lost by overwriting.
fn keep_old(dir: &Path, key: &Path, name: &str) -> Result<(), CertsError> {
    let path = dir.join("old").join(format!("{name}.key"));
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    match fs::hard_link(key, &path) {
        // From a time when this was cut off.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|source| CertsError::Write { path, source }),
    }
}

fn short_name(key: &Path) -> Result<String, CertsError> {
    let digest = ring::digest::digest(&ring::digest::SHA256, read_text(key.to_owned())?.as_bytes());
    Ok(hex(digest.as_ref()).chars().take(8).collect())
}

fn mark(dir: &Path, name: &str) -> Result<(), CertsError> {
    replace(&dir.join(name), "", false)
}

fn rename(from: &Path, to: &Path) -> Result<(), CertsError> {
    let renamed = fs::rename(from, to);
    renamed.map_err(|source| CertsError::Write {
        path: to.to_owned(),
        source,
    })
}
