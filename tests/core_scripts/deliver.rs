//! `deliver`: which message moves, and what becomes of it.
//!
//! * `deliver all [KIND]`: the oldest one again and again, until there is none (of that kind).
//! * `deliver 1->2 [KIND] [drop|duplicate]`: the oldest one of that link.
//! * `deliver 1<->2`: all that two nodes say to each other, until both are silent.

use crate::command::links;
use crate::show::{self, KINDS};
use crate::world::{Envelope, World};

type Done = Result<(), String>;

/// More than any script needs.
const ENDLESS: usize = 1_000;

pub(crate) fn command(world: &mut World, words: &[&str]) -> Done {
    let (what, options) = words.split_first().ok_or("deliver what?")?;
    let (kind, fate) = options_of(options)?;
    let ways = match *what {
        "all" => Vec::new(),
        link => links(link)?,
    };
    let wanted = |envelope: &Envelope| {
        let way = (envelope.from.node, envelope.to);
        (ways.is_empty() || ways.contains(&way))
            && kind.is_none_or(|kind| kind == show::kind(&envelope.message))
    };
    if ways.len() == 1 {
        let next = world.way.iter().position(wanted);
        let envelope = next.and_then(|at| world.way.remove(at));
        let kind = kind.unwrap_or("message");
        let envelope = envelope.ok_or_else(|| format!("no {kind} is on its way {what}"))?;
        return one(world, envelope, fate);
    }
    if let Some(fate) = fate {
        return Err(format!("{fate} is for one message"));
    }
    for _ in 0..ENDLESS {
        let next = world.way.iter().position(wanted);
        let Some(envelope) = next.and_then(|at| world.way.remove(at)) else {
            return Ok(());
        };
        world.deliver(envelope)?;
    }
    Err(format!("messages without end: more than {ENDLESS}"))
}

fn options_of<'a>(words: &[&'a str]) -> Result<(Option<&'a str>, Option<&'a str>), String> {
    let (mut kind, mut fate) = (None, None);
    for word in words {
        match *word {
            "drop" | "duplicate" => fate = Some(*word),
            word if KINDS.contains(&word) => kind = Some(word),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok((kind, fate))
}

fn one(world: &mut World, envelope: Envelope, fate: Option<&str>) -> Done {
    match fate {
        Some("drop") => {
            world.say(&format!("{} (lost)", show::envelope(&envelope)));
            return Ok(());
        }
        Some(_) => world.way.push_front(envelope.clone()),
        None => {}
    }
    world.deliver(envelope)
}
