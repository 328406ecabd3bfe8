//! Would this log open? Everything that opening checks, without changing anything.

use std::io;

use super::judge::{Judge, Recovered};
use super::layout::{Lsn, MetaSlot};
use super::medium::Files;
use super::scan::{self, Listing};
use super::{OpenError, meta};
use crate::types::{ClusterId, HardState, Incarnation, LogId, LogIndex, NodeId};

/// Of a log in use, what looks damaged may be a change under way: it counts if it stays.
const PASSES: usize = 4;

/// A log that opens, and what it would open as.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Whose log it is.
    pub node: NodeId,
    /// In which cluster.
    pub cluster: ClusterId,
    /// The replica's incarnation.
    pub incarnation: Incarnation,
    /// Term and vote.
    pub hard_state: HardState,
    /// Log start: what a snapshot covers, or 0.0.
    pub start: LogId,
    /// The last entry, or the log start.
    pub last: LogId,
    /// The highest index that the log itself names as committed.
    pub commit: LogIndex,
    /// How it ends.
    pub end: LogEnd,
    /// The log lost entries and was repaired; the floor is 0.0 while it is not known.
    pub repairing: Option<LogId>,
    /// Its segments, oldest first.
    pub segments: Vec<VerifiedSegment>,
    /// Segment files that are not part of the log: prepared, free, or left over.
    pub spare: Vec<String>,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// It was closed cleanly, or nothing was ever written.
    Clean,
    /// It was not closed: it is in use, or its process died.
    Unclean {
        /// Bytes of a torn tail, never acknowledged, that opening drops; 0 if nothing is torn.
        torn_bytes: u64,
        /// What is wrong with the torn tail.
        torn: Option<String>,
    },
}

/// One segment of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSegment {
    /// Its file.
    pub file: String,
    /// Bytes of the file.
    pub size: u64,
    /// Its first and last index that still count, if there is any.
    pub range: Option<(LogIndex, LogIndex)>,
    /// Bytes of their frames.
    pub frame_bytes: u64,
}

/// Reads and checks everything that opening would. Changes nothing, and can be used on the log of
/// a running node, which is then seen at some moment of the reading.
///
/// # Errors
/// What opening would return: the log would be refused.
pub fn verify<F: Files>(files: &F, distrust_page_cache: bool) -> Result<Verified, OpenError> {
    let mut seen = None;
    let mut pass = 1;
    loop {
        let result = verify_once(files, distrust_page_cache);
        let trouble = match &result {
            Err(OpenError::Corrupt(damage)) => damage.to_string(),
            // A file went away between its name and its bytes.
            Err(OpenError::Io { source, what }) if source.kind() == io::ErrorKind::NotFound => {
                what.clone()
            }
            _ => return result,
        };
        if pass == PASSES || seen.as_ref() == Some(&trouble) {
            return result;
        }
        seen = Some(trouble);
        pass += 1;
    }
}

fn verify_once<F: Files>(files: &F, distrust_page_cache: bool) -> Result<Verified, OpenError> {
    let (meta, listing, judge) = survey(files, distrust_page_cache)?;
    let mut recovered = judge.examine(&listing)?;
    let end = end_of(&meta, &recovered);
    add_pending(files, &mut recovered)?;
    Ok(describe(&meta, &listing, &recovered, end))
}

/// META, HINT and the list of files, in this order: see [`Judge::new`].
pub(super) fn survey<F: Files>(
    files: &F,
    distrust_page_cache: bool,
) -> Result<(MetaSlot, Listing, Judge<'_, F>), OpenError> {
    let meta = valid_meta(files)?;
    let judge = Judge::new(files, meta, distrust_page_cache);
    let listing = scan::list(files, &meta.log_id)?;
    Ok((meta, listing, judge))
}

/// META, or why there is none that counts.
fn valid_meta<F: Files>(files: &F) -> Result<MetaSlot, OpenError> {
    let damaged = |why: String| OpenError::MetaDamaged {
        file: format!("META in {}", files.place()),
        why,
    };
    match meta::read(files) {
        Ok(found) => found.newest.ok_or_else(|| damaged(found.trouble)),
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let names = files.list();
            let names = names.map_err(OpenError::io(format!("reading {}", files.place())))?;
            if names.iter().any(|name| scan::is_segment(name)) {
                return Err(damaged("the file is missing".to_owned()));
            }
            Err(OpenError::NoLog {
                directory: files.place(),
            })
        }
        Err(error) => Err(error),
    }
}

pub(super) fn end_of(meta: &MetaSlot, recovered: &Recovered) -> LogEnd {
    let clean = Lsn(meta.clean_end.get());
    let end = recovered
        .chain
        .last()
        .map(|live| Lsn::new(live.seq, recovered.end));
    if end.is_none_or(|end| end == clean) {
        return LogEnd::Clean;
    }
    let torn = recovered.torn.clone();
    LogEnd::Unclean {
        torn_bytes: torn.as_ref().map_or(0, |torn| u64::from(torn.bytes)),
        torn: torn.map(|torn| torn.what),
    }
}

/// Brings the replay up to the end of the last segment.
pub(super) fn add_pending<F: Files>(files: &F, recovered: &mut Recovered) -> Result<(), OpenError> {
    let Some(live) = recovered.chain.last() else {
        return Ok(());
    };
    let mut reader = scan::Reader::new(files, &live.name, live.size);
    for batch in std::mem::take(&mut recovered.pending) {
        if let Some(body) = reader.bytes(batch.body())? {
            recovered.replay.add(&batch, body);
        }
    }
    Ok(())
}

pub(super) fn describe(
    meta: &MetaSlot,
    listing: &Listing,
    recovered: &Recovered,
    end: LogEnd,
) -> Verified {
    let start = meta.start();
    let Recovered { chain, replay, .. } = recovered;
    let in_chain = |seq: u64| chain.iter().any(|live| live.seq == seq);
    let left_over = listing.live.iter().filter(|live| !in_chain(live.seq));
    let mut spare: Vec<String> = left_over.map(|live| live.name.clone()).collect();
    spare.extend(listing.dead.iter().map(|(_, name)| name.clone()));
    spare.extend(listing.pool.iter().map(|(name, _)| name.clone()));
    let segments = chain.iter().zip(&replay.indexes).map(|(live, index)| {
        let (file, size) = (live.name.clone(), u64::from(live.size));
        VerifiedSegment {
            file,
            size,
            range: index.range(),
            frame_bytes: index.frame_bytes(),
        }
    });
    // As opening does: an entry proves its term, and nothing was answered for a vote in it.
    let mut hard_state = meta.hard_state();
    if replay.last.term > hard_state.term {
        hard_state = HardState {
            term: replay.last.term,
            ..HardState::default()
        };
    }
    Verified {
        node: meta.node.get(),
        cluster: ClusterId(meta.cluster),
        incarnation: Incarnation(meta.log_id),
        hard_state,
        start,
        last: std::cmp::max_by_key(start, replay.last, |id| id.index),
        commit: replay.commit.min(replay.last.index),
        end,
        repairing: meta.repairing().then(|| meta.repair_floor()),
        segments: segments.collect(),
        spare,
    }
}
