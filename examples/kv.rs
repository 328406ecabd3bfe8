//! A replicated map: a state machine of one's own, with its own command type, on a cluster of one.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::sync::Arc;

use conveyor_raft::state_machine::{ApplyContext, CommandError, Frozen, RestoreError};
use conveyor_raft::{Cluster, RaftConfig, RaftNode, StateMachine};
use serde::{Deserialize, Serialize};

/// What is proposed.
#[derive(Serialize, Deserialize)]
enum Command {
    Put(String, String),
    Remove(String),
}

/// The state. A clone of the `Arc` is a frozen copy: the next command makes a new map if somebody still
/// holds this one.
#[derive(Clone, Default)]
struct Map(Arc<BTreeMap<String, String>>);

impl StateMachine for Map {
    type Command = Command;
    type Response = Option<String>; // The value before.
    type View = BTreeMap<String, String>;

    fn encode(command: &Command, out: &mut Vec<u8>) -> Result<(), CommandError> {
        serde_json::to_writer(out, command).map_err(wrong)
    }

    fn decode(payload: &[u8]) -> Result<Command, CommandError> {
        serde_json::from_slice(payload).map_err(wrong)
    }

    fn apply(&mut self, _: &ApplyContext, command: Command) -> Option<String> {
        let map = Arc::make_mut(&mut self.0);
        match command {
            Command::Put(key, value) => map.insert(key, value),
            Command::Remove(key) => map.remove(&key),
        }
    }

    fn view(&self) -> Arc<Self::View> {
        self.0.clone()
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, reader: &mut dyn Read) -> Result<(), RestoreError> {
        let map = serde_json::from_reader(reader);
        self.0 = map.map_err(|error| RestoreError::Invalid(error.to_string()))?;
        Ok(())
    }

    fn digest(&self) -> u128 {
        // The sum of all pairs' hashes: any order of insertion comes to the same.
        let hash = |pair| xxhash_rust::xxh3::xxh3_128(format!("{pair:?}").as_bytes());
        self.0.iter().map(hash).fold(0, u128::wrapping_add)
    }
}

impl Frozen for Map {
    fn write(self: Box<Self>, out: &mut dyn Write) -> std::io::Result<()> {
        Ok(serde_json::to_writer(out, &self.0)?)
    }
}

fn wrong(error: serde_json::Error) -> CommandError {
    CommandError {
        field: "command".into(),
        why: error.to_string(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let certs = conveyor_raft::quic::certs::generate("kv", &[1], &[])?;
    let cluster = Cluster::single(dir.path(), certs.credentials(1)?);
    let node = RaftNode::new(RaftConfig::default(), Map::default(), cluster).await?;
    while !node.is_leader() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let put = |value: &str| Command::Put("colour".into(), value.into());
    assert_eq!(node.propose(put("red")).await?, None);
    assert_eq!(node.propose(put("blue")).await?.as_deref(), Some("red"));
    node.propose(Command::Remove("shape".into())).await?;
    println!("{:?} at index {}", node.state().await, node.applied_index());
    node.shutdown().await;
    Ok(())
}
