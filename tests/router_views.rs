//! A reader may hold an old state of any size for ever: views cost nothing, writes go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conveyor_raft::state_machine::{
    ApplyContext, Outcome, RouterCommand, RouterState, RouterStateMachine, StateMachine,
};

const SERVICES: u64 = 26_000;
const CHECKPOINT: usize = 4 << 10;

struct Writer {
    machine: RouterStateMachine,
    index: u64,
}

impl Writer {
    fn apply(&mut self, command: RouterCommand) {
        self.index += 1;
        let context = ApplyContext {
            index: self.index,
            term: 1,
            time_us: self.index,
        };
        let outcome = self.machine.apply(&context, command).outcome;
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    fn offset(&mut self, number: u64) {
        let offset = self.index;
        self.apply(RouterCommand::CommitSourceOffset {
            source_id: format!("source-{}", number % 100),
            partition: (number / 100 % 200) as u32,
            offset,
            rewind: false,
        });
    }
}

/// A state of over 100 MB.
fn large() -> Writer {
    let mut writer = Writer {
        machine: RouterStateMachine::new(),
        index: 0,
    };
    for number in 0..SERVICES {
        writer.apply(RouterCommand::SaveServiceCheckpoint {
            service_id: format!("shop/service-{number}"),
            checkpoint_id: "cp".into(),
            data: vec![number as u8; CHECKPOINT],
            source_offsets: Default::default(),
        });
        writer.offset(number);
    }
    writer
}

/// The median of several measurements, which a loaded machine does not move much.
fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..9).map(|_| measure()).collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_reader_holds_a_hundred_megabytes_for_ever() {
    let mut writer = large();
    let held = writer.machine.view();
    let copy = RouterState::clone(&held);
    let (index, digest) = (held.index(), held.digest());
    assert!(held.checkpoints.service_checkpoints.len() as u64 * CHECKPOINT as u64 > 100_000_000);

    let view = median(|| {
        let begun = Instant::now();
        std::hint::black_box(writer.machine.view());
        begun.elapsed()
    });
    assert!(view < Duration::from_millis(1), "a view took {view:?}");

    // The first write after a view copies a path and not the state, which takes tens of ms.
    let mut views = Vec::new();
    let mut number = 0;
    let first = median(|| {
        views.push(writer.machine.view());
        number += 1;
        let begun = Instant::now();
        writer.offset(number);
        begun.elapsed()
    });
    assert!(first < Duration::from_millis(5), "a write took {first:?}");

    let batch = |writer: &mut Writer| {
        let begun = Instant::now();
        (0..2000).for_each(|number| writer.offset(number));
        begun.elapsed()
    };
    let with_reader = median(|| {
        views.push(writer.machine.view());
        batch(&mut writer)
    });
    drop(views);
    let alone = median(|| batch(&mut writer));
    assert!(
        with_reader < 8 * alone + Duration::from_millis(5),
        "{with_reader:?} with readers, {alone:?} without"
    );

    assert_eq!(*held, copy);
    assert_eq!((held.index(), held.digest()), (index, digest));
    assert!(writer.machine.state().index() > index);
}

#[test]
fn ten_thousand_reads_never_see_an_empty_state() {
    let mut writer = Writer {
        machine: RouterStateMachine::new(),
        index: 0,
    };
    writer.offset(1);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Arc<RouterState>>(64);
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        for state in receiver {
            assert!(state.source_offset("source-1", 0).is_some());
            assert!(state.index() > last);
            last = state.index();
        }
        last
    });
    for _ in 0..10_000 {
        writer.offset(1);
        sender
            .send(writer.machine.view())
            .expect("the reader lives");
    }
    drop(sender);
    assert_eq!(reader.join().expect("no assertion failed"), writer.index);
}
