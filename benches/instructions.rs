//! Fixed work for callgrind: `wal_instructions SIZE GROUPS` appends so many groups of entries of
//! SIZE bytes, unsynced, on the RAM file system. `benches/wal-instructions` runs it.
//!
//! One thread does everything: the lanes' work is done where it is handed over, and the segment is
//! made ready as a whole before, so that two runs count the same instructions.

mod common;

use common::log::{Group, OwnLog, Side};
use common::medium::media;

/// What is counted. Never inlined, so that callgrind can tell when it begins and ends.
#[inline(never)]
fn counted_appends(own: &mut dyn Side, group: &Group, groups: u64) {
    (0..groups).for_each(|_| own.append(group));
}

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let (size, groups) = match numbers[..] {
        [size, groups] => (size as usize, groups),
        _ => (128, 10),
    };
    let [ram, _] = media();
    let mut own = OwnLog::single_threaded(&ram.folder());
    let group = Group::new(size);
    // Everything has been run once, the first batch included.
    warm_up(&mut own, &group);
    counted_appends(&mut own, &group, groups);
    println!("{} entries", groups * group.len() as u64);
}

fn warm_up(own: &mut dyn Side, group: &Group) {
    (0..2).for_each(|_| own.append(group));
}
