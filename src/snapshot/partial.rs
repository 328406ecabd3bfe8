//! A snapshot on its way in: chunks are put down in order, a broken transfer goes on where it broke
//! off, and only a file whose hash is right gets a snapshot's name.

use std::io;

use super::file::{self, SnapshotFile, SnapshotHead, SnapshotSum};
use super::folder::{SnapshotFolder, StoredSnapshot, name_of, partial_of};
use crate::types::LogId;
use crate::wal::Files;

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) last: LogId,
    pub(crate) sum: SnapshotSum,
    /// Chunks are this long, the last one excepted.
    pub(crate) chunk: u32,
}

/// What became of an offer or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Go on here.
    Next(u64),
    /// Everything is here; [`Receiver::check`] is next.
    Whole,
}

#[derive(Clone, Copy, Debug)]
struct Partial {
    offered: Offered,
    len: u64,
}

/// Takes snapshots that peers send.
///
/// While a second one is offered, the first is kept until more of the second is here: a leadership
/// that goes to and fro must not throw away what was received (hazard B12).
pub(crate) struct Receiver<F> {
    folder: SnapshotFolder<F>,
    current: Option<Partial>,
    other: Option<Partial>,
}

impl<F: Files> Receiver<F> {
    pub(crate) fn new(folder: SnapshotFolder<F>) -> Self {
        Self {
            folder,
            current: None,
            other: None,
        }
    }

    fn files(&self) -> &F {
        self.folder.files()
    }

    /// Takes an offer: where to go on. What an earlier life of the process received counts; should
    /// it be torn, the hash will not be right and the transfer begins anew.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn offer(&mut self, offered: Offered) -> io::Result<Taken> {
        if self.current.is_some_and(|it| it.offered == offered) {
            return Ok(self.state());
        }
        if self.other.is_some_and(|it| it.offered == offered) {
            std::mem::swap(&mut self.current, &mut self.other);
            return Ok(self.state());
        }
        let (old, found) = (self.current.take(), self.found(offered)?);
        if let Some(old) = old {
            let more = self.other.is_none_or(|other| other.len < old.len);
            let kept = if more { Some(old) } else { self.other };
            self.other = kept.filter(|it| it.len > 0);
        }
        self.current = Some(Partial {
            offered,
            len: found,
        });
        self.forget_others()?;
        Ok(self.state())
    }

    /// How much of it is on disk, from an earlier life of the process.
    fn found(&self, offered: Offered) -> io::Result<u64> {
        let name = partial_of(offered.sum.id());
        let len = match self.files().size(&name) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        if len > offered.sum.len {
            self.files().remove(&name)?;
            return Ok(0);
        }
        let chunk = u64::from(offered.chunk.max(1));
        Ok(if len == offered.sum.len {
            len
        } else {
            len / chunk * chunk
        })
    }

    fn state(&self) -> Taken {
        match self.current {
            Some(it) if it.len == it.offered.sum.len => Taken::Whole,
            Some(it) => Taken::Next(it.len),
            None => Taken::Next(0),
        }
    }

    /// Takes a chunk of snapshot `id`. One that comes twice, too early, or with a wrong checksum
    /// changes nothing. `None`: of another snapshot than the current.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn chunk(
        &mut self,
        id: u128,
        offset: u64,
        crc: u32,
        bytes: &[u8],
    ) -> io::Result<Option<Taken>> {
        let Some(mut it) = self.current.filter(|it| it.offered.sum.id() == id) else {
            return Ok(None);
        };
        let end = offset.saturating_add(bytes.len() as u64);
        let next = offset == it.len && end <= it.offered.sum.len && !bytes.is_empty();
        if next && crc32fast::hash(bytes) == crc {
            self.files().write(&partial_of(id), offset, bytes)?;
            it.len = end;
            self.current = Some(it);
            if self.other.is_some_and(|other| other.len <= it.len) {
                self.other = None;
                self.forget_others()?;
            }
        }
        Ok(Some(self.state()))
    }

    /// Once everything is here: whether it is what was offered. If not, it is thrown away.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn check(&mut self) -> io::Result<Option<(StoredSnapshot, SnapshotHead)>> {
        let Some(it) = self.current else {
            return Ok(None);
        };
        let name = partial_of(it.offered.sum.id());
        let sum = file::sum(self.files(), &name)?;
        let opened = SnapshotFile::open(self.folder.files(), &name);
        match opened {
            Ok(file) if sum == it.offered.sum && file.head.last == it.offered.last => {
                let stored = StoredSnapshot {
                    last: it.offered.last,
                    time_us: file.head.time_us,
                    sum,
                };
                Ok(Some((stored, file.head)))
            }
            _ => {
                self.discard()?;
                Ok(None)
            }
        }
    }

    /// Then its bytes are synced.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.current {
            Some(it) => self.files().sync(&partial_of(it.offered.sum.id())),
            None => Ok(()),
        }
    }

    /// Throws away what was received of the current one.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn discard(&mut self) -> io::Result<()> {
        match self.current.take() {
            Some(it) => self.files().remove(&partial_of(it.offered.sum.id())),
            None => Ok(()),
        }
    }

    /// Then it gets its name; [`SnapshotFolder::sync_names`] is last.
    pub(crate) fn name(&mut self) -> io::Result<()> {
        let Some(it) = self.current.take() else {
            return Ok(());
        };
        let partial = partial_of(it.offered.sum.id());
        self.files().rename(&partial, &name_of(it.offered.last))
    }

    /// Removes what was received of snapshots that nobody waits for any more.
    fn forget_others(&self) -> io::Result<()> {
        let kept = self.current.iter().chain(&self.other);
        let kept: Vec<_> = kept.map(|it| partial_of(it.offered.sum.id())).collect();
        for name in self.files().list()? {
            if name.starts_with(super::folder::RECEIVING) && !kept.contains(&name) {
                self.files().remove(&name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "partial_tests.rs"]
mod tests;
