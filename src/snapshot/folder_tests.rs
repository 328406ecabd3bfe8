use std::io::{Read, Write};

use super::*;
use crate::wal::{Crash, MemoryDisk};

struct Text(&'static str);

impl Frozen for Text {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.0.as_bytes())
    }
}

fn folder(disk: &MemoryDisk) -> SnapshotFolder<MemoryDisk> {
    SnapshotFolder::new(&Arc::new(disk.clone()))
}

/// Does the first `steps` of the four steps of a new snapshot.
fn take(disk: &MemoryDisk, last: LogId, text: &'static str, steps: usize) {
    let folder = folder(disk);
    let head = SnapshotHead {
        last,
        configuration: (1, vec![1]),
        ..SnapshotHead::default()
    };
    let written = folder.write(&head, Box::new(Text(text)), &mut |_| Ok(()));
    written.expect("written");
    let rest: [&dyn Fn() -> io::Result<()>; 3] = [
        &|| folder.sync_written(),
        &|| folder.name_written(last),
        &|| folder.sync_names(),
    ];
    let rest = rest.iter().take(steps.saturating_sub(1));
    rest.for_each(|step| step().expect("done"));
}

fn chosen(disk: &MemoryDisk, start: LogId, log_ends: u64) -> Result<Option<String>, String> {
    let mut text = String::new();
    let fits = |last: LogId| last.index <= log_ends;
    let chosen = folder(disk).choose(start, fits, |mut file| {
        text.clear();
        let read = file.read_to_string(&mut text);
        read.map(drop).map_err(|error| error.to_string())
    })?;
    Ok(chosen.map(|_| text))
}

#[test]
fn d7_a_crash_at_any_step_of_a_new_snapshot_leaves_the_one_before() {
    for steps in 0..=4 {
        for seed in 0..40 {
            let disk = MemoryDisk::seeded(seed);
            take(&disk, LogId::new(1, 10), "old", 4);
            take(&disk, LogId::new(1, 20), "new", steps);
            disk.crash(if seed == 0 {
                Crash::PowerCut
            } else {
                Crash::Subset(seed)
            });
            let text = chosen(&disk, LogId::new(1, 10), 30).expect("one of them");
            let text = text.expect("one of them");
            assert!(text == "old" || text == "new");
            assert!(steps < 4 || text == "new", "step {steps}, seed {seed}");
            let names = disk.list().expect("names");
            let partial = names.iter().any(|name| name.ends_with(PARTIAL));
            assert!(!partial, "{names:?}");
        }
    }
}

#[test]
fn the_newest_that_the_log_goes_on_from_is_chosen() {
    let disk = MemoryDisk::new();
    for (index, text) in [(10, "ten"), (20, "twenty"), (30, "thirty")] {
        take(&disk, LogId::new(1, index), text, 4);
    }
    let at = |log_ends| {
        chosen(&disk, LogId::new(1, 10), log_ends)
            .expect("one")
            .expect("one")
    };
    assert_eq!(
        (at(50), at(25), at(10)),
        ("thirty".into(), "twenty".into(), "ten".into())
    );
    let why = chosen(&disk, LogId::new(1, 15), 15).expect_err("none covers the start");
    assert!(
        why.contains("begins after entry 15") && why.contains("does not go on"),
        "{why}"
    );
    folder(&disk)
        .remove_older(LogId::new(1, 20))
        .expect("removed");
    let left = folder(&disk).list().expect("names");
    assert_eq!(left, [LogId::new(1, 30), LogId::new(1, 20)]);
}

/// What an earlier life left is removed in the background; a disk that stalls may get to it only when
/// a newer snapshot has come in, which the log begins after by then.
#[test]
fn d7_what_comes_in_while_old_ones_are_removed_stays() {
    let disk = MemoryDisk::new();
    take(&disk, LogId::new(4, 35), "old", 4);
    take(&disk, LogId::new(4, 44), "stored", 4);
    take(&disk, LogId::new(4, 61), "received", 4);
    folder(&disk)
        .remove_older(LogId::new(4, 44))
        .expect("removed");
    let left = folder(&disk).list().expect("names");
    assert_eq!(left, [LogId::new(4, 61), LogId::new(4, 44)]);
}

#[test]
fn d3_a_damaged_snapshot_is_passed_over_and_deletes_nothing() {
    let disk = MemoryDisk::new();
    take(&disk, LogId::new(1, 10), "old", 4);
    take(&disk, LogId::new(1, 20), "new", 4);
    assert!(disk.rot(&name_of(LogId::new(1, 20)), 124, 1));
    assert_eq!(
        chosen(&disk, LogId::new(1, 5), 30),
        Ok(Some("old".to_owned()))
    );
    assert_eq!(disk.list().expect("names").len(), 2);
    let why = chosen(&disk, LogId::new(1, 15), 30).expect_err("the old one is too old");
    assert!(
        why.contains("checksum") && why.contains("replace the node"),
        "{why}"
    );
}

#[test]
fn without_snapshots_a_log_that_begins_at_its_first_entry_needs_none() {
    let disk = MemoryDisk::new();
    assert_eq!(chosen(&disk, LogId::default(), 0), Ok(None));
    let why = chosen(&disk, LogId::new(2, 7), 9).expect_err("the front is gone");
    assert!(
        why.contains("begins after entry 7") && why.contains("there is none"),
        "{why}"
    );
}
