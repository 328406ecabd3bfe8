//! The directory of a cluster's certificates.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::inspect::{CertificateInfo, read_text, show};
use super::rotate::{issues_next, next_stem, reissue};
use super::{CertsError, ClusterCa, GeneratedCerts, NodeCerts, PemPair, check_ids, issue_all};
use crate::quic::identity::{ClientRole, Role};
use crate::types::{ClusterId, NodeId};

/// What [`init`] makes certificates for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// The cluster's name, for people.
    pub label: String,
    /// Its nodes.
    pub nodes: Vec<NodeId>,
    /// DNS names and IP addresses by which clients reach the nodes' edges; none means this
    /// machine only.
    pub hosts: Vec<String>,
    /// How long the certificates of nodes and of the operator are good, in days, 1 to 3650;
    /// [`LEAF_DAYS`](super::LEAF_DAYS) is usual. The CAs are good for ten years whatever this says.
    pub days: u32,
}

/// What [`init`] or [`add_nodes`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertsReport {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Every file, in the order written.
    pub files: Vec<PathBuf>,
}

/// Makes a new cluster's certificates in `dir`:
///
/// ```text
/// cluster.toml                     the cluster's id and name
/// peer-ca.pem    .key .crl         signs what nodes show each other
/// client-ca.pem  .key .crl         signs clients, and what nodes show clients
/// node-<id>/peer.pem .key          one node towards the others
/// node-<id>/edge.pem .key          one node towards clients
/// clients/operator.pem .key        a client that may do everything
/// ```
/// Private keys get mode 0600. All files appear or none: they are written aside first, and
/// `cluster.toml` comes last.
///
/// # Errors
/// If a name, id, host or the number of days is wrong, if any of the files exists already, or if
/// writing fails; then nothing is left behind.
pub fn init(dir: impl AsRef<Path>, options: &InitOptions) -> Result<CertsReport, CertsError> {
    let ca = ClusterCa::generate(&options.label)?.days(options.days)?;
    let certs = issue_all(ca, &options.nodes, &options.hosts)?;
    write_all(dir.as_ref(), certs.ca.cluster(), &plan(&certs))
}

/// Makes the certificates of further nodes of a cluster whose directory [`init`] made, good for
/// `days`.
///
/// # Errors
/// As for `init`, and if the CAs or their keys are not there.
pub fn add_nodes(
    dir: impl AsRef<Path>,
    nodes: &[NodeId],
    hosts: &[String],
    days: u32,
) -> Result<CertsReport, CertsError> {
    let dir = dir.as_ref();
    check_ids(nodes)?;
    let ca = load(dir)?.days(days)?;
    let mut plan = Plan::new();
    for node in nodes {
        node_pairs(&mut plan, &ca.issue_node(*node, hosts)?);
    }
    write_all(dir, ca.cluster(), &plan)
}

/// Makes the certificate of a further client, good for `days`: `clients/<name>.pem` and `.key`.
///
/// # Errors
/// As for [`add_nodes`], and if the name is malformed.
pub fn add_client(
    dir: impl AsRef<Path>,
    role: ClientRole,
    name: &str,
    days: u32,
) -> Result<CertsReport, CertsError> {
    let dir = dir.as_ref();
    let ca = load(dir)?.days(days)?;
    let mut plan = Plan::new();
    let made = ca.issue_client(role, name)?;
    pair(&mut plan, &format!("clients/{name}"), &made);
    write_all(dir, ca.cluster(), &plan)
}

/// Issues both certificates of these nodes, and those of these clients, anew with new keys, for
/// the same names, before they expire. The old keys go to the directory `old`.
///
/// # Errors
/// If one of them has no certificate in the directory, or the CAs or their keys are not there.
pub fn renew(
    dir: impl AsRef<Path>,
    nodes: &[NodeId],
    clients: &[String],
    days: u32,
) -> Result<CertsReport, CertsError> {
    let dir = dir.as_ref();
    let (ca, all) = (load(dir)?.days(days)?, show(dir)?);
    let mut meant: Vec<&CertificateInfo> = Vec::new();
    let mut find = |who: String, is: &dyn Fn(&Role) -> bool| {
        let found = all.iter().filter(|info| info.role.as_ref().is_some_and(is));
        let before = meant.len();
        meant.extend(found);
        match meant.len() > before {
            true => Ok(()),
            false => Err(CertsError::Nobody(who)),
        }
    };
    for node in nodes {
        find(
            format!("node {node}"),
            &|role| matches!(role, Role::Peer(of) | Role::Edge(of) if of == node),
        )?;
    }
    for name in clients {
        find(
            format!("client {name}"),
            &|role| matches!(role, Role::Client(_, of) if of == name),
        )?;
    }
    let files = reissue(dir, &ca, &meant)?;
    Ok(CertsReport {
        cluster: ca.cluster(),
        files,
    })
}

/// The parts of a PEM text with this label, each on its own.
pub(super) fn blocks(text: &str, label: &str) -> Vec<String> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin)
        && let Some((inside, after)) = after.split_once(&end)
    {
        found.push(format!("{begin}{inside}{end}\n"));
        rest = after;
    }
    found
}

pub(super) fn load(dir: &Path) -> Result<ClusterCa, CertsError> {
    let read = |name: &str| read_text(dir.join(name));
    let authority = |stem: &str| {
        let next = issues_next(dir) && dir.join(next_stem(stem) + ".key").exists();
        let of = if next {
            next_stem(stem)
        } else {
            stem.to_owned()
        };
        let bundle = blocks(&read(&format!("{of}.pem"))?, "CERTIFICATE");
        let none = || CertsError::Content(dir.join(format!("{of}.pem")));
        let pair = PemPair {
            cert: bundle.into_iter().next().ok_or_else(none)?,
            key: read(&format!("{of}.key"))?,
        };
        Ok::<_, CertsError>((pair, read(&format!("{stem}.crl"))?))
    };
    let about = read("cluster.toml")?;
    let value = |key: &str| {
        let line = about.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start()
            .strip_prefix('=')
            .map(|it| it.trim().trim_matches('"'))
    };
    let cluster = value("cluster_id").and_then(|id| id.parse().ok());
    let cluster = cluster.ok_or_else(|| CertsError::Read {
        path: dir.join("cluster.toml"),
        source: io::Error::new(io::ErrorKind::InvalidData, "it names no cluster_id"),
    })?;
    let label = value("label").unwrap_or_default().to_owned();
    ClusterCa::load(
        (cluster, label),
        authority("peer-ca")?,
        authority("client-ca")?,
    )
}

fn write_all(dir: &Path, cluster: ClusterId, plan: &Plan) -> Result<CertsReport, CertsError> {
    for (name, ..) in plan {
        let path = dir.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(CertsError::Exists(path));
        }
    }
    make_dir(dir)?;
    let staging = dir.join(format!(".init-{cluster}"));
    let result = stage(&staging, plan).and_then(|()| publish(&staging, dir, plan));
    // Best effort: what is left there is in nobody's way and has the keys' modes.
    let _ = fs::remove_dir_all(&staging);
    let files = result?;
    Ok(CertsReport { cluster, files })
}

/// File names below the directory, contents, and whether they are secret.
type Plan = Vec<(PathBuf, String, bool)>;

fn plan(certs: &GeneratedCerts) -> Plan {
    let ca = &certs.ca;
    let mut plan = Plan::new();
    pair(&mut plan, "peer-ca", ca.peer_ca());
    pair(&mut plan, "client-ca", ca.client_ca());
    for certs in &certs.nodes {
        node_pairs(&mut plan, certs);
    }
    pair(&mut plan, "clients/operator", &certs.operator);
    for (name, crl) in [
        ("peer-ca.crl", ca.peer_crl()),
        ("client-ca.crl", ca.client_crl()),
    ] {
        plan.push((name.into(), crl.to_owned(), false));
    }
    // The label is a name, so it needs no escaping.
    let about = format!(
        "cluster_id = \"{}\"\nlabel = \"{}\"\n",
        ca.cluster(),
        ca.label()
    );
    plan.push(("cluster.toml".into(), about, false));
    plan
}

fn node_pairs(plan: &mut Plan, certs: &NodeCerts) {
    pair(plan, &format!("node-{}/peer", certs.node), &certs.peer);
    pair(plan, &format!("node-{}/edge", certs.node), &certs.edge);
}

fn pair(plan: &mut Plan, stem: &str, pair: &PemPair) {
    plan.push((format!("{stem}.pem").into(), pair.cert.clone(), false));
    plan.push((format!("{stem}.key").into(), pair.key.clone(), true));
}

fn stage(staging: &Path, plan: &Plan) -> Result<(), CertsError> {
    make_dir(staging)?;
    for (name, text, secret) in plan {
        let path = staging.join(name);
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        write_new(&path, text, *secret).map_err(|source| CertsError::Write { path, source })?;
    }
    Ok(())
}

/// Links the finished files into place; linking refuses to replace, unlike renaming.
fn publish(staging: &Path, dir: &Path, plan: &Plan) -> Result<Vec<PathBuf>, CertsError> {
    let mut done = Vec::new();
    let mut all = || {
        for (name, ..) in plan {
            let path = dir.join(name);
            if let Some(parent) = path.parent() {
                make_dir(parent)?;
            }
            match fs::hard_link(staging.join(name), &path) {
                Ok(()) => done.push(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(CertsError::Exists(path));
                }
                Err(source) => return Err(CertsError::Write { path, source }),
            }
        }
        sync_dir(dir)
    };
    match all() {
        Ok(()) => Ok(done),
        Err(error) => {
            for path in done {
                let _ = fs::remove_file(path);
            }
            Err(error)
        }
    }
}

pub(super) fn make_dir(path: &Path) -> Result<(), CertsError> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(path);
    made.map_err(|source| CertsError::Write {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn write_new(path: &Path, text: &str, secret: bool) -> io::Result<()> {
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Puts a new file in the place of an old one: readers see the one or the other, whole.
pub(super) fn replace(path: &Path, text: &str, secret: bool) -> Result<(), CertsError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let put = || {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        write_new(&aside, text, secret)?;
        fs::rename(&aside, path)
    };
    put().map_err(|source| CertsError::Write {
        path: path.to_owned(),
        source,
    })?;
    path.parent().map_or(Ok(()), sync_dir)
}

pub(super) fn sync_dir(path: &Path) -> Result<(), CertsError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|source| CertsError::Write {
        path: path.to_owned(),
        source,
    })
}
