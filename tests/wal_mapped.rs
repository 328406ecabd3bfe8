//! The log over real files, as its users see it.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::small_disk::SmallDisk;
use conveyor_raft::entry::{EntryBatch, entries};
use conveyor_raft::types::*;
use conveyor_raft::wal::*;

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId([1; 16]),
    node: 1,
};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 8 << 20,
        ..LogOptions::default()
    }
}

struct Node {
    log: LogStorage<MappedDir>,
    events: Receiver<MediumEvent>,
    next: WriteId,
}

fn try_open(dir: &Path, identity: LogIdentity, options: LogOptions) -> Result<Node, OpenError> {
    let (sender, events) = channel();
    let sink: EventSink = Arc::new(move |event| _ = sender.send(event));
    let medium = MappedDir::open(dir, sink, &options)?;
    let log = LogStorage::open(medium, identity, options)?;
    Ok(Node {
        log,
        events,
        next: 0,
    })
}

fn open(dir: &Path) -> Node {
    try_open(dir, IDENTITY, options()).expect("opens")
}

fn command(len: usize, seed: u64) -> NewEntry {
    let payload: Vec<u8> = (0..len as u64).map(|nth| (nth ^ seed) as u8).collect();
    NewEntry {
        kind: EntryKind::Command,
        time_us: seed,
        payload: payload.into(),
    }
}

impl Node {
    /// Writes, waiting for room where there is none.
    fn append(&mut self, term: Term, batch: &[NewEntry]) -> WriteId {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let write = Write {
                id: self.next + 1,
                now: 0,
                hard_state: None,
                genesis: None,
                truncate_from: None,
                append: Append::Entries {
                    first: self.log.last().index + 1,
                    term,
                    entries: batch,
                },
            };
            match self.log.write(write) {
                Ok(()) => {
                    self.next += 1;
                    return self.next;
                }
                Err(WriteError::NoRoom { .. }) => {
                    assert!(Instant::now() < deadline, "room in time");
                    self.step();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn step(&mut self) -> Option<WriteId> {
        self.log.pump();
        let event = self.events.recv_timeout(Duration::from_secs(20));
        self.log
            .handle(event.expect("an event"))
            .expect("no failure")
    }

    fn wait(&mut self, id: WriteId) {
        while self.step() != Some(id) {}
    }

    fn all(&self) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut next = self.log.first_index();
        while next <= self.log.last().index {
            let read = self.log.read(next, self.log.last().index, 1 << 20);
            let read = read.expect("readable");
            for run in read.runs {
                found.extend(entries(run).map(|entry| entry.expect("whole")));
            }
            next = read.last + 1;
        }
        found
    }
}

fn run_on(dir: &Path, write_mode: WriteMode) {
    let options = LogOptions {
        write_mode,
        ..options()
    };
    let open = |dir: &Path| try_open(dir, IDENTITY, options.clone()).expect("opens");
    let mut node = open(dir);
    let mut id = 0;
    for round in 0..40 {
        let batch = (0..20).map(|nth| command(20_000 + nth * 37, round * 100 + nth as u64));
        id = node.append(1 + round / 10, &batch.collect::<Vec<_>>());
        if round % 7 == 0 {
            node.wait(id);
        }
    }
    node.log.pump();
    node.wait(id);
    let before = node.all();
    assert_eq!(before.len(), 800);
    assert!(node.log.extent().0 > 1, "several segments");
    assert!(node.log.counters().syncs > 0);

    // Killed: the page cache is still there.
    drop(node);
    let node = open(dir);
    assert_eq!(node.all(), before);
    let (runs, last) = (node.log.term_runs(), node.log.last());
    node.log.close().expect("closes");

    let mut node = open(dir);
    assert_eq!((node.log.term_runs(), node.log.last()), (runs, last));
    let id = node.append(9, &[command(5, 1_000_000)]);
    node.wait(id);
    assert_eq!(node.all().len(), 801);
}

#[test]
fn write_kill_close_and_reopen_on_the_disk() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for mode in [WriteMode::Mapped, WriteMode::Through] {
        run_on(&dir.path().join(format!("{mode:?}")), mode);
    }
}

#[test]
fn write_kill_close_and_reopen_on_a_ram_disk() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    for mode in [WriteMode::Mapped, WriteMode::Through] {
        run_on(&dir.path().join(format!("{mode:?}")), mode);
    }
}

#[test]
fn a_second_opener_and_a_foreign_directory_are_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let node = open(dir.path());
    let second = try_open(dir.path(), IDENTITY, options())
        .err()
        .expect("refused");
    assert!(matches!(second, OpenError::Locked { .. }), "{second}");
    assert!(second.to_string().contains("in use by another process"));
    drop(node);
    for identity in [
        LogIdentity {
            node: 2,
            ..IDENTITY
        },
        LogIdentity {
            cluster: ClusterId([2; 16]),
            ..IDENTITY
        },
    ] {
        let foreign = try_open(dir.path(), identity, options())
            .err()
            .expect("refused");
        assert!(matches!(foreign, OpenError::WrongOwner { .. }), "{foreign}");
    }
    open(dir.path());
}

#[test]
fn a_follower_stores_the_very_bytes() {
    let dirs = [(); 2].map(|()| tempfile::tempdir_in("/dev/shm").expect("a folder"));
    let mut leader = open(dirs[0].path());
    let batch: Vec<_> = (0..300).map(|nth| command(nth * 3, nth as u64)).collect();
    let id = leader.append(4, &batch);
    leader.wait(id);
    let read = leader.log.read(1, 300, usize::MAX).expect("readable");
    // On the wire the runs are cut anywhere.
    let mut chunks: Vec<Bytes> = Vec::new();
    for run in read.runs {
        let cut = run.len() / 3 + 1;
        chunks.extend([run.slice(..cut), run.slice(cut..)]);
    }
    let verified = EntryBatch::verify(chunks, LogId::default(), 300, 1 << 20).expect("valid");
    let mut follower = open(dirs[1].path());
    let write = Write {
        id: 1,
        now: 0,
        hard_state: Some(HardState {
            term: 4,
            ..HardState::default()
        }),
        genesis: Some(leader.log.incarnation()),
        truncate_from: None,
        append: Append::Frames(&verified),
    };
    follower.log.write(write).expect("written");
    follower.wait(1);
    assert_eq!(follower.all(), leader.all());
    drop(follower);
    let follower = open(dirs[1].path());
    assert_eq!(follower.all(), leader.all());
    assert_eq!(follower.log.genesis(), leader.log.incarnation());
    assert_eq!(follower.log.hard_state().term, 4);
}

#[test]
fn a_read_keeps_its_bytes_when_the_log_is_dropped() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let mut node = open(dir.path());
    let id = node.append(1, &[command(100_000, 3)]);
    node.wait(id);
    let run = node.log.read(1, 1, 0).expect("readable").runs.remove(0);
    let copy = run.to_vec();
    drop(node);
    std::fs::remove_dir_all(dir.path()).expect("removed");
    assert_eq!(run, copy);
}

/// Fills a small disk until nothing more fits, votes there, makes room and goes on.
fn fill_up_and_go_on(disk: &SmallDisk, write_mode: WriteMode) {
    let options = LogOptions {
        write_mode,
        ..options()
    };
    let log_dir = disk.path().join("log");
    let mut node = try_open(&log_dir, IDENTITY, options.clone()).expect("opens");
    let batch = vec![command(50_000, 1); 10];
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut written = 0;
    // Until nothing more fits: the one segment there is room for is full.
    while !(node.log.disk_full() && node.log.ready_bytes() < 500_400) {
        assert!(Instant::now() < deadline);
        if node.log.ready_bytes() > 500_400 {
            let id = node.append(1, &batch);
            node.wait(id);
            written += 10;
        } else {
            node.step();
        }
    }
    assert!(written > 100 && node.log.poisoned().is_none());
    // A vote is still taken.
    let vote = HardState {
        term: 2,
        ..HardState::default()
    };
    let write = Write {
        id: node.next + 1,
        now: 0,
        hard_state: Some(vote),
        genesis: None,
        truncate_from: None,
        append: Append::None,
    };
    node.log.write(write).expect("no room is needed");
    node.next += 1;
    node.wait(node.next);
    // Room comes back, and the log goes on by itself.
    disk.grow();
    let id = node.append(2, &batch);
    node.wait(id);
    let before = node.all();
    assert_eq!(before.len(), written + 10);
    drop(node);
    let again = try_open(&log_dir, IDENTITY, options).expect("opens");
    assert_eq!(again.all(), before);
}

#[test]
fn c8_a_full_file_system_is_an_error_not_a_signal() {
    for mode in [WriteMode::Mapped, WriteMode::Through] {
        let disk = SmallDisk::tmpfs();
        if !common::needs("root, to mount a small file system", disk.is_some()) {
            return;
        }
        fill_up_and_go_on(&disk.expect("mounted"), mode);
    }
}

#[test]
fn c8_a_full_ext4_is_an_error_not_a_signal() {
    for mode in [WriteMode::Mapped, WriteMode::Through] {
        let disk = SmallDisk::ext4();
        if !common::needs("root and mkfs.ext4, for a small ext4", disk.is_some()) {
            return;
        }
        fill_up_and_go_on(&disk.expect("mounted"), mode);
    }
}

/// What the process itself holds, bytes: pages of no file.
fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * number.expect("RssAnon").parse::<u64>().expect("a number")
}

#[test]
fn h2_a_log_that_writes_through_holds_its_hot_bytes_and_four_segments_at_most() {
    const MIB: u64 = 1 << 20;
    let options = LogOptions {
        hot_bytes: 16 * MIB,
        write_mode: WriteMode::Through,
        ..options()
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut node = try_open(dir.path(), IDENTITY, options).expect("opens");
    let before = anonymous_memory();
    let batch = vec![command(50_000, 1); 20];
    let mut most = 0;
    for round in 0..160 {
        let id = node.append(1, &batch);
        node.wait(id);
        if round == 100 {
            // So that files go into the pool and are used again.
            let start = LogId::new(1, node.log.durable() - 100);
            node.log.compact(start).expect("an entry of the log");
        }
        most = most.max(anonymous_memory() - before);
    }
    assert!(node.log.counters().entry_bytes > 150 * MIB);
    assert!(node.log.counters().segments_recycled > 0);
    // A mebibyte or two for what is no page of the log.
    assert!(most <= (16 + 4 * 8 + 2) * MIB, "{} MiB", most / MIB);
    assert!(most > 16 * MIB, "{} MiB: are these copies?", most / MIB);
}

#[test]
fn syncs_on_the_caller_are_done_when_pump_returns() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (sender, events) = channel();
    let sink: EventSink = Arc::new(move |event| _ = sender.send(event));
    let medium = MappedDir::open(dir.path(), sink, &options()).expect("opens");
    let medium = medium.with_syncs_on_caller();
    let log = LogStorage::open(medium, IDENTITY, options()).expect("opens");
    let mut node = Node {
        log,
        events,
        next: 0,
    };
    let first = node.append(1, &[command(10, 1)]);
    node.wait(first);
    for seed in 0..20 {
        let id = node.append(1, &[command(10, seed)]);
        node.log.pump();
        let mut done = None;
        while let Ok(event) = node.events.try_recv() {
            done = node.log.handle(event).expect("no failure").or(done);
        }
        assert_eq!(done, Some(id));
    }
}

#[test]
fn pinned_bytes_do_not_change_when_their_segment_goes() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let mut node = open(dir.path());
    let fill = |node: &mut Node, term, batches: u64| {
        for round in 0..batches {
            let batch: Vec<_> = (0..10)
                .map(|nth| command(50_000, round * 10 + nth))
                .collect();
            let id = node.append(term, &batch);
            node.wait(id);
        }
    };
    fill(&mut node, 1, 60);
    let pinned = node.log.read(1, 100, usize::MAX).expect("readable").runs;
    let copies: Vec<_> = pinned.iter().map(|run| run.to_vec()).collect();
    node.log
        .compact(LogId::new(1, 590))
        .expect("an entry of the log");
    fill(&mut node, 2, 90);
    let counters = node.log.counters();
    assert!(counters.segments_recycled > 0, "{counters:?}");
    assert_eq!(pinned, copies);
    // Not one of the files that were read was used again: their segments had to go.
    drop(pinned);
    let before = node.all();
    assert_eq!(before.len(), 910);
    drop(node);
    assert_eq!(open(dir.path()).all(), before);
}

#[test]
fn a_log_can_be_owned_by_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<LogStorage<MappedDir>>();
    is_send::<LogStorage<Memory>>();
}

/// The mapping's unsafe code under valgrind's memory checker: bytes that outlive their segment and
/// their log, bytes handed from one log to another, and a log on another thread.
#[test]
fn valgrind_finds_nothing_in_reads_of_the_mapping() {
    if !common::needs("valgrind", common::has_program("valgrind")) {
        return;
    }
    let tests = [
        "pinned_bytes_do_not_change_when_their_segment_goes",
        "a_read_keeps_its_bytes_when_the_log_is_dropped",
        "a_follower_stores_the_very_bytes",
        "a_log_can_be_owned_by_another_thread",
    ];
    let me = std::env::current_exe().expect("this test's own program");
    let checked = std::process::Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9", "--leak-check=no"])
        .arg(me)
        .args(["--test-threads=1", "--exact"])
        .args(tests)
        .output()
        .expect("valgrind starts");
    let text = String::from_utf8_lossy(&checked.stdout);
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{text}\n{errors}");
    assert!(text.contains("4 passed"), "{text}");
}
