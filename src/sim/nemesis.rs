//! Faults at nodes, links and disks, within what a correct system must survive.

use super::faults::Fault;
use super::schedule::Event;
use super::workload::Workload;
use super::world::World;
use crate::core::Class;
use crate::types::{Micros, NodeId};
use crate::wal::{Crash, MemoryDisk, SyncFault};

impl<W: Workload> World<W> {
    /// One fault, and the time of the next.
    pub(crate) fn strike(&mut self) -> Result<(), String> {
        let Some(fault) = self.nemesis.pick(&self.swarm.actions) else {
            return Ok(());
        };
        let wait = self.nemesis.within(&self.swarm.pace);
        self.schedule.add(self.now + 1 + wait, Event::Nemesis);
        let nodes = self.hosts.len() as u64;
        let node = 1 + self.nemesis.below(nodes);
        let other = 1 + (node + self.nemesis.below(nodes - 1)) % nodes;
        let long = self.nemesis.below(1_500_000);
        let draw = self.nemesis.next();
        let done = match fault {
            Fault::Kill | Fault::PowerCut | Fault::Subset => {
                let crash = match fault {
                    Fault::PowerCut => Crash::PowerCut,
                    Fault::Subset => Crash::Subset(draw),
                    _ => Crash::Kill,
                };
                self.crash_for(node, crash, long)
            }
            Fault::Wipe => self.wipe(node, draw)?,
            Fault::SyncKeep => self.fail_sync(node, SyncFault::Keep, draw),
            Fault::SyncRevert => self.fail_sync(node, SyncFault::Revert, draw),
            Fault::SyncLate => self.fail_sync(node, SyncFault::Late, draw),
            _ => self.disturb(fault, node, other, long, draw),
        };
        if done {
            self.faults.count(fault);
            self.note(|| format!("{} at node {node} ({other}) for {long} us", fault.name()));
        }
        Ok(())
    }

    /// What goes away by itself.
    fn disturb(
        &mut self,
        fault: Fault,
        node: NodeId,
        other: NodeId,
        long: Micros,
        draw: u64,
    ) -> bool {
        let (now, until) = (self.now, self.now + long);
        match fault {
            Fault::Cut => self.wires.cut(node, other, until),
            Fault::Isolate => {
                for peer in 1..=self.hosts.len() as NodeId {
                    self.wires.cut(node, peer, until);
                    self.wires.cut(peer, node, until);
                }
            }
            Fault::Clog => self.wires.clog(node, other, until),
            Fault::Reset => {
                let class = if draw.is_multiple_of(2) {
                    Class::Data
                } else {
                    Class::Control
                };
                self.wires.reset(node, other, class);
            }
            Fault::Pause => {
                let process = self.host(node).and_then(|host| host.process.as_deref_mut());
                let Some(process) = process else { return false };
                process.paused_until = until;
            }
            Fault::Stall => {
                let Some(host) = self.host(node) else {
                    return false;
                };
                host.stalled_until = until;
            }
            Fault::DiskFull => {
                let Some(host) = self.host(node) else {
                    return false;
                };
                host.disk.set_quota(Some(0));
                host.full_until = until;
                self.schedule.add(until, Event::Room(node));
            }
            _ => return false,
        }
        now < until
    }

    pub(crate) fn room(&mut self, node: NodeId) {
        let now = self.now;
        if let Some(host) = self.host(node).filter(|host| host.full_until <= now) {
            host.disk.set_quota(None);
        }
    }

    fn crash_for(&mut self, node: NodeId, crash: Crash, long: Micros) -> bool {
        let Some(host) = self.host(node).filter(|host| host.process.is_some()) else {
            return false;
        };
        let crash = if host.lied { Crash::Kill } else { crash };
        self.crash(node, crash);
        self.schedule
            .add(self.now + 1_000 + long, Event::Start(node));
        true
    }

    fn fail_sync(&mut self, node: NodeId, fault: SyncFault, draw: u64) -> bool {
        let Some(host) = self.host(node).filter(|host| host.process.is_some()) else {
            return false;
        };
        host.disk.fail_sync(draw % 3, fault);
        host.sync_faults = true;
        host.lied |= fault == SyncFault::Late;
        true
    }

    /// A minority loses its directories for good. What they had promised stays promised.
    fn wipe(&mut self, node: NodeId, draw: u64) -> Result<bool, String> {
        let most = (self.hosts.len() - 1) / 2;
        let wiped = self.hosts.iter().filter(|host| host.wiped).count();
        let founded = self.oracle.committed() > 0;
        let usable = |host: &&mut super::host::Host<W::Machine>| {
            host.process.is_some() && !host.wiped && !host.sync_faults
        };
        let Some(host) = self.host(node).filter(usable) else {
            return Ok(false);
        };
        let me = host.process.as_ref().map(|process| process.me);
        if wiped >= most || !founded {
            return Ok(false);
        }
        let image = self.image(node)?;
        if let Some(me) = me {
            self.oracle.bury(me, image);
        }
        self.crash(node, Crash::PowerCut);
        if let Some(host) = self.host(node) {
            host.wiped = true;
            host.disk = MemoryDisk::seeded(draw);
        }
        self.schedule.add(self.now + 100_000, Event::Start(node));
        Ok(true)
    }
}
