//! The language: one command a line. See `docs/core-scripts.md`.

use std::sync::Arc;

use conveyor_raft::core::{Configuration, Input, MemberInfo, RaftRole};
use conveyor_raft::types::{HardState, Micros, NodeId, ReplicaId};

use crate::disk::{Entry, Image, Payload, listed};
use crate::show;
use crate::world::{MS, T_MAX, World, replica};

type Done = Result<(), String>;

/// A script that runs: the world, and the start states before it begins.
#[derive(Default)]
pub(crate) struct Interpreter {
    pub(crate) world: Option<World>,
    images: Vec<Image>,
    max_append: usize,
}

impl Interpreter {
    /// Runs one line and returns what it prints.
    pub(crate) fn run(&mut self, line: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["cluster", ref rest @ ..] => self.cluster(rest)?,
            ["node", node, ref rest @ ..] => self.image(number(node)?, rest)?,
            _ => {
                self.begin()?;
                let world = self.world.as_mut().ok_or("say `cluster N` first")?;
                command(world, &words)?;
            }
        }
        let said = self
            .world
            .as_mut()
            .map(|world| std::mem::take(&mut world.said));
        Ok(said.unwrap_or_default())
    }

    fn begin(&mut self) -> Done {
        if !self.images.is_empty() {
            let images = std::mem::take(&mut self.images);
            self.world = Some(World::new(images, self.max_append));
        }
        Ok(())
    }

    /// `cluster N [blank] [append=ENTRIES]`: everything anew.
    fn cluster(&mut self, words: &[&str]) -> Done {
        let (count, options) = words.split_first().ok_or("how many nodes?")?;
        let count = number(count)?;
        if !(1..=9).contains(&count) {
            return Err("a cluster has 1 to 9 nodes".to_owned());
        }
        let all: Vec<NodeId> = (1..=count).collect();
        let mut image = founded(&all);
        self.max_append = 1_000;
        for option in options {
            match option.split_once('=') {
                None if *option == "blank" => image = Image::default(),
                Some(("append", entries)) => self.max_append = number(entries)? as usize,
                _ => return Err(format!("unknown option {option}")),
            }
        }
        self.world = None;
        self.images = vec![image; count as usize];
        Ok(())
    }

    /// `node N [voters=1,2] [log=1,1:x,2:{1,2}->{1,2,3}] [term=T] [vote=N]`, before the start.
    fn image(&mut self, node: NodeId, options: &[&str]) -> Done {
        let image = node.checked_sub(1);
        let image = image.and_then(|at| self.images.get_mut(at as usize));
        let image = image.ok_or("start states stand between `cluster` and the first command")?;
        let first = image.entries.first().cloned();
        let mut first = first.ok_or("blank nodes have no start state")?;
        for option in options {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| format!("{option} is no key=value"))?;
            match key {
                "voters" => {
                    first.payload = configuration(value)?;
                    image.entries[0] = first.clone();
                }
                "log" => image.entries = log(value, &first)?,
                "term" => image.hard.term = number(value)?,
                "vote" => image.hard.voted_for = replica(number(value)?),
                _ => return Err(format!("unknown option {key}")),
            }
        }
        let highest = image.entries.last().map_or(0, |entry| entry.term);
        image.hard.term = image.hard.term.max(highest);
        Ok(())
    }
}

fn founded(voters: &[NodeId]) -> Image {
    let configuration = Configuration {
        incoming: members(voters),
        feature_level: 1,
        ..Configuration::default()
    };
    let payload = Payload::Configuration(Arc::new(configuration));
    Image {
        hard: HardState {
            term: 2,
            voted_for: ReplicaId::default(),
        },
        genesis: replica(1).incarnation,
        entries: vec![Entry { term: 1, payload }],
    }
}

fn members(nodes: &[NodeId]) -> Vec<MemberInfo> {
    let member = |node: &NodeId| MemberInfo {
        replica: replica(*node),
        ..MemberInfo::default()
    };
    nodes.iter().map(member).collect()
}

/// `{1,2,3}`, or joint, the old voters first: `{1,2,3}->{1,2,4}`.
fn configuration(text: &str) -> Result<Payload, String> {
    let set = |text: &str| -> Result<Vec<MemberInfo>, String> {
        let inner = text.trim_start_matches('{').trim_end_matches('}');
        let nodes: Result<Vec<_>, _> = inner.split(',').map(number).collect();
        Ok(members(&nodes?))
    };
    let (outgoing, incoming) = match text.split_once("->") {
        Some((old, new)) => (set(old)?, set(new)?),
        None => (Vec::new(), set(text)?),
    };
    Ok(Payload::Configuration(Arc::new(Configuration {
        incoming,
        outgoing,
        feature_level: 1,
        ..Configuration::default()
    })))
}

/// Entries by term, `1:x` with a payload; the first is the founding configuration unless it says
/// otherwise.
fn log(text: &str, first: &Entry) -> Result<Vec<Entry>, String> {
    let mut depth = 0;
    let entries = text.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let mut log = Vec::new();
    for entry in entries {
        let (term, payload) = entry.split_once(':').unwrap_or((entry, ""));
        let payload = match payload {
            "" if log.is_empty() => first.payload.clone(),
            "" => Payload::Unnamed,
            "noop" => Payload::Noop,
            set if set.starts_with('{') => configuration(set)?,
            text => Payload::Command(text.to_owned()),
        };
        let term = number(term)?;
        log.push(Entry { term, payload });
    }
    Ok(log)
}

fn number(text: &str) -> Result<u64, String> {
    let number = text.parse();
    number.map_err(|_| format!("{text} is no number"))
}

fn milliseconds(text: &str) -> Result<Micros, String> {
    number(text).map(|ms| ms * MS)
}

/// `1->2`, `1<->2` (both ways).
pub(crate) fn links(text: &str) -> Result<Vec<(NodeId, NodeId)>, String> {
    if let Some((a, b)) = text.split_once("<->") {
        let (a, b) = (number(a)?, number(b)?);
        return Ok(vec![(a, b), (b, a)]);
    }
    let (from, to) = text
        .split_once("->")
        .ok_or_else(|| format!("{text} is no link, such as 1->2"))?;
    Ok(vec![(number(from)?, number(to)?)])
}

fn command(world: &mut World, words: &[&str]) -> Done {
    match *words {
        ["connect"] => connect_all(world),
        ["connect", a, b] => world.connect(number(a)?, number(b)?),
        ["disconnect", a, b] => world.disconnect(number(a)?, number(b)?),
        ["disk", node, how] => disk(world, node, how),
        ["campaign", node] => campaign(world, number(node)?),
        ["elect", node] => elect(world, number(node)?),
        ["tick", node] => {
            let node = number(node)?;
            let at = world.core(node)?.deadline();
            world.tick(node, at)
        }
        ["tick", node, ms] => {
            let at = world.now + milliseconds(ms)?;
            world.tick(number(node)?, at)
        }
        ["wait", ms] => {
            world.now += milliseconds(ms)?;
            Ok(())
        }
        ["run", ms] => run(world, milliseconds(ms)?),
        ["propose", node, ref commands @ ..] if !commands.is_empty() => {
            let commands = commands.iter().map(|text| (*text).to_owned());
            world.propose(number(node)?, commands.collect())
        }
        ["read", node, id] => {
            let id = number(id)?;
            world.feed(number(node)?, Input::Read { id })
        }
        ["hand-over", node] => world.feed(number(node)?, Input::HandOver { to: None }),
        ["hand-over", node, to] => {
            let to = Some(number(to)?);
            world.feed(number(node)?, Input::HandOver { to })
        }
        ["deliver", ref rest @ ..] => crate::deliver::command(world, rest),
        ["links"] => {
            for text in world.way.iter().map(show::envelope).collect::<Vec<_>>() {
                world.say(&text);
            }
            Ok(())
        }
        ["persist" | "durable", node] => persist(world, number(node)?, None),
        ["persist" | "durable", node, write] => {
            let id = number(write.trim_start_matches('w'))?;
            persist(world, number(node)?, Some(id))
        }
        ["crash", node] => world.crash(number(node)?),
        ["restart", node] => {
            let node = number(node)?;
            world.start(node)?;
            world.join(node)
        }
        ["cut", ref what @ ..] if !what.is_empty() => {
            what.iter().try_for_each(|what| cut(world, what))
        }
        ["heal"] => {
            world.heal();
            Ok(())
        }
        ["status"] => world.ids().try_for_each(|node| status(world, node)),
        ["status", node] => status(world, number(node)?),
        ["log"] => world.ids().try_for_each(|node| show_log(world, node)),
        ["log", node] => show_log(world, number(node)?),
        _ => Err(format!("unknown command: {}", words.join(" "))),
    }
}

/// All nodes start, long enough ago that none still keeps the silence after its start.
fn connect_all(world: &mut World) -> Done {
    let down: Vec<_> = world.ids().filter(|node| !world.is_up(*node)).collect();
    down.iter().try_for_each(|node| world.start(*node))?;
    world.now += T_MAX;
    for a in world.ids() {
        for b in a + 1..=world.nodes.len() as NodeId {
            world.connect(a, b)?;
        }
    }
    Ok(())
}

fn disk(world: &mut World, node: &str, how: &str) -> Done {
    let manual = match how {
        "manual" => true,
        "automatic" => false,
        _ => return Err(format!("a disk is manual or automatic, not {how}")),
    };
    let nodes: Vec<_> = match node {
        "all" => world.ids().collect(),
        node => vec![number(node)?],
    };
    for node in nodes {
        world.node_mut(node)?.manual = manual;
        if !manual && world.node(node)?.disk.pending().next().is_some() {
            persist(world, node, None)?;
        }
    }
    Ok(())
}

fn campaign(world: &mut World, node: NodeId) -> Done {
    let core = world.core(node)?;
    if core.role() == RaftRole::Leader {
        return Err(format!("node {node} leads; its timer is no election timer"));
    }
    let at = core.deadline();
    world.tick(node, at)
}

/// Its election timer runs out, and pre-votes and votes are exchanged, but nothing else.
fn elect(world: &mut World, node: NodeId) -> Done {
    tersely(world, |world| {
        campaign(world, node)?;
        ["pre-vote", "pre-vote-reply", "vote", "vote-reply"]
            .iter()
            .try_for_each(|kind| crate::deliver::command(world, &["all", kind]))
    })
}

fn tersely<T>(world: &mut World, what: impl FnOnce(&mut World) -> T) -> T {
    world.terse = true;
    let result = what(world);
    world.terse = false;
    result
}

fn run(world: &mut World, time: Micros) -> Done {
    let delivered = tersely(world, |world| world.run(time))?;
    world.say(&format!("{delivered} messages delivered"));
    Ok(())
}

fn persist(world: &mut World, node: NodeId, id: Option<u64>) -> Done {
    let pending: Vec<_> = world.node(node)?.disk.pending().collect();
    let id = id.or(pending.last().copied()).unwrap_or_default();
    if !pending.contains(&id) {
        let pending = show::writes(pending.into_iter());
        return Err(format!(
            "node {node} has no such write under way, but [{pending}]"
        ));
    }
    let done = show::writes(pending.into_iter().filter(|write| *write <= id));
    world.say(&format!("{node} has {done} on disk"));
    world.complete(node, id)
}

/// A link, or all links of a node.
fn cut(world: &mut World, what: &str) -> Done {
    let ways = match what.contains('>') {
        true => links(what)?,
        false => {
            let node = number(what)?;
            let others = world.ids().filter(|other| *other != node);
            others
                .flat_map(|other| [(node, other), (other, node)])
                .collect()
        }
    };
    for (from, to) in ways {
        world.node(from)?;
        world.node(to)?;
        world.cut(from, to);
    }
    Ok(())
}

fn status(world: &mut World, node: NodeId) -> Done {
    let Ok(core) = world.core(node) else {
        let hard = world.node(node)?.disk.live.hard;
        let vote = show::nobody(hard.voted_for.node);
        world.say(&format!("{node} down, term {}, vote {vote}", hard.term));
        return Ok(());
    };
    let role = match core.failed() {
        true => "failed",
        false => show::role(core.role()),
    };
    let (term, last) = (core.term(), core.last());
    let leader = show::nobody(core.leader().unwrap_or_default());
    let vote = show::nobody(core.hard_state().voted_for.node);
    let (commit, durable) = (core.commit(), core.durable());
    let mut text = format!(
        "{node} {role}, term {term}, vote {vote}, leader {leader}, last {last}, commit {commit}, durable {durable}"
    );
    if core.is_leader() {
        let peers = world
            .ids()
            .filter_map(|peer| Some((peer, core.peer(peer)?)));
        let peers = peers.filter(|(peer, _)| *peer != node);
        let matches = peers.map(|(peer, it)| format!("{peer}:{}", it.match_index));
        text += &format!(", match {}", matches.collect::<Vec<_>>().join(" "));
    }
    world.say(&text);
    Ok(())
}

/// The log, a bar after what is committed; and the disk, where it holds something else.
fn show_log(world: &mut World, node: NodeId) -> Done {
    let state = world.node(node)?;
    let (done, rest) = state.disk.live.entries.split_at(state.committed as usize);
    let mut text = format!("{node}: {}", listed(done));
    if !rest.is_empty() {
        text = format!("{} | {}", text.trim_end(), listed(rest));
    }
    if state.disk.durable.entries != state.disk.live.entries {
        text += &format!("; on disk: {}", listed(&state.disk.durable.entries));
    }
    world.say(&text);
    Ok(())
}
