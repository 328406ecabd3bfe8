//! Where a trial cluster keeps its certificates and logs.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use conveyor_raft::quic::certs::{InitOptions, LEAF_DAYS, init};
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};

const NOTE: &str = "dev.toml";

/// A folder, kept or removed when this is dropped.
pub(super) struct Folder {
    path: PathBuf,
    pub(super) ports: Vec<Ports>,
    _temporary: Option<tempfile::TempDir>,
}

/// Where a node listens on loopback. Kept with the folder: the nodes know each other by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    pub(super) peers: u16,
    pub(super) clients: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    nodes: Vec<Ports>,
}

impl Folder {
    /// Goes on with what is in `dir`, or makes it; without `dir`, makes a temporary one.
    pub(super) fn open(dir: Option<&Path>, nodes: u64) -> Result<Self, Failure> {
        let Some(dir) = dir else {
            let temporary = tempfile::Builder::new()
                .prefix("conveyor-raft-dev-")
                .tempdir()
                .context("cannot make a temporary directory")?;
            let ports = make(temporary.path(), nodes)?;
            return Ok(Self {
                path: temporary.path().to_owned(),
                ports,
                _temporary: Some(temporary),
            });
        };
        let ports = match fs::read_to_string(dir.join(NOTE)) {
            Ok(text) => again(dir, &text, nodes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(dir, nodes)?,
            Err(error) => return Err(error).context(dir.join(NOTE).display()),
        };
        Ok(Self {
            path: dir.to_owned(),
            ports,
            _temporary: None,
        })
    }

    pub(super) fn certs(&self) -> PathBuf {
        self.path.join("certs")
    }

    pub(super) fn data(&self, node: u64) -> PathBuf {
        self.path.join(format!("node-{node}"))
    }
}

fn again(dir: &Path, text: &str, nodes: u64) -> Result<Vec<Ports>, Failure> {
    let note: Note = toml::from_str(text).context(dir.join(NOTE).display())?;
    match note.nodes.len() as u64 == nodes {
        true => Ok(note.nodes),
        false => Err(Failure::new(format!(
            "{} holds a cluster of {} nodes: use --nodes {}, or another directory",
            dir.display(),
            note.nodes.len(),
            note.nodes.len()
        ))),
    }
}

fn make(dir: &Path, nodes: u64) -> Result<Vec<Ports>, Failure> {
    let what = || format!("cannot use {}", dir.display());
    fs::create_dir_all(dir).context(what())?;
    if fs::read_dir(dir).context(what())?.next().is_some() {
        return Err(Failure::new(format!(
            "{} is not empty and was not made by `dev`: choose another directory",
            dir.display()
        )));
    }
    let options = InitOptions {
        label: "dev".to_owned(),
        nodes: (1..=nodes).collect(),
        hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
        days: LEAF_DAYS,
    };
    init(dir.join("certs"), &options)?;
    let note = Note {
        nodes: free_ports(nodes).context("cannot find free ports")?,
    };
    fs::write(dir.join(NOTE), toml::to_string(&note)?).context(what())?;
    Ok(note.nodes)
}

/// Ports that nobody uses now. All are held until the last is found, so that none comes twice.
fn free_ports(nodes: u64) -> std::io::Result<Vec<Ports>> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let held: Vec<_> = (0..nodes)
        .map(|_| Ok((UdpSocket::bind(any)?, TcpListener::bind(any)?)))
        .collect::<std::io::Result<_>>()?;
    let ports = held.iter().map(|(peers, clients)| {
        Ok(Ports {
            peers: peers.local_addr()?.port(),
            clients: clients.local_addr()?.port(),
        })
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_folder_is_the_same_cluster() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("demo");
        let first = Folder::open(Some(&path), 3).expect("new").ports.clone();
        assert_eq!(first.len(), 3);
        let again = Folder::open(Some(&path), 3).expect("again").ports.clone();
        assert_eq!(first, again);
        let other = Folder::open(Some(&path), 5).err().expect("refused");
        assert!(other.to_string().contains("--nodes 3"), "{other}");
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("thesis.txt"), "years").expect("write");
        assert!(Folder::open(Some(dir.path()), 3).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_temporary_folder_goes_with_its_owner() {
        let folder = Folder::open(None, 1).expect("folder");
        let path = folder.path.clone();
        assert!(path.join(NOTE).exists());
        drop(folder);
        assert!(!path.exists());
    }
}
