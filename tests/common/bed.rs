//! Where nodes of a test live, and who of them leads.

use std::path::Path;
use std::time::{Duration, Instant};

use conveyor_raft::RaftNode;
use tempfile::TempDir;

/// Enough for a loaded machine; a healthy one needs a fraction.
const PATIENCE: Duration = Duration::from_secs(30);

/// On the RAM disk where there is one: elections then do not wait for a busy disk.
pub(crate) fn folder() -> TempDir {
    let ram = Path::new("/dev/shm");
    let dir = match ram.is_dir() {
        true => tempfile::tempdir_in(ram),
        false => tempfile::tempdir(),
    };
    dir.expect("a folder")
}

/// Waits until one of them leads.
pub(crate) async fn leader(nodes: &[RaftNode]) -> RaftNode {
    let begun = Instant::now();
    loop {
        if let Some(leader) = nodes.iter().find(|node| node.is_leader()) {
            return leader.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "no leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
