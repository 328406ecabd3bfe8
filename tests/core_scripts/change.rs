//! Changes of members: `change 1 [expected=7] add 4 remove 2`.

use conveyor_raft::core::{Change, Input, MemberInfo};
use conveyor_raft::types::NodeId;

use crate::command::number;
use crate::world::replica;

fn info(node: NodeId) -> MemberInfo {
    MemberInfo {
        replica: replica(node),
        ..MemberInfo::default()
    }
}

/// All wishes of one step.
pub(crate) fn input(words: &[&str]) -> Result<Input, String> {
    let (expected, mut rest) = match words {
        [first, rest @ ..] if first.starts_with("expected=") => {
            let index = number(first.trim_start_matches("expected="))?;
            (Some(index), rest)
        }
        all => (None, all),
    };
    let mut changes = Vec::new();
    while let [wish, node, after @ ..] = rest {
        let node = number(node)?;
        rest = after;
        changes.push(match *wish {
            "learn" => Change::AddLearner(info(node)),
            "add" => Change::AddVoter(info(node)),
            "promote" => Change::Promote(node),
            "demote" => Change::Demote(node),
            "remove" => Change::Remove(node),
            "replace" => {
                let (new, after) = rest.split_first().ok_or("replaced by whom?")?;
                rest = after;
                let new = info(number(new)?);
                Change::Replace { old: node, new }
            }
            wish => return Err(format!("{wish} is no change")),
        });
    }
    match rest {
        [] => Ok(Input::Change { expected, changes }),
        [wish, ..] => Err(format!("{wish} whom?")),
    }
}
