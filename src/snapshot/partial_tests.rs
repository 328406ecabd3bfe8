use std::ops::Range;
use std::sync::Arc;

use super::super::file::{SnapshotHead, SnapshotSum};
use super::super::folder::{SnapshotFolder, name_of};
use super::*;
use crate::state_machine::Frozen;
use crate::types::LogId;
use crate::wal::{Crash, MemoryDisk};

const CHUNK: usize = 512;

struct Text(Vec<u8>);

impl Frozen for Text {
    fn write(self: Box<Self>, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self.0)
    }
}

/// A snapshot as its sender has it: six chunks, the last one short.
fn sent(fill: u8) -> (Offered, Vec<u8>) {
    let disk = Arc::new(MemoryDisk::new());
    let folder = SnapshotFolder::new(&disk);
    let head = SnapshotHead {
        last: LogId::new(2, 70 + u64::from(fill)),
        configuration: (1, vec![9; 5]),
        ..SnapshotHead::default()
    };
    let state = Box::new(Text(vec![fill; 2_600]));
    let sum = folder
        .write(&head, state, &mut |_| Ok(()))
        .expect("written");
    folder.name_written(head.last).expect("named");
    let bytes = folder.read(head.last, 0, sum.len as usize).expect("read");
    let offered = Offered {
        last: head.last,
        sum,
        chunk: CHUNK as u32,
    };
    assert_eq!(bytes.chunks(CHUNK).count(), 6);
    (offered, bytes)
}

fn receiver(disk: &MemoryDisk) -> Receiver<MemoryDisk> {
    Receiver::new(SnapshotFolder::new(&Arc::new(disk.clone())))
}

fn give(to: &mut Receiver<MemoryDisk>, from: &(Offered, Vec<u8>), nth: usize) -> Option<Taken> {
    let bytes = from.1.chunks(CHUNK).nth(nth).expect("a chunk");
    let (id, crc) = (from.0.sum.id(), crc32fast::hash(bytes));
    let taken = to.chunk(id, (nth * CHUNK) as u64, crc, bytes);
    taken.expect("the disk works")
}

fn give_all(to: &mut Receiver<MemoryDisk>, from: &(Offered, Vec<u8>), which: Range<usize>) {
    for nth in which {
        give(to, from, nth);
    }
}

fn take_whole(to: &mut Receiver<MemoryDisk>, from: &(Offered, Vec<u8>), disk: &MemoryDisk) {
    let (stored, head) = to.check().expect("the disk works").expect("whole");
    assert_eq!(
        (stored.last, stored.sum, head.last),
        (from.0.last, from.0.sum, from.0.last)
    );
    to.sync().expect("synced");
    to.name().expect("named");
    let folder = SnapshotFolder::new(&Arc::new(disk.clone()));
    let bytes = folder.read(from.0.last, 0, from.1.len()).expect("read");
    assert_eq!(bytes, from.1);
}

/// All orders of at most six events: chunks early, late, twice and damaged, the offer again, a
/// restart of the process in between.
#[test]
fn d2_any_order_of_chunk_events_ends_with_the_same_bytes_or_asks_for_what_is_missing() {
    let from = sent(1);
    let mut orders = 0;
    // What is done in each of six steps: give chunk n, offer again, restart, a damaged chunk.
    for code in 0..9_usize.pow(5) {
        let steps = (0..5).map(|step| code / 9_usize.pow(step) % 9);
        let disk = MemoryDisk::new();
        let mut to = receiver(&disk);
        let mut state = to.offer(from.0).expect("the disk works");
        for step in steps {
            let next = match state {
                Taken::Next(next) => next as usize / CHUNK,
                Taken::Whole => 6,
            };
            state = match step {
                0..=5 => give(&mut to, &from, step).expect("of this snapshot"),
                6 => to.offer(from.0).expect("the disk works"),
                7 => {
                    to = receiver(&disk);
                    to.offer(from.0).expect("the disk works")
                }
                _ => {
                    let id = from.0.sum.id();
                    let offset = (next * CHUNK) as u64;
                    let wrong = to.chunk(id, offset, 5, &[1; CHUNK]);
                    wrong.expect("the disk works").expect("of this snapshot")
                }
            };
            let now = match state {
                Taken::Next(now) => now as usize / CHUNK,
                Taken::Whole => 6,
            };
            let given = usize::from(step == next && step < 6);
            assert_eq!(now, next + given, "order {code}, step {step}");
        }
        orders += 1;
    }
    assert_eq!(orders, 59_049);
}

#[test]
fn d2_a_transfer_goes_on_where_it_broke_off_and_ends_with_the_senders_bytes() {
    let from = sent(1);
    let disk = MemoryDisk::new();
    let mut to = receiver(&disk);
    assert_eq!(to.offer(from.0).expect("offered"), Taken::Next(0));
    for nth in 0..6 {
        if nth == 3 {
            disk.crash(Crash::Kill);
            to = receiver(&disk);
            assert_eq!(
                give(&mut to, &from, nth),
                None,
                "nothing was offered to this process"
            );
            let state = to.offer(from.0).expect("offered");
            assert_eq!(state, Taken::Next(3 * CHUNK as u64));
        }
        let state = give(&mut to, &from, nth).expect("of this snapshot");
        let whole = nth == 5;
        assert_eq!(state == Taken::Whole, whole);
    }
    take_whole(&mut to, &from, &disk);
}

#[test]
fn d2_another_snapshot_in_between_does_not_throw_away_what_was_received() {
    let (one, two) = (sent(1), sent(2));
    let disk = MemoryDisk::new();
    let mut to = receiver(&disk);
    to.offer(one.0).expect("offered");
    give_all(&mut to, &one, 0..4);
    assert_eq!(to.offer(two.0).expect("offered"), Taken::Next(0));
    give(&mut to, &two, 0);
    assert_eq!(give(&mut to, &one, 4), None, "a late chunk of the first");
    let back = to.offer(one.0).expect("offered");
    assert_eq!(back, Taken::Next(4 * CHUNK as u64));
    // Once there is more of the second, the first goes.
    to.offer(two.0).expect("offered");
    give_all(&mut to, &two, 1..5);
    assert_eq!(to.offer(one.0).expect("offered"), Taken::Next(0));
}

#[test]
fn d3_a_snapshot_with_another_hash_is_thrown_away_and_begun_anew() {
    let from = sent(1);
    let disk = MemoryDisk::new();
    let mut to = receiver(&disk);
    let mut offered = from.0;
    offered.sum = SnapshotSum {
        hash: {
            let mut hash = from.0.sum.hash;
            hash[31] ^= 1;
            hash
        },
        ..from.0.sum
    };
    to.offer(offered).expect("offered");
    give_all(&mut to, &from, 0..6);
    assert!(to.check().expect("the disk works").is_none());
    assert_eq!(to.offer(offered).expect("offered"), Taken::Next(0));
    assert!(
        disk.list().expect("names").is_empty(),
        "nothing is left of it"
    );
}

#[test]
fn d3_what_a_power_cut_tore_is_noticed_and_begun_anew() {
    let from = sent(1);
    let disk = MemoryDisk::new();
    let mut to = receiver(&disk);
    to.offer(from.0).expect("offered");
    give_all(&mut to, &from, 0..6);
    let name = disk.list().expect("names").remove(0);
    // Its name and length got to the disk, a page of it did not.
    let mut image = disk.image();
    image.get_mut(&name).expect("there")[700] ^= 0xff;
    let disk = MemoryDisk::from_image(&image);
    let mut to = receiver(&disk);
    assert_eq!(to.offer(from.0).expect("offered"), Taken::Whole);
    assert!(to.check().expect("the disk works").is_none());
    assert_eq!(to.offer(from.0).expect("offered"), Taken::Next(0));
    give_all(&mut to, &from, 0..6);
    take_whole(&mut to, &from, &disk);
    assert_eq!(disk.list().expect("names"), [name_of(from.0.last)]);
}
