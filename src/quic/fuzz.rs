//! What must hold for any certificate, CA bundle and revocation list. For fuzzers, and for tests on a
//! fixed budget; hidden, and only there for them.

use std::sync::{Arc, OnceLock};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::certs::generate;
use super::credentials::Credentials;
use super::identity::Identity;
use super::tls::{Clock, provider};

/// Bytes of one edit: which part, where, and what is written there.
const EDIT: usize = 4;

/// The four files of a node, of a cluster made for this.
struct Files {
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    crl: CertificateRevocationListDer<'static>,
    pem: [String; 4],
    identity: Identity,
}

fn files() -> Result<&'static Files, String> {
    static FILES: OnceLock<Result<Files, String>> = OnceLock::new();
    FILES.get_or_init(make).as_ref().map_err(Clone::clone)
}

fn make() -> Result<Files, String> {
    let certs = generate("fuzz", &[1], &[]).map_err(|error| error.to_string())?;
    let node = certs.nodes.first().ok_or("no node")?;
    let (ca, crl) = (certs.ca.peer_ca(), certs.ca.peer_crl());
    let unread = |error: rustls_pki_types::pem::Error| error.to_string();
    let leaf = CertificateDer::from_pem_slice(node.peer.cert.as_bytes()).map_err(unread)?;
    Ok(Files {
        ca: CertificateDer::from_pem_slice(ca.cert.as_bytes()).map_err(unread)?,
        identity: Identity::of_certificate(&leaf).map_err(|error| error.to_string())?,
        leaf,
        key: PrivateKeyDer::from_pem_slice(node.peer.key.as_bytes()).map_err(unread)?,
        crl: CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).map_err(unread)?,
        pem: [
            ca.cert.clone(),
            node.peer.cert.clone(),
            node.peer.key.clone(),
            crl.to_owned(),
        ],
    })
}

/// Any text as the URI name of a certificate: what is taken is what is printed.
///
/// # Errors
/// What does not hold.
pub fn uri(bytes: &[u8]) -> Result<(), String> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(());
    };
    match Identity::parse(text) {
        Ok(identity) if identity.to_string() != text => {
            Err(format!("{text:?} is taken as {identity}"))
        }
        _ => Ok(()),
    }
}

fn edited(original: &[u8], part: u8, edits: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let (edits, rest) = edits.as_chunks::<EDIT>();
    for [which, high, low, value] in edits {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len().max(1);
        if *which % 4 == part
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte = *value;
        }
    }
    if let [which, less] = rest
        && *which % 4 == part
    {
        bytes.truncate(bytes.len().saturating_sub(1 + usize::from(*less)));
    }
    bytes
}

/// A node's files damaged as `bytes` say, within the PEM texts and below them: they are refused, or speak
/// for the same node. Nobody becomes another by damage.
///
/// # Errors
/// What does not hold.
pub fn trust(bytes: &[u8]) -> Result<(), String> {
    let files = files()?;
    let Some((&what, edits)) = bytes.split_first() else {
        return Ok(());
    };
    let taken = if what & 1 == 0 {
        let [ca, cert, key, crl] = &files.pem;
        let text = |text: &str, part| edited(text.as_bytes(), part, edits);
        let (ca, cert) = (text(ca, 0), text(cert, 1));
        Credentials::from_pem(&ca, &cert, &text(key, 2), &text(crl, 3))
    } else {
        let leaf = CertificateDer::from(edited(&files.leaf, 1, edits));
        let ca = CertificateDer::from(edited(&files.ca, 0, edits));
        let crl = CertificateRevocationListDer::from(edited(&files.crl, 3, edits));
        // What it says must be read without harm, trusted or not.
        let _ = Identity::of_certificate(&leaf);
        let key = files.key.clone_key();
        let Ok(key) = CertifiedKey::from_der(vec![leaf], key, &provider()) else {
            return Ok(());
        };
        Credentials::check(vec![ca], vec![crl], Arc::new(key), Clock::system())
    };
    let Ok(credentials) = taken else {
        return Ok(());
    };
    let same = credentials.cluster() == files.identity.cluster && credentials.node() == 1;
    match same {
        true => Ok(()),
        false => Err(format!("node {} of another name", credentials.node())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::SplitMix;
    use super::*;

    fn runs(usual: u64) -> u64 {
        let set = std::env::var("CONVEYOR_FUZZ_RUNS").ok();
        set.and_then(|set| set.parse().ok()).unwrap_or(usual)
    }

    #[test]
    fn i4_arbitrary_uri_names() {
        let id = "0123456789abcdef0123456789abcdef";
        let good = ["peer/7", "edge/18446744073709551615", "client/writer/a-1"];
        let good = good.map(|role| format!("conveyor-raft://{id}/{role}"));
        let mut random = SplitMix(1);
        for name in &good {
            assert_eq!(Identity::parse(name).expect("good").to_string(), *name);
        }
        for _ in 0..runs(20_000) {
            let mut bytes = good[random.up_to(2) as usize].clone().into_bytes();
            for _ in 0..=random.up_to(2) {
                let at = random.up_to(bytes.len() as u64 - 1) as usize;
                let byte = b"0aA/-:7 f\0\xc3%"[random.up_to(11) as usize];
                match random.up_to(2) {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            uri(&bytes).unwrap_or_else(|why| panic!("{why}"));
        }
    }

    #[test]
    fn i4_damaged_certificates_bundles_and_revocation_lists() {
        trust(&[0]).expect("holds");
        trust(&[1]).expect("holds");
        let mut random = SplitMix(2);
        for _ in 0..runs(600) {
            let mut bytes = vec![random.next() as u8];
            for _ in 0..=random.up_to(2) {
                bytes.extend(&random.next().to_le_bytes()[..EDIT]);
            }
            if random.up_to(7) == 0 {
                bytes.extend(&random.next().to_le_bytes()[..2]);
            }
            trust(&bytes).unwrap_or_else(|why| panic!("{why}: {bytes:?}"));
        }
    }

    /// Undamaged they are taken, or the other test shows nothing.
    #[test]
    fn the_files_that_are_damaged_are_good() {
        let files = files().expect("made");
        let [ca, cert, key, crl] = &files.pem;
        let [ca, cert, key, crl] = [ca, cert, key, crl].map(|text| text.as_bytes());
        let whole = Credentials::from_pem(ca, cert, key, crl).expect("good");
        assert_eq!(whole.node(), 1);
        let key =
            CertifiedKey::from_der(vec![files.leaf.clone()], files.key.clone_key(), &provider());
        let (cas, crls) = (vec![files.ca.clone()], vec![files.crl.clone()]);
        let key = Arc::new(key.expect("good"));
        Credentials::check(cas, crls, key, Clock::system()).expect("good");
    }
}
