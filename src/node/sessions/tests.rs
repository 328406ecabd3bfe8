use super::*;

const LIMITS: SessionLimits = SessionLimits {
    most: 3,
    window: 4,
    answer_bytes: 10,
    idle_us: 100,
};

fn at(session: LogIndex, seq: u64, floor: u64) -> InSession {
    InSession {
        session,
        seq,
        floor,
    }
}

/// Sends a command that is answered with `answer` if it is applied.
fn send(table: &mut Sessions, time_us: Micros, at: InSession, answer: &'static str) -> Verdict {
    let verdict = table.check(time_us, at);
    if verdict == Verdict::Apply {
        table.remember(at, Some(Bytes::from_static(answer.as_bytes())));
    }
    assert_sound(table);
    verdict
}

fn repeat(answer: &'static str) -> Verdict {
    Verdict::Repeat(Some(Bytes::from_static(answer.as_bytes())))
}

/// What is kept up is what it would be from scratch, and comes back from its bytes.
fn assert_sound(table: &Sessions) {
    let bytes = table.encode();
    assert_eq!(bytes.len() as u64, table.encoded_len());
    let anew = Sessions::decode(table.limits, &bytes).expect("its own bytes");
    assert_eq!(anew.digest(), table.digest());
    assert_eq!(anew.encode(), bytes);
    assert_eq!(anew.quiet, table.quiet);
    assert_eq!(anew.bytes, table.bytes);
}

#[test]
fn f4_a_command_that_is_sent_again_is_answered_and_not_applied_again() {
    let mut table = Sessions::new(LIMITS);
    assert!(table.open(5, 10));
    assert!(table.open(6, 10));
    assert_eq!(send(&mut table, 11, at(5, 1, 1), "one"), Verdict::Apply);
    assert_eq!(send(&mut table, 12, at(5, 2, 1), "two"), Verdict::Apply);
    assert_eq!(send(&mut table, 13, at(5, 1, 1), "three"), repeat("one"));
    assert_eq!(send(&mut table, 13, at(5, 2, 1), "three"), repeat("two"));
    // Another session's number is another command.
    assert_eq!(send(&mut table, 14, at(6, 1, 1), "six"), Verdict::Apply);
    // The floor forgets; what is below it is refused, not applied.
    assert_eq!(send(&mut table, 15, at(5, 2, 2), "four"), repeat("two"));
    let stale = Verdict::Refuse(SessionRefusal::Stale { floor: 2 });
    assert_eq!(send(&mut table, 16, at(5, 1, 1), "five"), stale);
    // The table goes through a snapshot and answers as before.
    let mut table = Sessions::decode(LIMITS, &table.encode()).expect("its own bytes");
    assert_eq!(send(&mut table, 17, at(5, 2, 2), "seven"), repeat("two"));
    assert_eq!(send(&mut table, 17, at(5, 1, 1), "seven"), stale);
}

#[test]
fn f4_what_a_session_remembers_is_bounded() {
    let mut table = Sessions::new(LIMITS);
    assert!(table.open(1, 0));
    let ahead = |floor| Verdict::Refuse(SessionRefusal::TooFarAhead { floor, window: 4 });
    assert_eq!(send(&mut table, 1, at(1, 5, 1), "x"), ahead(1));
    assert_eq!(send(&mut table, 1, at(1, 4, 1), "12345678"), Verdict::Apply);
    // No room for this answer; that it was applied is remembered all the same.
    assert_eq!(send(&mut table, 2, at(1, 2, 1), "123"), Verdict::Apply);
    let not_kept = Verdict::Repeat(None);
    assert_eq!(send(&mut table, 3, at(1, 2, 1), "123"), not_kept);
    assert_eq!(send(&mut table, 3, at(1, 3, 1), "12"), Verdict::Apply);
    assert_eq!(send(&mut table, 3, at(1, 3, 1), ""), repeat("12"));
    // With the floor above it there is room again.
    assert_eq!(
        send(&mut table, 4, at(1, 8, 5), "1234567890"),
        Verdict::Apply
    );
    assert_eq!(send(&mut table, 4, at(1, 8, 5), ""), repeat("1234567890"));
    assert_eq!(send(&mut table, 5, at(1, u64::MAX, 5), "x"), ahead(5));
    assert_eq!(send(&mut table, 5, at(1, 9, u64::MAX), ""), {
        Verdict::Refuse(SessionRefusal::Stale { floor: u64::MAX })
    });
}

#[test]
fn f4_sessions_expire_by_the_time_in_which_somebody_led() {
    let mut table = Sessions::new(LIMITS);
    let expired = Verdict::Refuse(SessionRefusal::Expired);
    assert!(table.open(1, 1_000));
    assert_eq!(send(&mut table, 1_100, at(1, 1, 1), "a"), Verdict::Apply);
    // Nobody led for long: that does not count.
    table.begin_term(5_000);
    assert_eq!(send(&mut table, 6_200, at(1, 1, 1), ""), repeat("a"));
    assert_eq!(send(&mut table, 6_301, at(1, 1, 1), ""), expired);
    assert_eq!(send(&mut table, 6_302, at(1, 2, 1), ""), expired);
    assert_eq!(table.digest(), 0, "as if there had never been any");
    assert_eq!(table.encoded_len(), 0);
    // Time before there was a session leaves no trace.
    let mut other = Sessions::new(LIMITS);
    for table in [&mut table, &mut other] {
        assert!(table.open(9, 7_000));
    }
    assert_eq!(table.digest(), other.digest());
}

#[test]
fn f4_a_session_that_is_kept_outlives_its_quiet_time_and_one_that_is_not_does_not() {
    let mut table = Sessions::new(LIMITS);
    assert!(table.open(1, 0));
    assert!(table.open(2, 0));
    assert_eq!(send(&mut table, 1, at(1, 1, 1), "a"), Verdict::Apply);
    for time_us in [90, 180, 270] {
        assert!(table.keep(1, time_us));
        assert_sound(&table);
    }
    // What it remembers is as it was.
    assert_eq!(send(&mut table, 300, at(1, 1, 1), ""), repeat("a"));
    assert!(!table.keep(2, 301), "nobody kept it");
    assert_eq!(table.len(), 1);
    assert!(table.keep(1, 400) && !table.keep(1, 501));
    assert!(!table.keep(99, 502));
}

#[test]
fn f4_one_session_too_many_is_refused_and_takes_nobodys_away() {
    let mut table = Sessions::new(LIMITS);
    for session in [1, 2, 3] {
        assert!(table.open(session, 10));
    }
    assert_eq!(send(&mut table, 20, at(1, 1, 1), "a"), Verdict::Apply);
    let before = table.digest();
    assert!(!table.open(4, 30));
    assert_eq!(table.digest(), before);
    let expired = Verdict::Refuse(SessionRefusal::Expired);
    assert_eq!(send(&mut table, 31, at(4, 1, 1), "a"), expired);
    assert_eq!(send(&mut table, 31, at(3, 1, 1), "a"), Verdict::Apply);
    // There is room when one is closed, or was quiet for too long.
    assert!(table.close(3, 32) && !table.close(3, 32));
    assert!(table.open(5, 33) && !table.open(6, 34));
    assert!(table.open(7, 111), "session 2 is over");
    assert_eq!(send(&mut table, 112, at(2, 1, 1), "a"), expired);
    assert_sound(&table);
}

#[test]
fn f4_the_digest_covers_all_of_a_session() {
    let mut one = Sessions::new(LIMITS);
    one.open(1, 10);
    send(&mut one, 11, at(1, 1, 1), "a");
    let base = one.digest();
    let changes: [&dyn Fn(&mut Sessions); 5] = [
        &|table| drop(table.check(12, at(1, 1, 1))),
        &|table| drop(table.check(11, at(1, 2, 2))),
        &|table| table.remember(at(1, 2, 1), None),
        &|table| table.begin_term(1),
        &|table| assert!(table.open(2, 11)),
    ];
    for change in changes {
        let mut other = one.clone();
        change(&mut other);
        assert_ne!(other.digest(), base);
    }
    let mut kept = one.clone();
    kept.remember(at(1, 2, 1), Some(Bytes::new()));
    one.remember(at(1, 2, 1), None);
    assert_ne!(kept.digest(), one.digest(), "an empty answer is an answer");
}

#[test]
fn damaged_tables_are_refused() {
    let mut table = Sessions::new(LIMITS);
    assert!(table.open(1, 10));
    send(&mut table, 11, at(1, 1, 1), "answer");
    let bytes = table.encode();
    for len in 1..bytes.len() {
        let why = Sessions::decode(LIMITS, &bytes[..len]).expect_err("cut off");
        assert_eq!(why, "its sessions are cut off");
    }
    let mut newer = bytes.clone();
    newer[0] = 2;
    let why = Sessions::decode(LIMITS, &newer).expect_err("newer");
    assert!(why.contains("version 2"), "{why}");
    let longer = [bytes.as_slice(), &[0]].concat();
    Sessions::decode(LIMITS, &longer).expect_err("something follows");
}
