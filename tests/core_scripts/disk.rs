//! What a node has written, and what of it would survive a power cut.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use conveyor_raft::core::{Configuration, MemberInfo, Recovered};
use conveyor_raft::types::{HardState, Incarnation, LogId, LogIndex, Term, WriteId};

/// What an entry says; the core knows only its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Of a start state that does not name it.
    Unnamed,
    Noop,
    Command(String),
    Configuration(Arc<Configuration>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: Term,
    pub(crate) payload: Payload,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.term)?;
        match &self.payload {
            Payload::Unnamed => Ok(()),
            Payload::Noop => write!(f, ":noop"),
            Payload::Command(text) => write!(f, ":{text}"),
            Payload::Configuration(it) => {
                write!(f, ":")?;
                if !it.outgoing.is_empty() {
                    write!(f, "{{{}}}->", nodes(&it.outgoing))?;
                }
                write!(f, "{{{}}}", nodes(&it.incoming))?;
                match it.learners.is_empty() {
                    true => Ok(()),
                    false => write!(f, "+{{{}}}", learners(it)),
                }
            }
        }
    }
}

/// `4` learns, `5^` is to vote, `6^2` is to take the place of node 2.
fn learners(configuration: &Configuration) -> String {
    let learner = |member: &MemberInfo| {
        let promotions = &configuration.promotions;
        let promotion = promotions.iter().find(|it| it.learner == member.replica);
        let node = member.replica.node;
        match promotion.map(|it| it.replaces.node) {
            None => node.to_string(),
            Some(0) => format!("{node}^"),
            Some(old) => format!("{node}^{old}"),
        }
    };
    let learners = configuration.learners.iter().map(learner);
    learners.collect::<Vec<_>>().join(",")
}

fn nodes(members: &[MemberInfo]) -> String {
    let nodes = members.iter().map(|member| member.replica.node.to_string());
    nodes.collect::<Vec<_>>().join(",")
}

pub(crate) fn listed(entries: &[Entry]) -> String {
    let entries = entries.iter().map(Entry::to_string);
    entries.collect::<Vec<_>>().join(" ")
}

/// The configurations among entries of which the first has this index.
pub(crate) fn configurations(
    first: LogIndex,
    entries: &[Entry],
) -> Vec<(LogIndex, Arc<Configuration>)> {
    let indexed = (first..).zip(entries);
    let configuration = |(index, entry): (LogIndex, &Entry)| match &entry.payload {
        Payload::Configuration(it) => Some((index, Arc::clone(it))),
        _ => None,
    };
    indexed.filter_map(configuration).collect()
}

/// Runs of equal terms: term and first index.
pub(crate) fn runs(first: LogIndex, entries: &[Entry]) -> Vec<LogId> {
    let mut runs: Vec<LogId> = Vec::new();
    for (index, entry) in (first..).zip(entries) {
        if runs.last().is_none_or(|run| run.term != entry.term) {
            runs.push(LogId::new(entry.term, index));
        }
    }
    runs
}

/// The contents of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) hard: HardState,
    pub(crate) genesis: Incarnation,
    pub(crate) entries: Vec<Entry>,
}

impl Image {
    pub(crate) fn last(&self) -> LogIndex {
        self.entries.len() as LogIndex
    }

    /// The entries up to `index`; none if the log does not reach it.
    pub(crate) fn up_to(&self, index: LogIndex) -> Option<&[Entry]> {
        self.entries.get(..index as usize)
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let term = self.entries.last().map_or(0, |entry| entry.term);
        Recovered {
            hard_state: self.hard,
            told_election_timeout: 0,
            genesis: self.genesis,
            snapshot: LogId::default(),
            last: LogId::new(term, self.last()),
            terms: runs(1, &self.entries),
            configurations: configurations(1, &self.entries),
            repairing: None,
            stored: None,
        }
    }

    fn apply(&mut self, write: Write) {
        self.hard = write.hard.unwrap_or(self.hard);
        self.genesis = write.genesis.unwrap_or(self.genesis);
        if let Some(from) = write.truncate_from {
            self.entries.truncate(from as usize - 1);
        }
        self.entries.extend(write.entries);
    }
}

/// One write for the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub(crate) hard: Option<HardState>,
    pub(crate) genesis: Option<Incarnation>,
    pub(crate) truncate_from: Option<LogIndex>,
    pub(crate) entries: Vec<Entry>,
}

/// A disk that loses what was not synced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// With every write handed over.
    pub(crate) live: Image,
    /// With every write that is durable.
    pub(crate) durable: Image,
    pending: VecDeque<(WriteId, Write)>,
}

impl Disk {
    pub(crate) fn holding(image: Image) -> Self {
        Self {
            live: image.clone(),
            durable: image,
            pending: VecDeque::new(),
        }
    }

    pub(crate) fn write(&mut self, id: WriteId, write: Write) {
        self.live.apply(write.clone());
        self.pending.push_back((id, write));
    }

    /// The writes that are not durable.
    pub(crate) fn pending(&self) -> impl DoubleEndedIterator<Item = WriteId> {
        self.pending.iter().map(|(id, _)| *id)
    }

    /// This write and all before it are durable.
    pub(crate) fn complete(&mut self, id: WriteId) {
        while let Some((_, write)) = self.pending.pop_front_if(|(write, _)| *write <= id) {
            self.durable.apply(write);
        }
    }

    /// The power goes.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
        self.live = self.durable.clone();
    }
}
