//! Where the benchmarks write: a RAM file system and a disk.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A folder to measure on.
pub(crate) struct Medium {
    pub(crate) name: &'static str,
    variable: &'static str,
    default: PathBuf,
}

/// The RAM file system and the disk: `CONVEYOR_BENCH_RAM` (default `/dev/shm`) and
/// `CONVEYOR_BENCH_DISK` (default below the target folder).
pub(crate) fn media() -> [Medium; 2] {
    let disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    [
        Medium {
            name: "ram",
            variable: "CONVEYOR_BENCH_RAM",
            default: "/dev/shm".into(),
        },
        Medium {
            name: "disk",
            variable: "CONVEYOR_BENCH_DISK",
            default: disk,
        },
    ]
}

impl Medium {
    /// The folder, after a look at its file system: a RAM figure from a disk, or the other way
    /// round, would be a lie.
    pub(crate) fn folder(&self) -> PathBuf {
        let set = std::env::var_os(self.variable).filter(|set| !set.is_empty());
        let folder = set.map_or_else(|| self.default.clone(), PathBuf::from);
        let kind = file_system(&folder);
        println!("{}: file system {kind}", self.name);
        let ram = kind == "tmpfs";
        assert_eq!(
            ram,
            self.name == "ram",
            "{} is on {kind}: set {} to a folder on {}",
            folder.display(),
            self.variable,
            if self.name == "ram" {
                "tmpfs"
            } else {
                "a disk"
            },
        );
        folder
    }
}

impl Medium {
    /// Prints what the medium alone takes for one 4 KiB write and its sync, to stand beside every
    /// figure.
    pub(crate) fn print_floor(&self) {
        match raw_sync(&self.folder()) {
            Ok(time) => println!("{}: raw 4 KiB write and sync, median {time:?}", self.name),
            Err(error) => println!("{}: raw write and sync not measured: {error}", self.name),
        }
    }
}

/// Median over writes to blocks that the file has already, as in a log whose segments are filled
/// beforehand.
pub(crate) fn raw_sync(folder: &Path) -> std::io::Result<Duration> {
    const PAGES: u64 = 64;
    let file = tempfile::tempfile_in(folder)?;
    let page = [0x5a; 4096];
    (0..PAGES).try_for_each(|nth| file.write_all_at(&page, nth * 4096))?;
    file.sync_all()?;
    let mut times = Vec::new();
    for nth in 0..PAGES {
        let start = Instant::now();
        file.write_all_at(&page, nth * 4096)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

pub(crate) fn file_system(folder: &Path) -> &'static str {
    let stat = rustix::fs::statfs(folder)
        .unwrap_or_else(|error| panic!("{}: {error}; make the folder first", folder.display()));
    match stat.f_type as u64 {
        0x0102_1994 => "tmpfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        _ => "another file system",
    }
}
