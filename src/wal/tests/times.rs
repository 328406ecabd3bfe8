//! Log time across an open whose reads fail.

use super::harness::*;
use crate::wal::{Crash, MemoryDisk};

#[test]
fn log_time_never_falls_because_a_read_failed() {
    let disk = MemoryDisk::new();
    let mut rig = open(&disk);
    rig.append_durably(1, &[10, 20, 30]);
    // After a mark nothing has to be written anew: the last entry stays in a segment that is read
    // from its file.
    rig.log.tick(5_000_000);
    rig.settle();
    drop(rig);
    disk.crash(Crash::PowerCut);
    let (mut failed, mut nth) = (0, 0);
    loop {
        let copy = disk.fork();
        copy.fail_read(nth);
        match try_open(&copy, small()) {
            Ok(rig) => assert_eq!(rig.log.last_time_us(), 30, "read {nth}"),
            Err(_) => failed += 1,
        }
        nth += 1;
        if nth > 40 {
            break;
        }
    }
    assert!(failed > 5, "reads were made to fail: {failed}");
}
