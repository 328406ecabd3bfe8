//! The state, as messages.

use std::sync::Arc;

use prost::Message;

use crate::node::Applied;
use crate::proto::{StatePart, SummaryResponse};
use crate::state_machine::RouterState;

/// Bytes of records after which a part of the state is sent.
const PART: usize = 256 << 10;

/// How much there is of everything.
pub(super) fn summary(state: &Applied<RouterState>) -> SummaryResponse {
    let summary = state.view.summary();
    let counts = summary.counts.into_iter();
    SummaryResponse {
        index: state.id.index,
        term: state.id.term,
        time_ms: state.time_us / 1000,
        digest: format!("{:032x}", state.digest),
        rejections: summary.rejections,
        counts: counts
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

/// Gives the whole state in parts to `send`, until it says that nobody listens any more.
pub(super) fn parts(state: &Arc<Applied<RouterState>>, mut send: impl FnMut(StatePart) -> bool) {
    let empty = || StatePart {
        index: state.id.index,
        term: state.id.term,
        time_ms: state.time_us / 1000,
        records: Vec::new(),
    };
    let (mut part, mut bytes) = (empty(), 0);
    for (_, _, records) in state.view.sections() {
        for record in records {
            bytes += record.encoded_len();
            part.records.push(record);
            if bytes >= PART {
                if !send(std::mem::replace(&mut part, empty())) {
                    return;
                }
                bytes = 0;
            }
        }
    }
    // An empty state is one empty part, so that its index is told.
    let _ = send(part);
}
