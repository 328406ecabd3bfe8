//! What probes are told of a node whose state machine hangs.
#![cfg(feature = "grpc")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use conveyor_raft::grpc::Probe;
use conveyor_raft::quic::certs;
use conveyor_raft::state_machine::{ApplyContext, CommandError, Frozen, RestoreError};
use conveyor_raft::{Cluster, ProposeOptions, RaftConfig, RaftNode, StateMachine};

/// Counts commands, and hangs at one that is true for as long as it is told to.
#[derive(Clone, Default)]
struct Hanging {
    count: u64,
    hangs: Arc<AtomicBool>,
}

impl StateMachine for Hanging {
    type Command = bool;
    type Response = u64;
    type View = u64;

    fn encode(command: &bool, out: &mut Vec<u8>) -> Result<(), CommandError> {
        out.push(u8::from(*command));
        Ok(())
    }

    fn decode(payload: &[u8]) -> Result<bool, CommandError> {
        Ok(payload == [1])
    }

    fn apply(&mut self, _: &ApplyContext, hangs: bool) -> u64 {
        while hangs && self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.count += 1;
        self.count
    }

    fn view(&self) -> Arc<u64> {
        Arc::new(self.count)
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, reader: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        let read = reader.read_exact(&mut bytes);
        read.map_err(|error| RestoreError::Invalid(error.to_string()))?;
        self.count = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn digest(&self) -> u128 {
        u128::from(self.count)
    }
}

impl Frozen for Hanging {
    fn write(self: Box<Self>, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&self.count.to_le_bytes())
    }
}

/// Looks a few times a second, elsewhere: one that had to wait would be noticed here. What it saw last.
struct Looks(Receiver<(bool, bool)>);

impl Looks {
    fn at(node: RaftNode<Hanging>) -> Self {
        let (tell, looks) = channel();
        std::thread::spawn(move || {
            let mut probe = Probe::default();
            while tell.send(probe.look(&node, Instant::now())).is_ok() {
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        Self(looks)
    }

    /// How long it takes until it is so.
    fn until(&self, wanted: (bool, bool)) -> Duration {
        let begun = Instant::now();
        loop {
            let seen = self.0.recv_timeout(Duration::from_secs(5));
            if seen.expect("a look that waits for nothing") == wanted {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{wanted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_that_hangs_makes_a_node_unready_and_not_dead() {
    let _turn = common::real_time_turn();
    let dir = tempfile::tempdir().expect("a folder");
    let certs = certs::generate("probes", &[1], &[]).expect("certificates");
    let cluster = Cluster::single(dir.path(), certs.credentials(1).expect("credentials"));
    let machine = Hanging::default();
    let hangs = Arc::clone(&machine.hangs);
    let node = RaftNode::new(RaftConfig::default(), machine, cluster).await;
    let node = node.expect("starts");
    let looks = Looks::at(node.clone());
    looks.until((true, true));

    hangs.store(true, Ordering::Relaxed);
    // Nobody has looked at what the first of them did when the second hangs.
    node.propose(false).await.expect("applied");
    let hanging = node.submit(true, ProposeOptions::default());
    let took = looks.until((true, false));
    assert!(took > Duration::from_secs(4), "not for a moment: {took:?}");

    hangs.store(false, Ordering::Relaxed);
    looks.until((true, true));
    drop(hanging);
    node.shutdown().await;
}
