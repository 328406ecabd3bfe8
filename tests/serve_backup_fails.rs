//! Backups that a node is to make by itself and cannot: it counts them, says what to do and goes on, and the
//! next one is made once the directory can be used again.
#![cfg(feature = "cli")]

#[path = "serve_common/client.rs"]
mod caller;
mod common;
#[path = "serve_common/figures.rs"]
mod figures;
mod serve_common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use caller::{Caller, Fate};
use common::small_disk::SmallDisk;
use conveyor_raft::RouterCommand;
use figures::{get, scraped, until, value};
use serve_common::{Running, Site};

const FAILURES: &str = "conveyor_raft_backup_failures_total{node=\"1\"}";
const ADVICE: &str = "see that the directory of [backup] is there, can be written and has room";

/// A node that makes a backup a second, if there is something new.
struct Node {
    _running: Running,
    site: Site,
    caller: Caller,
    port: u16,
    dir: PathBuf,
}

impl Node {
    async fn start(dir: Option<&Path>) -> Self {
        let site = Site::new(1);
        let dir = dir.map_or_else(|| site.path("backups"), |dir| dir.join("backups"));
        let port = scraped(&site, 1);
        let settings = format!("[backup]\ndir = {dir:?}\nevery_s = 1\n");
        let file = OpenOptions::new().append(true).open(site.config(1));
        let written = file.expect("settings").write_all(settings.as_bytes());
        written.expect("settings");
        let running = site.start(1);
        let caller = Caller::new(&site);
        caller.leader().await;
        Self {
            _running: running,
            site,
            caller,
            port,
            dir,
        }
    }

    /// Applies a command: the node goes on, and there is something new to keep. Returns its index.
    async fn goes_on(&mut self) -> u64 {
        match self.caller.propose(RouterCommand::Noop).await {
            Fate::Applied(response) => response.index,
            Fate::Unknown => panic!("not applied: {}", self.site.log(1)),
        }
    }

    fn failures(&self) -> f64 {
        let (_, figures) = get(self.port, "GET /metrics").expect("figures");
        value(&figures, FAILURES).expect("told from the start")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).expect("the directory");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let names = entries.map(|entry| name(entry).into_string().expect("UTF-8"));
        names.collect()
    }

    /// Waits until there is a backup of this index or a later one.
    fn keeps(&self, index: u64) {
        until("a backup", || {
            self.files().iter().find_map(|name| {
                let of = name.strip_suffix(".snapshot")?.rsplit('-').next()?;
                (of.parse::<u64>().ok()? >= index).then_some(())
            })
        });
    }

    /// From now on backups fail; returns how many did so before.
    async fn fails(&mut self, why: &str) {
        let before = self.failures();
        let said = self.site.log(1).matches(ADVICE).count();
        self.goes_on().await;
        // Not the first only: it tries again.
        until(why, || (self.failures() >= before + 2.0).then_some(()));
        let log = self.site.log(1);
        assert!(log.matches(ADVICE).count() >= said + 2, "{log}");
        assert!(log.contains(why), "{why}: {log}");
        assert!(
            log.contains(&format!("dir={}", self.dir.display())),
            "{log}"
        );
        self.goes_on().await;
    }

    /// The directory can be used again: one is made, and no more fail.
    async fn is_well(&mut self) {
        let index = self.goes_on().await;
        self.keeps(index);
        let failures = self.failures();
        let index = self.goes_on().await;
        self.keeps(index);
        assert_eq!(self.failures(), failures, "{}", self.site.log(1));
        let files = self.files();
        let whole = |name: &String| name.ends_with(".snapshot");
        assert!(files.iter().all(whole), "left behind: {files:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_directory_that_is_gone_is_told_and_not_made_anew() {
    let _turn = common::real_time_turn();
    let mut node = Node::start(None).await;
    node.is_well().await;
    assert_eq!(node.failures(), 0.0);
    let elsewhere = node.site.path("elsewhere");
    fs::rename(&node.dir, &elsewhere).expect("moved");
    node.fails("No such file or directory").await;
    // It may be the place of a disk that is not mounted.
    assert!(!node.dir.exists());
    fs::rename(&elsewhere, &node.dir).expect("moved back");
    node.is_well().await;
}

fn remount(disk: &SmallDisk, how: &str) {
    let options = format!("remount,{how}");
    let mount = Command::new("mount")
        .args(["-o", &options])
        .arg(disk.path())
        .status();
    assert!(mount.expect("mount runs").success(), "{options}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_onto_a_full_or_read_only_disk_fail_alone_and_go_on_with_room() {
    let disk = SmallDisk::tmpfs();
    if !common::needs("root, to mount a small file system", disk.is_some()) {
        return;
    }
    let disk = disk.expect("there is one");
    let _turn = common::real_time_turn();
    let mut node = Node::start(Some(disk.path())).await;
    node.is_well().await;
    let ballast = disk.path().join("ballast");
    let mut file = fs::File::create(&ballast).expect("room");
    // Until nothing more goes in; what is left of the last piece does not either.
    while file.write_all(&[1; 4096]).is_ok() {}
    node.fails("is full; free some space or delete snapshots")
        .await;
    fs::remove_file(&ballast).expect("removed");
    drop(file);
    node.is_well().await;

    remount(&disk, "ro");
    node.fails("Read-only file system").await;
    remount(&disk, "rw");
    node.is_well().await;
}
