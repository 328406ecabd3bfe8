//! Everything that the files of a log hold, one record after another, as far as it can be read.
//!
//! Nothing is judged here (that is [`verify`](super::verify)) and nothing is skipped: a segment
//! that is damaged is read on behind the damage. At most one batch is in memory at a time.

use std::io;
use std::ops::{ControlFlow, RangeInclusive};

use serde::Serialize;

use super::layout::{BatchKind, Lsn, META_FILE, MetaSlot, SegmentHeader, SegmentStart, parse_name};
use super::medium::Files;
use super::scan::{self, Batch, Cursor, Live, Reader};
use super::{OpenError, hint, meta};
use crate::entry::verify_frame;
use crate::types::{ClusterId, Incarnation, LogId, LogIndex};

/// One record of a log's files.
#[derive(Debug, Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Item<'a> {
    /// META, without its secrets.
    Meta(MetaItem),
    /// HINT.
    Hint(HintItem),
    /// A segment file; its batches follow.
    Segment(SegmentItem),
    /// A whole batch; its entries follow.
    Batch(BatchItem),
    /// An entry.
    Entry(EntryItem<'a>),
    /// Reading stopped here.
    Stop(StopItem),
}

/// The valid slot of META with the higher number.
#[derive(Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields of the format, see docs/wal-format.md"
)]
pub struct MetaItem {
    pub node: u64,
    pub cluster: String,
    pub incarnation: String,
    pub genesis: String,
    pub seq: u64,
    pub term: u64,
    pub voted_node: u64,
    pub voted_incarnation: String,
    pub start_index: LogIndex,
    pub start_term: u64,
    pub next_segment: u64,
    pub clean_end: String,
    pub boot_id: String,
    pub election_timeout_ms: u32,
    pub repairing: bool,
    pub repair_index: LogIndex,
    pub repair_term: u64,
    /// What is wrong with the other slot.
    pub trouble: Option<String>,
}

/// What HINT says was durable.
#[derive(Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields of the format, see docs/wal-format.md"
)]
pub struct HintItem {
    pub durable: String,
    pub commit: LogIndex,
    pub failed: bool,
}

/// A segment file and its header.
#[derive(Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields of the format, see docs/wal-format.md"
)]
pub struct SegmentItem {
    pub file: String,
    pub size: u64,
    /// What the file is: `live`, `spare`, `foreign` (of another log), `cut` (of another size than
    /// its header says), or `unknown` without META.
    pub state: &'static str,
    pub header: Option<HeaderItem>,
}

/// The header of a segment.
#[derive(Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields of the format, see docs/wal-format.md"
)]
pub struct HeaderItem {
    pub segment: u64,
    pub reset: bool,
    pub unit: u32,
    pub base_index: LogIndex,
    pub first_batch: u64,
    pub prev_segment: u64,
    pub prev_end: String,
    pub prev_index: LogIndex,
    pub prev_term: u64,
    pub synced_upto: String,
}

/// A whole batch.
#[derive(Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields of the format, see docs/wal-format.md"
)]
pub struct BatchItem {
    pub offset: u32,
    pub batch: u64,
    pub kind: &'static str,
    pub truncates: bool,
    pub first_index: LogIndex,
    pub entries: u32,
    pub bytes: u32,
    pub synced_upto: String,
    pub commit_hint: LogIndex,
    /// It lies behind a place that could not be read, or in a file without a header.
    pub behind_damage: bool,
}

/// An entry.
#[derive(Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields of the format, see docs/wal-format.md"
)]
pub struct EntryItem<'a> {
    pub index: LogIndex,
    pub term: u64,
    pub kind: &'static str,
    pub time_us: u64,
    pub offset: u32,
    pub bytes: usize,
    /// Not part of the JSON form: how to show it is for the caller to say.
    #[serde(skip)]
    pub payload: &'a [u8],
}

/// Where reading stopped.
#[derive(Debug, Serialize)]
pub struct StopItem {
    /// In which file.
    pub file: String,
    /// Where in it.
    pub offset: u32,
    /// Why.
    pub what: String,
    /// What a whole header there says: its first index and number of entries.
    pub claims: Option<(LogIndex, u32)>,
    /// Where whole batches go on.
    pub next: Option<u32>,
}

type Each<'e> = &'e mut dyn FnMut(Item<'_>) -> ControlFlow<()>;

/// Calls `each` for everything in the files of a log, in order, until it breaks off. Batches and
/// entries outside of `indexes` are left out. Changes nothing.
///
/// # Errors
/// If the directory cannot be read, or was written by a newer version. What is damaged is no
/// error; it comes as [`Item::Stop`]. A segment that a running node takes away meanwhile is left
/// out.
pub fn inspect<F: Files>(
    files: &F,
    indexes: RangeInclusive<LogIndex>,
    each: Each<'_>,
) -> Result<(), OpenError> {
    let names = files.list();
    let names = names.map_err(OpenError::io(format!("reading {}", files.place())))?;
    let is_log = |name: &String| name == META_FILE || scan::is_segment(name);
    if !names.iter().any(is_log) {
        return Err(OpenError::NoLog {
            directory: files.place(),
        });
    }
    let mut dump = Dump {
        files,
        indexes,
        meta: None,
        each,
    };
    if dump.heads()?.is_break() {
        return Ok(());
    }
    for name in names {
        let Some(seq) = parse_name(&name, "seg-") else {
            continue;
        };
        let gone_on = match dump.segment(&name, seq) {
            // A running node renames and removes segments meanwhile.
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            Err(OpenError::Io { what, source }) => {
                dump.stop(&name, 0, format!("{what}: {source}"), None, None)
            }
            other => other?,
        };
        if gone_on.is_break() {
            break;
        }
    }
    Ok(())
}

struct Dump<'a, 'e, F> {
    files: &'a F,
    indexes: RangeInclusive<LogIndex>,
    meta: Option<MetaSlot>,
    each: Each<'e>,
}

impl<F: Files> Dump<'_, '_, F> {
    /// META and HINT.
    fn heads(&mut self) -> Result<ControlFlow<()>, OpenError> {
        let found = match meta::read(self.files) {
            Ok(found) => found,
            Err(OpenError::Io { what, source }) => {
                let what = format!("{what}: {source}");
                return Ok(self.stop(META_FILE, 0, what, None, None));
            }
            Err(error) => return Err(error),
        };
        let Some(slot) = found.newest else {
            return Ok(self.stop(META_FILE, 0, found.trouble, None, None));
        };
        self.meta = Some(slot);
        let trouble = Some(found.trouble).filter(|trouble| !trouble.is_empty());
        if (self.each)(Item::Meta(meta_item(&slot, trouble))).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let Some(hint) = hint::read(self.files, &slot.log_id) else {
            return Ok(ControlFlow::Continue(()));
        };
        Ok((self.each)(Item::Hint(HintItem {
            durable: Lsn(hint.durable.get()).to_string(),
            commit: hint.commit.get(),
            failed: hint.poisoned.get() != 0,
        })))
    }

    fn segment(&mut self, name: &str, seq: u64) -> Result<ControlFlow<()>, OpenError> {
        let size = self.files.size(name).map_err(OpenError::io(name))?;
        let header = scan::any_header(self.files, name)?;
        let state = self.state_of(header.as_ref(), seq, size);
        let item = SegmentItem {
            file: name.to_owned(),
            size,
            state,
            header: header.as_ref().map(header_item),
        };
        if (self.each)(Item::Segment(item)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let Some(meta) = self.meta else {
            let what = "batches are sealed with META's secret, and there is no valid META";
            return Ok(self.stop(name, 0, what.to_owned(), None, None));
        };
        let whole = matches!(state, "live" | "cut");
        let header = header.filter(|_| whole);
        let live = Live {
            seq,
            name: name.to_owned(),
            size: size.min(1 << 31) as u32,
            header: header.unwrap_or_else(|| self.no_header(seq, size)),
        };
        if state == "foreign" {
            return Ok(ControlFlow::Continue(()));
        }
        self.batches(&live, &meta.secret, whole)
    }

    fn state_of(&self, header: Option<&SegmentHeader>, seq: u64, size: u64) -> &'static str {
        match (header, self.meta) {
            (_, None) => "unknown",
            (Some(header), Some(meta)) if header.log_id != meta.log_id => "foreign",
            (Some(header), _) if header.segment_seq.get() != seq => "spare",
            (Some(header), _) if header.segment_size.get() != size => "cut",
            (Some(_), _) => "live",
            (None, _) => "spare",
        }
    }

    /// Stands in where there is none: only its unit counts.
    fn no_header(&self, seq: u64, size: u64) -> SegmentHeader {
        SegmentHeader::new(&SegmentStart {
            reset: false,
            unit: self.files.unit(),
            log_id: [0; 16],
            seq,
            size,
            first_batch_seq: 0,
            prev_segment: 0,
            prev_end: Lsn::default(),
            prev_last: LogId::default(),
            prev_batch_crc: 0,
            synced_upto: Lsn::default(),
        })
    }

    fn batches(
        &mut self,
        live: &Live,
        secret: &[u8; 16],
        headed: bool,
    ) -> Result<ControlFlow<()>, OpenError> {
        let unit = live.header.unit.get();
        let shape = (live.seq, live.size, unit);
        let mut at = live.data();
        let mut cursor = Cursor::at_start_of(&live.header);
        let mut behind_damage = !headed;
        if !headed {
            // A file without a header holds nothing as a rule, and that is not worth a word.
            let Some(first) = scan::next_header(self.files, &live.name, shape, 0, secret)? else {
                return Ok(ControlFlow::Continue(()));
            };
            (at, cursor) = (first.at, before(&first));
        }
        let mut reader = Reader::new(self.files, &live.name, live.size);
        loop {
            let read = scan::read_batch(&mut reader, live, at, secret, &mut cursor)?;
            let what = match read {
                Ok(batch) => {
                    let body = reader.bytes(batch.body())?.unwrap_or_default();
                    if self.batch(&batch, body, behind_damage).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    at = scan::next_at(live, &batch);
                    continue;
                }
                Err(what) => what,
            };
            let here = scan::next_header(self.files, &live.name, shape, at, secret)?;
            let claims = here.filter(|here| here.at == at);
            let after = at.saturating_add(unit);
            let next = match claims {
                None => here,
                Some(_) => scan::next_header(self.files, &live.name, shape, after, secret)?,
            };
            let claims =
                claims.map(|it| (it.header.first_index.get(), it.header.entry_count.get()));
            let next_at = next.map(|next| next.at);
            if self.stop(&live.name, at, what, claims, next_at).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let Some(next) = next else {
                return Ok(ControlFlow::Continue(()));
            };
            behind_damage = true;
            (at, cursor) = (next.at, before(&next));
        }
    }

    fn batch(&mut self, batch: &Batch, body: &[u8], behind_damage: bool) -> ControlFlow<()> {
        let header = &batch.header;
        let (first, count) = (header.first_index.get(), header.entry_count.get());
        let last = first.saturating_add(u64::from(count)).saturating_sub(1);
        let all = self.indexes == (0..=u64::MAX);
        if !all && (last < *self.indexes.start() || first > *self.indexes.end() || count == 0) {
            return ControlFlow::Continue(());
        }
        (self.each)(Item::Batch(BatchItem {
            offset: batch.at,
            batch: header.batch_seq.get(),
            kind: match header.kind() {
                Some(BatchKind::Entries) => "entries",
                Some(BatchKind::Mark) => "mark",
                Some(BatchKind::Seal) => "seal",
                None => "unknown",
            },
            truncates: header.truncates(),
            first_index: first,
            entries: count,
            bytes: header.body_len.get(),
            synced_upto: header.synced_upto().to_string(),
            commit_hint: header.commit_hint.get(),
            behind_damage,
        }))?;
        let mut at = batch.body().start;
        let mut rest = body;
        while let Ok(entry) = verify_frame(rest, rest.len()) {
            let id = entry.id();
            if self.indexes.contains(&id.index) {
                let payload = crate::entry::FRAME_HEADER..;
                let payload = rest
                    .get(payload)
                    .and_then(|it| it.get(..entry.payload_len()));
                (self.each)(Item::Entry(EntryItem {
                    index: id.index,
                    term: id.term,
                    kind: entry.kind().map_or("unknown", kind_word),
                    time_us: entry.time_us(),
                    offset: at as u32,
                    bytes: entry.payload_len(),
                    payload: payload.unwrap_or_default(),
                }))?;
            }
            at += entry.frame_len();
            rest = rest.get(entry.frame_len()..).unwrap_or_default();
        }
        ControlFlow::Continue(())
    }

    fn stop(
        &mut self,
        file: &str,
        offset: u32,
        what: String,
        claims: Option<(LogIndex, u32)>,
        next: Option<u32>,
    ) -> ControlFlow<()> {
        (self.each)(Item::Stop(StopItem {
            file: file.to_owned(),
            offset,
            what,
            claims,
            next,
        }))
    }
}

/// Where the sequence stands before a batch that was found behind damage.
fn before(batch: &Batch) -> Cursor {
    Cursor {
        next_seq: batch.header.batch_seq.get(),
        last: LogId::new(0, batch.header.first_index.get().saturating_sub(1)),
        crc: 0,
        synced_upto: Lsn::default(),
    }
}

fn kind_word(kind: crate::types::EntryKind) -> &'static str {
    use crate::types::EntryKind;
    match kind {
        EntryKind::Noop => "no-op",
        EntryKind::Command => "command",
        EntryKind::Configuration => "configuration",
        EntryKind::System => "system",
    }
}

fn meta_item(slot: &MetaSlot, trouble: Option<String>) -> MetaItem {
    let voted = slot.hard_state().voted_for;
    MetaItem {
        node: slot.node.get(),
        cluster: ClusterId(slot.cluster).to_string(),
        incarnation: Incarnation(slot.log_id).to_string(),
        genesis: Incarnation(slot.genesis).to_string(),
        seq: slot.seq.get(),
        term: slot.term.get(),
        voted_node: voted.node,
        voted_incarnation: voted.incarnation.to_string(),
        start_index: slot.start_index.get(),
        start_term: slot.start_term.get(),
        next_segment: slot.next_segment.get(),
        clean_end: Lsn(slot.clean_end.get()).to_string(),
        boot_id: Incarnation(slot.boot_id).to_string(),
        election_timeout_ms: slot.election_timeout_ms.get(),
        repairing: slot.repairing(),
        repair_index: slot.repair_index.get(),
        repair_term: slot.repair_term.get(),
        trouble,
    }
}

fn header_item(header: &SegmentHeader) -> HeaderItem {
    HeaderItem {
        segment: header.segment_seq.get(),
        reset: header.reset(),
        unit: header.unit.get(),
        base_index: header.base_index.get(),
        first_batch: header.first_batch_seq.get(),
        prev_segment: header.prev_segment_seq.get(),
        prev_end: Lsn(header.prev_end_lsn.get()).to_string(),
        prev_index: header.prev_last_index.get(),
        prev_term: header.prev_last_term.get(),
        synced_upto: Lsn(header.synced_upto.get()).to_string(),
    }
}
