//! A directory for reading only: no lock is taken, nothing is made, no byte is changed, nothing is
//! mapped. So it can look at the log of a running node, at a copy, and at what is damaged.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::OpenError;
use super::layout::LOCK_FILE;
use super::map::Mapping;
use super::mapped::{boot_id, names_in, unit_of};
use super::medium::Files;

/// The files of a directory, read with `pread` only. Every change is refused.
#[derive(Debug)]
pub struct DirReader {
    path: PathBuf,
    unit: u32,
}

impl DirReader {
    /// Takes a look at a directory.
    ///
    /// # Errors
    /// If it is not there or may not be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let failed = || OpenError::io(format!("opening the directory {}", path.display()));
        let dir = File::open(&path).map_err(failed())?;
        if !dir.metadata().map_err(failed())?.is_dir() {
            return Err(failed()(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self {
            unit: unit_of(&dir),
            path,
        })
    }

    /// Takes the lock that a node holds while it runs, without changing a byte: as long as the file is
    /// kept, nobody opens the log.
    ///
    /// # Errors
    /// If somebody has it open, or there is no lock file, as every log has one.
    pub(crate) fn lock(&self) -> Result<File, OpenError> {
        let path = self.path.join(LOCK_FILE);
        let failed = || OpenError::io(format!("locking {}", path.display()));
        let file = File::open(&path).map_err(failed())?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
                directory: self.place(),
            }),
            Err(error) => Err(failed()(error.into())),
        }
    }

    /// The process that has the log open, as far as the kernel's list of locks shows it here: one
    /// in another container, or on another machine, is not seen.
    pub fn in_use_by(&self) -> Option<u32> {
        let lock = fs::metadata(self.path.join(LOCK_FILE)).ok()?;
        let locks = fs::read_to_string("/proc/locks").ok()?;
        holder(&locks, lock.dev(), lock.ino())
    }
}

/// Whose `flock` of this file stands in the kernel's list: lines such as
/// `1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next() == Some("FLOCK");
        let process = words.nth(2)?.parse().ok()?;
        (is_flock && words.next() == Some(&place)).then_some(process)
    })
}

fn refused<T>() -> io::Result<T> {
    let why = "the directory was opened for reading only";
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, why))
}

impl Files for DirReader {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn unit(&self) -> u32 {
        self.unit
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        boot_id()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        names_in(&self.path)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Opened anew each time: a file kept open could be another one's by now.
        File::open(self.path.join(name))?.read_exact_at(buf, offset)
    }

    fn write(&self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn allocate(&self, _: &str, _: u64) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self) -> io::Result<()> {
        refused()
    }

    fn map(&self, _: &str) -> io::Result<Arc<Mapping>> {
        refused()
    }

    fn write_map(&self, _: &str, _: &Mapping, _: Range<usize>) -> io::Result<()> {
        refused()
    }

    fn sync_map(&self, _: &str, _: &Mapping, _: Range<usize>) -> io::Result<()> {
        refused()
    }

    fn warm(&self, _: &Mapping, _: Range<usize>) -> io::Result<()> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 12 08:02:131 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 13 08:03:131 0 EOF\n";
        let device = rustix::fs::makedev(8, 1);
        assert_eq!(holder(locks, device, 131), Some(4711));
        assert_eq!(holder(locks, device, 132), None);
        assert_eq!(holder(locks, rustix::fs::makedev(8, 2), 131), Some(12));
        assert_eq!(holder(locks, rustix::fs::makedev(8, 3), 131), None);
        assert_eq!(holder("garbage\n\n1:", device, 131), None);
    }
}
