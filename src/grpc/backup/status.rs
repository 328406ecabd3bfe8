//! Names from callers, and the status of each failure.

use tonic::Status;

use crate::backup::{SnapshotError, SnapshotId, SnapshotIdError};
use crate::types::{LogIndex, Micros};

use super::super::status::invalid;

/// A name that sorts by age and says what is in the file.
pub(super) fn name_for(index: LogIndex, time_us: Micros) -> Result<SnapshotId, Status> {
    format!("at-{:015}-index-{index}", time_us / 1000)
        .parse()
        .map_err(|error: SnapshotIdError| Status::internal(error.to_string()))
}

pub(super) fn parse_id(text: &str) -> Result<SnapshotId, Status> {
    text.parse()
        .map_err(|error: SnapshotIdError| invalid("snapshot_id", error.to_string()))
}

/// Runs `work` on a thread that may wait for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| explain(&error)),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

pub(super) fn explain(error: &SnapshotError) -> Status {
    let text = error.to_string();
    match error {
        SnapshotError::NotFound(_) => Status::not_found(text),
        SnapshotError::Exists(_) => Status::already_exists(text),
        SnapshotError::Damaged { .. } => Status::data_loss(text),
        SnapshotError::TooLarge { .. } | SnapshotError::Full { .. } => {
            Status::resource_exhausted(text)
        }
        SnapshotError::NotGoneOn { why, .. } => invalid("offset", why.as_str()),
        SnapshotError::Cancelled(_) => Status::cancelled(text),
        SnapshotError::Io { .. } => {
            // The client learns that it failed; paths and causes are for the log.
            tracing::error!(error = %text, "backup failed");
            Status::internal("the backup directory cannot be used; the node's log says why")
        }
    }
}
