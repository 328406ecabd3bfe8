//! Watching parts of the state over one connection after another.

use std::time::Duration;

use tonic::{Code, Status, Streaming};

use super::Client;
use super::error::ClientError;
use super::leader::is_final;
use super::nodes::Nodes;
use crate::grpc::detail;
use crate::node::{WatchFrom, WatchOptions};
use crate::proto::router_client::RouterClient;
use crate::proto::watch_response::Told;
use crate::proto::{
    Compacted, WatchChanges, WatchRequest, WatchResponse, WatchState, WatchedEntry, WatchedRecord,
};

/// A node begins to tell within this time, and then is not silent for longer: it tells how far it is
/// every 5 s.
const SILENCE: Duration = Duration::from_secs(15);
/// The first pause after all nodes were asked in vain; each further one doubles it.
const PAUSE: Duration = Duration::from_millis(10);
const DOUBLINGS: u32 = 6;
/// What one entry changes is one message, however large.
const MAX_MESSAGE: usize = 64 << 20;

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchNews {
    /// A part of the state as it is at one index.
    State {
        /// The index.
        index: u64,
        /// Its log time, milliseconds since the Unix epoch.
        time_ms: u64,
        /// Records in no particular order.
        records: Vec<WatchedRecord>,
        /// Whether these were the last: from here on it is changes after `index`.
        complete: bool,
    },
    /// All that one entry of the log changed, of what is watched.
    Changes(WatchedEntry),
    /// Everything up to this index was told.
    Progress {
        /// The index.
        index: u64,
    },
    /// Some changes are not told, up to this index at least: the node got a snapshot, or went while it
    /// told the state. The state as it is comes next, in place of all that was told before.
    Reset {
        /// The index; 0 if it is not known.
        index: u64,
    },
}

/// Why a watch is over.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchFailure {
    /// No node has all changes after the index to go on from. Read the state anew:
    /// [`WatchFrom::State`].
    #[error("changes are there after index {oldest} only")]
    Compacted {
        /// The lowest index that a node could go on from.
        oldest: u64,
    },
    /// A node refuses the call itself.
    #[error(transparent)]
    Refused(ClientError),
}

/// Tells what changes in parts of the state: every change once and in order, whichever node tells
/// it. See [`Client::watch`].
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    options: WatchOptions,
    stream: Option<Streaming<WatchResponse>>,
    endpoint: String,
    /// Changes of a message that were not handed on yet, the last first.
    at_hand: Vec<WatchedEntry>,
    /// Everything up to here was told; none before a whole state was.
    seen: Option<u64>,
    /// A part of a state was told, and not the rest.
    half_told: bool,
    /// Nodes that told nothing, in a row.
    failures: u32,
    /// What they could go on from, if that is why.
    compacted: Option<(u32, u64)>,
}

impl Client {
    /// Watches parts of the state, at any node; connects when it is first asked. When the node goes,
    /// it goes on at another where it was. How long a single call may take ([`ClientOptions`](super::ClientOptions))
    /// says nothing here: it waits for as long as it takes.
    pub fn watch(&self, options: WatchOptions) -> Watcher {
        let seen = match options.from {
            WatchFrom::State => None,
            WatchFrom::After(index) => Some(index),
        };
        Watcher {
            client: self.clone(),
            options,
            stream: None,
            endpoint: String::new(),
            at_hand: Vec::new(),
            seen,
            half_told: false,
            failures: 0,
            compacted: None,
        }
    }
}

impl Watcher {
    /// Waits for what comes next. May be dropped while it waits: nothing gets lost.
    ///
    /// # Errors
    /// See [`WatchFailure`]: asking again asks the nodes again.
    pub async fn next(&mut self) -> Result<WatchNews, WatchFailure> {
        loop {
            if let Some(news) = self.hand_on() {
                return Ok(news);
            }
            let Some(stream) = &mut self.stream else {
                if let Some(news) = self.open().await? {
                    return Ok(news);
                }
                continue;
            };
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(news) = self.take(message) {
                        return Ok(news);
                    }
                }
                Ok(Ok(None)) => self.stream = None,
                Ok(Err(status)) => self.lost(&status)?,
                Err(_) => self.lost(&Status::unavailable("the node is silent"))?,
            }
        }
    }

    /// The index to resume from ([`WatchFrom::After`]); none before a whole state was told.
    pub fn resume_from(&self) -> Option<u64> {
        self.seen
    }

    /// The node that tells, while there is one.
    pub fn endpoint(&self) -> Option<&str> {
        self.stream.is_some().then_some(self.endpoint.as_str())
    }

    fn nodes(&self) -> &Nodes {
        &self.client.inner.watched
    }

    fn hand_on(&mut self) -> Option<WatchNews> {
        let entry = self.at_hand.pop()?;
        self.seen = self.seen.max(Some(entry.index));
        Some(WatchNews::Changes(entry))
    }

    /// Asks the next node. News if what was told so far does not count.
    async fn open(&mut self) -> Result<Option<WatchNews>, WatchFailure> {
        let rounds = self.failures / self.nodes().count();
        if rounds > 0 && self.failures.is_multiple_of(self.nodes().count()) {
            tokio::time::sleep(PAUSE * (1 << (rounds - 1).min(DOUBLINGS))).await;
        }
        self.endpoint = self.nodes().next();
        let request = WatchRequest {
            prefixes: self.options.prefixes.clone(),
            from: self.seen,
            renewals: self.options.renewals,
        };
        let asked = async {
            let channel = self.nodes().channel(&self.endpoint).await;
            let channel = channel.map_err(Status::unavailable)?;
            let mut router = RouterClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            Ok(router.watch(request).await?.into_inner())
        };
        let asked = tokio::time::timeout(SILENCE, asked).await;
        let asked = asked.unwrap_or_else(|_| Err(Status::unavailable("the node does not answer")));
        match asked {
            Ok(stream) => self.stream = Some(stream),
            Err(status) => self.lost(&status)?,
        }
        let begun_anew = self.stream.is_some() && std::mem::take(&mut self.half_told);
        Ok(begun_anew.then_some(WatchNews::Reset { index: 0 }))
    }

    /// The stream is no more, or there was none; whether there is hope elsewhere.
    fn lost(&mut self, status: &Status) -> Result<(), WatchFailure> {
        self.stream = None;
        self.failures += 1;
        if let Some(Compacted { oldest }) = compacted(status) {
            let (count, lowest) = self.compacted.unwrap_or((0, u64::MAX));
            let (count, lowest) = (count + 1, lowest.min(oldest));
            self.compacted = Some((count, lowest));
            if count >= self.nodes().count() {
                self.compacted = None;
                return Err(WatchFailure::Compacted { oldest: lowest });
            }
            return Ok(());
        }
        if is_final(status) {
            let refused = ClientError::Refused(Box::new(status.clone()));
            return Err(WatchFailure::Refused(refused));
        }
        self.nodes().forget(&self.endpoint);
        Ok(())
    }

    fn take(&mut self, message: WatchResponse) -> Option<WatchNews> {
        (self.failures, self.compacted) = (0, None);
        match message.told? {
            Told::State(WatchState {
                index,
                time_ms,
                records,
                complete,
            }) => {
                self.half_told = !complete;
                self.seen = complete.then_some(index);
                Some(WatchNews::State {
                    index,
                    time_ms,
                    records,
                    complete,
                })
            }
            Told::Changes(WatchChanges { mut entries }) => {
                entries.reverse();
                self.at_hand = entries;
                self.hand_on()
            }
            Told::Progress(progress) => {
                self.seen = self.seen.max(Some(progress.index));
                let index = progress.index;
                Some(WatchNews::Progress { index })
            }
            Told::Reset(reset) => {
                (self.seen, self.half_told) = (None, true);
                Some(WatchNews::Reset { index: reset.index })
            }
            // What comes next is the end of the stream: it goes on from what it has seen.
            Told::End(_) => {
                self.stream = None;
                None
            }
        }
    }
}

fn compacted(status: &Status) -> Option<Compacted> {
    match status.code() {
        Code::OutOfRange => detail(status),
        _ => None,
    }
}
