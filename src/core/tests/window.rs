//! How much is on its way to one peer.

use super::bed;
use crate::core::io::Settings;
use crate::core::window::{Inflight, Window};
use crate::types::Micros;

fn settings() -> Settings {
    let mut settings = bed::settings(1);
    settings.max_inflight_appends = 64;
    settings.max_inflight_bytes = 1 << 20;
    settings
}

/// What a second of traffic came to.
struct Traffic {
    appends: usize,
    /// The mean time that an entry waited for its append, in microseconds.
    waited: Micros,
}

/// An entry every 100 us, and answers that take `answer`.
fn second(settings: &Settings, answer: Micros) -> Traffic {
    let mut window = Window::default();
    let (mut seq, mut waiting, mut waited) = (0, Vec::new(), 0);
    // What comes before the mean has settled does not count.
    let (settled, end) = (1_000_000, 2_000_000);
    let mut appends = 0;
    for now in (0..end).step_by(100) {
        let answered = |sent: &&Inflight| sent.sent_at + answer <= now;
        if let Some(newest) = window
            .appends()
            .filter(answered)
            .last()
            .map(|sent| sent.seq)
        {
            window.answered(now, newest);
        }
        waiting.push(now);
        if window.room(settings).is_some() && now >= window.opens() {
            let bytes = waiting.len();
            let append = Inflight {
                seq,
                bytes,
                sent_at: now,
            };
            window.sent(append, false);
            seq += 1;
            let since = |entry: Micros| now - entry;
            let total: Micros = waiting.drain(..).map(since).sum();
            if now >= settled {
                appends += 1;
                waited += total;
            }
        }
    }
    let entries = (end - settled) / 100;
    Traffic {
        appends,
        waited: waited / entries,
    }
}

/// From a loopback to another continent: never many small appends, never a long wait.
#[test]
fn the_pace_follows_the_time_that_answers_take() {
    for (answer, most_appends, longest) in [
        (100, 10_000, 0),
        (500, 2_000, 250),
        (2_000, 500, 1_000),
        (20_000, 500, 1_000),
        (50_000, 330, 1_600),
        (200_000, 90, 6_300),
    ] {
        let it = second(&settings(), answer);
        assert!(
            it.appends <= most_appends && it.waited <= longest,
            "answers take {answer} us: {} appends, {} us waited",
            it.appends,
            it.waited
        );
    }
}

/// What is left over was proposed before, and nothing more is to be waited for.
#[test]
fn what_did_not_fit_one_append_leaves_at_once() {
    let mut window = Window::default();
    for seq in 0..3 {
        let append = Inflight {
            seq,
            bytes: 100,
            sent_at: 7,
        };
        window.sent(append, seq < 2);
        assert_eq!(window.opens() > 7, seq == 2);
    }
    window.clear();
    assert_eq!(window.opens(), 0);
}

#[test]
fn the_limits_hold_however_long_answers_take() {
    let mut settings = settings();
    settings.max_inflight_appends = 3;
    settings.max_inflight_bytes = 250;
    let mut window = Window::default();
    let append = |seq, bytes| Inflight {
        seq,
        bytes,
        sent_at: 0,
    };
    window.sent(append(0, 100), false);
    assert!(window.answered(1_000_000, 0));
    let mut send = |seq, bytes| {
        let room = window.room(&settings);
        if room.is_some() {
            window.sent(append(seq, bytes), false);
        }
        room
    };
    assert_eq!(send(1, 100), Some(250));
    assert_eq!(send(2, 100), Some(150));
    assert_eq!(send(3, 50), Some(50));
    assert_eq!(send(4, 1), None);
    assert!(window.answered(1, 1) && !window.answered(1, 1));
    assert_eq!((window.bytes(), window.room(&settings)), (150, Some(100)));
    window.clear();
    assert_eq!((window.bytes(), window.unanswered_since()), (0, None));
    assert_eq!(window.room(&settings), Some(250));
}
