//! Spans that follow commands through three nodes over real QUIC.
#![cfg(feature = "grpc")]

mod common;
#[path = "grpc_common/three.rs"]
mod three;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conveyor_raft::node::Place;
use conveyor_raft::{ProposeError, ProposeOptions, RouterCommand};
use three::Three;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const TARGET: &str = "conveyor_raft::command";
/// What a command goes through on the node that leads, one after the other.
const STAGES: [&str; 5] = ["propose", "append", "replicate", "commit", "apply"];

type Fields = BTreeMap<&'static str, String>;

/// One span, or one event, with the places of its beginning and end among everything that was seen.
#[derive(Clone, Debug)]
struct Span {
    id: u64,
    parent: Option<u64>,
    name: &'static str,
    fields: Fields,
    begin: usize,
    end: Option<usize>,
}

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<Span>,
    acknowledged: Vec<Fields>,
    count: usize,
}

/// Keeps every span.
#[derive(Clone, Debug, Default)]
struct Keep(Arc<Mutex<Seen>>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}").trim_matches('"').to_owned();
        self.0.insert(field.name(), text);
    }
}

impl Keep {
    fn change(&self, id: u64, change: impl FnOnce(&mut Span, usize)) {
        let mut seen = self.0.lock().expect("kept");
        seen.count += 1;
        let count = seen.count;
        // Numbers are used again: the last one with this is meant.
        let span = seen.spans.iter_mut().rev().find(|span| span.id == id);
        change(span.expect("begun"), count);
    }

    /// The commands with this field, from the first on.
    fn commands(&self, field: &str, value: impl ToString) -> Vec<Span> {
        let seen = self.0.lock().expect("kept");
        let commands = seen.spans.iter().filter(|span| span.name == "command");
        let value = value.to_string();
        let commands = commands.filter(|span| span.fields.get(field) == Some(&value));
        commands.cloned().collect()
    }

    /// The one command that was proposed here and has this index.
    fn command(&self, index: u64) -> Span {
        let mut found = self.commands("index", index);
        found.retain(|span| !span.fields.contains_key("from"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn stages(&self, command: &Span) -> Vec<Span> {
        let seen = self.0.lock().expect("kept");
        let own = |span: &&Span| span.parent == Some(command.id) && span.begin > command.begin;
        let before = command.end.unwrap_or(usize::MAX);
        let stages = seen.spans.iter().filter(own);
        stages.filter(|span| span.begin < before).cloned().collect()
    }

    /// The entries that a node's disk got as a follower.
    fn followed(&self, index: u64) -> Vec<String> {
        let seen = self.0.lock().expect("kept");
        let number = |span: &Span, field| span.fields[field].parse::<u64>().expect("a number");
        let syncs = seen.spans.iter().filter(|span| {
            let own = span.name == "sync" && span.parent.is_none() && span.end.is_some();
            own && (number(span, "first")..=number(span, "last")).contains(&index)
        });
        syncs.map(|span| span.fields["node"].clone()).collect()
    }

    /// Waits until this command's span has ended, and takes its stages.
    async fn ended(&self, find: impl Fn(&Self) -> Option<Span>) -> (Span, Vec<Span>) {
        let begun = Instant::now();
        loop {
            if let Some(span) = find(self).filter(|span| span.end.is_some()) {
                let stages = self.stages(&span);
                return (span, stages);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "never ends");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keep {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == TARGET || metadata.name() == "caller"
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Reader(&mut fields));
        let parent = context.span(id).and_then(|span| span.parent());
        let mut seen = self.0.lock().expect("kept");
        seen.count += 1;
        let span = Span {
            id: id.into_u64(),
            parent: parent.map(|parent| parent.id().into_u64()),
            name: attributes.metadata().name(),
            fields,
            begin: seen.count,
            end: None,
        };
        seen.spans.push(span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let record = |span: &mut Span, _| values.record(&mut Reader(&mut span.fields));
        self.change(id.into_u64(), record);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        self.0.lock().expect("kept").acknowledged.push(fields);
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(id.into_u64(), |span, at| span.end = Some(at));
    }
}

/// The stages came one after the other, the sync beside them, and all have ended.
fn assert_went_all_the_way(stages: &[Span]) {
    let (syncs, in_turn): (Vec<&Span>, Vec<_>) =
        stages.iter().partition(|stage| stage.name == "sync");
    let names: Vec<_> = in_turn.iter().map(|stage| stage.name).collect();
    assert_eq!(names, STAGES);
    for pair in in_turn.windows(2) {
        assert!(pair[0].begin < pair[1].begin);
        assert!(pair[0].end.expect("ended") < pair[1].end.expect("ended"));
    }
    assert_eq!(syncs.len(), 1);
    let append = in_turn[1];
    assert!(append.begin < syncs[0].begin && syncs[0].end.is_some());
}

/// Other tests of this program would be seen too: this is the only one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_follow_a_command_from_its_proposal_to_its_answer() {
    let _turn = common::real_time_turn();
    let keep = Keep::default();
    let subscriber = tracing_subscriber::registry().with(keep.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the first");
    let three = Three::start().await;
    let leader = three.settle().await;

    // Where it was proposed, how it went, and where it stands.
    let caller = tracing::info_span!("caller");
    let parent = caller.id().expect("wanted").into_u64();
    let sidecar = || RouterCommand::register_sidecar("a", "a:1", ["orders"]);
    let response = leader.propose(sidecar()).instrument(caller).await;
    let index = response.expect("applied").index;
    let (command, stages) = keep.ended(|keep| Some(keep.command(index))).await;
    assert_eq!(command.parent, Some(parent));
    assert_eq!(command.fields["command"], "RegisterSidecar");
    assert_eq!(command.fields["outcome"], "applied");
    assert_eq!(command.fields["node"], leader.id().to_string());
    assert_eq!(command.fields["term"], leader.current_term().to_string());
    assert_went_all_the_way(&stages);

    // Every command of a pipeline, of a session, and of the crate's own.
    let (pipeline, mut outcomes) = leader.pipeline();
    let place = Place::default();
    for _ in 0..20 {
        pipeline.submit(place, &RouterCommand::Noop, ProposeOptions::default());
    }
    drop(pipeline);
    let mut answers = Vec::new();
    while outcomes.receive(&mut answers, 100).await > 0 {}
    let mut indexes: Vec<_> = answers
        .into_iter()
        .map(|(_, answer)| answer.expect("applied").index)
        .collect();
    let mut session = leader.session().await.expect("a session");
    indexes.push(session.id());
    let renew = RouterCommand::RenewLease {
        service_id: "nobody".to_owned(),
    };
    let rejected = session.propose(renew).await.expect("answered").index;
    indexes.push(rejected);
    for index in indexes {
        let (_, stages) = keep.ended(|keep| Some(keep.command(index))).await;
        assert_went_all_the_way(&stages);
    }
    assert_eq!(keep.command(rejected).fields["outcome"], "rejected");

    // What a follower passes on is followed on both.
    let follower = three.followers().await[0];
    let forward = ProposeOptions {
        forward: true,
        ..ProposeOptions::default()
    };
    let passed = follower.propose_with(sidecar(), forward).await;
    let passed = passed.expect("applied").index;
    let from = |keep: &Keep| keep.commands("index", passed).into_iter().next();
    let (at_leader, stages) = keep.ended(from).await;
    assert_eq!(at_leader.fields["node"], leader.id().to_string());
    assert!(at_leader.fields["from"].starts_with(&follower.id().to_string()));
    assert_went_all_the_way(&stages);
    let node = follower.id();
    let here = |keep: &Keep| keep.commands("node", node).into_iter().next();
    let (_, stages) = keep.ended(here).await;
    let names: Vec<_> = stages.iter().map(|stage| stage.name).collect();
    assert_eq!(names, ["propose", "forward"]);

    // What is refused ends with its refusal.
    let refused = follower.propose(RouterCommand::Noop).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader(_))));
    let last = |keep: &Keep| keep.commands("node", node).pop();
    let (command, stages) = keep.ended(last).await;
    assert_eq!(command.fields["outcome"], "not_leader");
    assert!(!command.fields.contains_key("index") && stages.len() <= 1);

    // The followers' disks, and their answers.
    for node in &three.nodes {
        let deadline = Duration::from_secs(10);
        node.wait_applied(passed, deadline).await.expect("applied");
    }
    let followers: Vec<_> = three.followers().await;
    let mut synced = keep.followed(index);
    synced.sort();
    let mut expected: Vec<_> = followers.iter().map(|it| it.id().to_string()).collect();
    expected.sort();
    assert_eq!(synced, expected);
    let seen = keep.0.lock().expect("kept").acknowledged.clone();
    for follower in expected {
        assert!(seen.iter().any(|it| it["from"].starts_with(&follower)
            && it["node"] == leader.id().to_string()
            && it["index"].parse::<u64>().expect("a number") >= index));
    }
    three.stop().await;
}
