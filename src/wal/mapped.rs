//! Real files: a locked directory, mapped segments, and a thread per lane.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::lanes::{Worker, lock};
use super::layout::{LOCK_FILE, MAX_UNIT, MIN_UNIT};
use super::map::Mapping;
use super::medium::{EventSink, Files, Lane, Medium, Task};
use super::room::DiskRoom;
use super::through::write_through;
use super::{LogOptions, OpenError};

const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const TMPFS: u64 = 0x0102_1994;

/// Zeros are written in pieces of this size, and synced every so many of them, so that a sync of
/// the log never waits behind a whole segment of them.
const ZEROS: usize = 256 << 10;
const ZEROS_PER_SYNC: u64 = 8;

/// The files of a directory on disk.
#[derive(Debug)]
pub struct DirFiles {
    path: PathBuf,
    dir: File,
    unit: u32,
    open: Mutex<HashMap<String, Arc<File>>>,
    stopping: AtomicBool,
    /// A RAM file system: a sync only returns.
    ram: bool,
    /// Mappings are copies: what is stored there is written to the file by the sync lane.
    through: bool,
    /// Held as long as any task may still write; its lock ends with it.
    _lock: File,
}

impl DirFiles {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn file(&self, name: &str, create: bool) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(name) {
            return Ok(Arc::clone(file));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(self.path(name))?;
        let file = Arc::new(file);
        open.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn fill(&self, file: &File, len: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let (mut at, mut pieces) = (0, 0);
        while at < len {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "closing"));
            }
            let piece = (len - at).min(ZEROS as u64);
            file.write_all_at(zeros.get(..piece as usize).unwrap_or(&zeros), at)?;
            at += piece;
            pieces += 1;
            if pieces % ZEROS_PER_SYNC == 0 {
                file.sync_data()?;
            }
        }
        file.sync_all()
    }
}

impl Files for DirFiles {
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
        Ok(fs::metadata(self.path(name))?.len())
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file(name, false)?.read_exact_at(buf, offset)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name, true)?.write_all_at(bytes, offset)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name, false)?.sync_data()
    }

    fn allocate(&self, name: &str, len: u64) -> io::Result<()> {
        lock(&self.open).remove(name);
        let path = self.path(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let filled = self.fill(&file, len);
        if filled.is_err() {
            // What little room there was is better given back.
            let _ = fs::remove_file(&path);
        }
        filled
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut open = lock(&self.open);
        open.remove(from);
        open.remove(to);
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.open).remove(name);
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn map(&self, name: &str) -> io::Result<Arc<Mapping>> {
        let file = self.file(name, false)?;
        if self.through {
            Mapping::copy_of_file(&file)
        } else {
            Mapping::of_file(&file)
        }
    }

    fn write_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        if !self.through {
            return Ok(());
        }
        let file = self.file(name, false)?;
        let put = |at: usize, bytes: &[u8]| file.write_all_at(bytes, at as u64);
        write_through(mapping, range, put)
    }

    fn sync_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        if self.through {
            return self.sync(name);
        }
        mapping.flush(range)
    }

    const TELLS_ROOM: bool = true;

    fn disk_room(&self) -> Option<DiskRoom> {
        let found = rustix::fs::fstatvfs(&self.dir).ok()?;
        Some(DiskRoom {
            // Not what is kept for root.
            free: found.f_bavail.saturating_mul(found.f_frsize),
            size: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    fn warm(&self, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        let stays = self.ram || self.through;
        if range.is_empty() || (stays && mapping.was_populated(range.end)) {
            return Ok(());
        }
        mapping.populate(range)
    }
}

pub(super) fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let id: crate::types::Incarnation = digits.parse().ok()?;
    Some(id.0)
}

pub(super) fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        // Our own names are ASCII; others are nobody's business.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The medium over a directory.
///
/// On a RAM file system a sync does nothing but return, so there the sync lane's tasks run at once
/// on the caller's thread: the calls are made all the same, without two wake-ups for each.
pub struct MappedDir {
    files: Arc<DirFiles>,
    sink: EventSink,
    /// Syncs run on the caller's thread.
    here: bool,
    sync: Worker<Task>,
    prepare: Worker<Task>,
    warm: Worker<Task>,
}

impl MappedDir {
    /// Runs syncs within [`pump`](super::LogStorage::pump), on the caller's thread: for a log used
    /// alone by one who would wait for each sync anyway. It saves two wake-ups of a thread a sync; a
    /// node must not do it, since a disk that stalls would then stall its heartbeats.
    #[must_use]
    pub fn with_syncs_on_caller(mut self) -> Self {
        self.here = true;
        self
    }

    /// Takes hold of a directory, making it (mode 0700) if it is not there, and starts the lanes'
    /// threads. Events go to `sink`, from those threads or from within `pump`.
    ///
    /// # Errors
    /// If the directory is in use by another process, is on a file system that the log was not
    /// shown on, or the operating system refuses something.
    pub fn open(
        path: impl AsRef<Path>,
        sink: EventSink,
        options: &LogOptions,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let place = path.display().to_string();
        let io = |what: &str| OpenError::io(format!("{what} {place}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("making the directory"))?;
        let dir = File::open(path).map_err(io("opening the directory"))?;
        let kind = file_system(&dir).map_err(io("statfs of"))?;
        check_file_system(kind, &place, options)?;
        let lock = take_lock(path, &place)?;
        let files = Arc::new(DirFiles {
            path: path.to_owned(),
            unit: unit_of(&dir),
            dir,
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
            ram: kind == TMPFS,
            through: options.write_mode.is_through(kind == TMPFS, options.sync),
            _lock: lock,
        });
        let spawn = |name, finish| {
            let sink = Arc::clone(&sink);
            let worker = Worker::spawn(name, finish, move |task: Task| sink(task()));
            worker.map_err(OpenError::io("starting a thread"))
        };
        Ok(Self {
            here: files.ram,
            files,
            sync: spawn("wal-sync", true)?,
            prepare: spawn("wal-prepare", false)?,
            warm: spawn("wal-warm", false)?,
            sink,
        })
    }
}

fn take_lock(path: &Path, place: &str) -> Result<File, OpenError> {
    let what = format!("locking {place}");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .map_err(OpenError::io(what.clone()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
            directory: place.to_owned(),
        }),
        Err(error) => Err(OpenError::io(what)(error.into())),
    }
}

fn file_system(dir: &File) -> io::Result<u64> {
    // The field's type differs between platforms; the magic numbers are 32 bits wide.
    Ok(rustix::fs::fstatfs(dir)?.f_type as u64 & 0xffff_ffff)
}

fn check_file_system(kind: u64, place: &str, options: &LogOptions) -> Result<(), OpenError> {
    if [EXT4, XFS, TMPFS].contains(&kind) {
        return Ok(());
    }
    let found = format!("a file system of type {kind:#x}");
    if options.allow_unsupported_fs {
        tracing::warn!(place, found, "unsupported file system, allowed by option");
        return Ok(());
    }
    Err(OpenError::UnsupportedFileSystem {
        directory: place.to_owned(),
        found,
    })
}

/// The largest of 4096, the page size and the device's physical block.
pub(super) fn unit_of(dir: &File) -> u32 {
    let page = rustix::param::page_size() as u32;
    let block = physical_block(dir).unwrap_or(MIN_UNIT);
    let unit = MIN_UNIT.max(page).max(block).next_power_of_two();
    unit.min(MAX_UNIT)
}

fn physical_block(dir: &File) -> Option<u32> {
    let device = dir.metadata().ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has no queue of its own; its disk is the directory above.
    let found = ["queue", "../queue"]
        .iter()
        .find_map(|queue| fs::read_to_string(device.join(queue).join("physical_block_size")).ok());
    found?.trim().parse().ok()
}

impl Medium for MappedDir {
    type Files = DirFiles;

    fn files(&self) -> &Arc<DirFiles> {
        &self.files
    }

    fn submit(&mut self, lane: Lane, delay: Duration, task: Task) {
        match lane {
            Lane::Sync if self.here => (self.sink)(task()),
            Lane::Sync => self.sync.submit(delay, task),
            Lane::Prepare => self.prepare.submit(delay, task),
            Lane::Warm => self.warm.submit(delay, task),
        }
    }

    fn stop(&mut self) {
        self.files.stopping.store(true, Ordering::Relaxed);
        self.sync.stop();
        self.prepare.stop();
        self.warm.stop();
    }
}

impl Drop for MappedDir {
    fn drop(&mut self) {
        self.stop();
    }
}
