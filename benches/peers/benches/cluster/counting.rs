//! Our cluster with a state machine that does what openraft's does in its benchmark: it counts. So what
//! the router's state machine takes is not in this side's figures.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use conveyor_raft::state_machine::{ApplyContext, CommandError, Frozen, RestoreError};
use conveyor_raft::{RaftNode, StateMachine};

use crate::closed::Propose;
use crate::common::BenchCluster;
use crate::common::medium::Medium;

/// How many commands were applied.
#[derive(Clone, Default)]
struct Count(u64);

impl StateMachine for Count {
    type Command = Bytes;
    type Response = u64;
    type View = u64;

    fn encode(command: &Bytes, out: &mut Vec<u8>) -> Result<(), CommandError> {
        out.extend_from_slice(command);
        Ok(())
    }

    fn decode(payload: &[u8]) -> Result<Bytes, CommandError> {
        Ok(Bytes::copy_from_slice(payload))
    }

    fn apply(&mut self, _: &ApplyContext, _: Bytes) -> u64 {
        self.0 += 1;
        self.0
    }

    fn view(&self) -> Arc<u64> {
        Arc::new(self.0)
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, reader: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        let read = reader.read_exact(&mut bytes);
        read.map_err(|error| RestoreError::Invalid(error.to_string()))?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn digest(&self) -> u128 {
        self.0.into()
    }
}

impl Frozen for Count {
    fn write(self: Box<Self>, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

/// The cluster, and how many proposals it answered.
pub(crate) struct Counting {
    cluster: BenchCluster<Count>,
    leader: RaftNode<Count>,
    command: Bytes,
    answered: AtomicU64,
}

impl Counting {
    pub(crate) async fn start(medium: &Medium) -> Self {
        let cluster = BenchCluster::start_with(&medium.folder(), 3, Count::default).await;
        Self {
            leader: cluster.leader().await,
            cluster,
            command: Bytes::from(vec![0x5a; 128]),
            answered: AtomicU64::new(0),
        }
    }

    /// Fails unless every node has counted every answer.
    pub(crate) async fn finish(self) {
        let answered = self.answered.into_inner();
        let last = self.leader.applied_index();
        let check = |count: &u64| assert_eq!(*count, answered);
        self.cluster.verify_with_and_stop(last, check).await;
    }
}

impl Propose for Counting {
    async fn propose(&self, _: usize) {
        let answer = self.leader.propose(self.command.clone()).await;
        answer.expect("the leader keeps leading and takes every command");
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}
