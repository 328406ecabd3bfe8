//! What a trial came to.

use std::collections::BTreeMap;

use conveyor_raft::state_machine::Summary;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, count, say};

use super::cluster::{DevCluster, State};
use super::feed::Tally;

#[derive(Serialize)]
pub(super) struct Report {
    commands: u64,
    seconds: f64,
    commands_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    applied: u64,
    unchanged: u64,
    rejected: u64,
    unknown: u64,
    bad_lines: u64,
    leader: Option<u64>,
    term: u64,
    nodes: Vec<Node>,
    digests_agree: bool,
    state: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Node {
    node: u64,
    applied_index: u64,
    digest: String,
    endpoint: String,
}

impl Report {
    /// `states` are those of the nodes in their order, all at one index.
    pub(super) fn new(cluster: &DevCluster, tally: &Tally, states: &[State]) -> Self {
        let endpoints = cluster.endpoints();
        let nodes = cluster.nodes().iter().zip(states).zip(endpoints);
        let nodes = nodes.map(|((node, state), endpoint)| Node {
            node: node.id(),
            applied_index: state.id.index,
            digest: format!("{:032x}", state.digest),
            endpoint,
        });
        let nodes: Vec<_> = nodes.collect();
        let digests_agree = nodes.windows(2).all(|pair| match pair {
            [a, b] => (a.applied_index, &a.digest) == (b.applied_index, &b.digest),
            _ => true,
        });
        let quantile = |quantile| match &tally.latency_us {
            Some(latency) => latency.value_at_quantile(quantile) as f64 / 1000.0,
            None => 0.0,
        };
        let summary: Option<Summary> = states.first().map(|state| state.view.summary());
        let seconds = tally.elapsed.as_secs_f64();
        let rate = match seconds > 0.0 {
            true => tally.commands() as f64 / seconds,
            false => 0.0,
        };
        Self {
            commands: tally.commands(),
            seconds,
            commands_per_second: rate,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            applied: tally.applied,
            unchanged: tally.unchanged,
            rejected: tally.rejected,
            unknown: tally.unknown,
            bad_lines: tally.bad_lines,
            leader: cluster.leader().map(|leader| leader.id()),
            term: cluster
                .nodes()
                .iter()
                .map(|node| node.current_term())
                .max()
                .unwrap_or(0),
            nodes,
            digests_agree,
            state: summary.map(|summary| summary.counts).unwrap_or_default(),
        }
    }

    pub(super) fn json(&self) -> Result<String, Failure> {
        output::json(self)
    }

    pub(super) fn print(&self, fed: bool) {
        if fed {
            say!(
                "{} commands in {:.2} s: {} per second, half of them answered within {:.1} ms \
                 (p50), 99 of 100 within {:.1} ms (p99)",
                count(self.commands),
                self.seconds,
                count(self.commands_per_second as u64),
                self.p50_ms,
                self.p99_ms
            );
            say!(
                "applied {}, unchanged {}, rejected {}, outcome unknown {}",
                count(self.applied),
                count(self.unchanged),
                count(self.rejected),
                count(self.unknown)
            );
            if self.bad_lines > 0 {
                say!("lines that are no command: {}", count(self.bad_lines));
            }
        }
        match self.leader {
            Some(leader) => say!("leader: node {leader}, term {}", self.term),
            None => say!("leader: none at the moment, term {}", self.term),
        }
        for node in &self.nodes {
            say!(
                "node {}: applied {}, digest {}, clients at {}",
                node.node,
                count(node.applied_index),
                node.digest,
                node.endpoint
            );
        }
        let counts: Vec<_> = self
            .state
            .iter()
            .map(|(name, number)| format!("{} {}", count(*number), name.replace('_', " ")))
            .collect();
        say!("state: {}", counts.join(", "));
        self.print_usage();
    }

    fn print_usage(&self) {
        let all: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.endpoint.as_str())
            .collect();
        let all = all.join(",");
        let Some(first) = self.nodes.first() else {
            return;
        };
        say!("talk to it:");
        say!("  conveyor-raft status --endpoint {all}");
        say!("  conveyor-raft state --endpoint {}", first.endpoint);
        say!(
            "  conveyor-raft propose --endpoint {all} \
             '{{\"RegisterSidecar\":{{\"sidecar_id\":\"shop/a\",\"endpoint\":\"10.0.0.1:50053\"}}}}'"
        );
        let address = first.endpoint.trim_start_matches("http://");
        say!("  grpcurl -plaintext {address} conveyor.raft.v1.Cluster/Status");
    }

    /// Whether all was well.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        if !self.digests_agree {
            wrong.push("the nodes' digests differ at one index: please report this".to_owned());
        }
        if self.bad_lines > 0 {
            wrong.push(format!(
                "lines of the input that are no commands: {}",
                self.bad_lines
            ));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(wrong.join("; "))),
        }
    }
}
