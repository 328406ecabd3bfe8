//! Memory instead of files: what a process sees (the cache image) and what a power cut leaves (the
//! durable image). So a test can crash the log, with any subset of what was not synced.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::layout::MIN_UNIT;
use super::map::Mapping;
use super::medium::{EventSink, Files, Lane, Medium, Task};
use super::through::write_through;

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const EIO: i32 = 5;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// What a crash does to a [`MemoryDisk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; the page cache lives on, and so does the kernel.
    Kill,
    /// The power goes: only what was synced is left.
    PowerCut,
    /// The power goes, and of what was not synced some pages had been written back, some of them
    /// in part, and some renames and new names too: chosen by this seed.
    Subset(u64),
}

/// How a sync that fails behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFault {
    /// Reports the error once; the pages stay in the cache, count as clean, and are never written
    /// (ext4, XFS).
    Keep,
    /// Reports the error once and shows the old bytes again (btrfs).
    Revert,
    /// Reports success, loses the pages, and reports the error at the next sync.
    Late,
}

/// A disk in memory. Cheap to clone; it outlives the [`Memory`] over it.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    files: HashMap<u64, Inode>,
    next_inode: u64,
    /// Names as the process sees them, and as a power cut leaves them.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    boot: u8,
    /// Bytes that may be allocated in all; `None`: no limit.
    quota: Option<u64>,
    syncs: u64,
    fault: Option<(u64, SyncFault)>,
    late: bool,
    /// Reads until one fails.
    read_fault: Option<u64>,
    /// Operations until everything fails, as if the process had died there.
    fuse: Option<u64>,
    operations: u64,
    /// Reads of files fail; what is mapped can be read.
    unreadable: bool,
    /// Mappings are copies: what is stored there is in the file once it was written through.
    through: bool,
    /// Where the identity of a new directory comes from, if not from the operating system.
    random: Option<Random>,
}

#[derive(Debug, Default)]
struct Inode {
    /// The bytes as the process sees them, unless mapped and written through the mapping. Shared
    /// with `durable` and with copies of the disk until one of them changes.
    cache: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    map: Option<Arc<Mapping>>,
    /// The mapping is a copy, not the file.
    copied: bool,
    /// Pages that a failed sync gave up, with what they held.
    given_up: HashMap<usize, Vec<u8>>,
    /// Those of them of which a sync said that they were written.
    lied: HashSet<usize>,
}

impl Inode {
    fn settle_range(&mut self, range: Range<usize>) {
        // The mapping holds what the log stored; where nothing was stored, the cache is right.
        if let Some(map) = &self.map
            && !self.copied
            && range.end <= self.cache.len()
            && let Some(stored) = map.final_bytes(range.clone())
            && let Some(to) = Arc::make_mut(&mut self.cache).get_mut(range)
        {
            to.copy_from_slice(stored);
        }
    }

    fn settle_all(&mut self) {
        self.settle_range(0..self.cache.len());
    }

    fn dirty_pages(&self, range: Range<usize>) -> Vec<usize> {
        if Arc::ptr_eq(&self.cache, &self.durable) {
            return Vec::new();
        }
        let page_differs = |page: &usize| {
            let span = page * PAGE..((page + 1) * PAGE).min(self.cache.len());
            self.cache.get(span.clone()) != self.durable.get(span)
        };
        (range.start / PAGE..range.end.div_ceil(PAGE))
            .filter(page_differs)
            .collect()
    }

    fn page(&self, page: usize) -> &[u8] {
        let end = ((page + 1) * PAGE).min(self.cache.len());
        self.cache.get(page * PAGE..end).unwrap_or_default()
    }

    /// Writes these pages back, as a sync does that succeeds.
    fn write_back(&mut self, range: Range<usize>) {
        Arc::make_mut(&mut self.durable).resize(self.cache.len(), 0);
        for page in self.dirty_pages(range) {
            let now = self.page(page).to_vec();
            if self.given_up.get(&page) == Some(&now) {
                continue;
            }
            let at = page * PAGE;
            if let Some(to) = Arc::make_mut(&mut self.durable).get_mut(at..at + now.len()) {
                to.copy_from_slice(&now);
            }
        }
    }

    fn lose(&mut self, range: Range<usize>, fault: SyncFault) {
        Arc::make_mut(&mut self.durable).resize(self.cache.len(), 0);
        for page in self.dirty_pages(range) {
            let now = self.page(page).to_vec();
            if fault == SyncFault::Revert && self.map.is_none() {
                let at = page * PAGE;
                let old = self.durable.get(at..at + now.len()).map(<[u8]>::to_vec);
                let cache = Arc::make_mut(&mut self.cache);
                if let (Some(old), Some(to)) = (old, cache.get_mut(at..at + now.len())) {
                    to.copy_from_slice(&old);
                }
            } else {
                self.given_up.insert(page, now);
                if fault == SyncFault::Late {
                    self.lied.insert(page);
                }
            }
        }
    }

    /// Whether the process sees bytes that a sync wrongly called durable and no later one will
    /// write.
    fn deceives(&mut self) -> bool {
        self.settle_all();
        self.lied.iter().any(|page| {
            let now = self.page(*page);
            self.given_up.get(page).is_some_and(|held| held == now)
        })
    }

    fn after_crash(&mut self, crash: Crash, random: &mut Random) {
        self.settle_all();
        self.map = None;
        if let Crash::Subset(_) = crash {
            Arc::make_mut(&mut self.durable).resize(self.cache.len(), 0);
            for page in self.dirty_pages(0..self.cache.len()) {
                self.tear(page, random);
            }
        }
        if crash != Crash::Kill {
            self.cache = Arc::clone(&self.durable);
            self.given_up.clear();
            self.lied.clear();
        }
    }

    /// One dirty page: written, not written, or some of its sectors.
    fn tear(&mut self, page: usize, random: &mut Random) {
        let now = self.page(page).to_vec();
        if self.given_up.get(&page) == Some(&now) {
            return;
        }
        let sectors = match random.below(4) {
            0 => 0,
            1 | 2 => u64::MAX,
            _ => random.next(),
        };
        for (nth, sector) in now.chunks(SECTOR).enumerate() {
            let at = page * PAGE + nth * SECTOR;
            if sectors >> nth & 1 == 1
                && let Some(to) = Arc::make_mut(&mut self.durable).get_mut(at..at + sector.len())
            {
                to.copy_from_slice(sector);
            }
        }
    }
}

/// A small generator (splitmix64): the same seed, the same crash.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// An empty disk on which a new directory gets its identity from `seed`, so that a run can be
    /// repeated bit for bit. With an odd one its mappings are copies of their files.
    pub fn seeded(seed: u64) -> Self {
        let disk = Self::new();
        disk.lock().random = Some(Random(seed));
        disk.set_through(!seed.is_multiple_of(2));
        disk
    }

    /// Whether mappings made from now on are copies of their files, as with
    /// [`WriteMode::Through`](super::WriteMode::Through), or the files themselves.
    pub fn set_through(&self, through: bool) {
        self.lock().through = through;
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        // A panic of a test thread leaves the disk as a crash would.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Crashes the machine or the process. The log over this disk must have been dropped.
    pub fn crash(&self, crash: Crash) {
        let mut disk = self.lock();
        let disk = &mut *disk;
        let seed = match crash {
            Crash::Subset(seed) => seed,
            _ => 0,
        };
        let mut random = Random(seed);
        let mut inodes: Vec<_> = disk.files.iter_mut().collect();
        inodes.sort_by_key(|(number, _)| **number);
        for (_, inode) in inodes {
            inode.after_crash(crash, &mut random);
        }
        if crash != Crash::Kill {
            disk.boot = disk.boot.wrapping_add(1);
            // A directory is written back as a whole or not at all: small ones are one block.
            if matches!(crash, Crash::Subset(_)) && random.below(2) == 0 {
                disk.durable_names.clone_from(&disk.names);
            }
            disk.names.clone_from(&disk.durable_names);
            disk.late = false;
        }
        let named: HashSet<u64> = disk
            .names
            .values()
            .chain(disk.durable_names.values())
            .copied()
            .collect();
        disk.files.retain(|number, _| named.contains(number));
        disk.fuse = None;
        disk.fault = None;
        disk.read_fault = None;
    }

    /// Lets the `nth` sync from now (0 = the next) fail.
    pub fn fail_sync(&self, nth: u64, fault: SyncFault) {
        let mut disk = self.lock();
        disk.fault = Some((disk.syncs + nth, fault));
    }

    /// Whether a file holds bytes that a sync wrongly called durable and that were not written
    /// anew since: a power cut would take what somebody was told is there. The log over this disk
    /// must have been dropped.
    pub fn deceives(&self) -> bool {
        let mut disk = self.lock();
        let numbers: Vec<u64> = disk.names.values().copied().collect();
        let mut lies = false;
        for number in numbers {
            lies |= disk.files.get_mut(&number).is_some_and(Inode::deceives);
        }
        lies
    }

    /// Limits what can be allocated; `None` lifts the limit.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.lock().quota = bytes;
    }

    /// Lets everything fail after `operations` more changes, as if the process died there.
    pub fn fail_after(&self, operations: u64) {
        let mut disk = self.lock();
        disk.fuse = Some(disk.operations + operations);
    }

    /// Lets every read of a file fail from now on; what is mapped can still be read.
    pub fn fail_reads(&self) {
        self.lock().unreadable = true;
    }

    /// Changes made so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Syncs asked for so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The files and their bytes as the process sees them. The log must have been dropped.
    pub fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let mut disk = self.lock();
        let disk = &mut *disk;
        let names = disk.names.clone();
        let mut bytes = |inode: &u64| {
            let inode = disk.files.entry(*inode).or_default();
            inode.settle_all();
            inode.cache.to_vec()
        };
        names
            .iter()
            .map(|(name, inode)| (name.clone(), bytes(inode)))
            .collect()
    }

    /// An independent copy. The log over this disk must have been dropped.
    pub fn fork(&self) -> Self {
        let mut disk = self.lock();
        let mut copy = Disk {
            next_inode: disk.next_inode,
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            boot: disk.boot,
            quota: disk.quota,
            through: disk.through,
            ..Disk::default()
        };
        for (number, inode) in &mut disk.files {
            inode.settle_all();
            let twin = Inode {
                cache: Arc::clone(&inode.cache),
                durable: Arc::clone(&inode.durable),
                map: None,
                copied: false,
                given_up: inode.given_up.clone(),
                lied: inode.lied.clone(),
            };
            copy.files.insert(*number, twin);
        }
        drop(disk);
        Self(Arc::new(Mutex::new(copy)))
    }

    /// An independent copy of what a power cut at this moment would leave. Copies no file, and the
    /// log over this disk may be in use.
    pub fn after_power_cut(&self) -> Self {
        let disk = self.lock();
        let mut copy = Disk {
            next_inode: disk.next_inode,
            names: disk.durable_names.clone(),
            durable_names: disk.durable_names.clone(),
            boot: disk.boot.wrapping_add(1),
            through: disk.through,
            ..Disk::default()
        };
        for number in disk.durable_names.values() {
            let durable = disk.files.get(number).map(|inode| &inode.durable);
            let durable = durable.cloned().unwrap_or_default();
            let twin = Inode {
                cache: Arc::clone(&durable),
                durable,
                ..Inode::default()
            };
            copy.files.insert(*number, twin);
        }
        drop(disk);
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Bit rot: flips these bits of a byte, in the cache and for good. The log over this disk must
    /// have been dropped. Whether there was such a byte.
    pub fn rot(&self, name: &str, offset: u64, bits: u8) -> bool {
        let mut disk = self.lock();
        let Ok(inode) = disk.inode(name) else {
            return false;
        };
        inode.settle_all();
        for image in [&mut inode.cache, &mut inode.durable] {
            match Arc::make_mut(image).get_mut(offset as usize) {
                Some(byte) => *byte ^= bits,
                None => return false,
            }
        }
        true
    }

    /// Lets the `nth` read from now (0 = the next) fail. Reads through a mapping are none.
    pub fn fail_read(&self, nth: u64) {
        self.lock().read_fault = Some(nth);
    }

    /// A disk that holds these files, durably.
    pub fn from_image(image: &BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::new();
        let mut inner = disk.lock();
        for (name, bytes) in image {
            let number = inner.next_inode;
            inner.next_inode += 1;
            let bytes = Arc::new(bytes.clone());
            let inode = Inode {
                cache: Arc::clone(&bytes),
                durable: bytes,
                ..Inode::default()
            };
            inner.files.insert(number, inode);
            inner.names.insert(name.clone(), number);
        }
        inner.durable_names = inner.names.clone();
        drop(inner);
        disk
    }
}

impl Disk {
    fn changes(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fuse {
            Some(fuse) if self.operations > fuse => Err(io::Error::other("the test's fuse blew")),
            _ => Ok(()),
        }
    }

    fn reads(&mut self) -> io::Result<()> {
        let left = self.read_fault.take();
        self.read_fault = left.and_then(|left| left.checked_sub(1));
        if left == Some(0) || self.unreadable {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }

    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"));
        let number = self.names.get(name).ok_or_else(missing)?;
        self.files.get_mut(number).ok_or_else(missing)
    }

    fn create(&mut self, name: &str) -> &mut Inode {
        let fresh = self.next_inode;
        let number = *self.names.entry(name.to_owned()).or_insert(fresh);
        if number == fresh {
            self.next_inode += 1;
        }
        self.files.entry(number).or_default()
    }

    fn sync(&mut self, name: &str, range: Option<Range<usize>>) -> io::Result<()> {
        self.changes()?;
        let error = || io::Error::from_raw_os_error(EIO);
        let fault = self.fault.filter(|fault| fault.0 == self.syncs);
        self.syncs += 1;
        let late = std::mem::take(&mut self.late);
        let inode = self.inode(name)?;
        let range = range.unwrap_or(0..inode.cache.len());
        inode.settle_range(range.clone());
        if let Some((_, fault)) = fault {
            inode.lose(range, fault);
            if fault == SyncFault::Late {
                self.late = true;
                return Ok(());
            }
            return Err(error());
        }
        if late {
            return Err(error());
        }
        inode.write_back(range);
        Ok(())
    }
}

impl Files for MemoryDisk {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn unit(&self) -> u32 {
        MIN_UNIT
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some([self.lock().boot.wrapping_add(1); 16])
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        self.lock()
            .inode(name)
            .map(|inode| inode.cache.len() as u64)
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut disk = self.lock();
        disk.reads()?;
        let inode = disk.inode(name)?;
        let range = offset as usize..offset as usize + buf.len();
        inode.settle_range(range.clone());
        let from = inode.cache.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        disk.changes()?;
        let inode = disk.create(name);
        let end = offset as usize + bytes.len();
        // A page written anew is dirty anew, even with the same bytes.
        inode
            .given_up
            .retain(|page, _| page * PAGE >= end || (page + 1) * PAGE <= offset as usize);
        let cache = Arc::make_mut(&mut inode.cache);
        if cache.len() < end {
            cache.resize(end, 0);
        }
        if let Some(to) = cache.get_mut(offset as usize..end) {
            to.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.lock().sync(name, None)
    }

    fn allocate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut disk = self.lock();
        disk.changes()?;
        let used: u64 = disk
            .files
            .values()
            .map(|inode| inode.cache.len() as u64)
            .sum();
        if disk.quota.is_some_and(|quota| used + len > quota) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = disk.create(name);
        let zeros = Arc::new(vec![0; len as usize]);
        *inode = Inode {
            cache: Arc::clone(&zeros),
            durable: zeros,
            ..Inode::default()
        };
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.changes()?;
        let number = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.changes()?;
        disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let kept: HashSet<u64> = disk
            .names
            .values()
            .chain(disk.durable_names.values())
            .copied()
            .collect();
        disk.files.retain(|number, _| kept.contains(number));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.changes()?;
        disk.syncs += 1;
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn map(&self, name: &str) -> io::Result<Arc<Mapping>> {
        let mut disk = self.lock();
        let through = disk.through;
        let inode = disk.inode(name)?;
        inode.settle_all();
        inode.copied = through;
        let map = Mapping::anonymous(inode.cache.len())?;
        let Some(mut filler) = map.filler() else {
            return Err(io::Error::other("fresh memory has a writer"));
        };
        for (nth, page) in inode.cache.chunks(PAGE).enumerate() {
            // One comparison of memory: byte by byte this was most of an unoptimised test's time.
            if ZEROS.get(..page.len()) != Some(page) {
                filler.put(nth * PAGE, page);
            }
        }
        filler.finish();
        inode.map = Some(Arc::clone(&map));
        Ok(map)
    }

    fn renew(&self, name: &str, mapping: Arc<Mapping>) -> Option<Arc<Mapping>> {
        let mut disk = self.lock();
        let inode = disk.inode(name).ok()?;
        inode.settle_all();
        inode.map = None;
        let renewed = mapping.renew();
        // Who still holds the old one may still store.
        let (Ok(now) | Err(now)) = &renewed;
        inode.map = Some(Arc::clone(now));
        renewed.ok()
    }

    fn write_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        if !self.lock().inode(name)?.copied {
            return Ok(());
        }
        // A process that is killed leaves a write done up to some page.
        write_through(mapping, range, |at, bytes| {
            let pages = bytes.chunks(PAGE).enumerate();
            let mut pages = pages.map(|(nth, page)| (at + nth * PAGE, page));
            pages.try_for_each(|(at, page)| self.write(name, at as u64, page))
        })
    }

    fn sync_map(&self, name: &str, _: &Mapping, range: Range<usize>) -> io::Result<()> {
        self.lock().sync(name, Some(range))
    }

    fn warm(&self, _: &Mapping, _: Range<usize>) -> io::Result<()> {
        Ok(())
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        match &mut self.lock().random {
            Some(random) => {
                let mut words = std::iter::repeat_with(|| random.next().to_le_bytes()).flatten();
                bytes.fill_with(|| words.next().unwrap_or_default());
                Ok(())
            }
            None => getrandom::fill(bytes).map_err(io::Error::other),
        }
    }
}

type Queue = Arc<Mutex<VecDeque<(Lane, Task)>>>;

/// The medium over a [`MemoryDisk`]. No threads: a task runs at once, within the call that submits
/// it, or when the test says so.
pub struct Memory {
    disk: Arc<MemoryDisk>,
    sink: EventSink,
    stepped: bool,
    queue: Queue,
}

/// Runs the tasks of a [`Memory`] that waits for the test.
#[derive(Clone)]
pub struct Stepper {
    queue: Queue,
    sink: EventSink,
}

impl Stepper {
    /// Tasks waiting on a lane.
    pub fn pending(&self, lane: Lane) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.iter().filter(|task| task.0 == lane).count()
    }

    /// Runs the oldest task of a lane, if there is one, and hands its event to the sink.
    pub fn run(&self, lane: Lane) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(nth) = queue.iter().position(|task| task.0 == lane) else {
            return false;
        };
        let task = queue.remove(nth);
        drop(queue);
        if let Some((_, task)) = task {
            (self.sink)(task());
        }
        true
    }

    /// Runs everything that waits, and what that leads to.
    pub fn run_all(&self) {
        while [Lane::Sync, Lane::Prepare, Lane::Warm]
            .iter()
            .any(|&lane| self.run(lane))
        {}
    }
}

impl Memory {
    /// Tasks run at once. Those that are to wait a while (tries after a full disk) wait for the
    /// stepper.
    pub fn new(disk: &MemoryDisk, sink: EventSink) -> Self {
        Self {
            disk: Arc::new(disk.clone()),
            sink,
            stepped: false,
            queue: Queue::default(),
        }
    }

    /// Tasks run when the stepper says so.
    pub fn stepped(disk: &MemoryDisk, sink: EventSink) -> Self {
        Self {
            stepped: true,
            ..Self::new(disk, sink)
        }
    }

    /// The stepper of this medium.
    pub fn stepper(&self) -> Stepper {
        Stepper {
            queue: Arc::clone(&self.queue),
            sink: Arc::clone(&self.sink),
        }
    }
}

impl Medium for Memory {
    type Files = MemoryDisk;

    fn files(&self) -> &Arc<MemoryDisk> {
        &self.disk
    }

    fn submit(&mut self, lane: Lane, delay: Duration, task: Task) {
        if self.stepped || !delay.is_zero() {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back((lane, task));
        } else {
            (self.sink)(task());
        }
    }

    fn stop(&mut self) {
        let stepper = self.stepper();
        while stepper.run(Lane::Sync) {}
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.clear();
    }
}
