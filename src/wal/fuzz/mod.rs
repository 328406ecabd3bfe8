//! What a fuzzer runs. Hidden, and only there for tests and with the feature `sim`: the parsers and
//! the memory disk's models are private, so bytes are all that goes in.

mod damage;
mod draw;
mod model;
mod states;

use super::SyncPolicy;

/// Random work on a log, with faults and crashes, against a model: `bytes` say what is done.
///
/// # Errors
/// A promise of the log that was broken.
pub fn model(bytes: &[u8]) -> Result<(), String> {
    model::run(bytes, SyncPolicy::Sync, false)
}

/// The same over mappings that are copies of their files, which the log writes through.
///
/// # Errors
/// A promise of the log that was broken.
pub fn model_written_through(bytes: &[u8]) -> Result<(), String> {
    model::run(bytes, SyncPolicy::Sync, true)
}

/// The same with syncs turned off: it must fail, or [`model`] shows nothing.
///
/// # Errors
/// A promise of the log that was broken.
pub fn model_without_syncs(bytes: &[u8]) -> Result<(), String> {
    model::run(bytes, SyncPolicy::UnsafeNoSync, false)
}

/// Arbitrary bytes to the parsers of META, HINT, segment headers, batches and frames of at most
/// `limit` bytes of payload.
///
/// # Errors
/// What was accepted and is not what was given.
pub fn parse(bytes: &[u8], limit: usize) -> Result<(), String> {
    damage::parse(bytes, limit)
}

/// A small directory damaged as `bytes` say: it opens, twice to the same and readable, or is refused.
///
/// # Errors
/// What an opened log then did not keep.
pub fn recover(bytes: &[u8]) -> Result<(), String> {
    damage::recover(bytes)
}
