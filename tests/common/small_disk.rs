//! A file system that is soon full.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// Goes with its last owner.
pub(crate) struct SmallDisk {
    at: tempfile::TempDir,
    /// What fills most of it until it grows; on the RAM file system nothing does.
    ballast: Option<PathBuf>,
    _image: Option<tempfile::NamedTempFile>,
}

fn run(program: &str, args: &[&str], at: &[&Path]) -> bool {
    let done = Command::new(program).args(args).args(at).output();
    done.is_ok_and(|output| output.status.success())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

impl SmallDisk {
    /// 16 MiB of RAM; `None` where this user may not mount anything.
    pub(crate) fn tmpfs() -> Option<Self> {
        let at = folder();
        let args = ["-t", "tmpfs", "-o", "size=16m", "tmpfs"];
        run("mount", &args, &[at.path()]).then(|| Self {
            at,
            ballast: None,
            _image: None,
        })
    }

    /// ext4 on a file, with 13 MiB left; `None` as above, or without `mkfs.ext4`.
    pub(crate) fn ext4() -> Option<Self> {
        let at = folder();
        let image = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
        image.as_file().set_len(128 * MIB).expect("sized");
        let made = run("mkfs.ext4", &["-q", "-F"], &[image.path()])
            && run("mount", &["-o", "loop"], &[image.path(), at.path()]);
        if !made {
            return None;
        }
        let ballast = at.path().join("ballast");
        let file = File::create(&ballast).expect("room");
        let piece = vec![1; MIB as usize];
        let mut len = 0;
        while free(at.path()) > 13 * MIB {
            file.write_all_at(&piece, len).expect("room");
            file.sync_all().expect("synced");
            len += MIB;
        }
        Some(Self {
            at,
            ballast: Some(ballast),
            _image: Some(image),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }

    /// Makes room.
    pub(crate) fn grow(&self) {
        match &self.ballast {
            Some(ballast) => std::fs::remove_file(ballast).expect("removed"),
            None => {
                let args = ["-o", "remount,size=96m"];
                assert!(run("mount", &args, &[self.path()]), "it grows");
            }
        }
    }
}

fn free(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).expect("statvfs");
    stat.f_bavail * stat.f_frsize
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached at once even where a node of a failed test still has files open.
        run("umount", &["-l"], &[self.at.path()]);
    }
}
