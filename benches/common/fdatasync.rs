//! The log over files that answer `msync` with `fdatasync`: what the ranged `msync` is measured
//! against. `fdatasync` writes out every dirty page of the file, those made ready ahead too, and
//! write-protects them again.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use conveyor_raft::wal::{EventSink, Files, Lane, MappedDir, Mapping, Medium, Task};

type DirFiles = <MappedDir as Medium>::Files;

/// See the module.
pub(crate) struct WholeFiles(Arc<DirFiles>);

impl Files for WholeFiles {
    fn place(&self) -> String {
        self.0.place()
    }

    fn unit(&self) -> u32 {
        self.0.unit()
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        self.0.boot_id()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        self.0.size(name)
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read(name, offset, buf)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(name, offset, bytes)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.0.sync(name)
    }

    fn allocate(&self, name: &str, len: u64) -> io::Result<()> {
        self.0.allocate(name, len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn map(&self, name: &str) -> io::Result<Arc<Mapping>> {
        self.0.map(name)
    }

    fn sync_map(&self, name: &str, _: &Mapping, _: Range<usize>) -> io::Result<()> {
        self.0.sync(name)
    }

    fn warm(&self, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        self.0.warm(mapping, range)
    }
}

/// Those files, with syncs on the caller's thread.
pub(crate) struct WholeFileSync {
    dir: MappedDir,
    files: Arc<WholeFiles>,
    sink: EventSink,
}

impl WholeFileSync {
    pub(crate) fn new(dir: MappedDir, sink: EventSink) -> Self {
        let files = Arc::new(WholeFiles(Arc::clone(dir.files())));
        Self { dir, files, sink }
    }
}

impl Medium for WholeFileSync {
    type Files = WholeFiles;

    fn files(&self) -> &Arc<WholeFiles> {
        &self.files
    }

    fn submit(&mut self, lane: Lane, delay: Duration, task: Task) {
        if lane == Lane::Sync {
            (self.sink)(task());
        } else {
            self.dir.submit(lane, delay, task);
        }
    }

    fn stop(&mut self) {
        self.dir.stop();
    }
}
