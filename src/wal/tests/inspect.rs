//! The dump shows what is there, goes on behind damage, and never panics.

use std::ops::ControlFlow;

use super::harness::*;
use crate::wal::medium::Files;
use crate::wal::memory::Random;
use crate::wal::{Crash, Item, MemoryDisk, OpenError, inspect};

fn image() -> Image {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    for _ in 0..40 {
        rig.append_durably(2, &[3000, 50]);
    }
    rig.log.close().expect("closes");
    disk.crash(Crash::PowerCut);
    disk.image()
}

/// Indexes of all entries, how many of them lie behind damage, and where reading stopped before
/// something whole.
#[derive(Default)]
struct Seen {
    indexes: Vec<u64>,
    behind: Vec<u64>,
    stops: Vec<(String, u32)>,
    text: String,
}

fn dump(image: &Image) -> Result<Seen, OpenError> {
    let disk = MemoryDisk::from_image(image);
    let mut seen = Seen::default();
    let mut behind = false;
    let result = inspect(&disk, 0..=u64::MAX, &mut |item| {
        seen.text += &serde_json::to_string(&item).expect("JSON");
        match item {
            Item::Batch(batch) => behind = batch.behind_damage,
            Item::Entry(entry) => {
                assert_eq!(entry.payload.len(), entry.bytes);
                seen.indexes.push(entry.index);
                if behind {
                    seen.behind.push(entry.index);
                }
            }
            Item::Stop(stop) if stop.next.is_some() => seen.stops.push((stop.file, stop.offset)),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    assert_eq!(&disk.image(), image, "nothing is changed");
    result.map(|()| seen)
}

#[test]
fn everything_is_shown_but_the_secrets() {
    let image = image();
    let seen = dump(&image).expect("readable");
    assert!(
        seen.indexes.iter().copied().eq(1..=80),
        "{:?}",
        seen.indexes
    );
    assert!(seen.behind.is_empty() && seen.stops.is_empty());
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let meta = &image["META"];
    assert!(seen.text.contains(&hex(&meta[16..32])), "the incarnation");
    for secret in [&meta[160..176], &meta[208..240]] {
        assert!(!seen.text.contains(&hex(secret)));
        let list = format!("{secret:?}").replace(' ', "");
        assert!(!seen.text.contains(&list));
    }
}

#[test]
fn what_lies_behind_damage_is_shown_too() {
    let mut damaged = image();
    let name = damaged
        .keys()
        .find(|name| name.starts_with("seg-"))
        .expect("one")
        .clone();
    // The third batch of the first segment: each takes one unit.
    damaged.get_mut(&name).expect("there")[8192 + 2 * 4096 + 200] ^= 8;
    let seen = dump(&damaged).expect("readable");
    let missing: Vec<u64> = (1..=80).filter(|it| !seen.indexes.contains(it)).collect();
    assert_eq!(missing, [5, 6]);
    assert_eq!(seen.stops, [(name, 8192 + 2 * 4096)]);
    assert_eq!(seen.behind.first(), Some(&7));
}

/// As a running node does when it compacts while somebody looks.
#[test]
fn a_segment_taken_away_meanwhile_is_no_damage() {
    let image = image();
    let mut names: Vec<String> = image.keys().cloned().collect();
    names.retain(|name| name.starts_with("seg-"));
    let second = names[1].clone();
    let disk = MemoryDisk::from_image(&image);
    let mut shown = Vec::new();
    let result = inspect(&disk, 0..=u64::MAX, &mut |item| {
        match item {
            Item::Segment(segment) => {
                if shown.is_empty() {
                    disk.remove(&second).expect("there");
                }
                shown.push(segment.file);
            }
            Item::Stop(stop) => assert_ne!(stop.file, second, "{}", stop.what),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    result.expect("readable");
    names.retain(|name| *name != second);
    assert_eq!(shown, names);
}

#[test]
fn a_range_and_an_early_end_are_kept_to() {
    let disk = MemoryDisk::from_image(&image());
    let mut seen = Vec::new();
    inspect(&disk, 10..=12, &mut |item| {
        if let Item::Entry(entry) = item {
            seen.push(entry.index);
        }
        ControlFlow::Continue(())
    })
    .expect("readable");
    assert_eq!(seen, [10, 11, 12]);
    let mut calls = 0;
    inspect(&disk, 0..=u64::MAX, &mut |_| {
        calls += 1;
        ControlFlow::Break(())
    })
    .expect("readable");
    assert_eq!(calls, 1);
    let nothing = inspect(
        &MemoryDisk::new(),
        0..=9,
        &mut |_| ControlFlow::Continue(()),
    );
    assert!(matches!(nothing, Err(OpenError::NoLog { .. })));
}

#[test]
fn a_dump_of_arbitrary_bytes_never_panics() {
    let image = image();
    let names: Vec<String> = image.keys().cloned().collect();
    let mut random = Random(11);
    let (mut whole, mut stopped) = (0, 0);
    for round in 0..200 {
        let mut damaged = image.clone();
        let name = &names[random.below(names.len() as u64) as usize];
        match round % 6 {
            0 => _ = damaged.remove(name),
            1 => {
                let bytes = damaged.get_mut(name).expect("there");
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            }
            _ => {
                let bytes = damaged.get_mut(name).expect("there");
                let at = random.below(bytes.len().max(1) as u64) as usize;
                for byte in bytes.iter_mut().skip(at).take(400) {
                    *byte = random.next() as u8;
                }
            }
        }
        let seen = dump(&damaged).expect("no version is newer");
        match seen.indexes.len() {
            80 => whole += 1,
            _ => stopped += 1,
        }
    }
    assert!(whole > 10 && stopped > 10, "{whole} {stopped}");
}
