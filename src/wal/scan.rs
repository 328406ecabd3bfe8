//! Reading what a log's files hold, without changing anything.

use std::ops::Range;

use zerocopy::FromBytes;

use super::index::{LOOSE, SegmentIndex};
use super::layout::{
    BATCH_HEADER, BatchHeader, BatchKind, Lsn, MAX_UNIT, MIN_UNIT, Record, SegmentHeader, VERSION,
    looks_closed, parse_name,
};
use super::medium::Files;
use super::{Damage, OpenError};
use crate::entry::{EntryHeader, FRAME_HEADER, verify_frame};
use crate::types::{Entry, EntryKind, LogId, LogIndex};

/// How much is read at once.
const WINDOW: usize = 1 << 20;

/// A segment with a valid header.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) size: u32,
    pub(crate) header: SegmentHeader,
}

impl Live {
    pub(crate) fn data(&self) -> u32 {
        self.header.data_start()
    }
}

/// A segment file with a valid header that cannot be one of this log.
#[derive(Clone, Debug)]
pub(crate) struct Misfit {
    pub(crate) name: String,
    pub(crate) damage: Damage,
}

/// What the header of a segment file says.
enum Headed {
    Live(Live),
    /// It never had one under this number.
    Dead,
    Misfit(Misfit),
}

/// The segment files of a directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// By number, rising.
    pub(crate) live: Vec<Live>,
    /// Copied in from elsewhere, or cut.
    pub(crate) misfits: Vec<Misfit>,
    /// Prepared, half made or used up: no valid header of their own.
    pub(crate) dead: Vec<(u64, String)>,
    /// Free files and their sizes.
    pub(crate) pool: Vec<(String, u64)>,
    /// The highest number in any name.
    pub(crate) highest: u64,
}

/// Whether a file of this name holds, or held, entries.
pub(crate) fn is_segment(name: &str) -> bool {
    parse_name(name, "seg-").is_some()
}

/// The number in a segment's or free file's name.
pub(crate) fn number(name: &str) -> Option<u64> {
    parse_name(name, "seg-").or_else(|| parse_name(name, "pool-"))
}

fn io_error<F: Files>(files: &F, name: &str) -> impl FnOnce(std::io::Error) -> OpenError + use<F> {
    OpenError::io(format!("reading {name} in {}", files.place()))
}

/// Finds all segment files and reads their headers.
pub(crate) fn list<F: Files>(files: &F, log_id: &[u8; 16]) -> Result<Listing, OpenError> {
    let mut listing = Listing::default();
    for name in files.list().map_err(io_error(files, "the directory"))? {
        if let Some(seq) = parse_name(&name, "pool-") {
            let size = files.size(&name).map_err(io_error(files, &name))?;
            listing.highest = listing.highest.max(seq);
            listing.pool.push((name, size));
        } else if let Some(seq) = parse_name(&name, "seg-") {
            listing.highest = listing.highest.max(seq);
            match read_header(files, &name, seq, log_id)? {
                Headed::Live(live) => listing.live.push(live),
                Headed::Dead => listing.dead.push((seq, name)),
                Headed::Misfit(misfit) => listing.misfits.push(misfit),
            }
        }
    }
    listing.live.sort_by_key(|live| live.seq);
    Ok(listing)
}

fn read_header<F: Files>(
    files: &F,
    name: &str,
    seq: u64,
    log_id: &[u8; 16],
) -> Result<Headed, OpenError> {
    let size = files.size(name).map_err(io_error(files, name))?;
    let header = any_header(files, name)?;
    Ok(header.map_or(Headed::Dead, |header| {
        own(files, name, seq, size, header, log_id)
    }))
}

/// The header of a segment file, from either copy, whosever it is.
pub(crate) fn any_header<F: Files>(
    files: &F,
    name: &str,
) -> Result<Option<SegmentHeader>, OpenError> {
    let size = files.size(name).map_err(io_error(files, name))?;
    let mut copy = 0;
    while copy <= MAX_UNIT && u64::from(copy) + 128 <= size {
        let mut bytes = [0; 128];
        files
            .read(name, u64::from(copy), &mut bytes)
            .map_err(io_error(files, name))?;
        match SegmentHeader::parse(&bytes) {
            Record::Valid(header) if copy == 0 || header.unit.get() == copy => {
                return Ok(Some(header));
            }
            Record::Newer(found) => {
                return Err(OpenError::Version {
                    file: format!("{name} in {}", files.place()),
                    found,
                    known: VERSION,
                });
            }
            _ => copy = (copy * 2).max(MIN_UNIT),
        }
    }
    Ok(None)
}

fn own<F: Files>(
    files: &F,
    name: &str,
    seq: u64,
    size: u64,
    header: SegmentHeader,
    log_id: &[u8; 16],
) -> Headed {
    let misfit = |what: &str| {
        Headed::Misfit(Misfit {
            name: name.to_owned(),
            damage: Damage {
                file: format!("{name} in {}", files.place()),
                offset: 0,
                first: header.base_index.get(),
                last: None,
                what: what.to_owned(),
                evidence: "its header is whole".to_owned(),
            },
        })
    };
    if header.log_id != *log_id {
        return misfit("it belongs to another log; a file was copied in");
    }
    if header.segment_seq.get() != seq {
        // A free file's header of an earlier life.
        return Headed::Dead;
    }
    if header.segment_size.get() != size || size > 1 << 31 {
        return misfit("its size is not what its header says");
    }
    Headed::Live(Live {
        seq,
        name: name.to_owned(),
        size: size as u32,
        header,
    })
}

/// Reads a segment front to back through a window.
pub(crate) struct Reader<'a, F> {
    files: &'a F,
    name: &'a str,
    size: usize,
    window: Vec<u8>,
    at: usize,
}

impl<'a, F: Files> Reader<'a, F> {
    pub(crate) fn new(files: &'a F, name: &'a str, size: u32) -> Self {
        Self {
            files,
            name,
            size: size as usize,
            window: Vec::new(),
            at: 0,
        }
    }

    /// Bytes of the file; `None` where it ends before. An error of reading is never "torn".
    pub(crate) fn bytes(&mut self, range: Range<usize>) -> Result<Option<&[u8]>, OpenError> {
        if range.end > self.size || range.start > range.end {
            return Ok(None);
        }
        let held = self.at..self.at + self.window.len();
        if range.start < held.start || range.end > held.end {
            let len = range.len().max(WINDOW).min(self.size - range.start);
            self.window.resize(len, 0);
            self.at = range.start;
            let read = self
                .files
                .read(self.name, range.start as u64, &mut self.window);
            read.map_err(io_error(self.files, self.name))?;
        }
        Ok(self.window.get(range.start - self.at..range.end - self.at))
    }
}

/// Where a scan is in the sequence of batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// Number of the next batch.
    pub(crate) next_seq: u64,
    /// The last entry; its term is 0 after a truncation, where only the replay knows it.
    pub(crate) last: LogId,
    /// Checksum of the last batch's header.
    pub(crate) crc: u32,
    /// What the last header said was durable.
    pub(crate) synced_upto: Lsn,
}

impl Cursor {
    pub(crate) fn at_start_of(header: &SegmentHeader) -> Self {
        Self {
            next_seq: header.first_batch_seq.get(),
            last: header.prev_last(),
            crc: header.prev_batch_crc.get(),
            synced_upto: Lsn(header.synced_upto.get()),
        }
    }
}

/// A batch that was found whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) at: u32,
    pub(crate) header: BatchHeader,
}

impl Batch {
    pub(crate) fn body(&self) -> Range<usize> {
        let start = self.at as usize + BATCH_HEADER;
        start..start + self.header.body_len.get() as usize
    }
}

/// Reads the batch at `at` and checks it in full, and that it continues `cursor`. The outer result
/// is of reading; the inner one says what is wrong with the bytes.
pub(crate) fn read_batch<F: Files>(
    reader: &mut Reader<'_, F>,
    live: &Live,
    at: u32,
    secret: &[u8; 16],
    cursor: &mut Cursor,
) -> Result<Result<Batch, String>, OpenError> {
    let start = at as usize;
    let Some(bytes) = reader.bytes(start..start + BATCH_HEADER)? else {
        return Ok(Err("the segment ends".to_owned()));
    };
    let Some(header) = BatchHeader::parse(bytes, Lsn::new(live.seq, at), secret) else {
        return Ok(Err("no valid batch header".to_owned()));
    };
    let batch = Batch { at, header };
    let Some(body) = reader.bytes(batch.body())? else {
        return Ok(Err("the batch reaches beyond the segment".to_owned()));
    };
    Ok(check_batch(&header, body, cursor).map(|()| batch))
}

/// Checks a body against its header, and both against what came before.
fn check_batch(header: &BatchHeader, body: &[u8], cursor: &mut Cursor) -> Result<(), String> {
    if header.batch_seq.get() != cursor.next_seq {
        let found = header.batch_seq.get();
        return Err(format!(
            "batch number {found}, expected {}",
            cursor.next_seq
        ));
    }
    let Some(kind) = header.kind() else {
        return Err(format!("batch kind {} is unknown", header.kind));
    };
    let first = header.first_index.get();
    let mut last = cursor.last;
    if header.truncates() && kind == BatchKind::Entries && first <= last.index && first > 0 {
        last = LogId::new(0, first - 1);
    }
    if first != last.index + 1 {
        return Err(format!(
            "batch begins at index {first}, expected {}",
            last.index + 1
        ));
    }
    let mut crcs = crc32fast::Hasher::new();
    let mut rest = body;
    for _ in 0..header.entry_count.get() {
        let entry = verify_frame(rest, rest.len()).map_err(|error| error.to_string())?;
        let id = entry.id();
        if id.index != last.index + 1 || id.term < last.term {
            return Err(format!("entry {id} does not follow {last}"));
        }
        crcs.update(&entry.crc().to_le_bytes());
        last = id;
        rest = rest.get(entry.frame_len()..).unwrap_or_default();
    }
    if !rest.is_empty() {
        return Err("bytes are left after the last entry".to_owned());
    }
    // An empty body has no checksum to speak of: 0 is that of no bytes.
    if crcs.finalize() != header.body_crc.get() {
        return Err("the checksum over the entries does not match".to_owned());
    }
    *cursor = Cursor {
        next_seq: cursor.next_seq + 1,
        last,
        crc: header.crc(),
        synced_upto: header.synced_upto(),
    };
    Ok(())
}

/// Where the next batch begins.
pub(crate) fn next_at(live: &Live, batch: &Batch) -> u32 {
    let end = batch.body().end as u32;
    end.next_multiple_of(live.header.unit.get())
}

/// What stands after a bad place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beyond {
    /// The first whole header after it, and its place.
    pub(crate) valid: Option<Batch>,
    /// The highest `synced_upto` among those headers.
    pub(crate) synced_upto: Lsn,
    /// The last index that those headers name.
    pub(crate) last: Option<LogIndex>,
    /// At the bad place itself stands our magic with this segment's number.
    pub(crate) closed_here: bool,
    /// Where the last of what was found here ends, in whole units.
    pub(crate) until: u32,
}

/// Looks at every unit from `at` on for whole batch headers.
pub(crate) fn look_ahead<F: Files>(
    files: &F,
    name: &str,
    (seq, size, unit): (u64, u32, u32),
    at: u32,
    secret: &[u8; 16],
) -> Result<Beyond, OpenError> {
    let mut reader = Reader::new(files, name, size);
    let mut beyond = Beyond::default();
    let mut place = at;
    while place < size {
        let start = place as usize;
        let Some(bytes) = reader.bytes(start..start + BATCH_HEADER)? else {
            break;
        };
        if place == at {
            beyond.closed_here = looks_closed(bytes, seq);
            beyond.until = place + unit;
        }
        if let Some(header) = BatchHeader::parse(bytes, Lsn::new(seq, place), secret)
            && place > at
        {
            let first = header.first_index.get();
            beyond.valid.get_or_insert(Batch { at: place, header });
            beyond.synced_upto = beyond.synced_upto.max(header.synced_upto());
            let last = first + u64::from(header.entry_count.get());
            beyond.last = beyond.last.max(last.checked_sub(1));
            let body = header.body_len.get().saturating_add(BATCH_HEADER as u32);
            let end = place.saturating_add(body).min(size);
            beyond.until = beyond.until.max(end.next_multiple_of(unit));
        }
        place += unit;
    }
    Ok(beyond)
}

/// The first whole batch header at `at` or a later unit.
pub(crate) fn next_header<F: Files>(
    files: &F,
    name: &str,
    (seq, size, unit): (u64, u32, u32),
    at: u32,
    secret: &[u8; 16],
) -> Result<Option<Batch>, OpenError> {
    let mut reader = Reader::new(files, name, size);
    let mut place = at;
    while place < size {
        let start = place as usize;
        let Some(bytes) = reader.bytes(start..start + BATCH_HEADER)? else {
            break;
        };
        if let Some(header) = BatchHeader::parse(bytes, Lsn::new(seq, place), secret) {
            return Ok(Some(Batch { at: place, header }));
        }
        place += unit;
    }
    Ok(None)
}

/// What the batches add up to.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Of each segment of the chain.
    pub(crate) indexes: Vec<SegmentIndex>,
    pub(crate) runs: Vec<LogId>,
    pub(crate) last: LogId,
    pub(crate) configurations: Vec<Entry>,
    pub(crate) commit: LogIndex,
    /// What the first batch follows.
    pub(crate) base: LogId,
}

impl Replay {
    /// Begins the chain's first segment, which follows `base`.
    pub(crate) fn begin(base: LogId) -> Self {
        Self {
            last: base,
            base,
            ..Self::default()
        }
    }

    /// Forgets everything: the log goes on behind `base`, of which the term is not known.
    pub(crate) fn step_over(&mut self, base: LogId) {
        let segments = self.indexes.len();
        *self = Self::begin(base);
        self.indexes.resize_with(segments, SegmentIndex::default);
    }

    pub(crate) fn next_segment(&mut self) {
        self.indexes.push(SegmentIndex::default());
    }

    /// The term of an index within the chain, or of what it follows.
    pub(crate) fn term(&self, index: LogIndex) -> Option<u64> {
        if index > self.last.index {
            return None;
        }
        // A truncation may have replaced even what the chain follows.
        let after = self.runs.partition_point(|run| run.index <= index);
        let run = after.checked_sub(1).and_then(|nth| self.runs.get(nth));
        run.map(|run| run.term)
            .or_else(|| (index == self.base.index).then_some(self.base.term))
    }

    /// Adds a batch that was checked, with its body.
    pub(crate) fn add(&mut self, batch: &Batch, body: &[u8]) {
        let header = &batch.header;
        let first = header.first_index.get();
        self.commit = self.commit.max(header.commit_hint.get());
        if header.truncates() && first <= self.last.index {
            self.truncate(first);
        }
        if header.entry_count.get() == 0 {
            return;
        }
        let mut at = batch.body().start as u32;
        if let Some(index) = self.indexes.last_mut() {
            index.open_piece(first, at);
        }
        let mut rest = body;
        while let Ok((entry, _)) = EntryHeader::read_from_prefix(rest) {
            let len = entry.frame_len();
            self.add_entry(&entry, rest, at);
            at += len as u32;
            rest = rest.get(len..).unwrap_or_default();
        }
    }

    fn add_entry(&mut self, entry: &EntryHeader, frame: &[u8], at: u32) {
        let id = entry.id();
        if let Some(index) = self.indexes.last_mut() {
            index.push(id.index, at, entry.frame_len() as u32);
        }
        if self.runs.last().is_none_or(|run| run.term != id.term) {
            self.runs.push(id);
        }
        self.last = id;
        if let (Ok(kind @ EntryKind::Configuration), Some(payload)) = (
            entry.kind(),
            frame.get(FRAME_HEADER..FRAME_HEADER + entry.payload_len()),
        ) {
            self.configurations.push(Entry {
                id,
                kind,
                time_us: entry.time_us(),
                payload: payload.to_vec().into(),
            });
        }
    }

    fn truncate(&mut self, from: LogIndex) {
        for index in self.indexes.iter_mut().rev() {
            match index.range() {
                Some((first, _)) if first < from => {
                    index.truncate(from, LOOSE);
                    break;
                }
                Some(_) => index.truncate(from, 0),
                None => {}
            }
        }
        let keep = self.runs.partition_point(|run| run.index < from);
        self.runs.truncate(keep);
        self.configurations.retain(|entry| entry.id.index < from);
        self.last = LogId::new(self.term(from - 1).unwrap_or(0), from - 1);
    }
}

/// A segment that another one follows is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    pub(crate) wanted: u64,
    /// Its last entry.
    pub(crate) last: LogIndex,
    /// The segment that says so.
    pub(crate) by: u64,
}

/// The chain of live segments that ends in the newest, oldest first. Others are left over.
pub(crate) fn chain(listing: &Listing, start: LogId) -> Result<Vec<Live>, Missing> {
    let Some(newest) = listing.live.last() else {
        return Ok(Vec::new());
    };
    let mut chain = vec![newest.clone()];
    let mut header = newest.header;
    while !header.reset() && header.prev_segment_seq.get() != 0 {
        // Everything before is covered by the snapshot, whatever state it is in.
        if header.prev_last_index.get() <= start.index {
            break;
        }
        let wanted = header.prev_segment_seq.get();
        let older = |live: &&Live| live.seq == wanted && wanted < header.segment_seq.get();
        let Some(found) = listing.live.iter().find(older) else {
            return Err(Missing {
                wanted,
                last: header.prev_last_index.get(),
                by: header.segment_seq.get(),
            });
        };
        chain.push(found.clone());
        header = found.header;
    }
    chain.reverse();
    Ok(chain)
}
