//! Spans that follow a command on its way, for who wants to know where its time goes.
//!
//! All have the target `conveyor_raft::command` and the level `TRACE`. A span `command` covers a
//! command from its proposal to its answer; its parent is the span that the proposer is in. The stages
//! are its children, one after the other: `propose` until the driver takes it, `append` while it is
//! written to the log's mapping, `replicate` until a majority holds it, `commit` until the state machine
//! gets at it, `apply` until it is answered. `sync` runs beside them, from the append until this node's
//! disk has it. What is passed on to another leader spends that time in `forward`. A follower has a
//! `sync` of its own for each batch, with the indexes that it covers, and the leader an event for each
//! answer of a follower.
//!
//! As long as nobody wants them, a command costs the question whether somebody does.

use std::collections::VecDeque;

use tracing::{Span, dispatcher, trace_span};

use super::waiters::Waiters;
use crate::core::AppendAck;
use crate::types::{LogIndex, NodeId, ReplicaId, Term, WriteId};

/// The target of all spans here.
macro_rules! target {
    () => {
        "conveyor_raft::command"
    };
}

/// Makes a stage of a command: where the command's span went, not to whom this thread tells things.
macro_rules! stage {
    ($command:expr, $name:literal) => {
        $command
            .with_subscriber(|(command, dispatch)| {
                dispatcher::with_default(
                    dispatch,
                    || trace_span!(target: target!(), parent: command, $name),
                )
            })
            .unwrap_or_else(Span::none)
    };
}

/// The span of a command that is proposed here.
pub(crate) fn command(node: NodeId, name: impl Fn() -> &'static str) -> Option<Box<Span>> {
    let span = trace_span!(
        target: target!(),
        "command",
        node,
        command = name(),
        term = tracing::field::Empty,
        index = tracing::field::Empty,
        outcome = tracing::field::Empty,
    );
    (!span.is_disabled()).then(|| Box::new(span))
}

/// A command on its way, and the stage that it is in.
#[derive(Debug)]
pub(crate) struct Trace {
    command: Span,
    stage: Span,
}

impl Trace {
    /// Of a command that was just proposed.
    pub(crate) fn begin(command: &Span) -> Box<Self> {
        Box::new(Self {
            stage: stage!(command, "propose"),
            command: command.clone(),
        })
    }

    /// Of a command that another node passed on.
    pub(crate) fn of_peer(node: NodeId, from: ReplicaId) -> Option<Box<Self>> {
        let command = trace_span!(
            target: target!(),
            parent: None,
            "command",
            node,
            %from,
            term = tracing::field::Empty,
            index = tracing::field::Empty,
        );
        (!command.is_disabled()).then(|| Self::begin(&command))
    }

    /// It is being passed on to the leader.
    pub(crate) fn forwarding(&mut self) {
        self.stage = stage!(self.command, "forward");
    }

    /// It is being written to the log, here.
    fn appending(&mut self, term: Term, index: LogIndex) {
        self.command.record("term", term).record("index", index);
        self.stage = stage!(self.command, "append");
    }

    /// It is in the log; what is left is for the disk, and for the others. The disk's part.
    fn appended(&mut self) -> Span {
        self.stage = stage!(self.command, "replicate");
        stage!(self.command, "sync")
    }

    /// A majority has it.
    fn committed(&mut self) {
        self.stage = stage!(self.command, "commit");
    }

    /// The state machine gets at it.
    pub(crate) fn applying(&mut self) {
        self.stage = stage!(self.command, "apply");
    }
}

/// A follower says that it has everything up to an entry on its disk.
pub(crate) fn acknowledged(node: NodeId, from: ReplicaId, ack: &AppendAck) {
    let index = ack.match_index;
    tracing::trace!(target: target!(), parent: None, node, %from, index, "acknowledged");
}

/// The driver's part.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// The last entry that is followed, of those that were appended.
    last: LogIndex,
    /// What was committed when that was asked last.
    committed: LogIndex,
    /// What this node's disk does not have yet.
    syncing: VecDeque<(WriteId, Span)>,
}

impl Traces {
    /// It is being written to the log of this node.
    pub(crate) fn appending(&mut self, trace: &mut Trace, term: Term, index: LogIndex) {
        trace.appending(term, index);
        self.last = index;
    }

    /// The entries from `first` on are in the log, by this write.
    pub(crate) fn appended<R>(&mut self, waiters: &Waiters<R>, first: LogIndex, write: WriteId) {
        if first <= self.last {
            let syncing = &mut self.syncing;
            waiters.trace(first, self.last, |trace| {
                syncing.push_back((write, trace.appended()));
            });
        }
    }

    /// A leader's entries are in the log of this node, which does not lead.
    pub(crate) fn followed(
        &mut self,
        node: NodeId,
        (term, first, last): (Term, LogIndex, LogIndex),
        write: WriteId,
    ) {
        let span = trace_span!(target: target!(), parent: None, "sync", node, term, first, last);
        if !span.is_disabled() {
            self.syncing.push_back((write, span));
        }
    }

    /// This write and all before it are on the disk.
    pub(crate) fn durable(&mut self, write: WriteId) {
        while self.syncing.pop_front_if(|(of, _)| *of <= write).is_some() {}
    }

    /// Everything up to `index` is committed.
    pub(crate) fn committed<R>(&mut self, waiters: &Waiters<R>, index: LogIndex) {
        let before = std::mem::replace(&mut self.committed, index);
        if before < self.last {
            waiters.trace(before + 1, index, Trace::committed);
        }
    }
}
