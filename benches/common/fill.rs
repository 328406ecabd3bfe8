//! Makes a state or a log of a size.
#![allow(dead_code, reason = "each bench uses a part of it")]

use conveyor_raft::node::{Place, ProposeOptions};
use conveyor_raft::{RaftNode, RouterCommand};

/// Bytes of each record that makes a state large.
pub(crate) const RECORD: usize = 4 << 10;
/// Commands under way.
const UNDER_WAY: usize = 1024;

/// Gives the state so many bytes of pipelines' configurations.
pub(crate) async fn state(leader: &RaftNode, bytes: usize) {
    let create = |nth: usize| RouterCommand::CreatePipeline {
        pipeline_id: format!("record-{nth:06}"),
        name: String::new(),
        config: vec![nth as u8; RECORD],
    };
    all(leader, (0..bytes / RECORD).map(create)).await;
}

/// Proposes all of them.
pub(crate) async fn all(leader: &RaftNode, commands: impl Iterator<Item = RouterCommand>) {
    let (pipeline, mut outcomes) = leader.pipeline();
    let mut commands = commands.peekable();
    let (mut under_way, mut came) = (0, Vec::new());
    while under_way > 0 || commands.peek().is_some() {
        for command in commands.by_ref().take(UNDER_WAY - under_way) {
            pipeline.submit(Place::default(), &command, ProposeOptions::default());
            under_way += 1;
        }
        under_way -= outcomes.receive(&mut came, UNDER_WAY).await;
        for (_, outcome) in came.drain(..) {
            outcome.expect("the leader keeps leading and takes every command");
        }
    }
}
