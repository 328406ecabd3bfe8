//! META: two slots, one after the other, each synced before the next is touched.

use std::io;

use super::OpenError;
use super::layout::{META_FILE, META_SLOT, META_STRIDE, MetaSlot, Record, VERSION};
use super::log::LogStorage;
use super::medium::{Files, Medium};

/// Writes both slots, the first durable before the second is begun, so that one is whole at any
/// crash.
pub(crate) fn write_both<F: Files>(files: &F, slot: &[u8], sync: bool) -> io::Result<()> {
    for offset in [0, META_STRIDE] {
        files.write(META_FILE, offset, slot)?;
        if sync {
            files.sync(META_FILE)?;
        }
    }
    Ok(())
}

/// The two slots as they were found.
pub(crate) struct Found {
    pub(crate) newest: Option<MetaSlot>,
    /// Whether the newest stands in the second slot.
    second: bool,
    /// What is wrong, in words, where neither is valid.
    pub(crate) trouble: String,
}

/// Reads META; a file that is too short counts as damaged.
pub(crate) fn read<F: Files>(files: &F) -> Result<Found, OpenError> {
    let fail = |source| OpenError::Io {
        what: format!("reading META in {}", files.place()),
        source,
    };
    let size = files.size(META_FILE).map_err(fail)?;
    let mut slots = [None, None];
    let mut trouble = Vec::new();
    for (nth, offset) in [0, META_STRIDE].into_iter().enumerate() {
        if size < offset + META_SLOT as u64 {
            trouble.push(format!("slot {nth} is missing, the file has {size} bytes"));
            continue;
        }
        let mut bytes = [0; META_SLOT];
        files.read(META_FILE, offset, &mut bytes).map_err(fail)?;
        match MetaSlot::parse(&bytes) {
            Record::Valid(slot) => slots[nth] = Some(slot),
            Record::Damaged => trouble.push(format!("slot {nth} has a wrong checksum")),
            Record::Newer(found) => {
                return Err(OpenError::Version {
                    file: format!("META in {}", files.place()),
                    found,
                    known: VERSION,
                });
            }
        }
    }
    let second = match slots {
        [Some(first), Some(second)] => second.seq.get() > first.seq.get(),
        [first, second] => first.is_none() && second.is_some(),
    };
    Ok(Found {
        newest: slots[usize::from(second)],
        second,
        trouble: trouble.join("; "),
    })
}

/// Writes the newest slot over the other, syncs, and then over itself: after a failed sync the
/// cache can show what the disk does not hold, even when both look equal.
pub(crate) fn settle<F: Files>(files: &F, found: &Found) -> io::Result<()> {
    let Some(slot) = found.newest else {
        return Ok(());
    };
    let bytes = slot.to_bytes();
    let (winner, loser) = if found.second {
        (META_STRIDE, 0)
    } else {
        (0, META_STRIDE)
    };
    for offset in [loser, winner] {
        files.write(META_FILE, offset, &bytes)?;
        files.sync(META_FILE)?;
    }
    Ok(())
}

/// Makes META for a new directory; durable, name included, before anything else is made.
pub(crate) fn create<F: Files>(files: &F, slot: &MetaSlot) -> io::Result<()> {
    write_both(files, &slot.to_bytes(), true)?;
    files.sync_dir()
}

impl<M: Medium> LogStorage<M> {
    /// META as it is to be, under its next number.
    pub(super) fn next_meta(&mut self) -> [u8; META_SLOT] {
        self.meta.seq = (self.meta.seq.get() + 1).into();
        self.meta.next_segment = self.next_seq.into();
        self.trim.in_meta = true;
        self.meta.to_bytes()
    }
}
