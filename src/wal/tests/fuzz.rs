//! The fuzzer's functions on a fixed budget: mutations of a small corpus, the same at every run.
//! `CONVEYOR_FUZZ_RUNS` enlarges it. `fuzz/` runs them with a fuzzer that watches coverage.

use super::harness::payload;
use crate::entry;
use crate::types::{ClusterId, EntryKind, Incarnation, LogId};
use crate::wal::fuzz;
use crate::wal::layout::{HintRecord, Lsn, MetaSlot};
use crate::wal::memory::Random;

const LIMIT: usize = 4096;

fn runs(usual: u64) -> u64 {
    let set = std::env::var("CONVEYOR_FUZZ_RUNS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(usual)
}

fn corpus() -> Vec<Vec<u8>> {
    let meta = MetaSlot::fresh(Incarnation([1; 16]), ClusterId([2; 16]), 3);
    let hint = HintRecord::new([1; 16], Lsn::new(2, 3), 4, true);
    let frame = |index, len| {
        let id = LogId::new(2, index);
        entry::frame(id, EntryKind::Command, 5, &payload(index, len)).to_vec()
    };
    let frames = [frame(1, 0), frame(2, 17), frame(3, 300)].concat();
    let batch = [&[3, 0, 0, 3, 0, 1, 0, 0][..], &frame(3, 9), &frame(4, 70)].concat();
    vec![
        vec![],
        meta.to_bytes()[..300].to_vec(),
        hint.to_bytes()[..64].to_vec(),
        frames,
        batch,
        vec![0; 200],
    ]
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len() as u64) as usize].clone();
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => {
                let more = random.below(40);
                let more: Vec<u8> = (0..more).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, more);
            }
            2 => bytes
                .iter_mut()
                .skip(at)
                .take(4)
                .for_each(|byte| *byte = 255),
            _ => bytes
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (at % 8)),
        }
    }
    bytes
}

#[test]
fn i4_arbitrary_bytes_to_the_parsers_of_the_log() {
    let (corpus, mut random) = (corpus(), Random(1));
    for run in 0..runs(20_000) {
        let bytes = mutated(&corpus, &mut random);
        if let Err(why) = fuzz::parse(&bytes, LIMIT) {
            panic!("run {run}: {why}: {bytes:?}");
        }
    }
}

#[test]
fn c4_a_directory_damaged_in_any_way_opens_or_is_refused() {
    let mut random = Random(2);
    for run in 0..runs(300) {
        let len = random.below(60);
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        if let Err(why) = fuzz::recover(&bytes) {
            panic!("run {run}: {why}: {bytes:?}");
        }
    }
}
