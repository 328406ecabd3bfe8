//! Commands that change every part of the state, and watchers that hold each other to what they are told.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use conveyor_raft::RouterCommand;
use conveyor_raft::client::{Client, WatchFailure, WatchNews};
use conveyor_raft::node::{WatchFrom, WatchOptions};
use conveyor_raft::proto::watched_value::Value;
use conveyor_raft::proto::{WatchedChange, WatchedValue};
use tokio::task::JoinHandle;

/// Commands in an order that lets each change something.
#[derive(Default)]
pub(crate) struct Load {
    next: u64,
    /// The highest index of those that were answered.
    pub(crate) last: u64,
}

impl Load {
    pub(crate) fn commands(&mut self, count: usize) -> Vec<RouterCommand> {
        (0..count).map(|_| self.command()).collect()
    }

    /// The source's offset, once all commands are applied.
    pub(crate) fn offsets(&self) -> u64 {
        (self.next + KINDS - 1 - 4) / KINDS - 1
    }

    fn command(&mut self) -> RouterCommand {
        let (round, kind) = (self.next / KINDS, self.next % KINDS);
        self.next += 1;
        let coming = round % 2 == 0;
        match kind {
            0 if round == 0 => RouterCommand::CreatePipeline {
                pipeline_id: "p".into(),
                name: String::new(),
                config: Vec::new(),
            },
            0 => RouterCommand::UpdatePipeline {
                pipeline_id: "p".into(),
                config: round.to_string().into(),
                expected_version: None,
            },
            1 if round == 0 => RouterCommand::register_service("mask", "sink", "a:1"),
            1 => RouterCommand::UpdateServiceHealth {
                service_id: "mask".into(),
                health: if coming { "degraded" } else { "healthy" }.into(),
            },
            2 if coming => RouterCommand::register_sidecar("shop/a", "a:2", ["orders"]),
            2 => RouterCommand::DeregisterSidecar {
                sidecar_id: "shop/a".into(),
            },
            3 if coming => RouterCommand::assign_pipeline("p", "shop/a", ["orders"]),
            3 => RouterCommand::register_sidecar(
                format!("shop/{}", round % 20),
                format!("a:{round}"),
                ["bills"],
            ),
            4 => RouterCommand::CommitSourceOffset {
                source_id: "s".into(),
                partition: 0,
                offset: round,
                rewind: false,
            },
            5 => RouterCommand::AdvanceWatermark {
                source_id: "s".into(),
                partition: 0,
                position: round,
                event_time: None,
            },
            6 if coming => RouterCommand::JoinGroup {
                service_id: "mask".into(),
                group_id: "g/1".into(),
                stage_id: "mask".into(),
            },
            6 => RouterCommand::LeaveGroup {
                service_id: "mask".into(),
                group_id: "g/1".into(),
            },
            7 => RouterCommand::CommitGroupOffset {
                group_id: "g/1".into(),
                source_id: "s".into(),
                partition: 0,
                offset: round,
                service_id: None,
                generation: None,
                rewind: false,
            },
            _ => RouterCommand::SaveServiceCheckpoint {
                service_id: "mask".into(),
                checkpoint_id: round.to_string(),
                data: vec![7; 300],
                source_offsets: BTreeMap::new(),
            },
        }
    }
}

const KINDS: u64 = 9;

/// What counts up by one with each change of the record.
fn count(value: &WatchedValue) -> Option<u64> {
    match value.value.as_ref()? {
        Value::Pipeline(it) => Some(it.version),
        Value::SourceOffset(it) => Some(it.offset),
        Value::GroupOffset(it) => Some(it.offset),
        Value::Watermark(it) => Some(it.position),
        Value::Checkpoint(it) => it.checkpoint_id.parse().ok(),
        Value::Group(it) => Some(it.generation),
        _ => None,
    }
}

/// What a watcher was told.
#[derive(Default)]
pub(crate) struct Seen {
    /// Everything up to here.
    pub(crate) index: u64,
    pub(crate) mirror: BTreeMap<String, WatchedValue>,
    pub(crate) entries: BTreeMap<u64, Vec<WatchedChange>>,
    pub(crate) resets: usize,
    /// The index of the first state.
    begun: Option<u64>,
    /// Whether the state is being told.
    reading: bool,
    counted: usize,
}

impl Seen {
    fn take(&mut self, news: WatchNews) {
        match news {
            WatchNews::State {
                index,
                records,
                complete,
                ..
            } => {
                if !std::mem::replace(&mut self.reading, true) {
                    self.mirror.clear();
                }
                let record =
                    |it: conveyor_raft::proto::WatchedRecord| (it.key, it.value.expect("a record"));
                self.mirror.extend(records.into_iter().map(record));
                if complete {
                    assert!(index >= self.index, "the state goes back");
                    (self.index, self.reading) = (index, false);
                    self.begun.get_or_insert(index);
                }
            }
            WatchNews::Changes(entry) => {
                assert!(!self.reading, "a change within a state");
                assert!(
                    entry.index > self.index,
                    "{} after {}",
                    entry.index,
                    self.index
                );
                self.index = entry.index;
                for change in &entry.changes {
                    self.follow(change, entry.index);
                }
                self.entries.insert(entry.index, entry.changes);
            }
            WatchNews::Progress { index } => {
                assert!(
                    index >= self.index,
                    "progress to {index} after {}",
                    self.index
                );
                self.index = index;
            }
            WatchNews::Reset { .. } => {
                self.resets += 1;
                self.reading = false;
            }
        }
    }

    /// No change is missing where the record counts its changes, and none comes twice.
    fn follow(&mut self, change: &WatchedChange, index: u64) {
        let Some(value) = &change.value else {
            assert!(
                self.mirror.remove(&change.key).is_some(),
                "{change:?} at {index}"
            );
            return;
        };
        if let Some(old) = self.mirror.insert(change.key.clone(), value.clone())
            && let (Some(old), Some(new)) = (count(&old), count(value))
        {
            assert_eq!(new, old + 1, "{} at {index}", change.key);
            self.counted += 1;
        }
    }

    /// Of the entries that both know of, it was told the same.
    pub(crate) fn agrees_with(&self, other: &Self, prefix: &str) {
        let mut compared = 0;
        for (index, changes) in &self.entries {
            let Some(others) = other.entries.get(index) else {
                continue;
            };
            let mut others = others.clone();
            others.retain(|change| change.key.starts_with(prefix));
            assert_eq!(*changes, others, "at {index}");
            compared += 1;
        }
        assert!(compared > 20, "{prefix}: {compared}");
        // Without a reset nothing is missing in between.
        if self.resets + other.resets == 0 {
            // Each began with the state of a moment of its own.
            let from = self.begun.max(other.begun).expect("a state") + 1;
            let shown = other
                .entries
                .range(from..)
                .filter(|(_, changes)| changes.iter().any(|change| change.key.starts_with(prefix)));
            let shown: Vec<_> = shown.map(|(index, _)| *index).collect();
            let own: Vec<_> = self
                .entries
                .range(from..)
                .map(|(index, _)| *index)
                .collect();
            assert_eq!(own, shown, "{prefix}");
        }
    }
}

/// A watcher at work.
pub(crate) struct Watching {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Watching {
    pub(crate) fn begin(client: &Client, prefixes: &[&str]) -> Self {
        let options = WatchOptions {
            prefixes: prefixes.iter().map(ToString::to_string).collect(),
            ..WatchOptions::default()
        };
        let client = client.clone();
        let mut watcher = client.watch(options.clone());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let told = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let news = match watcher.next().await {
                    Ok(news) => news,
                    // What came meanwhile is not there any more: the state is read anew.
                    Err(WatchFailure::Compacted { oldest }) => {
                        watcher = client.watch(WatchOptions {
                            from: WatchFrom::State,
                            ..options.clone()
                        });
                        WatchNews::Reset { index: oldest }
                    }
                    Err(error) => panic!("{error}"),
                };
                told.lock().expect("nobody panicked").take(news);
            }
        });
        Self { seen, task }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(
            &self
                .seen
                .lock()
                .expect("nothing was wrong with what it saw"),
        )
    }

    pub(crate) fn end(self) -> Seen {
        self.task.abort();
        std::mem::take(
            &mut self
                .seen
                .lock()
                .expect("nothing was wrong with what it saw"),
        )
    }
}
