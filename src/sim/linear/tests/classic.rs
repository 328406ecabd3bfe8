//! Small histories that the literature and our own failures know.

use super::super::search::{Verdict, search};
use super::super::{LocalReads, judge};
use super::reference::explanation;
use super::*;

fn searched(all: &[Made]) -> Verdict {
    let history = history(all);
    let keys = history.by_key();
    search(keys.get(&7).map_or(&[], Vec::as_slice), 1_000)
}

/// All that may judge it says yes.
#[track_caller]
fn good(all: &[Made]) {
    assert_eq!(searched(all), Verdict::Linearizable);
    let order = explanation(all).expect("an order explains it");
    assert_eq!(by_log(&history(all), &[], &order), Ok(()));
}

/// The search says no, and the log can say what it likes.
#[track_caller]
fn bad(all: &[Made]) {
    assert!(matches!(searched(all), Verdict::Violation(_)));
    assert_eq!(explanation(all), None);
    each_order(all.len(), &mut Vec::new(), &mut |order| {
        let judged = by_log(&history(all), &[], order);
        assert!(judged.is_err(), "{order:?}");
    });
}

fn each_order(count: usize, order: &mut Vec<usize>, check: &mut impl FnMut(&[usize])) {
    check(order);
    for id in 0..count {
        if !order.contains(&id) {
            order.push(id);
            each_order(count, order, check);
            order.pop();
        }
    }
}

#[test]
fn one_after_the_other() {
    good(&[write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)]);
    good(&[]);
}

#[test]
fn a_stale_read() {
    bad(&[write(1, 0, 1), read(0, 2, 3)]);
    bad(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]);
}

#[test]
fn a_read_of_a_value_never_written() {
    bad(&[write(1, 0, 3), read(7, 1, 2)]);
    bad(&[write(1, 2, 3), read(1, 0, 1)]);
}

#[test]
fn a_read_during_a_write_sees_either() {
    good(&[write(1, 0, 3), read(0, 1, 2)]);
    good(&[write(1, 0, 3), read(1, 1, 2)]);
}

#[test]
fn new_then_old() {
    bad(&[write(1, 0, 9), read(1, 1, 2), read(0, 3, 4)]);
    good(&[write(1, 0, 9), read(0, 1, 2), read(1, 3, 4)]);
    good(&[write(1, 0, 9), read(1, 1, 4), read(0, 2, 3)]);
}

#[test]
fn concurrent_writes_take_effect_in_either_order() {
    good(&[write(1, 0, 3), write(2, 1, 2), read(1, 4, 5)]);
    good(&[write(1, 0, 3), write(2, 1, 2), read(2, 4, 5)]);
    bad(&[write(1, 0, 3), write(2, 1, 2), read(1, 4, 5), read(2, 6, 7)]);
    bad(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]);
}

#[test]
fn a_lost_update() {
    bad(&[write(1, 0, 1), swap(2, 1, 2, 6), swap(3, 1, 3, 5)]);
    good(&[write(1, 0, 1), swap(2, 1, 2, 6), swap(3, 2, 3, 5)]);
    bad(&[
        write(1, 0, 1),
        swap(2, 1, 2, 3),
        swap(3, 2, 4, 5),
        read(2, 6, 7),
    ]);
}

#[test]
fn a_compare_and_set_succeeds_once() {
    good(&[set(0, 1, true, 0, 3), set(0, 2, false, 1, 2), read(1, 4, 5)]);
    bad(&[set(0, 1, true, 0, 3), set(0, 2, true, 1, 2)]);
    bad(&[set(0, 1, false, 0, 3), set(0, 2, false, 1, 2)]);
    bad(&[set(0, 1, true, 0, 3), set(0, 2, false, 1, 2), read(2, 4, 5)]);
}

#[test]
fn an_unknown_write_seen_later() {
    let lost = unknown(Action::Write(1), 0);
    good(&[lost, read(0, 1, 2), read(1, 3, 4)]);
    good(&[lost, write(2, 1, 2), read(2, 3, 4), read(1, 5, 6)]);
}

#[test]
fn an_unknown_write_never_seen() {
    let lost = unknown(Action::Write(1), 0);
    good(&[lost, read(0, 1, 2), read(0, 3, 4)]);
    good(&[read(0, 1, 2), unknown(Action::Swap(3), 3)]);
}

#[test]
fn an_unknown_write_seen_then_unseen() {
    let lost = unknown(Action::Write(1), 0);
    bad(&[lost, read(1, 1, 2), read(0, 3, 4)]);
    bad(&[lost, read(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]);
}

#[test]
fn an_unknown_write_takes_effect_once_and_not_before_its_invocation() {
    let lost = unknown(Action::Write(1), 0);
    bad(&[
        lost,
        read(1, 1, 2),
        write(2, 3, 4),
        read(2, 5, 6),
        read(1, 7, 8),
    ]);
    bad(&[read(1, 0, 1), unknown(Action::Write(1), 2)]);
}

#[test]
fn unknown_operations_may_need_each_other() {
    let cas = |expected, new| Action::CompareAndSet { expected, new };
    let first = unknown(Action::Write(1), 0);
    let second = unknown(cas(1, 2), 1);
    good(&[first, second, read(2, 2, 3)]);
    good(&[second, first, unknown(cas(2, 3), 2), read(3, 4, 5)]);
    bad(&[second, read(2, 2, 3)]);
    bad(&[first, second, read(2, 2, 3), read(1, 4, 5)]);
}

#[test]
fn a_refused_write_is_never_seen() {
    let end = End::Refused;
    let refused = Made {
        end,
        ..unknown(Action::Write(1), 0)
    };
    good(&[refused, read(0, 1, 2)]);
    bad(&[refused, read(1, 1, 2)]);
}

#[test]
fn an_answer_that_tells_nothing_still_ends_the_operation() {
    let action = Action::CompareAndSet {
        expected: 0,
        new: 1,
    };
    let done = answered(action, Answer::Done, 0, 1);
    good(&[done, read(1, 2, 3)]);
    bad(&[done, read(0, 2, 3)]);
    let action = Action::CompareAndSet {
        expected: 1,
        new: 2,
    };
    let done = answered(action, Answer::Done, 1, 2);
    good(&[unknown(Action::Write(1), 0), done, read(2, 3, 4)]);
}

#[test]
fn keys_are_judged_one_by_one() {
    let mut history = History::default();
    let mut invoke = |key, action| history.invoke(1, key * 10, Observation { key, action });
    let (first, second) = (invoke(1, Action::Write(5)), invoke(2, Action::Read));
    history.answer(first, Answer::Done);
    history.answer(second, Answer::Value(0));
    let reads = LocalReads::default();
    assert_eq!(judge(&history, &reads, Some), Ok(()));
    let mut wrong = history.clone();
    wrong.answer(second, Answer::Value(5));
    let why = judge(&wrong, &reads, Some).expect_err("a wrong read");
    assert!(
        why.starts_with("S16/S17: key 2 is not linearizable"),
        "{why}"
    );
}

#[test]
fn a_search_that_needs_more_steps_says_so() {
    let writes = (0..12).map(|nth| write(nth + 1, nth, 100 + nth));
    let mut all: Vec<_> = writes.collect();
    all.push(read(99, 200, 201));
    assert_eq!(searched(&all), Verdict::TooLong);
}

#[test]
fn a_violation_shows_the_smallest_prefix() {
    let all = [
        write(1, 0, 1),
        write(2, 2, 3),
        read(1, 4, 7),
        write(3, 6, 9),
        read(3, 12, 13),
    ];
    let Verdict::Violation(stuck) = searched(&all) else {
        panic!("no violation");
    };
    assert_eq!(
        stuck.to_string(),
        "nothing explains the last answer after 0 more:\n     \
         0 client 0 command 0: write 1 to key 7, done at 1\n     \
         2 client 1 command 1: write 2 to key 7, done at 3\n     \
         4 client 2 command 2: read key 7, told 1 at 6\n     \
         5 client 3 command 3: write 3 to key 7, outcome unknown"
    );
}

#[test]
fn a_node_shows_what_the_log_gives() {
    let all = [write(1, 0, 1), write(2, 2, 3)];
    let history = history(&all);
    let shown = |place, key, value| Shown {
        node: 3,
        place,
        key,
        value,
    };
    for (place, key, value, right) in [
        (0, 7, 0, true),
        (0, 7, 1, false),
        (1, 7, 1, true),
        (1, 7, 2, false),
        (2, 7, 2, true),
        (2, 7, 1, false),
        (5, 7, 2, true),
        (2, 8, 0, true),
        (2, 8, 2, false),
    ] {
        let judged = by_log(&history, &[shown(place, key, value)], &[0, 1]);
        assert_eq!(judged.is_ok(), right, "{place} {key} {value}: {judged:?}");
    }
}

#[test]
fn s16_a_node_never_shows_less_than_it_did_or_answered() {
    let mut reads = LocalReads::default();
    assert_eq!(reads.read(1, 1, 10, 4), Ok(()));
    assert!(reads.read(1, 1, 9, 4).is_err(), "back in one life");
    assert_eq!(reads.read(1, 2, 3, 1), Ok(()), "another life");
    assert_eq!(reads.read(2, 1, 3, 1), Ok(()), "another node");
    reads.answered(1, 1, 6);
    assert!(reads.read(1, 1, 11, 5).is_err(), "without what it answered");
    assert_eq!(reads.read(1, 1, 12, 6), Ok(()));
}
