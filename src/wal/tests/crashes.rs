//! Random work, failed and crashed at random places in every way, against the model that the fuzzer
//! drives too (`wal::fuzz`).

use crate::wal::fuzz;
use crate::wal::memory::Random;

/// How many seeds to run: `CONVEYOR_WAL_SEEDS`, or few enough for every run.
fn seeds(usual: u64) -> u64 {
    let set = std::env::var("CONVEYOR_WAL_SEEDS").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(usual)
}

/// Where they start: `CONVEYOR_WAL_FIRST_SEED`.
fn first_seed() -> u64 {
    let set = std::env::var("CONVEYOR_WAL_FIRST_SEED").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(0)
}

fn work(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let len = 500 + random.below(6000);
    (0..len).map(|_| random.next() as u8).collect()
}

type Model = fn(&[u8]) -> Result<(), String>;

/// The shortest beginning of the work that still fails, and how.
fn shortest(model: Model, work: &[u8], why: String) -> (usize, String) {
    let (mut fails, mut why) = (work.len(), why);
    for len in (0..work.len()).rev().step_by(16) {
        if let Err(other) = model(&work[..len]) {
            (fails, why) = (len, other);
        }
    }
    (fails, why)
}

fn search(model: Model) {
    let first = first_seed();
    for seed in first..first + seeds(60) {
        let work = work(seed);
        if let Err(why) = model(&work) {
            let (len, short) = shortest(model, &work, why.clone());
            panic!(
                "seed {seed}: {why}; its first {len} bytes: {short}; repeat it with \
                 CONVEYOR_WAL_FIRST_SEED={seed} CONVEYOR_WAL_SEEDS=1"
            );
        }
    }
}

#[test]
fn c1_s19_acknowledged_is_there_after_any_crash_and_any_fault() {
    search(fuzz::model);
}

#[test]
fn c1_s19_written_through_acknowledged_is_there_after_any_crash_and_any_fault() {
    search(fuzz::model_written_through);
}

/// The first test has teeth: without syncs it fails.
#[test]
fn without_syncs_acknowledged_entries_are_lost() {
    let lost = (0..20).filter(|&seed| fuzz::model_without_syncs(&work(seed)).is_err());
    assert!(lost.count() >= 8);
}
