//! Whole clusters: real histories pass, and what is broken in the state machine or by a node is
//! found.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::super::history::Outcome;
use super::super::search::{Verdict, search};
use super::super::{STEPS, by_log};
use super::*;
use crate::node::inbox::{Inbox, Lanes, Submission};
use crate::node::replica_state::ReplicaState;
use crate::node::shared::{Clock, Shared};
use crate::sim::clients::Clients;
use crate::sim::oracle::Oracle;
use crate::sim::random::Random;
use crate::sim::world::World;
use crate::sim::{
    Plan, RegisterCommand, RegisterWorkload, Registers, SimOptions, Workload, simulate,
};
use crate::state_machine::{ApplyContext, CommandError, Frozen, RestoreError, StateMachine};
use crate::types::{ClusterId, Incarnation, Micros, ReplicaId};

fn options(seed: u64, chaos_us: Micros) -> SimOptions {
    SimOptions {
        chaos_us,
        truth_every: 7,
        ..SimOptions::new(seed)
    }
}

#[test]
fn registers_are_linearizable_through_the_faults() {
    let mut acked = 0;
    for seed in [4_004, 4_007, 4_033] {
        let report = simulate(RegisterWorkload, &options(seed, 2_000_000));
        acked += report.unwrap_or_else(|failure| panic!("{failure}")).acked;
    }
    assert!(acked > 300, "{acked}");
}

/// What the judges get is worth judging: every kind of operation and outcome, real concurrency,
/// second tries, and every key short enough for the search.
#[test]
fn histories_of_runs_have_everything_in_them() {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = |kind: &str| *kinds.entry(kind.to_owned()).or_default() += 1;
    for seed in [4_004, 4_032, 4_036] {
        let mut world = World::new(RegisterWorkload, Plan::draw(&options(seed, 2_000_000)));
        world.run(2_000_000, |_| false).expect("no violation");
        let (history, reads) = world.clients.seen();
        let mut last_answer = 0;
        let mut writes = BTreeMap::new();
        for one in &history.operations {
            match one.outcome {
                Outcome::Answered(Answer::Set(true), _) => seen("set"),
                Outcome::Answered(Answer::Set(false), _) => seen("not set"),
                Outcome::Answered(Answer::Value(_), _) => seen("value"),
                Outcome::Answered(Answer::Done, _) => seen("done"),
                Outcome::Refused => seen("refused"),
                Outcome::Unknown => seen("unknown"),
            }
            if one.invoked < last_answer {
                seen("concurrent");
            }
            last_answer = last_answer.max(one.answered_at().unwrap_or(0));
            if let Action::Write(new) = one.action
                && writes.insert(new, one.id).is_some()
            {
                seen("tried again");
            }
        }
        reads.shown().iter().for_each(|_| seen("shown"));
        let nodes: std::collections::BTreeSet<_> =
            reads.shown().iter().map(|one| one.node).collect();
        nodes
            .iter()
            .skip(1)
            .for_each(|_| seen("another node shown"));
        for operations in history.by_key().values() {
            assert_eq!(search(operations, STEPS), Verdict::Linearizable);
        }
        assert_eq!(world.clients.judge(&world.oracle), Ok(()));
    }
    for kind in [
        "set",
        "not set",
        "value",
        "done",
        "refused",
        "unknown",
        "concurrent",
        "tried again",
        "shown",
        "another node shown",
    ] {
        assert!(
            kinds.get(kind).is_some_and(|count| *count > 1),
            "{kind}: {kinds:?}"
        );
    }
}

/// How a state machine is broken; the same on every node, so that no digest shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    /// Reads are answered from a copy that is renewed at every twentieth command.
    StaleReads,
    /// A compare-and-set compares with that copy.
    StaleCompare,
    /// Some writes are lost.
    LostWrite,
    /// Some writes are applied again after the next command on their register.
    WrittenTwice,
    /// What local readers see is the copy.
    StaleView,
}

#[derive(Clone)]
struct Broken {
    flaw: Flaw,
    registers: Registers,
    copy: Registers,
    pending: Option<RegisterCommand>,
}

impl StateMachine for Broken {
    type Command = RegisterCommand;
    type Response = Answer;
    type View = OrdMap<u64, u64>;

    fn encode(command: &RegisterCommand, out: &mut Vec<u8>) -> Result<(), CommandError> {
        Registers::encode(command, out)
    }

    fn decode(payload: &[u8]) -> Result<RegisterCommand, CommandError> {
        Registers::decode(payload)
    }

    fn apply(&mut self, context: &ApplyContext, command: RegisterCommand) -> Answer {
        if context.index.is_multiple_of(20) {
            self.copy = self.registers.clone();
        }
        let is_write = matches!(command.action, Action::Write(_));
        let is_struck = is_write && command.id % 30 < 5;
        if is_struck && self.flaw == Flaw::LostWrite {
            return Answer::Done;
        }
        let again = self.pending.take_if(|pending| pending.key == command.key);
        let answer = self.registers.apply(context, command);
        if let Some(again) = again {
            self.registers.apply(context, again);
        }
        if is_struck && self.flaw == Flaw::WrittenTwice {
            self.pending = Some(command);
        }
        let stale = match command.action {
            Action::Read => self.flaw == Flaw::StaleReads,
            Action::CompareAndSet { .. } => self.flaw == Flaw::StaleCompare,
            _ => false,
        };
        let before = self.copy.view().get(&command.key).copied().unwrap_or(0);
        if stale {
            return command.action.apply(before).1;
        }
        answer
    }

    fn view(&self) -> Arc<OrdMap<u64, u64>> {
        match self.flaw {
            Flaw::StaleView => self.copy.view(),
            _ => self.registers.view(),
        }
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        self.registers.freeze()
    }

    fn restore(&mut self, reader: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        self.registers.restore(reader)
    }

    fn digest(&self) -> u128 {
        self.registers.digest()
    }
}

struct BrokenWorkload(Flaw);

impl Workload for BrokenWorkload {
    type Machine = Broken;

    fn machine(&self) -> Broken {
        Broken {
            flaw: self.0,
            registers: Registers::default(),
            copy: Registers::default(),
            pending: None,
        }
    }

    fn command(&self, id: u64, random: &mut Random) -> RegisterCommand {
        RegisterWorkload.command(id, random)
    }

    fn again(&self, id: u64, command: &RegisterCommand) -> Option<RegisterCommand> {
        RegisterWorkload.again(id, command)
    }

    fn observes(&self, command: &RegisterCommand) -> Option<Observation> {
        RegisterWorkload.observes(command)
    }

    fn answers(&self, response: &Answer) -> Answer {
        RegisterWorkload.answers(response)
    }

    fn shows(&self, view: &OrdMap<u64, u64>, key: u64) -> Option<u64> {
        RegisterWorkload.shows(view, key)
    }
}

/// How long a run without faults takes.
const CALM: Micros = 1_200_000;

/// A run without faults; whether the search and the log say that something is wrong.
fn judged(flaw: Flaw) -> (bool, bool) {
    let options = SimOptions {
        truth_every: 1_000,
        ..options(4_036, CALM)
    };
    let mut plan = Plan::draw(&options);
    plan.rates.heal();
    // Clients that are never quiet meet each other.
    plan.rates.proposals = 10..5_000;
    plan.strikes.clear();
    let mut world = World::new(BrokenWorkload(flaw), plan);
    world
        .run(3_000_000, |_| false)
        .expect("nothing else sees it");
    let (history, reads) = world.clients.seen();
    let wrong = |all: &Vec<_>| matches!(search(all, STEPS), Verdict::Violation(_));
    let searched = history.by_key().values().any(wrong);
    let by_log = by_log::judge(history, reads.shown(), |id| world.oracle.place(id));
    let judged = world.clients.judge(&world.oracle).expect_err("the flaw");
    assert!(judged.starts_with("S16/S17: "), "{judged}");
    (searched, by_log.is_err())
}

#[test]
fn s17_a_state_machine_that_is_wrong_everywhere_alike_is_found_by_both_judges() {
    for flaw in [
        Flaw::StaleReads,
        Flaw::StaleCompare,
        Flaw::LostWrite,
        Flaw::WrittenTwice,
    ] {
        assert_eq!(judged(flaw), (true, true), "{flaw:?}");
    }
}

#[test]
fn s16_a_stale_view_is_found_by_the_log() {
    assert_eq!(judged(Flaw::StaleView), (false, true));
}

#[test]
fn s17_a_run_that_is_not_linearizable_fails() {
    let run = simulate(BrokenWorkload(Flaw::StaleReads), &options(4_007, 2_000_000));
    let failure = run.expect_err("stale reads");
    assert!(failure.what.contains("is not linearizable"), "{failure}");
}

/// Clients, and a node that answers as the test wants.
struct Rig {
    clients: Clients<RegisterWorkload>,
    oracle: Oracle,
    shared: Arc<Shared<Registers>>,
}

impl Rig {
    fn new() -> Self {
        let me = ReplicaId::new(1, Incarnation::default());
        let address = ([127, 0, 0, 1], 1).into();
        let (clock, inbox) = (Clock::start(), Arc::<Inbox<Answer>>::default());
        let cluster = ClusterId([7; 16]);
        let state = ReplicaState::new(Registers::default());
        Self {
            clients: Clients::new(1),
            oracle: Oracle::new(false),
            shared: Arc::new(Shared::new(
                me,
                cluster,
                address,
                clock,
                inbox,
                state,
                Default::default(),
            )),
        }
    }

    fn propose(&mut self) -> Submission<Answer> {
        let (workload, oracle) = (&RegisterWorkload, &mut self.oracle);
        let proposed = self.clients.propose(workload, oracle, &self.shared, 1, 5);
        proposed.expect("a valid command");
        let mut lanes = Lanes::default();
        self.shared.inbox.take(&mut lanes);
        lanes.proposals.pop().expect("what was proposed")
    }

    fn poll(&mut self) -> Result<(), String> {
        self.clients.poll(&RegisterWorkload, &mut self.oracle, 1, 6)
    }

    /// The command becomes the entry `at` of the committed log.
    fn commit(&mut self, at: u64, submission: &Submission<Answer>) {
        let item = crate::sim::truth::Item {
            term: 1,
            hash: at,
            time_us: at,
            command: Some(xxhash_rust::xxh3::xxh3_64(&submission.payload)),
            part: crate::sim::session_model::Part::None,
        };
        let committed = self.oracle.commits(self.shared.me, 1, at, &item);
        committed.expect("new and proposed");
    }
}

#[test]
fn s17_an_answer_before_the_commit_is_found() {
    let mut rig = Rig::new();
    let submission = rig.propose();
    submission.waiter.answer(Ok(Answer::Done));
    let why = rig.poll().expect_err("nothing is committed");
    assert!(why.contains("was answered and is not committed"), "{why}");
}

#[test]
fn s16_a_node_that_answers_before_it_shows_is_found() {
    let mut rig = Rig::new();
    let submission = rig.propose();
    rig.commit(1, &submission);
    submission.waiter.answer(Ok(Answer::Done));
    let why = rig.poll().expect_err("the view is empty");
    assert!(why.contains("shows its state after number 0"), "{why}");
}
