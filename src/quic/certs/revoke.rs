//! Revocation lists: who is out before his certificate ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use super::files::{blocks, replace};
use super::inspect::{CertificateInfo, STEMS, plain, read_text, revoked, show};
use super::rotate::issuers;
use super::{BACKDATE, CertsError, LEAF_LIFE, since_epoch};
use crate::quic::identity::Role;
use crate::types::NodeId;

/// Who is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// Both certificates of a node that are in the directory.
    Node(NodeId),
    /// The certificate of a client, by its name.
    Client(String),
    /// The certificate with this serial number in hexadecimal, in the directory or not.
    Serial(String),
}

/// What [`revoke`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeReport {
    /// The serial numbers that were meant, and whose they are as far as the directory knows.
    pub serials: Vec<(String, Option<String>)>,
    /// The lists that changed; none if all were revoked before.
    pub files: Vec<PathBuf>,
}

/// Puts certificates on the revocation list of their CA. A list is replaced at once; one that names
/// them already stays as it is.
///
/// # Errors
/// If nobody is found under that name, if a CA's own certificate is meant, or if the directory
/// lacks a CA's key.
pub fn revoke(dir: impl AsRef<Path>, whom: &Revoke) -> Result<RevokeReport, CertsError> {
    let dir = dir.as_ref();
    let found = find(&show(dir)?, whom)?;
    let mut files = Vec::new();
    for stem in STEMS {
        let of_stem = found
            .iter()
            .filter(|(of, ..)| of.is_none_or(|of| of == stem));
        let mut new: Vec<_> = of_stem.map(|(_, serial, _)| serial.clone()).collect();
        let before = revoked(dir, stem)?;
        new.retain(|serial| !before.contains(serial));
        if !new.is_empty() {
            files.push(extend(dir, stem, &new)?);
        }
    }
    let serials = found.into_iter().map(|(_, serial, who)| (serial, who));
    Ok(RevokeReport {
        serials: serials.collect(),
        files,
    })
}

/// CA, serial number and holder. A serial number that the directory does not know may be of either
/// CA; numbers are random, so naming it on both lists hits nobody else.
type Found = (Option<&'static str>, String, Option<String>);

fn find(all: &[CertificateInfo], whom: &Revoke) -> Result<Vec<Found>, CertsError> {
    let is_meant = |info: &&CertificateInfo| match (whom, &info.role) {
        (Revoke::Node(node), Some(Role::Peer(of) | Role::Edge(of))) => of == node,
        (Revoke::Client(name), Some(Role::Client(_, of))) => of == name,
        (Revoke::Serial(serial), _) => normal(serial).is_some_and(|it| it == info.serial),
        _ => false,
    };
    let found: Vec<_> = all.iter().filter(is_meant).collect();
    if let Some(ca) = found.iter().find(|info| info.is_ca) {
        return Err(CertsError::RevokeCa(ca.who.clone()));
    }
    if !found.is_empty() {
        let told = found.iter().map(|info| {
            let who = Some(info.who.clone());
            (Some(info.ca), info.serial.clone(), who)
        });
        return Ok(told.collect());
    }
    match whom {
        Revoke::Node(node) => Err(CertsError::Nobody(format!("node {node}"))),
        Revoke::Client(name) => Err(CertsError::Nobody(format!("client {name}"))),
        Revoke::Serial(text) => match normal(text) {
            Some(serial) => Ok(vec![(None, serial, None)]),
            None => Err(CertsError::Serial(text.clone())),
        },
    }
}

/// A serial number as it is printed here; none if it is none (RFC 5280, section 4.1.2.2).
fn normal(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let digits = digits.to_ascii_lowercase();
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hexadecimal || !digits.len().is_multiple_of(2) || !(2..=40).contains(&digits.len()) {
        return None;
    }
    let digits = match digits.strip_prefix("00") {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => digits,
    };
    Some(digits)
}

/// New lists of every CA of the kind: while two overlap, either may have signed it.
fn extend(dir: &Path, stem: &str, new: &[String]) -> Result<PathBuf, CertsError> {
    let path = dir.join(format!("{stem}.crl"));
    let lists = blocks(&read_text(path.clone())?, "X509 CRL");
    let issuers = issuers(dir, stem)?;
    let mut text = String::new();
    for (nth, (_, issuer)) in issuers.iter().enumerate() {
        let before = lists.get(nth).map(String::as_str).unwrap_or_default();
        let list = extended(before, new).ok_or_else(|| CertsError::Content(path.clone()))?;
        text.push_str(&list.signed_by(issuer)?.pem()?);
    }
    replace(&path, &text, false)?;
    Ok(path)
}

/// A CA's list with these numbers added; from none, a first one.
fn extended(before: &str, new: &[String]) -> Option<CertificateRevocationListParams> {
    let epoch = date_time_ymd(1970, 1, 1);
    let (mut revoked_certs, mut number) = (Vec::new(), 0_u64);
    let mut entry = |serial: &[u8], since| {
        revoked_certs.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: epoch + since,
            reason_code: None,
            invalidity_date: None,
        });
    };
    if !before.is_empty() {
        let der = CertificateRevocationListDer::from_pem_slice(before.as_bytes()).ok()?;
        let (_, list) = x509_parser::parse_x509_crl(&der).ok()?;
        number = list
            .crl_number()
            .and_then(|it| it.try_into().ok())
            .unwrap_or(0);
        for one in list.iter_revoked_certificates() {
            let since = u64::try_from(one.revocation_date.timestamp()).ok()?;
            entry(plain(one.raw_serial()), Duration::from_secs(since));
        }
    }
    for serial in new {
        entry(&bytes(serial)?, since_epoch());
    }
    Some(CertificateRevocationListParams {
        this_update: epoch + since_epoch().saturating_sub(BACKDATE),
        next_update: epoch + since_epoch() + LEAF_LIFE,
        crl_number: SerialNumber::from(number + 1),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks_exact(2);
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok();
    digits.map(byte).collect()
}
