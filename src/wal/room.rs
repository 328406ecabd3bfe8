//! How much room the log's disk has, looked at now and then.
//!
//! On the lane of what is slow: a disk that hangs may keep `statfs` waiting, and who appends must
//! never wait for a disk.

use std::time::Duration;

use super::log::LogStorage;
use super::medium::{Event, Files, Lane, Medium, MediumEvent};
use crate::types::Micros;

/// How often it is looked at.
const EVERY: Micros = 10_000_000;

/// Room on a disk, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRoom {
    /// Free for this process.
    pub free: u64,
    /// The whole file system.
    pub size: u64,
}

/// What is known of the disk, for figures.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// How long the sync took that came back last, until somebody asks.
    pub(super) sync_took: Option<Duration>,
    room: Option<DiskRoom>,
    /// When it is looked at again.
    next: Micros,
    /// A look is under way.
    asked: bool,
}

impl<M: Medium> LogStorage<M> {
    /// What was found the last time, where the files can tell.
    pub fn disk_room(&self) -> Option<DiskRoom> {
        self.disk.room
    }

    /// Has it looked at when it is time, unless the last look is not back yet.
    pub(super) fn look_at_room(&mut self, now: Micros) {
        if !M::Files::TELLS_ROOM || self.disk.asked || now < self.disk.next {
            return;
        }
        (self.disk.asked, self.disk.next) = (true, now + EVERY);
        let files = self.files.clone();
        let task = move || MediumEvent(Event::Room(files.disk_room()));
        let lane = Lane::Prepare;
        self.medium.submit(lane, Duration::ZERO, Box::new(task));
    }

    /// A look that failed leaves what was known: it is only a figure.
    pub(super) fn looked_at_room(&mut self, found: Option<DiskRoom>) {
        self.disk.asked = false;
        self.disk.room = found.or(self.disk.room);
    }
}
