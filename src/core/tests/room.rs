//! A log without room for the entries that the core makes itself: a full disk is no reason to fail,
//! only to leave the lead to others (hazard C8).

use super::script::{Script, grant};
use crate::core::{Input, Message, RaftRole};

#[test]
fn c8_without_room_for_its_first_entry_nobody_campaigns() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    one.feed(Input::NoRoom(true));
    one.time_out();
    assert_eq!(one.core.role(), RaftRole::Follower);
    one.feed(Input::NoRoom(false));
    one.lead(2);
}

#[test]
fn c8_who_wins_and_has_no_room_any_more_leaves_the_term_to_nobody() {
    let mut one = Script::new(1, 3, &[1, 2], 2);
    let write = one.campaign(2);
    one.durable(write);
    let asked = one.last_request();
    one.feed(Input::NoRoom(true));
    one.tell(2, Message::VoteReply(grant(2, asked)));
    assert_eq!(one.core.role(), RaftRole::Follower);
    assert_eq!(one.terms(), [1, 2], "nothing was written");
    one.feed(Input::NoRoom(false));
    one.lead(2);
    assert_eq!(one.core.term(), 4);
}
