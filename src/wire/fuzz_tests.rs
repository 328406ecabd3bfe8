//! The fuzzer's functions on a fixed budget: mutations of a small corpus, the same at every run.
//! `CONVEYOR_FUZZ_RUNS` enlarges it. `fuzz/` runs them with a fuzzer that watches coverage.

use super::tests::{Rng, bytes_of, hello, samples};
use super::{forward_tests, fuzz};
use crate::network::LinkClass;

const LIMIT: usize = 4096;

fn runs(usual: u64) -> u64 {
    let set = std::env::var("CONVEYOR_FUZZ_RUNS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(usual)
}

/// One frame of each kind behind the byte that says of which stream it is.
fn corpus() -> Vec<Vec<u8>> {
    let which = |class: LinkClass, replies: bool| class as u8 | u8::from(replies) << 2;
    let messages = samples().into_iter().map(|message| {
        let which = which(message.class().into(), message.is_reply());
        [&[which, 0][..], &bytes_of(&message)].concat()
    });
    let forwards = forward_tests::samples();
    let forwards = forwards.iter().map(|(replies, bytes, _)| {
        let which = which(LinkClass::Forward, *replies);
        [&[which, 0][..], bytes].concat()
    });
    messages.chain(forwards).collect()
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng, spare: usize) {
    for _ in 0..rng.below(5) {
        if bytes.len() <= spare {
            return;
        }
        let at = spare + rng.below(bytes.len() - spare);
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => {
                let more: Vec<u8> = (0..rng.below(40)).map(|_| rng.below(256) as u8).collect();
                drop(bytes.splice(at..at, more));
            }
            2 => bytes
                .iter_mut()
                .skip(at)
                .take(4)
                .for_each(|byte| *byte = 255),
            3 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0),
            4 => bytes[at] = bytes[at].wrapping_add(1),
            _ => bytes[at] ^= 1 << rng.below(8),
        }
    }
}

#[test]
fn i4_arbitrary_streams_of_every_kind_whole_and_in_pieces() {
    let (corpus, mut rng) = (corpus(), Rng(42));
    for bytes in &corpus {
        for cuts in 0..=255 {
            let mut bytes = bytes.clone();
            bytes[1] = cuts;
            fuzz::stream(&bytes, LIMIT).expect("holds");
        }
    }
    for _ in 0..runs(40_000) {
        let mut bytes = corpus[rng.below(corpus.len())].clone();
        // Now and then another behind it.
        if rng.below(3) == 0 {
            let behind = &corpus[rng.below(corpus.len())];
            bytes.extend_from_slice(&behind[2..]);
        }
        bytes[1] = rng.below(256) as u8;
        if rng.below(16) == 0 {
            bytes[0] = rng.below(8) as u8;
        }
        mutate(&mut bytes, &mut rng, 2);
        fuzz::stream(&bytes, LIMIT).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn i4_arbitrary_hellos() {
    let mut rng = Rng(43);
    let good = hello().encode();
    fuzz::hello(&good).expect("holds");
    for _ in 0..runs(40_000) {
        let mut bytes = good.to_vec();
        mutate(&mut bytes, &mut rng, 0);
        // Its length is right more often than chance would have it.
        if rng.below(2) == 0 && bytes.len() >= 10 {
            let len = bytes.len() as u16;
            bytes[8..10].copy_from_slice(&len.to_le_bytes());
        }
        fuzz::hello(&bytes).unwrap_or_else(|why| panic!("{why}"));
    }
}
