//! Torn is not corrupt: every byte of a small log damaged, and what must come of it.

use super::harness::*;
use crate::types::Entry;
use crate::wal::memory::Random;
use crate::wal::{Append, Crash, Damage, LogOptions, MemoryDisk, OpenError};

/// A log of four batches, the last of which nothing names as durable, after a power cut.
fn image(clean: bool) -> (Image, Vec<Entry>) {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, tiny()).expect("opens");
    rig.try_write(Some(state(3, 2)), None, Append::None)
        .expect("written");
    for lens in [&[0_usize, 17][..], &[40], &[8, 9], &[33]] {
        rig.append_durably(3, lens);
    }
    let all = rig.read_all();
    if clean {
        rig.log.close().expect("closes");
    } else {
        drop(rig);
    }
    disk.crash(Crash::PowerCut);
    (disk.image(), all)
}

fn only_segment(image: &Image) -> String {
    let live = image.iter().filter(|(name, bytes)| {
        name.starts_with("seg-") && bytes[..8].iter().any(|&byte| byte != 0)
    });
    let names: Vec<_> = live.map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), 1);
    names[0].clone()
}

enum Outcome {
    Exact,
    Shorter(usize),
    Refused(OpenError),
}

fn outcome(image: &Image, all: &[Entry], distrust: bool) -> Outcome {
    let disk = MemoryDisk::from_image(image);
    if distrust {
        // Another boot: the page cache proves nothing.
        disk.crash(Crash::PowerCut);
    }
    match try_open(&disk, tiny()) {
        Ok(rig) => {
            let found = rig.read_all();
            assert!(all.starts_with(&found), "only a suffix may be missing");
            assert_eq!(rig.log.hard_state(), state(3, 2));
            if found.len() == all.len() {
                Outcome::Exact
            } else {
                Outcome::Shorter(found.len())
            }
        }
        Err(error) => Outcome::Refused(error),
    }
}

/// Bytes of a file that hold something.
fn used(bytes: &[u8]) -> Vec<usize> {
    let in_use = |chunk: &[u8]| chunk.iter().any(|&byte| byte != 0);
    let chunks = bytes
        .chunks(64)
        .enumerate()
        .filter(|(_, chunk)| in_use(chunk));
    chunks
        .flat_map(|(nth, _)| nth * 64..nth * 64 + 64)
        .collect()
}

#[test]
fn c4_s20_every_damaged_byte_is_exact_shorter_or_refused() {
    let (image, all) = image(false);
    let segment = only_segment(&image);
    let (mut exact, mut shorter, mut refused) = (0, 0, 0);
    for (name, bytes) in &image {
        for at in used(bytes) {
            let mut damaged = image.clone();
            let byte = &mut damaged.get_mut(name).expect("there")[at];
            *byte ^= 1 << (at % 8);
            let what = || format!("{name} at {at}");
            match outcome(&damaged, &all, true) {
                Outcome::Exact => exact += 1,
                // The last batch: nothing durable names it.
                Outcome::Shorter(len) => {
                    assert_eq!((len, name), (5, &segment), "{}", what());
                    shorter += 1;
                }
                Outcome::Refused(OpenError::Corrupt(damage)) => {
                    assert_eq!(name, &segment, "{}", what());
                    complete(&damage);
                    refused += 1;
                }
                Outcome::Refused(error) => panic!("{}: {error}", what()),
            }
        }
    }
    assert!(exact > 0 && shorter > 0, "{exact} {shorter}");
    assert!(refused > 200, "the evidence rule fires: {refused}");
}

fn complete(damage: &Damage) {
    assert!(damage.file.contains("seg-"), "{damage}");
    assert!(damage.offset >= 8192 && damage.first >= 1, "{damage}");
    assert!(!damage.evidence.is_empty() && !damage.what.is_empty());
    assert!(damage.to_string().contains("Nothing was changed"));
}

#[test]
fn after_a_clean_close_every_damaged_byte_is_noticed() {
    let (image, all) = image(true);
    let segment = only_segment(&image);
    let bytes = &image[&segment];
    for at in used(bytes).into_iter().filter(|&at| at >= 8192) {
        let mut damaged = image.clone();
        damaged.get_mut(&segment).expect("there")[at] ^= 1 << (at % 8);
        let in_padding = matches!(outcome(&damaged, &all, true), Outcome::Exact);
        let after_body = at % 4096 > 64 + 16 + 7;
        assert!(!in_padding || after_body, "unnoticed at {at}");
    }
}

#[test]
fn in_the_same_boot_the_last_batch_is_not_taken_for_torn() {
    let (image, all) = image(false);
    let segment = only_segment(&image);
    let at = last_batch(&image[&segment]);
    let mut damaged = image.clone();
    damaged.get_mut(&segment).expect("there")[at + 64 + 40] ^= 4;
    let Outcome::Refused(OpenError::Corrupt(damage)) = outcome(&damaged, &all, false) else {
        panic!("must be refused");
    };
    assert!(damage.evidence.contains("distrust_page_cache"), "{damage}");
    // The override takes it for torn.
    let disk = MemoryDisk::from_image(&damaged);
    let options = LogOptions {
        distrust_page_cache: true,
        ..tiny()
    };
    let rig = try_open(&disk, options).expect("opens");
    assert_eq!(rig.read_all(), all[..5]);
    // Killed before the header was closed: its first 8 bytes are zero.
    let mut open_batch = image.clone();
    open_batch.get_mut(&segment).expect("there")[at..at + 8].fill(0);
    assert!(matches!(
        outcome(&open_batch, &all, false),
        Outcome::Shorter(5)
    ));
}

/// Offset of the last batch.
fn last_batch(bytes: &[u8]) -> usize {
    let magic = crate::wal::layout::BATCH_MAGIC.to_le_bytes();
    let mut units = (8192..bytes.len()).step_by(4096);
    units
        .rfind(|&at| bytes[at..at + 4] == magic)
        .expect("a batch")
}

#[test]
fn c3_every_torn_prefix_and_sector_of_the_last_batch_is_dropped() {
    let (image, all) = image(false);
    let segment = only_segment(&image);
    let at = last_batch(&image[&segment]);
    let len = 64 + 32 + 40;
    for keep in 0..len {
        let mut torn = image.clone();
        torn.get_mut(&segment).expect("there")[at + keep..at + len].fill(0);
        let found = outcome(&torn, &all, true);
        assert!(
            matches!(found, Outcome::Shorter(5) | Outcome::Exact),
            "kept {keep}"
        );
    }
}

#[test]
fn corrupt_meta_with_segments_is_refused() {
    let (image, _) = image(false);
    let mut damaged = image.clone();
    for slot in [0, 64 << 10] {
        damaged.get_mut("META").expect("there")[slot + 64] ^= 1;
    }
    let refused = try_open(&MemoryDisk::from_image(&damaged), tiny())
        .err()
        .expect("refused");
    assert!(
        matches!(refused, OpenError::MetaDamaged { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("replace"), "{refused}");
    let mut gone = image;
    gone.remove("META");
    let refused = try_open(&MemoryDisk::from_image(&gone), tiny())
        .err()
        .expect("refused");
    assert!(
        matches!(refused, OpenError::MetaDamaged { .. }),
        "{refused}"
    );
}

#[test]
fn a_missing_or_foreign_segment_is_refused() {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, tiny()).expect("opens");
    for _ in 0..60 {
        rig.append_durably(1, &[1500, 1500]);
    }
    assert!(rig.log.extent().0 >= 3);
    drop(rig);
    disk.crash(Crash::PowerCut);
    let image = disk.image();
    let live: Vec<_> = image
        .keys()
        .filter(|name| name.starts_with("seg-"))
        .cloned()
        .collect();
    for name in &live[..2] {
        let mut gone = image.clone();
        gone.remove(name);
        let refused = try_open(&MemoryDisk::from_image(&gone), tiny())
            .err()
            .expect("refused");
        assert!(refused.to_string().contains(name.as_str()), "{refused}");
    }
    let other = MemoryDisk::new();
    let mut rig = try_open(&other, tiny()).expect("opens");
    rig.append_durably(1, &[1]);
    drop(rig);
    other.crash(Crash::PowerCut);
    let foreign = other.image().remove(&live[0]);
    let mut swapped = image.clone();
    swapped.insert(live[1].clone(), foreign.expect("the first segment"));
    let refused = try_open(&MemoryDisk::from_image(&swapped), tiny())
        .err()
        .expect("refused");
    assert!(refused.to_string().contains("another log"), "{refused}");
}

#[test]
fn arbitrary_bytes_never_panic() {
    let (image, _) = image(false);
    let segment = only_segment(&image);
    let mut random = Random(42);
    for round in 0..400 {
        let mut damaged = image.clone();
        let name = if round % 5 == 0 {
            "META"
        } else {
            segment.as_str()
        };
        let bytes = damaged.get_mut(name).expect("there");
        for _ in 0..=random.below(4) {
            let at = (random.below(28_000) as usize).min(bytes.len() - 1);
            let len = random.below(300) as usize;
            for byte in bytes.iter_mut().skip(at).take(len) {
                *byte = random.next() as u8;
            }
        }
        if round % 7 == 0 {
            let keep = random.below(bytes.len() as u64) as usize;
            bytes.truncate(keep);
        }
        let _ = try_open(&MemoryDisk::from_image(&damaged), tiny());
    }
}

#[test]
fn c5_a_tail_that_vanished_below_hint_is_refused() {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, tiny()).expect("opens");
    for _ in 0..5 {
        rig.append_durably(1, &[100, 200]);
    }
    rig.log.note_commit(8);
    rig.log.tick(5_000_000);
    rig.settle();
    drop(rig);
    disk.crash(Crash::Kill);
    let image = disk.image();
    let segment = only_segment(&image);
    let mut vanished = image.clone();
    vanished.get_mut(&segment).expect("there")[8192 + 4096..].fill(0);
    let open = |image: &Image| {
        let disk = MemoryDisk::from_image(image);
        disk.crash(Crash::PowerCut);
        try_open(&disk, tiny()).map(|rig| rig.log.last().index)
    };
    let refused = open(&vanished).expect_err("refused").to_string();
    assert!(
        refused.contains("HINT") && refused.contains("index 3"),
        "{refused}"
    );
    // The whole segment gone, header and all.
    vanished.get_mut(&segment).expect("there").fill(0);
    assert!(open(&vanished).is_err());
    vanished.remove(&segment);
    assert!(open(&vanished).is_err());
    // Without a hint it would have been a torn tail.
    let mut hintless = image;
    hintless.remove("HINT");
    hintless.get_mut(&segment).expect("there")[8192 + 4096..].fill(0);
    assert_eq!(open(&hintless).expect("opens"), 2);
}
