//! Three nodes in one program: they found a cluster, elect a leader, and go on when it is stopped.
//!
//! A real cluster has one node in each program. What is different then is where the certificates come
//! from (files) and that each program knows only its own directory and address.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use conveyor_raft::{
    Cluster, ProposeError, RaftConfig, RaftNode, RouterCommand, RouterStateMachine,
};

const NODES: [u64; 3] = [1, 2, 3];
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let certs = conveyor_raft::quic::certs::generate("embedded", &NODES, &[])?;
    let addresses = free_addresses()?;

    let mut nodes = Vec::new();
    for (node_id, listen) in NODES.into_iter().zip(addresses) {
        let others = NODES
            .into_iter()
            .zip(addresses.map(|address| address.to_string()));
        let data = dir.path().join(format!("node-{node_id}"));
        let cluster = Cluster::new(data, certs.credentials(node_id)?, listen, others);
        let config = RaftConfig {
            node_id,
            ..RaftConfig::default()
        };
        nodes.push(RaftNode::new(config, RouterStateMachine::new(), cluster).await?);
    }

    let index = register(&nodes, "mask-0").await?;
    for node in &nodes {
        // Any node can be read, once it has applied what is asked for.
        let state = node.wait_applied(index, PATIENCE).await?;
        assert!(state.view.services.contains_key("mask-0"));
        println!("node {} has it at index {}", node.id(), state.id.index);
    }

    let leader = nodes
        .iter()
        .position(RaftNode::is_leader)
        .ok_or("nobody leads")?;
    let stopped = nodes.remove(leader);
    println!("node {} leads and is stopped", stopped.id());
    stopped.shutdown().await;
    let index = register(&nodes, "mask-1").await?;
    for node in &nodes {
        node.wait_applied(index, PATIENCE).await?;
    }
    let digests = [nodes[0].digest().await, nodes[1].digest().await];
    println!("the others go on: {digests:?}");
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// Registers a service with whoever leads; the index from which on it is there. Registering again is
/// harmless, so an unknown outcome is tried again.
async fn register(nodes: &[RaftNode], service: &str) -> Result<u64, Box<dyn Error>> {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        if let Some(leader) = nodes.iter().find(|node| node.is_leader()) {
            let command = RouterCommand::register_service(service, "transform", "10.0.1.5:8081");
            match leader.propose(command).await {
                Ok(_) => return Ok(leader.applied_index()),
                Err(ProposeError::Invalid(error)) => return Err(error.into()),
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("no leader took the command".into())
}

/// Ports that are free now: all are held until the last is found, so that none comes twice.
fn free_addresses() -> std::io::Result<[SocketAddr; 3]> {
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let held = [bind()?, bind()?, bind()?];
    Ok([
        held[0].local_addr()?,
        held[1].local_addr()?,
        held[2].local_addr()?,
    ])
}
