//! What the real mappings leave behind: a recorder around [`MappedDir`] notes which bytes were synced
//! and which names were made durable, and at random moments, from whichever thread is at work, takes
//! what a power cut could leave there. Each such image is recovered as a real directory.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::{IDENTITY, entries, payload, small, state};
use crate::entry;
use crate::types::LogIndex;
use crate::wal::memory::Random;
use crate::wal::{
    Append, DirFiles, Files, Lane, LogOptions, LogStorage, MappedDir, Mapping, Medium, MediumEvent,
    SyncPolicy, Task, Write, WriteError, WriteMode,
};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Bytes = Arc<Vec<u8>>;
type Names = BTreeMap<String, u64>;

/// What is on the disk and what is only in the page cache, at one moment.
#[derive(Clone, Default)]
struct Moment {
    names: Names,
    durable_names: Names,
    cache: HashMap<u64, Bytes>,
    durable: HashMap<u64, Bytes>,
    /// What somebody had been told before.
    acknowledged: (LogIndex, u64),
}

#[derive(Default)]
struct Shadow {
    now: Moment,
    next: u64,
    random: Option<Random>,
    taken: Vec<Moment>,
}

struct Recorder {
    inner: Arc<DirFiles>,
    path: PathBuf,
    shadow: Mutex<Shadow>,
    index: AtomicU64,
    term: AtomicU64,
}

impl Recorder {
    fn content(&self, name: &str) -> Bytes {
        Arc::new(std::fs::read(self.path.join(name)).unwrap_or_default())
    }

    /// Before each change: now and then a moment is kept.
    fn moment(&self) {
        // First what was told, then the bytes: what is told later may be missing.
        let told = (
            self.index.load(Ordering::SeqCst),
            self.term.load(Ordering::SeqCst),
        );
        let mut shadow = self.shadow.lock().expect("lock");
        let random = shadow.random.get_or_insert(Random(5));
        if random.below(6) > 0 || shadow.taken.len() >= 150 {
            return;
        }
        let mut moment = shadow.now.clone();
        moment.acknowledged = told;
        for (name, id) in &shadow.now.names {
            moment.cache.insert(*id, self.content(name));
        }
        shadow.taken.push(moment);
    }

    fn id(shadow: &mut Shadow, name: &str) -> u64 {
        let fresh = shadow.next + 1;
        let id = *shadow.now.names.entry(name.to_owned()).or_insert(fresh);
        shadow.next = shadow.next.max(id);
        id
    }

    /// These bytes, as they were before the sync, are durable now.
    fn synced(&self, name: &str, range: Range<usize>, bytes: &[u8]) {
        let mut shadow = self.shadow.lock().expect("lock");
        let id = Self::id(&mut shadow, name);
        let durable = Arc::make_mut(shadow.now.durable.entry(id).or_default());
        durable.resize(durable.len().max(bytes.len()), 0);
        durable[range.clone()].copy_from_slice(&bytes[range]);
    }
}

impl Files for Recorder {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn unit(&self) -> u32 {
        self.inner.unit()
    }
    fn boot_id(&self) -> Option<[u8; 16]> {
        self.inner.boot_id()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn size(&self, name: &str) -> io::Result<u64> {
        self.inner.size(name)
    }
    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read(name, offset, buf)
    }
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.moment();
        Self::id(&mut self.shadow.lock().expect("lock"), name);
        self.inner.write(name, offset, bytes)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.moment();
        let bytes = self.content(name);
        self.inner.sync(name)?;
        self.synced(name, 0..bytes.len(), &bytes);
        Ok(())
    }
    fn allocate(&self, name: &str, len: u64) -> io::Result<()> {
        self.moment();
        self.inner.allocate(name, len)?;
        self.synced(name, 0..len as usize, &vec![0; len as usize]);
        Ok(())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.moment();
        let mut shadow = self.shadow.lock().expect("lock");
        self.inner.rename(from, to)?;
        let id = Self::id(&mut shadow, from);
        shadow.now.names.remove(from);
        shadow.now.names.insert(to.to_owned(), id);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.moment();
        let mut shadow = self.shadow.lock().expect("lock");
        let (id, bytes) = (Self::id(&mut shadow, name), self.content(name));
        shadow.now.cache.insert(id, bytes);
        shadow.now.names.remove(name);
        self.inner.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.moment();
        let names = self.shadow.lock().expect("lock").now.names.clone();
        self.inner.sync_dir()?;
        self.shadow.lock().expect("lock").now.durable_names = names;
        Ok(())
    }
    fn map(&self, name: &str) -> io::Result<Arc<Mapping>> {
        self.inner.map(name)
    }
    fn write_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        self.moment();
        self.inner.write_map(name, mapping, range)
    }
    fn sync_map(&self, name: &str, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        self.moment();
        let bytes = self.content(name);
        self.inner.sync_map(name, mapping, range.clone())?;
        self.synced(name, range, &bytes);
        self.moment();
        Ok(())
    }
    fn warm(&self, mapping: &Mapping, range: Range<usize>) -> io::Result<()> {
        self.inner.warm(mapping, range)
    }
}

struct Recorded {
    inner: MappedDir,
    files: Arc<Recorder>,
}

impl Medium for Recorded {
    type Files = Recorder;

    fn files(&self) -> &Arc<Recorder> {
        &self.files
    }
    fn submit(&mut self, lane: Lane, delay: Duration, task: Task) {
        self.inner.submit(lane, delay, task);
    }
    fn stop(&mut self) {
        self.inner.stop();
    }
}

fn options(sync: SyncPolicy, write_mode: WriteMode) -> LogOptions {
    LogOptions {
        write_mode,
        allow_unsupported_fs: true,
        // The images are of a machine that was switched off; this one was not.
        distrust_page_cache: true,
        sync,
        ..small()
    }
}

fn len_of(index: LogIndex) -> usize {
    (index as usize).wrapping_mul(7919) % 3000
}

type Opened<M> = (LogStorage<M>, Receiver<MediumEvent>);

fn record(dir: &Path, options: LogOptions) -> (Opened<Recorded>, Arc<Recorder>) {
    let (sender, events) = channel();
    let sink = Arc::new(move |event| _ = sender.send(event));
    let inner = MappedDir::open(dir, sink, &options).expect("opens");
    let files = Arc::new(Recorder {
        inner: Arc::clone(inner.files()),
        path: dir.to_owned(),
        shadow: Mutex::default(),
        index: AtomicU64::new(0),
        term: AtomicU64::new(0),
    });
    let medium = Recorded {
        inner,
        files: Arc::clone(&files),
    };
    let log = LogStorage::open_checked(medium, IDENTITY, options).expect("opens");
    ((log, events), files)
}

/// Appends, votes and compaction while the lanes work; what was reported durable is told to the
/// recorder, as it would be to others.
fn work(dir: &Path, options: LogOptions) -> Vec<Moment> {
    let ((mut log, events), files) = record(dir, options);
    let mut random = Random(9);
    // (write, last index, term)
    let mut written = vec![(0, 0, 0)];
    for id in 1..=400_u64 {
        let first = log.last().index + 1;
        let lens: Vec<usize> = (0..random.below(6))
            .map(|nth| len_of(first + nth))
            .collect();
        let list = entries(first, &lens);
        let vote = random.below(9) == 0;
        let term = log.hard_state().term.max(1) + u64::from(vote);
        loop {
            let append = match list.is_empty() {
                true => Append::None,
                false => Append::Entries {
                    first,
                    term,
                    entries: &list,
                },
            };
            let write = Write {
                id,
                now: id,
                hard_state: Some(state(term, 2)),
                genesis: None,
                truncate_from: None,
                append,
            };
            let full = match log.write(write) {
                Ok(()) => false,
                Err(WriteError::NoRoom { .. }) => true,
                Err(error) => panic!("{error}"),
            };
            log.pump();
            // On a busy machine all writes would share a few syncs.
            let patient = full || id % 4 == 0 && log.syncing();
            let wait = Duration::from_millis(if patient { 2000 } else { random.below(2) });
            let mut next = events.recv_timeout(wait).ok();
            while let Some(event) = next {
                if let Some(done) = log.handle(event).expect("no failure") {
                    let known = written.iter().rfind(|it: &&(u64, u64, u64)| it.0 <= done);
                    let &(_, index, term) = known.expect("never empty");
                    files.index.store(index, Ordering::SeqCst);
                    files.term.store(term, Ordering::SeqCst);
                }
                log.pump();
                next = events.try_recv().ok();
            }
            if !full {
                break;
            }
        }
        written.push((id, log.last().index, term));
        let durable = log.durable();
        if id % 100 == 0 && durable > 50 {
            let start = durable - 50;
            let term = log.term(start).expect("there");
            log.compact(crate::types::LogId::new(term, start))
                .expect("there");
        }
    }
    drop(log);
    let mut shadow = files.shadow.lock().expect("lock");
    std::mem::take(&mut shadow.taken)
}

impl Moment {
    /// One of the directories that a power cut at this moment could leave.
    fn leave(&self, dir: &Path, random: &mut Random) {
        let names = match random.below(2) {
            0 => &self.names,
            _ => &self.durable_names,
        };
        for (name, id) in names {
            let durable = self.durable.get(id).cloned().unwrap_or_default();
            let cache = self.cache.get(id).cloned().unwrap_or_default();
            let mut file = durable.to_vec();
            file.resize(durable.len().max(cache.len()), 0);
            for (nth, sectors) in (0..file.len() / PAGE).map(|nth| (nth, written(random))) {
                for sector in (0..8).filter(|sector| sectors >> sector & 1 == 1) {
                    let at = nth * PAGE + sector * SECTOR;
                    if let Some(bytes) = cache.get(at..at + SECTOR) {
                        file[at..at + SECTOR].copy_from_slice(bytes);
                    }
                }
            }
            std::fs::write(dir.join(name), file).expect("written");
        }
    }

    fn check(&self, dir: &Path) -> Result<(), String> {
        let options = options(SyncPolicy::Sync, WriteMode::Auto);
        let medium = MappedDir::open(dir, Arc::new(|_| ()), &options).expect("opens");
        let log = LogStorage::open_checked(medium, IDENTITY, options);
        let log = log.map_err(|error| format!("refused: {error}"))?;
        let (index, term) = self.acknowledged;
        let (last, hard) = (log.last(), log.hard_state());
        if last.index < index || hard.term < term {
            return Err(format!(
                "{last} in term {}, told {index} and {term}",
                hard.term
            ));
        }
        let mut next = log.first_index();
        while next <= last.index {
            let read = log.read(next, last.index, 1 << 20);
            for found in read.map_err(|error| error.to_string())?.runs {
                for found in entry::entries(found) {
                    let found = found.map_err(|error| error.to_string())?;
                    if found.id.index != next || found.payload != payload(next, len_of(next)) {
                        return Err(format!("{} is not what was written", found.id));
                    }
                    next += 1;
                }
            }
        }
        Ok(())
    }
}

/// Which sectors of a page had been written back.
fn written(random: &mut Random) -> u64 {
    match random.below(4) {
        0 | 1 => 0,
        2 => u64::MAX,
        _ => random.next(),
    }
}

fn failures(options: LogOptions) -> (usize, Vec<String>) {
    let dir = tempfile::tempdir().expect("a folder");
    let moments = work(dir.path(), options);
    let mut random = Random(3);
    let mut failed = Vec::new();
    for (nth, moment) in moments.iter().enumerate() {
        let image = tempfile::tempdir().expect("a folder");
        moment.leave(image.path(), &mut random);
        if let Err(why) = moment.check(image.path()) {
            failed.push(format!("moment {nth}: {why}"));
        }
    }
    (moments.len(), failed)
}

#[test]
fn c9_s19_what_real_mappings_left_unsynced_in_any_subset_keeps_what_was_acknowledged() {
    for mode in [WriteMode::Mapped, WriteMode::Through] {
        let (count, failed) = failures(options(SyncPolicy::Sync, mode));
        assert!(count > 60, "{mode:?}: {count} moments");
        assert_eq!(failed, [""; 0], "{mode:?}");
    }
}

/// The test above has teeth: without syncs it fails.
#[test]
fn real_mappings_without_syncs_lose_what_was_acknowledged() {
    for mode in [WriteMode::Mapped, WriteMode::Through] {
        let (count, failed) = failures(options(SyncPolicy::UnsafeNoSync, mode));
        assert!(
            failed.len() > count / 4,
            "{mode:?}: {} of {count}",
            failed.len()
        );
    }
}
