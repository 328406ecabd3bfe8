//! HINT: what was known durable, refreshed now and then and never synced for its own sake.

use super::layout::{HINT_FILE, HintRecord, META_SLOT};
use super::medium::Files;

/// The hint, if there is a whole one of this log. No trouble with it is an error: it only ever
/// adds evidence.
pub(crate) fn read<F: Files>(files: &F, log_id: &[u8; 16]) -> Option<HintRecord> {
    let mut bytes = [0; META_SLOT];
    files.read(HINT_FILE, 0, &mut bytes).ok()?;
    HintRecord::parse(&bytes, log_id)
}
