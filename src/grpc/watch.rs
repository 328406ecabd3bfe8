//! A watch of parts of the state, as a stream of messages.
//!
//! Each caller is told by a task of its own, which takes from the node's feed only what the caller
//! has room for. One that does not read is ended by the feed, and costs no more than a few messages.

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tonic::{Code, Status};

use crate::node::{
    ChangedEntry, StateWatch, Told, WatchEnded, WatchError, WatchFrom, WatchOptions,
};
use crate::proto::watch_response::Told as Word;
use crate::proto::{
    Compacted, WatchCause, WatchChanges, WatchEnd, WatchEndReason, WatchProgress, WatchRequest,
    WatchReset, WatchResponse, WatchState, WatchedChange, WatchedEntry, WatchedRecord,
    WatchedValue,
};
use crate::state_machine::Cause;

use super::details::with_detail;
use super::status::invalid;

/// Bytes of changes after which a message is sent.
const MESSAGE: usize = 256 << 10;

type Send = mpsc::Sender<Result<WatchResponse, Status>>;

/// What a request asks for.
pub(super) fn options(request: WatchRequest) -> WatchOptions {
    WatchOptions {
        prefixes: request.prefixes,
        from: request.from.map_or(WatchFrom::State, WatchFrom::After),
        renewals: request.renewals,
    }
}

/// Why a watch cannot begin.
pub(super) fn refused(error: &WatchError) -> Status {
    match error {
        WatchError::Compacted { oldest } => {
            let detail = Compacted { oldest: *oldest };
            with_detail(Code::OutOfRange, error.to_string(), &detail)
        }
        WatchError::Prefixes(why) => invalid("prefixes", why),
        WatchError::NotTold => Status::unimplemented(error.to_string()),
    }
}

/// Tells a caller until it is gone, falls behind, or the edge closes.
pub(super) async fn tell(
    mut watch: StateWatch,
    send: Send,
    mut closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let mut next = None;
    loop {
        let told = match next.take() {
            Some(told) => told,
            None => tokio::select! {
                biased;
                () = send.closed() => return,
                // An error means that the edge is gone, which is the same word.
                _ = closing.wait_for(|closing| *closing) => {
                    let resume_from = watch.resume_from();
                    Err(WatchEnded::Stopped { resume_from })
                }
                told = watch.next() => told,
            },
        };
        let ended = told.is_err();
        let message = match told {
            Ok(Told::Changes(entry)) => changes(entry, &mut watch, &mut next),
            Ok(told) => other(told),
            Err(ended) => Ok(Word::End(end(ended))),
        };
        let failed = message.is_err();
        let message = message.map(|told| WatchResponse { told: Some(told) });
        if send.send(message).await.is_err() || ended || failed {
            return;
        }
    }
}

/// What is at hand in one message. What comes after it and is no change goes to `next`.
fn changes(
    first: ChangedEntry,
    watch: &mut StateWatch,
    next: &mut Option<Result<Told, WatchEnded>>,
) -> Result<Word, Status> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let mut at_hand = Some(first);
    while let Some(entry) = at_hand.take() {
        let entry = changed(&entry)?;
        bytes += entry.encoded_len();
        entries.push(entry);
        if bytes >= MESSAGE {
            break;
        }
        match watch.try_next().transpose() {
            Some(Ok(Told::Changes(entry))) => at_hand = Some(entry),
            other => *next = other,
        }
    }
    Ok(Word::Changes(WatchChanges { entries }))
}

fn changed(entry: &ChangedEntry) -> Result<WatchedEntry, Status> {
    let changes = entry.changes().map(|change| {
        Ok(WatchedChange {
            key: change.key.to_owned(),
            cause: cause(change.cause) as i32,
            value: change.value.map(value).transpose()?,
        })
    });
    Ok(WatchedEntry {
        index: entry.index,
        time_ms: entry.time_us / 1000,
        changes: changes.collect::<Result<_, Status>>()?,
    })
}

fn other(told: Told) -> Result<Word, Status> {
    Ok(match told {
        Told::Changes(entry) => Word::Changes(WatchChanges {
            entries: vec![changed(&entry)?],
        }),
        Told::State(part) => {
            let records = part.records().map(|(key, bytes)| {
                Ok(WatchedRecord {
                    key: key.to_owned(),
                    value: Some(value(bytes)?),
                })
            });
            Word::State(WatchState {
                index: part.index,
                time_ms: part.time_us / 1000,
                records: records.collect::<Result<_, Status>>()?,
                complete: part.complete,
            })
        }
        Told::Progress { index, time_us } => Word::Progress(WatchProgress {
            index,
            time_ms: time_us / 1000,
        }),
        Told::Reset { index } => Word::Reset(WatchReset { index }),
    })
}

fn value(bytes: &[u8]) -> Result<WatchedValue, Status> {
    WatchedValue::decode(bytes).map_err(|error| Status::internal(format!("a record: {error}")))
}

fn cause(cause: Cause) -> WatchCause {
    match cause {
        Cause::Command => WatchCause::Command,
        Cause::Cascade => WatchCause::Cascade,
        Cause::Expired => WatchCause::Expired,
        Cause::Renewal => WatchCause::Renewal,
    }
}

fn end(ended: WatchEnded) -> WatchEnd {
    let (reason, resume_from) = match ended {
        WatchEnded::Behind { resume_from } => (WatchEndReason::Behind, resume_from),
        WatchEnded::Stopped { resume_from } => (WatchEndReason::Closing, resume_from),
    };
    WatchEnd {
        reason: reason as i32,
        resume_from,
    }
}
