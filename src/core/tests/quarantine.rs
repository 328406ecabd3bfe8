//! A replica whose state machine stopped: who leads then, by hazard id.

use super::super::{AppendSource, Change, ChangeError, Event, Input, Message, ReplicaState};
use super::bed::T_MAX;
use super::script::{Script, beat_reply, heartbeat, matched};
use crate::types::NodeId;

/// Node 1 of three leads, has committed its no-op, entry 3, and cannot apply entry 2.
fn stopped() -> Script {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.connect(2, 7);
    one.connect(3, 7);
    one.lead(2);
    let write = one.writes().last().expect("the no-op").id;
    one.durable(write);
    one.settle();
    let append = *one.appends_to(2).last().expect("an append");
    one.tell(2, Message::AppendAck(matched(2, append, 3)));
    one.settle();
    assert_eq!(one.core.commit(), 3);
    assert_eq!(one.core.quarantined(), None);
    one.feed(Input::Quarantine { index: 2 });
    assert_eq!(one.core.quarantined(), Some(2));
    one
}

impl Script {
    fn is(&mut self, node: NodeId, state: ReplicaState) {
        let mut reply = beat_reply(node, self.core.term(), 7);
        reply.state = state;
        self.tell(node, Message::HeartbeatReply(reply));
    }

    fn beat(&mut self) {
        self.now = self.core.deadline();
        self.feed(Input::Tick);
    }

    fn skip(&mut self, index: u64) -> Option<ChangeError> {
        self.out.clear();
        let changes = vec![Change::Skip(index)];
        let expected = None;
        self.feed(Input::Change { expected, changes });
        let events = self.events();
        let refused = events.iter().find_map(|event| match event {
            Event::ChangeRefused { why } => Some(*why),
            _ => None,
        });
        let appended = self.writes().iter().any(|write| {
            matches!(&write.append, AppendSource::Configuration { configuration, .. }
                if configuration.skipped == [index])
        });
        assert_eq!(appended, refused.is_none());
        refused
    }
}

#[test]
fn g2_a_stopped_leader_hands_over_to_one_that_goes_on() {
    let mut one = stopped();
    one.is(2, ReplicaState::Quarantined);
    one.beat();
    assert!(!one.core.is_handing_over(), "nobody who could");
    one.is(3, ReplicaState::Member);
    one.beat();
    assert!(one.core.is_handing_over());
}

#[test]
fn g2_only_where_a_majority_stopped_is_the_entry_skipped() {
    let mut one = stopped();
    assert!(matches!(one.skip(2), Some(ChangeError::Invalid(_))));
    one.is(2, ReplicaState::Quarantined);
    assert!(matches!(one.skip(3), Some(ChangeError::Invalid(_))));
    assert_eq!(one.skip(2), None);
}

#[test]
fn g2_a_stopped_follower_lets_others_go_first() {
    let mut three = Script::new(3, 3, &[1, 2], 2);
    three.tell(1, Message::Heartbeat(heartbeat(3, 0)));
    assert!(three.core.deadline() <= three.now + T_MAX);
    three.feed(Input::Quarantine { index: 2 });
    assert!(three.core.deadline() > three.now + 4 * T_MAX);
    three.tell(1, Message::Heartbeat(heartbeat(3, 0)));
    assert!(three.core.deadline() > three.now + 4 * T_MAX);
}
