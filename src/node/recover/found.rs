//! Making the directory of the new cluster.
//!
//! It is made aside, under a name that no node is started with, and gets its own name when everything
//! in it is whole and synced. A crash before leaves the directory aside and no other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::{RecoverError, Survivor};
use crate::core::{Configuration, FEATURES, MemberInfo};
use crate::node::replica_state::{FrozenReplica, ReplicaState};
use crate::snapshot::{SnapshotFolder, SnapshotHead};
use crate::state_machine::StateMachine;
use crate::types::{ClusterId, HardState, LogId, Micros, NodeId, ReplicaId, Term, WriteId};
use crate::wal::{
    Append, DirFiles, LogIdentity, LogOptions, LogStorage, MappedDir, MediumEvent, Write,
};

/// The smallest segments will do: the node makes its own when it starts.
const SEGMENT: u64 = 8 << 20;
const FOUNDED: WriteId = 1;
const INSTALLED: WriteId = 2;

/// The cluster that is to be, and its one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// Its id: that of the new certificates.
    pub cluster: ClusterId,
    /// The number of its first member.
    pub node: NodeId,
    /// `host:port` of the member's peer listener; without it, the survivor's address in the old cluster.
    pub peer_address: Option<String>,
    /// Where clients find it; without it, as in the old cluster.
    pub client_endpoint: Option<String>,
}

impl NewCluster {
    /// With the survivor's addresses.
    pub fn new(cluster: ClusterId, node: NodeId) -> Self {
        Self {
            cluster,
            node,
            peer_address: None,
            client_endpoint: None,
        }
    }

    /// Whether it can begin in the directory `into` with a state of the cluster `old`: the id is new, and
    /// nothing is in the way. Changes nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, old: ClusterId, into: &Path) -> Result<(), RecoverError> {
        if self.cluster == old {
            return Err(RecoverError::SameCluster(self.cluster));
        }
        if self.node == 0 {
            return Err(RecoverError::Nobody);
        }
        for path in [into.to_owned(), aside(into)] {
            if path.symlink_metadata().is_ok() {
                return Err(RecoverError::Exists(path));
            }
        }
        Ok(())
    }
}

impl<S: StateMachine> Survivor<S> {
    /// Whether [`found`](Self::found) would begin: the id is new, and nothing is in the way. Changes
    /// nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, into: impl AsRef<Path>, new: &NewCluster) -> Result<(), RecoverError> {
        let into = into.as_ref();
        new.check(self.plan().cluster, into)?;
        let real = |path: &Path| {
            let real = path.canonicalize();
            real.map_err(RecoverError::io(format!("looking at {}", path.display())))
        };
        if real(parent(into))?.starts_with(real(&self.plan().directory)?) {
            return Err(RecoverError::Within(into.to_owned()));
        }
        Ok(())
    }

    /// Makes `into`, the data directory of a cluster of one: its state is the survivor's, as a snapshot
    /// at [`RecoveryPlan::last`](super::RecoveryPlan::last), and its log begins behind that. Who the
    /// one member is is drawn anew.
    ///
    /// # Errors
    /// As [`check`](Self::check), or if the directory cannot be written.
    pub fn found(
        self,
        into: impl AsRef<Path>,
        new: &NewCluster,
    ) -> Result<ReplicaId, RecoverError> {
        self.check(&into, new)?;
        let origin = Origin {
            state: &self.state,
            term: self.plan().term,
            last: self.plan().last,
            time_us: self.time_us,
            feature_level: self.configuration.feature_level,
            member: self.member().cloned().unwrap_or_default(),
        };
        origin.make(into.as_ref(), new)
    }
}

/// A state that was kept elsewhere, such as in a backup, and that another cluster is to begin with.
#[derive(Debug)]
pub struct SavedState<S> {
    /// The state.
    pub machine: S,
    /// The cluster that it was of.
    pub cluster: ClusterId,
    /// The entry that it reflects.
    pub last: LogId,
    /// Log time there.
    pub time_us: Micros,
    /// What the cluster's members had to understand.
    pub feature_level: u32,
}

impl<S: StateMachine> SavedState<S> {
    /// Makes `into`, the data directory of a cluster of one, as [`Survivor::found`] does. Nobody has a
    /// session in it.
    ///
    /// # Errors
    /// As [`NewCluster::check`], or if the directory cannot be written.
    pub fn found(
        self,
        into: impl AsRef<Path>,
        new: &NewCluster,
    ) -> Result<ReplicaId, RecoverError> {
        new.check(self.cluster, into.as_ref())?;
        let origin = Origin {
            state: &ReplicaState::new(self.machine),
            term: self.last.term,
            last: self.last,
            time_us: self.time_us,
            feature_level: self.feature_level,
            member: MemberInfo::default(),
        };
        origin.make(into.as_ref(), new)
    }
}

/// What a new cluster begins with.
struct Origin<'a, S> {
    state: &'a ReplicaState<S>,
    /// The last that the old cluster is known to have had.
    term: Term,
    last: LogId,
    time_us: Micros,
    feature_level: u32,
    /// Where the one member was reached, if that is known.
    member: MemberInfo,
}

impl<S: StateMachine> Origin<'_, S> {
    fn make(&self, into: &Path, new: &NewCluster) -> Result<ReplicaId, RecoverError> {
        let partial = aside(into);
        let made = self.write(&partial, new).and_then(|me| {
            let named = sync_dir(&partial).and_then(|()| fs::rename(&partial, into));
            let named = named.and_then(|()| sync_dir(parent(into)));
            named.map_err(RecoverError::io(format!("making {}", into.display())))?;
            Ok(me)
        });
        if made.is_err() {
            // Best effort: it was not there before, and is of no use.
            let _ = fs::remove_dir_all(&partial);
        }
        made
    }

    fn write(&self, dir: &Path, new: &NewCluster) -> Result<ReplicaId, RecoverError> {
        let mut log = NewLog::open(dir, new)?;
        let me = ReplicaId::new(new.node, log.log.incarnation());
        let last = self.last;
        // Every vote in a term that the old cluster knew is another cluster's.
        let hard_state = HardState {
            term: self.term.max(last.term),
            voted_for: ReplicaId::default(),
        };
        log.begin(me, hard_state)?;
        let configuration = self.configuration_of(me, new)?;
        let frozen = FrozenReplica {
            machine: self.state.machine.freeze(),
            sessions: self.state.sessions.clone(),
        };
        let head = SnapshotHead {
            cluster: new.cluster,
            genesis: me.incarnation,
            last,
            time_us: self.time_us,
            digest: self.state.digest(),
            session_bytes: self.state.sessions.encoded_len(),
            configuration: (last.index, configuration.encode()),
        };
        // The snapshot is durable under its name before the log lets go of what it stands for.
        let folder = log.folder();
        let written = folder
            .write(&head, Box::new(frozen), &mut |_| Ok(()))
            .and_then(|_| folder.sync_written())
            .and_then(|()| folder.name_written(last))
            .and_then(|()| folder.sync_names());
        written.map_err(RecoverError::io("writing the snapshot"))?;
        drop(folder);
        log.install(last)?;
        Ok(me)
    }

    /// One voter. Nobody else ever had this cluster's log, so nothing in it is skipped or banned.
    fn configuration_of(
        &self,
        me: ReplicaId,
        new: &NewCluster,
    ) -> Result<Configuration, RecoverError> {
        let old = self.member.clone();
        let configuration = Configuration {
            incoming: vec![MemberInfo {
                replica: me,
                peer_address: new.peer_address.clone().unwrap_or(old.peer_address),
                client_endpoint: new.client_endpoint.clone().unwrap_or(old.client_endpoint),
                features: FEATURES,
                priority: old.priority,
            }],
            feature_level: self.feature_level,
            ..Configuration::default()
        };
        // As those who get it will.
        Configuration::decode(&configuration.encode())
            .map_err(|error| RecoverError::Member(error.to_string()))
    }
}

/// The log of the new directory.
struct NewLog {
    log: LogStorage<MappedDir>,
    events: Receiver<MediumEvent>,
    durable: WriteId,
}

impl NewLog {
    fn open(dir: &Path, new: &NewCluster) -> Result<Self, RecoverError> {
        let options = LogOptions {
            segment_bytes: SEGMENT,
            // Whoever starts a node here decides that.
            allow_unsupported_fs: true,
            ..LogOptions::default()
        };
        let (sender, events) = channel();
        // Nobody takes an event of a log that is gone.
        let sink = Arc::new(move |event| drop(sender.send(event)));
        let medium = MappedDir::open(dir, sink, &options).map_err(RecoverError::of)?;
        let identity = LogIdentity {
            cluster: new.cluster,
            node: new.node,
        };
        let log = LogStorage::open(medium, identity, options).map_err(RecoverError::of)?;
        Ok(Self {
            log,
            events,
            durable: 0,
        })
    }

    fn folder(&self) -> SnapshotFolder<DirFiles> {
        SnapshotFolder::new(self.log.files())
    }

    /// Names the founder.
    fn begin(&mut self, me: ReplicaId, hard_state: HardState) -> Result<(), RecoverError> {
        let written = self.log.write(Write {
            id: FOUNDED,
            now: 0,
            hard_state: Some(hard_state),
            genesis: Some(me.incarnation),
            truncate_from: None,
            append: Append::None,
        });
        written.map_err(|error| RecoverError::Log(error.to_string()))?;
        self.until(|new| new.durable >= FOUNDED && new.log.can_install())
    }

    /// Begins behind the snapshot, and is closed.
    fn install(mut self, last: LogId) -> Result<(), RecoverError> {
        let installed = self.log.install_snapshot(INSTALLED, 0, last);
        installed.map_err(|error| RecoverError::Log(error.to_string()))?;
        self.until(|new| new.durable >= INSTALLED)?;
        let closed = self.log.close();
        closed.map_err(|error| RecoverError::Log(error.to_string()))
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), RecoverError> {
        let failed = |why: String| RecoverError::Log(why);
        loop {
            self.log.pump();
            if done(self) {
                return Ok(());
            }
            if self.log.disk_full() {
                return Err(failed("the disk is full".to_owned()));
            }
            let event = self.events.recv();
            let event = event.map_err(|_| failed("its threads have ended".to_owned()))?;
            let handled = self.log.handle(event);
            let id = handled.map_err(|error| failed(error.to_string()))?;
            self.durable = self.durable.max(id.unwrap_or(0));
        }
    }
}

fn aside(path: &Path) -> PathBuf {
    // Without a slash at its end.
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
