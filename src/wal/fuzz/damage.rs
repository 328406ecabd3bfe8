//! Arbitrary bytes: to the parsers, and as a damaged directory.

use std::collections::BTreeMap;

use bytes::Bytes;
use zerocopy::IntoBytes;

use super::draw::Draw;
use super::model::open;
use crate::entry::{self, EntryBatch};
use crate::types::{EntryKind, HardState, LogId};
use crate::wal::layout::{
    BatchFacts, BatchHeader, BatchKind, HintRecord, Lsn, MetaSlot, Record, SegmentHeader,
    SegmentStart,
};
use crate::wal::scan::{self, Cursor, Live, Reader, Replay};
use crate::wal::{
    Append, Crash, LogOptions, LogStorage, Memory, MemoryDisk, NewEntry, OpenError, Write,
};

const SECRET: [u8; 16] = [5; 16];
const UNIT: u32 = 4096;

/// Bytes to every parser. What one accepts, it must give back as it was.
pub(super) fn parse(bytes: &[u8], limit: usize) -> Result<(), String> {
    if let Record::Valid(slot) = MetaSlot::parse(bytes) {
        let again = slot.to_bytes();
        if bytes.get(..256) != again.get(..256) {
            return Err("META is not what was parsed".to_owned());
        }
    }
    HintRecord::parse(bytes, &[1; 16]);
    if let Record::Valid(header) = SegmentHeader::parse(bytes)
        && bytes.get(..128) != Some(header.as_bytes())
    {
        return Err("a segment header is not what was parsed".to_owned());
    }
    BatchHeader::parse(bytes, Lsn::new(1, 2 * UNIT), &SECRET);
    if let Ok(header) = entry::verify_frame(bytes, limit) {
        let (len, whole) = (header.payload_len(), header.frame_len());
        let payload = bytes
            .get(32..32 + len)
            .ok_or("a frame ends beyond its bytes")?;
        let kind = header.kind().map_err(|error| error.to_string())?;
        let again = entry::frame(header.id(), kind, header.time_us(), payload);
        if len > limit || bytes.get(..whole) != Some(&again[..]) {
            return Err("a frame is not what was verified".to_owned());
        }
    }
    let run = Bytes::copy_from_slice(bytes);
    let count = entry::entries(run.clone())
        .take_while(Result::is_ok)
        .count();
    let chunks = vec![run.slice(..run.len() / 3), run.slice(run.len() / 3..)];
    let _ = EntryBatch::verify(chunks, LogId::default(), count as u32, limit);
    batch(bytes)
}

/// Bytes as the body of a batch with a header that is valid all the same, as only a bug of the log
/// itself could write it: scanned, and replayed if they are taken.
fn batch(bytes: &[u8]) -> Result<(), String> {
    let mut draw = Draw::new(bytes);
    let facts = BatchFacts {
        batch_seq: 1,
        synced_upto: Lsn::default(),
        first_index: draw.below(4),
        commit_hint: draw.word(),
        body_len: 0,
        entry_count: draw.below(8) as u32,
        body_crc: 0,
        kind: BatchKind::from_u8(draw.below(3) as u8).unwrap_or(BatchKind::Mark),
        truncates: draw.one_in(2),
    };
    let wrong = if draw.one_in(4) {
        u64::from(u32::MAX)
    } else {
        draw.below(20)
    };
    let body = draw.rest();
    let mut crcs = Vec::new();
    let mut rest = body;
    while let Ok(header) = entry::verify_frame(rest, rest.len()) {
        crcs.extend_from_slice(&header.crc().to_le_bytes());
        rest = rest.get(header.frame_len()..).unwrap_or_default();
    }
    let facts = BatchFacts {
        body_len: (body.len() as u32).saturating_add((wrong / 8) as u32),
        body_crc: crc32fast::hash(&crcs),
        ..facts
    };
    let at = 2 * UNIT;
    let header = BatchHeader::seal(&facts, Lsn::new(1, at), &SECRET);
    let mut file = vec![0; at as usize];
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(body);
    file.resize(file.len().next_multiple_of(UNIT as usize), 0);
    scan_file(file, at).map_err(|error| error.to_string())
}

fn scan_file(file: Vec<u8>, at: u32) -> Result<(), OpenError> {
    let size = file.len() as u32;
    let name = "seg-0000000000000001.wal".to_owned();
    let start = SegmentStart {
        reset: false,
        unit: UNIT,
        log_id: [1; 16],
        seq: 1,
        size: u64::from(size),
        first_batch_seq: 1,
        prev_segment: 0,
        prev_end: Lsn::default(),
        prev_last: LogId::new(1, 2),
        prev_batch_crc: 0,
        synced_upto: Lsn::default(),
    };
    let header = SegmentHeader::new(&start);
    let disk = MemoryDisk::from_image(&BTreeMap::from([(name.clone(), file)]));
    let live = Live {
        seq: 1,
        name,
        size,
        header,
    };
    let mut reader = Reader::new(&disk, &live.name, size);
    let mut cursor = Cursor::at_start_of(&header);
    let mut replay = Replay::begin(start.prev_last);
    replay.next_segment();
    if let Ok(batch) = scan::read_batch(&mut reader, &live, at, &SECRET, &mut cursor)?
        && let Some(body) = reader.bytes(batch.body())?
    {
        replay.add(&batch, body);
    }
    scan::look_ahead(&disk, &live.name, (1, size, UNIT), 0, &SECRET)?;
    Ok(())
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        max_entry_bytes: 2 << 10,
        early_close_bytes: 32 << 10,
        ready_window_bytes: 64 << 10,
        pool_segments: 1,
        ..LogOptions::default()
    }
}

/// A directory with two segments, a vote, a truncation and a hint.
fn directory() -> Result<BTreeMap<String, Vec<u8>>, String> {
    let disk = MemoryDisk::seeded(7);
    let mut next = 1;
    for life in 1..=4_u64 {
        let mut rig = open(&disk, &options()).map_err(|error| error.to_string())?;
        for size in [0, 40, 1900, 700] {
            rig.settle()?;
            let last = rig.log.last().index;
            let cut = (size == 40).then_some(last);
            let first = cut.unwrap_or(last + 1);
            let entry = NewEntry {
                kind: EntryKind::Command,
                time_us: next,
                payload: vec![life as u8; size].into(),
            };
            let write = Write {
                id: next,
                now: next,
                hard_state: Some(HardState {
                    term: life,
                    ..HardState::default()
                }),
                genesis: None,
                truncate_from: cut,
                append: Append::Entries {
                    first,
                    term: life,
                    entries: &[entry.clone(), entry],
                },
            };
            rig.log.write(write).map_err(|error| error.to_string())?;
            next += 1;
        }
        let commit = rig.log.last().index - 2;
        rig.log.note_commit(commit);
        rig.settle()?;
        rig.log.close().map_err(|error| error.to_string())?;
        if life == 2 {
            disk.crash(Crash::PowerCut);
        }
    }
    Ok(disk.image())
}

/// A directory damaged as `bytes` say, checksums made right again where they say so.
pub(super) fn recover(bytes: &[u8]) -> Result<(), String> {
    let mut image = directory()?;
    let names: Vec<String> = image.keys().cloned().collect();
    let mut draw = Draw::new(bytes);
    while !draw.is_done() {
        let name = names[draw.below(names.len() as u64) as usize].clone();
        let Some(file) = image.get_mut(&name) else {
            continue;
        };
        let at = match draw.below(4) {
            0 => draw.below(300),
            1 => (64 << 10) + draw.below(300),
            2 => 4096 * draw.below(16) + draw.below(200),
            _ => draw.word(),
        };
        match draw.below(8) {
            0..=4 => {
                let len = draw.below(12) + 1;
                for place in file.iter_mut().skip(at as usize).take(len as usize) {
                    *place = draw.byte();
                }
            }
            5 => file.truncate(at as usize),
            6 => seal_again(&name, file),
            _ => {
                image.remove(&name);
            }
        }
    }
    let disk = MemoryDisk::from_image(&image);
    for _ in 0..2 {
        let Ok(rig) = open(&disk, &options()) else {
            return Ok(());
        };
        read_all(&rig.log)?;
        drop(rig);
        disk.crash(Crash::PowerCut);
    }
    open(&disk, &options()).map_err(|error| format!("opened, and then not: {error}"))?;
    Ok(())
}

/// Makes the checksums of META's and HINT's records and a segment's header match what stands there.
fn seal_again(name: &str, file: &mut [u8]) {
    let (places, len) = match name {
        "META" => (vec![0, 64 << 10], 256),
        "HINT" => (vec![0], 64),
        _ => (vec![0, UNIT as usize], 128),
    };
    for at in places {
        if let Some(record) = file.get_mut(at..at + len) {
            let crc = crc32fast::hash(&record[12..]).to_le_bytes();
            record[8..12].copy_from_slice(&crc);
        }
    }
}

fn read_all(log: &LogStorage<Memory>) -> Result<(), String> {
    let mut next = log.first_index();
    while next <= log.last().index {
        let read = log.read(next, log.last().index, 4096);
        let read = read.map_err(|error| format!("an opened log cannot be read: {error}"))?;
        next = read.last + 1;
    }
    Ok(())
}
