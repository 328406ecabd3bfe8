//! The segment that an opened log goes on in.
//!
//! After an unclean end the last segment is never appended to again. What no header proves to have
//! been durable is written anew, to a segment under a new number, and synced there: the cache may
//! show what the disk does not hold. The header of that segment is the commit point and is written
//! last.

use zerocopy::IntoBytes;

use super::OpenError;
use super::judge::Recovered;
use super::layout::{
    BATCH_HEADER, BatchFacts, BatchHeader, BatchKind, Lsn, SegmentHeader, SegmentStart, pool_name,
    segment_name,
};
use super::medium::Files;
use super::prepare::{Free, Order, Prepared, prepare};
use super::recovery::Ground;
use super::scan::{Batch, Cursor, Live, Reader, Replay};
use super::tail::Tail;
use crate::types::LogId;

/// A tail and what is durable.
pub(super) struct NewTail {
    pub(super) tail: Tail,
    pub(super) durable: Lsn,
}

fn io_error<F: Files>(files: &F, what: &str) -> impl FnOnce(std::io::Error) -> OpenError + use<F> {
    OpenError::io(format!("{what} in {}", files.place()))
}

fn tail_over<F: Files>(
    ground: &Ground<'_, F>,
    header: &SegmentHeader,
    name: String,
    end: u32,
    last: LogId,
) -> Result<Tail, OpenError> {
    let files = ground.files;
    let map = files
        .map(&name)
        .map_err(io_error(files, "mapping a segment"))?;
    let data = header.data_start();
    let Some(mut writer) = map.writer(data as usize, end as usize) else {
        let error = std::io::Error::other("the mapping is in use");
        return Err(io_error(files, &name)(error));
    };
    writer.set_head_final();
    let size = map.len() as u32;
    let warm = end
        .saturating_add(ground.options.ready_window_bytes as u32)
        .min(size);
    let _ = files.warm(&map, end as usize..warm as usize);
    Ok(Tail {
        seq: header.segment_seq.get(),
        name,
        writer,
        unit: header.unit.get(),
        size,
        at: end,
        closed: end,
        synced: end,
        warm,
        warming: false,
        head: None,
        open: None,
        sealed: false,
        id: 0,
        last: last.index,
    })
}

/// Goes on where the log was closed cleanly.
pub(super) fn resume<F: Files>(
    ground: &Ground<'_, F>,
    live: &Live,
    end: u32,
    last: LogId,
) -> Result<NewTail, OpenError> {
    let tail = tail_over(ground, &live.header, live.name.clone(), end, last)?;
    Ok(NewTail {
        durable: Lsn::new(live.seq, end),
        tail,
    })
}

/// The first segment of a log that has none. It gets its header with its first batch.
pub(super) fn first_segment<F: Files>(ground: &mut Ground<'_, F>) -> Result<NewTail, OpenError> {
    let prepared = make(ground, ground.options.segment_bytes)?;
    let start = SegmentStart {
        reset: false,
        unit: ground.files.unit(),
        log_id: ground.meta.log_id,
        seq: prepared.seq,
        size: prepared.map.len() as u64,
        first_batch_seq: 1,
        prev_segment: 0,
        prev_end: Lsn::default(),
        prev_last: LogId::default(),
        prev_batch_crc: 0,
        synced_upto: Lsn::default(),
    };
    let header = SegmentHeader::new(&start);
    let data = header.data_start();
    let mut tail = headless(ground, prepared, data)?;
    tail.head = Some(header);
    Ok(NewTail {
        durable: Lsn::default(),
        tail,
    })
}

fn headless<F: Files>(
    ground: &Ground<'_, F>,
    prepared: Prepared,
    data: u32,
) -> Result<Tail, OpenError> {
    let Some(writer) = prepared.map.writer(data as usize, data as usize) else {
        let error = std::io::Error::other("the mapping is in use");
        return Err(io_error(ground.files, &prepared.name)(error));
    };
    Ok(Tail {
        seq: prepared.seq,
        name: prepared.name,
        unit: ground.files.unit(),
        size: prepared.map.len() as u32,
        at: data,
        closed: data,
        synced: data,
        warm: prepared.warm,
        warming: false,
        head: None,
        open: None,
        sealed: false,
        id: 0,
        last: 0,
        writer,
    })
}

fn make<F: Files>(ground: &mut Ground<'_, F>, size: u64) -> Result<Prepared, OpenError> {
    let order = next_order(ground, size);
    prepare(ground.files, &order).map_err(io_error(ground.files, "making a segment"))
}

fn next_order<F: Files>(ground: &mut Ground<'_, F>, size: u64) -> Order {
    let seq = ground.next_seq;
    ground.next_seq += 1;
    let fits = size == ground.options.segment_bytes;
    let reuse = if fits { ground.pool.pop() } else { None };
    let reuse = reuse.map(Free::unmapped);
    Order {
        seq,
        size,
        reuse,
        window: ground.options.ready_window_bytes,
    }
}

/// Writes everything of the last segment that no header proves durable to a new segment, and goes
/// on there.
///
/// After a failure nothing in it counts as proven: the kernel may have reported an error late, after
/// the sync that lost the pages had succeeded (hazard C2). The cache still holds them.
pub(super) fn copy_unproven<F: Files>(
    ground: &mut Ground<'_, F>,
    recovered: &mut Recovered,
    batches: &[Batch],
) -> Result<NewTail, OpenError> {
    let Some(old) = recovered.chain.last().cloned() else {
        return first_segment(ground);
    };
    let (header, end) = move_unproven(ground, &old, recovered, batches)?;
    let name = segment_name(header.segment_seq.get());
    let tail = tail_over(ground, &header, name, end, recovered.replay.last)?;
    Ok(NewTail {
        durable: Lsn::new(tail.seq, end),
        tail,
    })
}

/// Writes everything of the last segment that no header proves durable to a new segment, in order
/// and with its flags. An empty or wholly copied segment leaves the chain. Returns the new header
/// and where the copies end.
pub(super) fn move_unproven<F: Files>(
    ground: &mut Ground<'_, F>,
    old: &Live,
    recovered: &mut Recovered,
    batches: &[Batch],
) -> Result<(SegmentHeader, u32), OpenError> {
    let proven = match recovered.poisoned {
        true => Lsn::default(),
        false => recovered.cursor.synced_upto,
    };
    let is_proven = |batch: &&Batch| {
        let end = batch.body().end as u32;
        proven.segment() == old.seq && end <= proven.offset()
    };
    let kept = batches.iter().take_while(is_proven).count();
    let (kept, moved) = batches.split_at(kept);
    ground.replay_last(old, kept, &mut recovered.replay)?;
    let start = follow(ground, old, (kept, moved), recovered);
    let copied = copy(ground, old, moved, &start, &mut recovered.cursor)?;
    if kept.is_empty() {
        recovered.chain.pop();
        recovered.replay.indexes.pop();
    }
    let header = copied.header;
    let new = Live {
        seq: header.segment_seq.get(),
        name: copied.name,
        size: header.segment_size.get() as u32,
        header,
    };
    recovered.replay.next_segment();
    ground.replay_last(&new, &copied.batches, &mut recovered.replay)?;
    recovered.chain.push(new);
    Ok((header, copied.end))
}

/// What the new segment says of what it follows: the place where the copied range begins, so that
/// the suspect copy is never needed again.
fn follow<F: Files>(
    ground: &mut Ground<'_, F>,
    old: &Live,
    (kept, moved): (&[Batch], &[Batch]),
    recovered: &Recovered,
) -> SegmentStart {
    let (replay, cursor) = (&recovered.replay, &recovered.cursor);
    let seq = ground.next_seq;
    let unit = ground.files.unit();
    // The copies, and behind them room for a batch and the seal, whatever the sizes were before.
    let copies = moved.iter().map(|batch| {
        let bytes = BATCH_HEADER + batch.body().len();
        bytes.next_multiple_of(unit as usize) as u64
    });
    let needed = copies.sum::<u64>() + 6 * u64::from(unit);
    let size = ground.options.segment_bytes.max(needed);
    let begin = SegmentStart {
        reset: old.header.reset(),
        unit,
        log_id: ground.meta.log_id,
        seq,
        size,
        first_batch_seq: old.header.first_batch_seq.get(),
        prev_segment: old.header.prev_segment_seq.get(),
        prev_end: Lsn(old.header.prev_end_lsn.get()),
        prev_last: old.header.prev_last(),
        prev_batch_crc: old.header.prev_batch_crc.get(),
        synced_upto: cursor.synced_upto,
    };
    let Some(last) = kept.last() else {
        if !recovered.skipped {
            return begin;
        }
        // What came before was damaged and is covered by the snapshot: nothing to link to.
        let next = moved
            .first()
            .map_or(cursor.next_seq, |first| first.header.batch_seq.get());
        return SegmentStart {
            reset: false,
            first_batch_seq: next,
            prev_segment: 0,
            prev_end: Lsn::default(),
            prev_last: replay.base,
            prev_batch_crc: 0,
            ..begin
        };
    };
    SegmentStart {
        reset: false,
        first_batch_seq: last.header.batch_seq.get() + 1,
        prev_segment: old.seq,
        prev_end: Lsn::new(old.seq, super::scan::next_at(old, last)),
        prev_last: replay.last,
        prev_batch_crc: last.header.crc(),
        ..begin
    }
}

struct Copied {
    name: String,
    header: SegmentHeader,
    batches: Vec<Batch>,
    end: u32,
}

/// Number burned, name durable, batches written and synced, then the header, synced.
fn copy<F: Files>(
    ground: &mut Ground<'_, F>,
    old: &Live,
    moved: &[Batch],
    start: &SegmentStart,
    cursor: &mut Cursor,
) -> Result<Copied, OpenError> {
    let files = ground.files;
    let order = next_order(ground, start.size);
    let name = make_file(files, &order).map_err(io_error(files, "making a segment"))?;
    let writing = || io_error(files, "writing a segment");
    let mut reader = Reader::new(files, &old.name, old.size);
    let mut at = 2 * start.unit;
    let mut batches = Vec::with_capacity(moved.len());
    for batch in moved {
        let Some(body) = reader.bytes(batch.body())? else {
            continue;
        };
        let facts = facts_of(&batch.header);
        let header = BatchHeader::seal(&facts, Lsn::new(start.seq, at), &ground.meta.secret);
        let mut bytes = Vec::with_capacity(BATCH_HEADER + body.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(body);
        files
            .write(&name, u64::from(at), &bytes)
            .map_err(writing())?;
        batches.push(Batch { at, header });
        cursor.crc = header.crc();
        at = (at + bytes.len() as u32).next_multiple_of(start.unit);
    }
    files.sync(&name).map_err(writing())?;
    let synced_upto = Lsn::new(start.seq, at);
    let header = SegmentHeader::new(&SegmentStart {
        synced_upto,
        ..*start
    });
    for offset in [0, u64::from(start.unit)] {
        files
            .write(&name, offset, header.as_bytes())
            .map_err(writing())?;
    }
    files.sync(&name).map_err(writing())?;
    if moved.is_empty() {
        cursor.crc = start.prev_batch_crc;
        cursor.next_seq = start.first_batch_seq;
    }
    cursor.synced_upto = synced_upto;
    Ok(Copied {
        name,
        header,
        batches,
        end: at,
    })
}

fn make_file<F: Files>(files: &F, order: &Order) -> std::io::Result<String> {
    let name = segment_name(order.seq);
    let free = match &order.reuse {
        Some(free) => free.name.clone(),
        None => {
            let fresh = pool_name(order.seq);
            files.allocate(&fresh, order.size)?;
            fresh
        }
    };
    files.rename(&free, &name)?;
    files.sync_dir()?;
    Ok(name)
}

fn facts_of(header: &BatchHeader) -> BatchFacts {
    BatchFacts {
        batch_seq: header.batch_seq.get(),
        synced_upto: header.synced_upto(),
        first_index: header.first_index.get(),
        commit_hint: header.commit_hint.get(),
        body_len: header.body_len.get(),
        entry_count: header.entry_count.get(),
        body_crc: header.body_crc.get(),
        kind: header.kind().unwrap_or(BatchKind::Mark),
        truncates: header.truncates(),
    }
}

/// The snapshot at the log start does not fit the log, or there is none: everything before is
/// void, and the log begins anew behind the snapshot.
pub(super) fn reset<F: Files>(
    ground: &mut Ground<'_, F>,
    recovered: &mut Recovered,
) -> Result<NewTail, OpenError> {
    let (header, end) = write_reset(ground, recovered)?;
    let name = segment_name(header.segment_seq.get());
    let tail = tail_over(ground, &header, name, end, ground.meta.start())?;
    Ok(NewTail {
        durable: Lsn::new(tail.seq, end),
        tail,
    })
}

/// The segment with RESET, durable: its header, and where its batches begin.
pub(super) fn write_reset<F: Files>(
    ground: &mut Ground<'_, F>,
    recovered: &mut Recovered,
) -> Result<(SegmentHeader, u32), OpenError> {
    let files = ground.files;
    let start = ground.meta.start();
    let order = next_order(ground, ground.options.segment_bytes);
    let name = make_file(files, &order).map_err(io_error(files, "making a segment"))?;
    let unit = files.unit();
    let end = 2 * unit;
    let header = SegmentHeader::new(&SegmentStart {
        reset: true,
        unit,
        log_id: ground.meta.log_id,
        seq: order.seq,
        size: order.size,
        first_batch_seq: recovered.cursor.next_seq,
        prev_segment: 0,
        prev_end: Lsn::default(),
        prev_last: start,
        prev_batch_crc: 0,
        synced_upto: Lsn::new(order.seq, end),
    });
    let writing = || io_error(files, "writing a segment");
    for offset in [0, u64::from(unit)] {
        files
            .write(&name, offset, header.as_bytes())
            .map_err(writing())?;
    }
    files.sync(&name).map_err(writing())?;
    recovered.cursor.crc = 0;
    recovered.chain = vec![Live {
        seq: order.seq,
        name,
        size: order.size as u32,
        header,
    }];
    recovered.replay = Replay::begin(start);
    recovered.replay.next_segment();
    Ok((header, end))
}
