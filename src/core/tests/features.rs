//! The cluster's feature level, by hazard id.

use super::super::{
    AppendSource, Change, ChangeError, Class, Event, Input, MemberInfo, Message, PeerHello,
    is_beyond,
};
use super::script::{Script, matched, replica, voters};
use crate::types::NodeId;

/// Node 1 of three, of a release that knows levels up to 2, leads and has committed its no-op.
fn newer() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.core.set_features((1, 2));
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    let write = one.writes().last().expect("the no-op").id;
    one.durable(write);
    one.settle();
    let append = *one.appends_to(2).last().expect("an append");
    one.tell(2, Message::AppendAck(matched(2, append, 3)));
    one.settle();
    one.out.clear();
    one
}

impl Script {
    /// `node` answers with a release that knows levels up to this.
    fn knows(&mut self, node: NodeId, knows_level: u32) {
        self.feed(Input::PeerUp {
            peer: replica(node),
            class: Class::Control,
            epoch: 8,
            hello: PeerHello {
                knows_level,
                ..PeerHello::default()
            },
        });
        self.settle();
    }

    /// Levels of the configurations that were appended.
    fn levels(&self) -> Vec<u32> {
        let writes = self.writes();
        let level = |write: &super::super::Persist| match &write.append {
            AppendSource::Configuration { configuration, .. } => Some(configuration.feature_level),
            _ => None,
        };
        writes.iter().filter_map(level).collect()
    }
}

#[test]
fn j2_the_level_rises_once_every_member_knows_it() {
    let mut one = newer();
    one.knows(2, 2);
    assert!(one.levels().is_empty(), "nothing is known of node 3");
    one.knows(3, 1);
    assert!(one.levels().is_empty());
    one.knows(3, 3);
    assert_eq!(one.levels(), [2], "what all know, and the leader");
    one.settle();
    assert_eq!(one.levels(), [2], "once");
    assert_eq!(one.core.feature_level(), 2);
}

#[test]
fn j2_a_member_whose_release_lacks_the_level_is_not_added() {
    let mut one = newer();
    one.knows(2, 2);
    one.knows(3, 2);
    let level = one.core.feature_level();
    let write = one.writes().last().expect("the level").id;
    one.durable(write);
    let append = *one.appends_to(2).last().expect("an append");
    one.tell(2, Message::AppendAck(matched(2, append, 4)));
    one.settle();
    assert_eq!((level, one.core.commit()), (2, 4));
    let new = |features| MemberInfo {
        replica: replica(4),
        features,
        ..MemberInfo::default()
    };
    let add = |features| Input::Change {
        expected: None,
        changes: vec![Change::AddLearner(new(features))],
    };
    one.feed(add((1, 1)));
    let refused = |event: &Event| {
        matches!(event, Event::ChangeRefused { why: ChangeError::Invalid(why) }
            if why.contains("feature level"))
    };
    assert!(one.events().iter().any(refused), "{:?}", one.events());
    one.feed(add((1, 2)));
    let learners = one.core.configuration().map(|c| c.learners.len());
    assert_eq!(learners, Some(1));
}

#[test]
fn j2_who_is_not_there_raises_no_level() {
    let mut one = newer();
    one.knows(2, 2);
    one.feed(Input::PeerDown {
        node: 2,
        class: Class::Control,
        epoch: 8,
    });
    one.knows(3, 2);
    assert!(one.levels().is_empty());
}

#[test]
fn j2_a_level_beyond_the_release_is_named() {
    let configuration = voters(3);
    assert_eq!(is_beyond(&configuration, 1), None);
    let why = is_beyond(&configuration, 0).expect("beyond");
    assert!(why.contains("level 1") && why.contains("up to 0"), "{why}");
}
