//! Watchers over an applier of their own, without a node.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::entry::frame;
use crate::node::applier::{Applier, ApplyJob, Restoring};
use crate::node::inbox::Inbox;
use crate::node::replica_state::ReplicaState;
use crate::node::shared::{Clock, Shared, encode};
use crate::state_machine::{Cause, RouterCommand, RouterStateMachine, StateMachine};
use crate::types::{ClusterId, EntryKind, Incarnation, LogId, LogIndex, ReplicaId};

type Router = RouterStateMachine;

struct Alone {
    shared: Arc<Shared<Router>>,
    applier: Applier<Router>,
    last: LogIndex,
    /// Watches that were counted as behind.
    behind: Arc<AtomicU64>,
}

impl Alone {
    fn new() -> Self {
        Self::with_limits(64 << 20, 4 << 20)
    }

    fn with_limits(history: usize, behind: usize) -> Self {
        let me = ReplicaId::new(1, Incarnation([1; 16]));
        let (cluster, address) = (ClusterId([7; 16]), ([127, 0, 0, 1], 1).into());
        let inbox: Arc<Inbox<_>> = Arc::default();
        let state = ReplicaState::new(Router::new());
        let begin = (LogId::default(), 0);
        let clock = Clock::start();
        let mut shared = Shared::new(me, cluster, address, clock, inbox, state, begin);
        shared.feed = Feed::with_limits(0, 0, history, behind);
        let behind = Arc::<AtomicU64>::default();
        shared.behind = metrics::Counter::from_arc(Arc::clone(&behind));
        let shared = Arc::new(shared);
        Self {
            applier: Applier::new(Arc::clone(&shared)),
            shared,
            last: 0,
            behind,
        }
    }

    /// Applies and shows these together.
    fn apply(&mut self, commands: impl IntoIterator<Item = RouterCommand>) -> LogIndex {
        let mut runs = Vec::new();
        for command in commands {
            self.last += 1;
            let payload = encode::<Router>(None, &command).expect("a command");
            let id = LogId::new(1, self.last);
            runs.push(frame(id, EntryKind::Command, self.last * 1000, &payload));
        }
        let (runs, last): (Vec<Bytes>, _) = (runs, self.last);
        self.applier
            .run(ApplyJob::Entries { runs, last })
            .expect("applies");
        self.last
    }

    /// A snapshot takes the place of the state: that of `other`, `ahead` entries further on.
    fn restore(&mut self, other: &Self, ahead: u64) -> LogIndex {
        let mut bytes = Vec::new();
        let frozen = other.shared.applied();
        let live = other.shared.live.live();
        live.state
            .machine
            .freeze()
            .write(&mut bytes)
            .expect("written");
        self.last = frozen.id.index + ahead;
        let last = LogId::new(1, self.last);
        let restoring = Restoring {
            last,
            time_us: self.last * 1000,
            put: Box::new(move |state: &mut ReplicaState<Router>| {
                state
                    .machine
                    .restore(&mut &*bytes)
                    .map_err(|error| error.to_string())?;
                Ok(Ok(()))
            }),
            done: Box::new(|_| {}),
        };
        self.applier
            .run(ApplyJob::Restore(restoring))
            .expect("restores");
        self.applier.run(ApplyJob::Show).expect("shows");
        self.last
    }

    fn watch(&self, prefixes: &[&str], from: WatchFrom) -> StateWatch<Router> {
        self.try_watch(prefixes, from).expect("a watch")
    }

    fn try_watch(
        &self,
        prefixes: &[&str],
        from: WatchFrom,
    ) -> Result<StateWatch<Router>, WatchError> {
        let options = WatchOptions {
            prefixes: prefixes.iter().map(ToString::to_string).collect(),
            from,
            renewals: false,
        };
        StateWatch::new(Arc::clone(&self.shared), &options)
    }
}

fn offset(source: &str, offset: u64) -> RouterCommand {
    RouterCommand::CommitSourceOffset {
        source_id: source.into(),
        partition: 0,
        offset,
        rewind: false,
    }
}

fn sidecar(id: &str) -> RouterCommand {
    RouterCommand::register_sidecar(id, "a:1", ["orders"])
}

/// What is told, in words; ends with what comes to no end.
fn words(watch: &mut StateWatch<Router>) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        match watch.try_next() {
            Ok(Some(told)) => words.push(word(&told)),
            Ok(None) => return words,
            Err(ended) => {
                words.push(format!("{ended:?}"));
                return words;
            }
        }
    }
}

fn word(told: &Told) -> String {
    match told {
        Told::State(part) => {
            let keys: Vec<&str> = part.records().map(|(key, _)| key).collect();
            let more = if part.complete { "" } else { " and more" };
            format!("{} has {}{more}", part.index, keys.join(" "))
        }
        Told::Changes(entry) => {
            let keys = entry.changes().map(|change| {
                assert_eq!(change.index, entry.index);
                let sign = if change.value.is_some() { '+' } else { '-' };
                format!("{sign}{}", change.key)
            });
            format!("{}: {}", entry.index, keys.collect::<Vec<_>>().join(" "))
        }
        Told::Progress { index, .. } => format!("up to {index}"),
        Told::Reset { index } => format!("reset {index}"),
    }
}

fn waits(watch: &mut StateWatch<Router>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(watch.next()).poll(&mut context), Poll::Pending)
}

#[test]
fn the_state_comes_first_then_what_changes_it() {
    let mut alone = Alone::new();
    alone.apply([sidecar("a"), offset("s", 1)]);
    let mut watch = alone.watch(&["/sidecars/", "/offsets/source/s/"], WatchFrom::State);
    assert_eq!(watch.resume_from(), None);
    // What comes between is told once: the state is that of the beginning.
    alone.apply([offset("s", 2), offset("t", 1)]);
    assert_eq!(
        words(&mut watch),
        [
            "2 has /offsets/source/s/0 /sidecars/a",
            "3: +/offsets/source/s/0"
        ]
    );
    assert_eq!(watch.resume_from(), Some(4));
    alone.apply([sidecar("b")]);
    alone.apply([offset("t", 2)]);
    alone.apply([RouterCommand::DeregisterSidecar {
        sidecar_id: "a".into(),
    }]);
    assert_eq!(words(&mut watch), ["5: +/sidecars/b", "7: -/sidecars/a"]);
}

#[test]
fn all_that_an_entry_changed_comes_together_and_each_entry_by_itself() {
    let mut alone = Alone::new();
    let mut watch = alone.watch(&[], WatchFrom::After(0));
    assert_eq!(words(&mut watch), ["up to 0"]);
    alone.apply([sidecar("a"), offset("s", 1), sidecar("b")]);
    assert_eq!(
        words(&mut watch),
        [
            "1: +/sidecars/a +/locations/orders/a",
            "2: +/offsets/source/s/0",
            "3: +/sidecars/b +/locations/orders/b"
        ]
    );
    // A watcher that resumes is told the same.
    let mut again = alone.watch(&[], WatchFrom::After(1));
    assert_eq!(
        words(&mut again),
        [
            "2: +/offsets/source/s/0",
            "3: +/sidecars/b +/locations/orders/b",
            "up to 3"
        ]
    );
}

#[test]
fn renewals_are_told_to_those_who_ask_for_them() {
    let mut alone = Alone::new();
    alone.apply([sidecar("a")]);
    let beat = || RouterCommand::UpdateSidecarHeartbeat {
        sidecar_id: "a".into(),
        timestamp: 7,
        health: Default::default(),
    };
    let mut deaf = alone.watch(&[], WatchFrom::After(1));
    alone.apply([beat()]);
    let options = WatchOptions {
        renewals: true,
        from: WatchFrom::After(1),
        ..WatchOptions::default()
    };
    let mut hears = StateWatch::new(Arc::clone(&alone.shared), &options).expect("a watch");
    alone.apply([beat(), offset("s", 1)]);
    assert_eq!(words(&mut deaf), ["4: +/offsets/source/s/0", "up to 4"]);
    // The one before anybody asked was never written down.
    assert_eq!(
        words(&mut hears),
        ["3: +/sidecars/a", "4: +/offsets/source/s/0", "up to 4"]
    );
    alone.apply([beat()]);
    let Ok(Some(Told::Changes(entry))) = hears.try_next() else {
        panic!("a renewal");
    };
    assert_eq!(
        entry.changes().next().map(|change| change.cause),
        Some(Cause::Renewal)
    );
    drop(hears);
    alone.apply([beat()]);
    let mut late = alone.watch(&[], WatchFrom::After(5));
    assert_eq!(words(&mut late), ["up to 6"]);
    assert!(words(&mut deaf).is_empty());
}

#[test]
fn h3_history_is_bounded_and_who_asks_for_more_is_told_so() {
    let mut alone = Alone::with_limits(20_000, 4 << 20);
    for n in 1..=1000 {
        alone.apply([offset("s", n)]);
    }
    let Err(WatchError::Compacted { oldest }) = alone.try_watch(&[], WatchFrom::After(1)) else {
        panic!("1 is long gone");
    };
    assert!((850..1000).contains(&oldest), "{oldest}");
    let mut watch = alone.watch(&[], WatchFrom::After(oldest));
    let told = words(&mut watch);
    assert_eq!(told.len() as u64, 1000 - oldest + 1);
    assert!(
        told[0].starts_with(&format!("{}: ", oldest + 1)),
        "{told:?}"
    );
    // One whose place in the history goes while it looks through it.
    let mut slow = alone.watch(&[], WatchFrom::After(oldest));
    assert!(matches!(slow.try_next(), Ok(Some(Told::Changes(_)))));
    for n in 1001..=2000 {
        alone.apply([offset("s", n)]);
    }
    let resume_from = Some(oldest + 1);
    assert_eq!(
        words(&mut slow),
        [format!("{:?}", WatchEnded::Behind { resume_from })]
    );
    assert_eq!(alone.shared.feed.watchers(), 2);
    drop((slow, watch));
    assert_eq!(alone.shared.feed.watchers(), 0);
}

#[test]
fn h3_a_slow_watcher_ends_with_the_index_to_resume_from() {
    let mut alone = Alone::with_limits(64 << 20, 10_000);
    let mut slow = alone.watch(&["/offsets/"], WatchFrom::After(0));
    let mut other = alone.watch(&["/sidecars/"], WatchFrom::State);
    let mut reads = alone.watch(&["/offsets/source/"], WatchFrom::State);
    assert_eq!(words(&mut slow), ["up to 0"]);
    alone.apply([offset("s", 1)]);
    assert_eq!(words(&mut slow).len(), 1);
    for n in 2..=1000 {
        alone.apply([offset("s", n)]);
    }
    let told = words(&mut slow);
    assert_eq!(told, ["Behind { resume_from: Some(1) }"]);
    // One that has not read the state has nothing to resume from.
    assert_eq!(words(&mut reads), ["Behind { resume_from: None }"]);
    assert_eq!(words(&mut other), ["0 has "], "it is not behind");
    assert_eq!(alone.behind.load(Ordering::Relaxed), 2);
    // It resumes without a loss.
    let mut again = alone.watch(&["/offsets/"], WatchFrom::After(1));
    let told = words(&mut again);
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    assert_eq!(told.len(), 1000, "{told:?}");
    assert_eq!(told.last(), Some(&"up to 1000"));
}

#[test]
fn after_a_snapshot_a_watcher_gets_one_reset_and_the_state() {
    let mut other = Alone::new();
    other.apply([sidecar("a"), sidecar("b"), offset("s", 5)]);
    let mut alone = Alone::new();
    alone.apply([sidecar("a")]);
    let mut watch = alone.watch(&["/sidecars/"], WatchFrom::State);
    let mut ahead = alone.watch(&["/sidecars/"], WatchFrom::After(100));
    let mut reads = alone.watch(&["/sidecars/"], WatchFrom::State);
    assert_eq!(words(&mut watch), ["1 has /sidecars/a"]);
    let at = alone.restore(&other, 10);
    alone.apply([sidecar("c")]);
    assert_eq!(
        words(&mut watch),
        ["reset 13", "14 has /sidecars/a /sidecars/b /sidecars/c"]
    );
    assert_eq!(words(&mut reads), words_of_reset());
    alone.apply([sidecar("d")]);
    assert_eq!(words(&mut watch), ["15: +/sidecars/d"]);
    // Changes up to the snapshot are not there; a watcher that was told them elsewhere needs none.
    assert!(matches!(
        alone.try_watch(&[], WatchFrom::After(at - 1)),
        Err(WatchError::Compacted { oldest: 13 })
    ));
    assert_eq!(words(&mut ahead), ["up to 100"]);
}

fn words_of_reset() -> [&'static str; 2] {
    ["reset 13", "14 has /sidecars/a /sidecars/b /sidecars/c"]
}

#[test]
fn a_large_state_comes_in_parts_of_one_moment() {
    let mut alone = Alone::new();
    let data = vec![7; 100 << 10];
    let save = |n: usize| RouterCommand::SaveServiceCheckpoint {
        service_id: format!("s-{n:02}"),
        checkpoint_id: "c".into(),
        data: data.clone(),
        source_offsets: Default::default(),
    };
    alone.apply((0..20).map(save));
    alone.apply([sidecar("a")]);
    let mut watch = alone.watch(&["/checkpoints/", "/sidecars/"], WatchFrom::State);
    assert!(words(&mut alone.watch(&["/groups/"], WatchFrom::State)) == ["21 has "]);
    let (mut keys, mut parts) = (Vec::new(), 0);
    loop {
        let Ok(Some(Told::State(part))) = watch.try_next() else {
            panic!("a part");
        };
        assert_eq!(part.index, 21);
        keys.extend(part.records().map(|(key, _)| key.to_owned()));
        parts += 1;
        if part.complete {
            break;
        }
        alone.apply([save(50 + parts)]);
    }
    assert_eq!((keys.len(), parts), (21, 7));
    assert_eq!(words(&mut watch).len(), parts - 1);
}

#[test]
fn prefixes_that_no_key_has_are_refused() {
    let alone = Alone::new();
    let refused = |prefixes: &[&str]| match alone.try_watch(prefixes, WatchFrom::State) {
        Err(WatchError::Prefixes(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(&["sidecars/"]).contains("slash"));
    assert!(refused(&vec!["/"; 65]).contains("at most 64"));
    assert!(refused(&[&"/x".repeat(4000)]).contains("at most 4096"));
    assert_eq!(alone.shared.feed.watchers(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sleeps_until_there_is_something_for_it_and_is_told_how_far_it_is() {
    let mut alone = Alone::new();
    let mut watch = alone.watch(&["/sidecars/"], WatchFrom::State);
    let first = watch.next().await.expect("the state");
    assert_eq!(word(&first), "0 has ");
    assert!(waits(&mut watch));
    let begun = tokio::time::Instant::now();
    alone.apply([offset("s", 1)]);
    let mark = watch.next().await.expect("a mark");
    assert_eq!(
        (word(&mark).as_str(), begun.elapsed()),
        ("up to 1", Duration::from_secs(5))
    );

    let watcher = tokio::spawn(async move {
        let told = watch.next().await.expect("a change");
        (word(&told), watch)
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    alone.apply([sidecar("a")]);
    let (told, mut watch) = watcher.await.expect("told");
    assert_eq!(told, "2: +/sidecars/a");
    assert_eq!(begun.elapsed(), Duration::from_secs(6));

    alone.shared.stopped.send_replace(true);
    let ended = watch.next().await.expect_err("it stops");
    let resume_from = Some(2);
    assert_eq!(ended, WatchEnded::Stopped { resume_from });
}
