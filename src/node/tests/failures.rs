//! What fails stops its replica at once, says so, and leaves nobody waiting.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::bed::{Answer, BEGUN, Bed, Journal, LET_GO};
use crate::core::{Message, RaftRole};
use crate::entry::frame;
use crate::error::ProposeError;
use crate::node::applier::{Applier, ApplyJob};
use crate::node::inbox::{Inbox, Lanes, Request};
use crate::node::replica_state::ReplicaState;
use crate::node::shared::{Clock, Shared, encode};
use crate::node::shell::start_applier;
use crate::node::waiters::Waiter;
use crate::types::{ClusterId, EntryKind, Incarnation, LogId, LogIndex, NodeId, ReplicaId};
use crate::wal::{Crash, LogOptions, SyncFault, SyncPolicy};

const SECOND: u64 = 1_000_000;

type Outcome = Result<usize, ProposeError>;

fn led(mut bed: Bed) -> (Bed, NodeId) {
    assert!(bed.run(5 * SECOND, |bed| bed.leader().is_some()));
    bed.run(SECOND, |_| false);
    let leader = bed.leader().expect("a leader");
    (bed, leader)
}

/// Runs until it is answered, at most for `limit`.
fn outcome(bed: &mut Bed, limit: u64, answer: &mut Answer) -> Option<Outcome> {
    let mut outcome = None;
    bed.run(limit, |_| {
        outcome = outcome.take().or_else(|| answer.try_recv().ok());
        outcome.is_some()
    });
    outcome
}

fn failure(bed: &mut Bed, node: NodeId) -> Option<String> {
    bed.run(SECOND / 10, |_| false);
    bed.node(node).shared.brief().failure.clone()
}

/// Found by the simulator: the driver tried to read the same entry for ever, within one burst.
#[test]
fn b11_a_node_that_cannot_read_what_is_committed_stops_and_says_so() {
    let (mut bed, leader) = led(Bed::with_options(
        3,
        LogOptions {
            segment_bytes: 8 << 20,
            hot_bytes: 0,
            ..LogOptions::default()
        },
    ));
    let large = "x".repeat(1 << 20);
    for _ in 0..20 {
        let mut answer = bed.propose(leader, &large);
        assert!(matches!(
            outcome(&mut bed, SECOND, &mut answer),
            Some(Ok(_))
        ));
    }
    let other = leader % 3 + 1;
    bed.crash(other, Crash::Kill);
    bed.start(other);
    bed.disks[other as usize - 1].fail_reads();
    bed.run(SECOND, |_| false);
    let why = failure(&mut bed, other).expect("it has failed");
    assert!(why.contains("cannot read committed entries"), "{why}");
    let mut answer = bed.propose(leader, "the others go on");
    assert!(matches!(
        outcome(&mut bed, SECOND, &mut answer),
        Some(Ok(_))
    ));
}

#[test]
fn b11_a_leader_that_cannot_read_its_log_stops_and_sends_nothing_made_up() {
    let (mut bed, leader) = led(Bed::with_options(
        3,
        LogOptions {
            segment_bytes: 8 << 20,
            hot_bytes: 8 << 20,
            ..LogOptions::default()
        },
    ));
    let behind = leader % 3 + 1;
    bed.hub.isolate(behind, true);
    let large = "x".repeat(1 << 20);
    for _ in 0..30 {
        let mut answer = bed.propose(leader, &large);
        assert!(matches!(
            outcome(&mut bed, SECOND, &mut answer),
            Some(Ok(_))
        ));
    }
    let last = bed.node(leader).shared.brief().last;
    bed.node(leader).sent.lock().expect("sent").clear();
    bed.disks[leader as usize - 1].fail_reads();
    bed.hub.isolate(behind, false);
    bed.run(SECOND / 10, |_| false);
    let why = failure(&mut bed, leader).expect("it has failed");
    assert!(
        why.contains(&format!("cannot read entries for node {behind}")),
        "{why}"
    );
    assert_ne!(bed.node(leader).shared.brief().role, RaftRole::Leader);
    for (to, message) in bed.node(leader).sent.lock().expect("sent").iter() {
        if let Message::Append(append) = message {
            assert!(
                append.count > 0 || append.prev.index >= last.index,
                "{to} gets the place {} without its entries",
                append.prev
            );
        }
    }
    let mut late = bed.propose(leader, "late");
    let late = outcome(&mut bed, SECOND, &mut late);
    assert!(matches!(late, Some(Err(ProposeError::Failed(_)))));
    let caught_up = |bed: &Bed| bed.applied(behind).len() == 30;
    assert!(
        bed.run(10 * SECOND, caught_up),
        "another one leads, and can read"
    );
}

#[test]
fn c11_after_a_crash_before_or_inside_apply_each_command_is_there_once() {
    for applied in 0..=4 {
        let (mut bed, leader) = led(Bed::new(1, SyncPolicy::Sync));
        for nth in 0..applied {
            let mut answer = bed.propose(leader, &format!("{nth}"));
            let done = outcome(&mut bed, SECOND, &mut answer);
            assert_eq!(done, Some(Ok(nth + 1)));
        }
        // The rest is committed, and handed to a state machine that gets to none of it.
        bed.node_mut(leader).next_work = u64::MAX;
        let rest = (applied..5).map(|nth| bed.propose(leader, &format!("{nth}")));
        let mut rest: Vec<Answer> = rest.collect();
        bed.run(SECOND, |_| false);
        assert!(rest.iter_mut().all(|one| one.try_recv().is_err()));
        assert!(bed.node(leader).shared.commit_index() >= 7);
        bed.crash(leader, Crash::PowerCut);
        bed.start(leader);
        let all = ["0", "1", "2", "3", "4"];
        let replayed = bed.run(5 * SECOND, |bed| bed.applied(leader) == all);
        assert!(replayed, "{:?}", bed.applied(leader));
    }
}

/// A state machine of its own, without a node.
struct Alone {
    shared: Arc<Shared<Journal>>,
    answers: Vec<oneshot::Receiver<Outcome>>,
}

impl Alone {
    fn new() -> Self {
        let me = ReplicaId::new(1, Incarnation([1; 16]));
        let (cluster, address) = (ClusterId([7; 16]), ([127, 0, 0, 1], 1).into());
        let inbox: Arc<Inbox<usize>> = Arc::default();
        let state = ReplicaState::new(Journal::default());
        let shared = Shared::new(
            me,
            cluster,
            address,
            Clock::start(),
            inbox,
            state,
            Default::default(),
        );
        Self {
            shared: Arc::new(shared),
            answers: Vec::new(),
        }
    }

    /// These commands as entries from `first` on, with somebody who waits for each.
    fn job(&mut self, first: LogIndex, commands: &[&str]) -> ApplyJob<Journal> {
        let (replies, answers): (Vec<_>, Vec<_>) =
            commands.iter().map(|_| oneshot::channel()).unzip();
        self.answers.extend(answers);
        let deadline = u64::MAX;
        let waiters = replies
            .into_iter()
            .map(|reply| Waiter::new(reply.into(), deadline));
        self.shared.waiters.add(first, 1, waiters);
        replay(first, commands)
    }

    fn outcomes(&mut self) -> Vec<Option<Outcome>> {
        let answers = self.answers.iter_mut();
        answers.map(|answer| answer.try_recv().ok()).collect()
    }

    fn shows(&self) -> (LogIndex, Vec<String>) {
        let applied = self.shared.applied();
        (applied.id.index, applied.view.to_vec())
    }
}

fn replay(first: LogIndex, commands: &[&str]) -> ApplyJob<Journal> {
    let run = |(command, index): (&&str, LogIndex)| {
        let payload = encode::<Journal>(None, &(*command).to_owned()).expect("a command");
        frame(LogId::new(1, index), EntryKind::Command, index, &payload)
    };
    let runs: Vec<Bytes> = commands.iter().zip(first..).map(run).collect();
    let last = first + commands.len() as LogIndex - 1;
    ApplyJob::Entries { runs, last }
}

fn unknown(index: LogIndex) -> Option<Outcome> {
    Some(Err(ProposeError::Unknown { index, term: 1 }))
}

#[test]
fn c11_index_and_state_are_shown_together_and_no_entry_is_applied_twice() {
    let mut alone = Alone::new();
    let mut applier = Applier::new(Arc::clone(&alone.shared));
    let job = alone.job(1, &["a", "b"]);
    assert_eq!(applier.run(job), Ok(()));
    assert_eq!(alone.shows(), (2, vec!["a".into(), "b".into()]));
    for (first, commands) in [(1, &["a", "b"][..]), (2, &["b"]), (4, &["d"])] {
        let alone = Alone::new();
        let mut applier = Applier::new(Arc::clone(&alone.shared));
        assert_eq!(applier.run(replay(1, &["a", "b"])), Ok(()));
        let refused = applier.run(replay(first, commands));
        let why = refused.expect_err("out of order");
        assert_eq!(why, format!("entry {first} came after 2"));
        assert_eq!(alone.shows(), (2, vec!["a".into(), "b".into()]));
    }
    let job = alone.job(3, &["c", "half", "e"]);
    let why = applier.run(job).expect_err("it panics");
    assert!(why.contains("cannot apply entry 4"), "{why}");
    assert_eq!(
        alone.shows(),
        (2, vec!["a".into(), "b".into()]),
        "half an entry is nothing to show"
    );
    let expected = [Some(Ok(1)), Some(Ok(2)), unknown(3), unknown(4), unknown(5)];
    assert_eq!(alone.outcomes(), expected);
}

#[test]
fn f3_nobody_is_told_the_response_to_another_entry_in_its_place() {
    let mut alone = Alone::new();
    let mut applier = Applier::new(Arc::clone(&alone.shared));
    let (reply, answer) = oneshot::channel();
    let (reply, deadline) = (reply.into(), u64::MAX);
    alone.answers.push(answer);
    // Proposed in term 7; what is committed there is of term 1.
    let waits = std::iter::once(Waiter::new(reply, deadline));
    alone.shared.waiters.add(1, 7, waits);
    assert_eq!(applier.run(replay(1, &["a"])), Ok(()));
    let unknown = Err(ProposeError::Unknown { index: 1, term: 7 });
    assert_eq!(alone.outcomes(), [Some(unknown)]);
}

#[test]
fn g2_a_skipped_entry_is_not_applied_and_who_applied_it_stops() {
    let mut alone = Alone::new();
    let mut applier = Applier::new(Arc::clone(&alone.shared));
    assert_eq!(applier.run(ApplyJob::Skip(2)), Ok(()));
    let job = alone.job(1, &["a", "panic", "c"]);
    assert_eq!(applier.run(job), Ok(()));
    assert_eq!(alone.shows(), (3, vec!["a".into(), "c".into()]));
    assert_eq!(alone.outcomes(), [Some(Ok(1)), unknown(2), Some(Ok(2))]);
    let why = applier.run(ApplyJob::Skip(3)).expect_err("it is applied");
    assert!(
        why.contains("applied entry 3, which the cluster skips"),
        "{why}"
    );
    assert_eq!(alone.shared.stopped_at(), None, "nothing to be skipped");
}

#[test]
fn j2_a_system_entry_of_an_unknown_kind_is_refused_not_skipped() {
    let alone = Alone::new();
    let mut applier = Applier::new(Arc::clone(&alone.shared));
    let unknown = frame(LogId::new(1, 1), EntryKind::System, 1, &[1, 255]);
    let (runs, last) = (vec![unknown], 1);
    let why = applier.run(ApplyJob::Entries { runs, last });
    let why = why.expect_err("unknown");
    assert!(why.contains("written by a newer release"), "{why}");
    assert_eq!(alone.shared.stopped_at(), Some(1));
    assert_eq!(alone.shows().0, 0);
}

/// What the thread of the state machine reported to the driver, once it did.
fn reported(shared: &Shared<Journal>) -> Option<String> {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let mut lanes = Lanes::default();
        shared.inbox.take(&mut lanes);
        if let Some(Request::Fail(why)) = lanes.requests.pop() {
            return Some(why);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

#[test]
fn g3_a_state_machine_that_panics_is_reported_and_nobody_waits_for_it() {
    let reason = "the state machine cannot apply entry 2: it panicked: ";
    for poison in ["panic", "half"] {
        let mut alone = Alone::new();
        let (jobs, queue) = mpsc::channel();
        let work = [
            alone.job(1, &["a"]),
            alone.job(2, &[poison, "c"]),
            alone.job(4, &["d", "e"]),
        ];
        let shared = Arc::clone(&alone.shared);
        start_applier(shared, queue).expect("a thread");
        for job in work {
            jobs.send(job).expect("the thread lives");
        }
        let why = reported(&alone.shared).expect("it is reported");
        assert!(why.starts_with(reason), "{why}");
        jobs.send(ApplyJob::Stop).expect("the thread lives");
        let end = Instant::now() + Duration::from_secs(20);
        while !*alone.shared.stopped.borrow() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(*alone.shared.stopped.borrow(), "the node can be shut down");
        let lost = (2..=5).map(unknown);
        let expected: Vec<_> = std::iter::once(Some(Ok(1))).chain(lost).collect();
        assert_eq!(alone.outcomes(), expected, "{poison}");
        // Nobody had looked: it is made again from what was kept.
        assert_eq!(alone.shows(), (1, vec!["a".into()]), "{poison}");
    }
}

#[test]
fn g3_a_state_machine_that_panics_when_looked_at_is_reported_and_reads_say_so() {
    let mut alone = Alone::new();
    let mut applier = Applier::new(Arc::clone(&alone.shared));
    let job = alone.job(1, &["a"]);
    assert_eq!(applier.run(job), Ok(()));
    assert_eq!(alone.shows(), (1, vec!["a".into()]));
    let job = alone.job(2, &["blind", "c"]);
    assert_eq!(applier.run(job), Ok(()));
    assert_eq!(alone.outcomes(), [Some(Ok(1)), Some(Ok(2)), Some(Ok(3))]);
    assert_eq!(alone.shows(), (1, vec!["a".into()]), "what was seen before");
    assert!(
        alone.shared.applied_from(3).is_none(),
        "not as if it were newer"
    );
    let why = reported(&alone.shared).expect("it is reported");
    let reason = "the state machine failed after entry 3: it panicked: told not to look";
    assert_eq!(why, reason);
}

#[test]
fn c11_who_looks_beside_a_busy_state_machine_sees_all_that_was_answered() {
    const ENTRIES: LogIndex = 3_000;
    let alone = Alone::new();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let shared = Arc::clone(&alone.shared);
            std::thread::spawn(move || {
                while shared.applied().id.index < ENTRIES {
                    let answered = shared.applied_index();
                    let seen = shared.applied().id.index;
                    assert!(seen >= answered, "{seen}, and {answered} was answered");
                }
            })
        })
        .collect();
    let mut applier = Applier::new(Arc::clone(&alone.shared));
    for index in 1..=ENTRIES {
        assert_eq!(applier.run(replay(index, &["a"])), Ok(()));
    }
    for reader in readers {
        reader
            .join()
            .expect("it sees enough, and does not wait for ever");
    }
}

/// What a slow state machine has answered is seen at once, whatever it is doing now.
#[test]
fn c11_who_looks_beside_a_slow_state_machine_does_not_wait_for_its_next_command() {
    let alone = Alone::new();
    let (jobs, queue) = mpsc::channel();
    start_applier(Arc::clone(&alone.shared), queue).expect("a thread");
    let nap = Duration::from_secs(3);
    let begun = Instant::now();
    jobs.send(replay(1, &["nap 20"])).expect("the thread lives");
    jobs.send(replay(2, &["nap 3000"]))
        .expect("the thread lives");
    while alone.shared.applied_index() < 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(alone.shows(), (1, vec!["nap 20".into()]));
    assert!(begun.elapsed() < nap, "{:?}", begun.elapsed());
    jobs.send(ApplyJob::Stop).expect("the thread lives");
}

/// Readers take what is there between two entries of a long piece of work.
#[test]
fn c11_who_looks_during_a_long_piece_of_work_sees_a_whole_entry_of_it() {
    const LAST: LogIndex = 20_000;
    let alone = Alone::new();
    let (jobs, queue) = mpsc::channel();
    start_applier(Arc::clone(&alone.shared), queue).expect("a thread");
    jobs.send(replay(1, &["a"])).expect("the thread lives");
    while alone.shared.applied_index() < 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Nobody has looked at the first entry yet, and does while the second takes its time.
    let mut long = vec!["b"; LAST as usize - 1];
    long[0] = "nap 1000";
    jobs.send(replay(2, &long)).expect("the thread lives");
    std::thread::sleep(Duration::from_millis(100));
    let mut seen = alone.shared.applied().id.index;
    assert!(seen < LAST, "it waited for all of the work");
    while seen < LAST {
        let applied = alone.shared.applied();
        let (index, length) = (applied.id.index, applied.view.len() as LogIndex);
        assert_eq!(index, length, "index and state belong together");
        assert!(index >= seen, "{index} after {seen}");
        seen = index;
    }
    jobs.send(ApplyJob::Stop).expect("the thread lives");
}

/// Who found the state taken looks once it is free, whatever it was taken for.
#[test]
fn c11_who_looks_while_the_state_is_frozen_sees_it_afterwards() {
    let alone = Alone::new();
    let (jobs, queue) = mpsc::channel();
    start_applier(Arc::clone(&alone.shared), queue).expect("a thread");
    jobs.send(replay(1, &["a"])).expect("the thread lives");
    let (begin, begun) = mpsc::channel();
    let freeze = ApplyJob::Freeze(Box::new(move |_| {
        begin.send(()).expect("somebody waits");
        std::thread::sleep(Duration::from_millis(500));
    }));
    jobs.send(freeze).expect("the thread lives");
    begun.recv().expect("it is being frozen");
    let (tell, told) = mpsc::channel();
    let shared = Arc::clone(&alone.shared);
    std::thread::spawn(move || tell.send(shared.applied().id.index));
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(1));
    jobs.send(ApplyJob::Stop).expect("the thread lives");
}

#[test]
fn g3_a_node_whose_state_machine_failed_says_so_and_serves_no_more() {
    for poison in ["panic", "half", "blind"] {
        let (mut bed, leader) = led(Bed::new(3, SyncPolicy::Sync));
        let mut answers: Vec<Answer> = ["a", poison, "c"]
            .map(|command| bed.propose(leader, command))
            .into();
        let each = answers.iter_mut();
        let outcomes: Vec<_> = each
            .map(|answer| outcome(&mut bed, SECOND, answer))
            .collect();
        assert!(outcomes.iter().all(Option::is_some), "{outcomes:?}");
        // What panics only when it is looked at.
        bed.applied(leader);
        let why = failure(&mut bed, leader).expect("it has failed");
        assert!(why.contains("the state machine"), "{why}");
        if poison == "blind" {
            // No entry that could be skipped.
            assert_ne!(bed.node(leader).shared.brief().role, RaftRole::Leader);
        }
        let mut later = bed.propose(leader, "later");
        let later = outcome(&mut bed, SECOND, &mut later);
        assert!(
            matches!(later, Some(Err(ProposeError::Failed(_)))),
            "{later:?}"
        );
    }
}

#[test]
fn f5_a_failed_node_with_a_slow_state_machine_answers_by_the_deadline() {
    let (mut bed, leader) = led(Bed::new(1, SyncPolicy::Sync));
    bed.node_mut(leader).apply_pace = 60 * SECOND;
    let mut answers: Vec<Answer> = Vec::new();
    for command in ["a", "b"] {
        answers.push(bed.propose(leader, command));
        bed.run(SECOND / 10, |_| false);
    }
    bed.disks[leader as usize - 1].fail_sync(0, SyncFault::Keep);
    answers.push(bed.propose(leader, "c"));
    let why = failure(&mut bed, leader);
    assert!(why.is_some(), "its log is broken");
    bed.run(6 * SECOND, |_| false);
    let outcomes: Vec<_> = answers.iter_mut().map(|one| one.try_recv().ok()).collect();
    let given_up = |outcome: &Option<Outcome>| {
        matches!(outcome, Some(Ok(_) | Err(ProposeError::Unknown { .. })))
    };
    assert!(outcomes.iter().all(given_up), "{outcomes:?}");
    assert!(outcomes[1].as_ref().is_some_and(Result::is_err), "it waits");
}

/// Found by the simulator: a follower's timer is put off by every heartbeat.
#[test]
fn f5_a_deposed_leader_with_a_slow_state_machine_answers_by_the_deadline() {
    let (mut bed, leader) = led(Bed::new(3, SyncPolicy::Sync));
    bed.node_mut(leader).apply_pace = 60 * SECOND;
    let mut answers: Vec<Answer> = Vec::new();
    for command in ["a", "b"] {
        answers.push(bed.propose(leader, command));
        bed.run(SECOND / 10, |_| false);
    }
    let to = 1 + leader % 3;
    bed.hand_over(leader, Some(to));
    assert!(bed.run(SECOND, |bed| bed.leader() == Some(to)));
    bed.run(5 * SECOND, |_| false);
    let waits = answers.pop().expect("two").try_recv();
    assert!(
        matches!(waits, Ok(Err(ProposeError::Unknown { .. }))),
        "{waits:?}"
    );
}

/// One command that takes for ever holds up those behind it, and nobody's deadline.
#[test]
fn f5_deadlines_hold_while_a_command_is_being_applied() {
    let mut alone = Alone::new();
    let (jobs, queue) = mpsc::channel();
    let work = alone.job(1, &["a", "held", "b"]);
    let shared = Arc::clone(&alone.shared);
    start_applier(shared, queue).expect("a thread");
    jobs.send(work).expect("the thread lives");
    while !BEGUN.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    alone.shared.waiters.expire(u64::MAX);
    let told = alone.outcomes();
    LET_GO.store(true, Ordering::SeqCst);
    let expected: Vec<_> = (1..=3).map(unknown).collect();
    assert_eq!(told, expected);
    jobs.send(ApplyJob::Stop).expect("the thread lives");
}
