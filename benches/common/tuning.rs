//! What a bench sets beyond a node's defaults.
#![allow(dead_code, reason = "each bench uses a part of it")]

use conveyor_raft::quic::{RaftTransport, TransportOptions};
use conveyor_raft::snapshot::SnapshotOptions;
use conveyor_raft::{Cluster, RaftConfig, RaftNode, StateMachine};

/// Ethernet's MTU less the headers below QUIC.
pub(crate) const ETHERNET_MTU: u16 = 1452;

/// What is set beyond a node's defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tuning {
    /// Largest datagram, bytes; none: what the way carries.
    pub(crate) mtu: Option<u16>,
    /// Reads may rest on leases, clocks differing by so many millionths.
    pub(crate) lease_drift_ppm: Option<u32>,
    pub(crate) snapshots: SnapshotOptions,
}

impl Tuning {
    pub(crate) async fn start<S: StateMachine>(
        &self,
        config: RaftConfig,
        machine: S,
        cluster: Cluster,
    ) -> RaftNode<S> {
        let mut builder = RaftNode::builder(config).snapshots(self.snapshots.clone());
        if let Some(drift) = self.lease_drift_ppm {
            builder = builder.lease_reads(drift);
        }
        let mtu = self.mtu;
        let bind = move |options: TransportOptions, sink| {
            let transport = RaftTransport::bind(TransportOptions { mtu, ..options }, sink)?;
            let (address, observer) = (transport.local_addr(), transport.observer());
            Ok((transport, address, observer))
        };
        let node = builder.start_over(machine, cluster, bind).await;
        node.expect("the node starts")
    }
}
