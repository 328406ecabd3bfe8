//! Faults at nodes, links and disks, within what a correct system must survive.

use std::sync::Arc;

use super::faults::Fault;
use super::host::{Host, NEW, OLD, Spoiled};
use super::plan::{Strike, Target};
use super::schedule::{At, Event};
use super::workload::Workload;
use super::world::World;
use crate::core::Class;
use crate::node::inbox::Request;
use crate::types::{Micros, NodeId};
use crate::wal::{Crash, Files, MemoryDisk, SyncFault};

/// The part of a unit of the log in which bits flip: where there is something to be harmed.
const FILLED: u64 = 256;
const UNIT: u64 = 4096;

impl<W: Workload> World<W> {
    /// One fault.
    pub(crate) fn strike(&mut self, strike: &Strike) -> Result<(), String> {
        let nodes = self.hosts.len() as u64;
        let node = match strike.target {
            Target::Node(node) => 1 + (node.max(1) - 1) % nodes,
            Target::Leader => self.leader().unwrap_or(1),
        };
        let other = 1 + (node - 1 + strike.other) % nodes;
        let Some(state) = self.host(node).map(|host| host.state()) else {
            return Ok(());
        };
        let done = match strike.fault {
            Fault::Kill => self.crash_for(node, Crash::Kill, strike.long),
            Fault::PowerCut => self.crash_for(node, Crash::PowerCut, strike.long),
            Fault::Subset => self.crash_for(node, Crash::Subset(strike.draw), strike.long),
            Fault::Wipe => self.wipe(node, strike.draw)?,
            Fault::Rot | Fault::RotAnywhere => self.rot(node, strike)?,
            Fault::SyncKeep => self.fail_sync(node, SyncFault::Keep, strike.draw),
            Fault::SyncRevert => self.fail_sync(node, SyncFault::Revert, strike.draw),
            Fault::SyncLate => self.fail_sync(node, SyncFault::Late, strike.draw),
            Fault::ReadError => self.fail_read(node, strike.draw),
            Fault::Join | Fault::Remove | Fault::Replace | Fault::Promote | Fault::Demote => {
                self.change_members(strike, node)?
            }
            Fault::HandOver => self.hand_over(node, other),
            Fault::Diverge => self.diverge(node),
            Fault::Poison => self.poison(node, strike.draw),
            Fault::Upgrade => self.change_release(node, NEW, strike.long),
            Fault::Downgrade => self.change_release(node, OLD, strike.long),
            Fault::Cut | Fault::Isolate | Fault::Mute | Fault::Clog | Fault::Reset => {
                self.disturb_links(strike, node, other)
            }
            _ => self.disturb(strike, node),
        };
        if done {
            if self.host(node).is_some_and(|host| host.process.is_none()) {
                self.observe_loss()?;
            }
            self.faults.count_in(strike.fault, state);
            let (name, long) = (strike.fault.name(), strike.long);
            let state = state.name();
            self.note(|| format!("{name} at node {node}, {state} (other {other}), for {long} us"));
        }
        Ok(())
    }

    /// An operator asks `node` to hand leadership over, which it can do if it leads.
    fn hand_over(&mut self, node: NodeId, other: NodeId) -> bool {
        let to = (other != node).then_some(other);
        let Some(host) = self.running(node).filter(|host| host.leads().is_some()) else {
            return false;
        };
        let life = host.life;
        if let Some(process) = host.process.as_deref() {
            let (reply, _) = tokio::sync::oneshot::channel();
            let request = Request::HandOver { to, reply };
            process
                .shared
                .inbox
                .put(|lanes| lanes.requests.push(request));
        }
        self.poke(At { node, life }, 0);
        true
    }

    /// The state of a minority becomes another one. Only where no snapshot is taken: a restart mends
    /// it, and nobody can be given it.
    fn diverge(&mut self, node: NodeId) -> bool {
        if self.plan.rates.snapshot_every > 0 || !self.may_spoil(node) {
            return false;
        }
        let workload = &self.workload;
        let host = self.hosts.get_mut((node as usize).saturating_sub(1));
        let process = host.and_then(|host| host.process.as_deref_mut());
        let Some(process) = process.filter(|process| !process.diverged) else {
            return false;
        };
        let (me, diverged) = (
            process.me,
            process.diverge(|machine| workload.spoil(machine)),
        );
        if diverged {
            self.oracle.diverges(me, true);
        }
        diverged
    }

    fn disturb_links(&mut self, strike: &Strike, node: NodeId, other: NodeId) -> bool {
        let until = self.now + strike.long;
        match strike.fault {
            Fault::Cut => self.wires.cut(node, other, until),
            Fault::Clog => self.wires.clog(node, other, until),
            Fault::Isolate => {
                for peer in 1..=self.hosts.len() as NodeId {
                    self.wires.cut(node, peer, until);
                    self.wires.cut(peer, node, until);
                }
            }
            Fault::Mute => self.mute(node, until),
            _ => {
                let control = strike.draw.is_multiple_of(2);
                let class = if control { Class::Control } else { Class::Data };
                self.wires.reset(node, other, class);
            }
        }
        node != other
    }

    /// Until then a node is heard, and neither it nor anybody can replicate to the other.
    pub(crate) fn mute(&mut self, node: NodeId, until: Micros) {
        for peer in 1..=self.hosts.len() as NodeId {
            self.wires.mute(node, peer, until);
            self.wires.mute(peer, node, until);
        }
    }

    /// What goes away by itself.
    fn disturb(&mut self, strike: &Strike, node: NodeId) -> bool {
        let until = self.now + strike.long;
        match strike.fault {
            Fault::Quiet => {
                self.quiet_until = until;
                return true;
            }
            Fault::Surge => {
                self.surge = 50 + strike.draw % 150;
                return true;
            }
            _ => {}
        }
        let Some(host) = self.host(node) else {
            return false;
        };
        match strike.fault {
            Fault::Pause => {
                let Some(process) = host.process.as_deref_mut() else {
                    return false;
                };
                process.paused_until = until;
            }
            Fault::Stall => host.stalled_until = until,
            Fault::SlowApply => host.slow_until = until,
            Fault::DiskFull => {
                host.disk.set_quota(Some(0));
                host.full_until = until;
                self.schedule.add(until, Event::Room(node));
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn room(&mut self, node: NodeId) {
        let now = self.now;
        if let Some(host) = self.host(node).filter(|host| host.full_until <= now) {
            host.disk.set_quota(None);
        }
    }

    pub(crate) fn running(&mut self, node: NodeId) -> Option<&mut Host<W::Machine>> {
        self.host(node).filter(|host| host.process.is_some())
    }

    pub(crate) fn crash_for(&mut self, node: NodeId, crash: Crash, long: Micros) -> bool {
        if self.running(node).is_none() {
            return false;
        }
        self.crash(node, crash);
        self.schedule
            .add(self.now + 1_000 + long, Event::Start(node));
        true
    }

    fn fail_sync(&mut self, node: NodeId, fault: SyncFault, draw: u64) -> bool {
        let lie = fault == SyncFault::Late;
        if lie && !self.may_spoil(node) {
            return false;
        }
        let Some(host) = self.running(node) else {
            return false;
        };
        host.disk.fail_sync(draw % 3, fault);
        host.disk_faults = true;
        if lie {
            host.spoiled = Spoiled::Lied(None);
        }
        true
    }

    fn fail_read(&mut self, node: NodeId, draw: u64) -> bool {
        let Some(host) = self.running(node) else {
            return false;
        };
        host.disk.fail_read(draw % 3);
        host.disk_faults = true;
        true
    }

    /// Only a minority of the voters may lose what it had promised, only once the cluster exists, and
    /// not while it changes.
    fn may_spoil(&mut self, node: NodeId) -> bool {
        let Some((index, governing)) = self.oracle.governing() else {
            return false;
        };
        let running = self.running(node).filter(|host| !host.is_spoiled());
        let Some(who) = running.and_then(|host| host.replica()) else {
            return false;
        };
        let voters = governing.incoming.iter().map(|one| one.replica);
        let lost = voters.filter(|voter| *voter == who || !self.is_sound(*voter));
        let most = (governing.incoming.len().max(1) - 1) / 2;
        lost.count() <= most && governing.is_voter(who) && !self.change_in_flight(index)
    }

    /// A directory is lost for good. What its node had promised stays promised.
    fn wipe(&mut self, node: NodeId, draw: u64) -> Result<bool, String> {
        if !self.may_spoil(node) {
            return Ok(false);
        }
        let image = self.image(node)?;
        self.crash(node, Crash::PowerCut);
        self.retire(node, Some(image), draw);
        Ok(true)
    }

    /// The operator takes the directory away; the node starts with an empty one, and takes no part
    /// until somebody replaces it.
    pub(crate) fn retire(
        &mut self,
        node: NodeId,
        image: Option<Arc<super::truth::Image>>,
        draw: u64,
    ) {
        let Some(host) = self.host(node) else { return };
        let replica = host.replica();
        host.wiped = true;
        host.spoiled = Spoiled::No;
        host.repairing = false;
        host.promised = None;
        host.configured = 0;
        host.incarnation = None;
        host.disk = MemoryDisk::seeded(draw);
        if let Some(replica) = replica {
            self.oracle.bury(replica, image);
        }
        self.schedule.add(self.now + 100_000, Event::Start(node));
    }

    /// Flips bits on a disk: of a process that was stopped, or in a sealed part under a running one.
    fn rot(&mut self, node: NodeId, strike: &Strike) -> Result<bool, String> {
        let anywhere = strike.fault == Fault::RotAnywhere;
        if !self.may_spoil(node) {
            return Ok(false);
        }
        let under_way = !anywhere && strike.draw & 1 == 0;
        let Some((file, size)) = self.place_of_rot(node, anywhere, strike.draw >> 8) else {
            return Ok(false);
        };
        let mut before = None;
        if !under_way {
            self.crash(node, Crash::PowerCut);
            before = Some(self.image(node)?);
            self.schedule
                .add(self.now + 1_000 + strike.long, Event::Start(node));
        }
        let Some(host) = self.host(node) else {
            return Ok(false);
        };
        let mut draw = strike.draw >> 16;
        for _ in 0..1 + strike.draw % 3 {
            let at = draw % (size / UNIT).max(1) * UNIT + (draw >> 24) % FILLED;
            host.disk.rot(&file, at.min(size - 1), 1 << (draw % 8));
            draw = draw.rotate_left(21).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        host.spoiled = match before {
            Some(before) if anywhere => Spoiled::RottedAnywhere(before),
            before => Spoiled::Rotted(before),
        };
        Ok(true)
    }

    /// A file to harm: any, or a segment that others follow, so that they vouch for it.
    fn place_of_rot(&mut self, node: NodeId, anywhere: bool, draw: u64) -> Option<(String, u64)> {
        let disk = self.host(node)?.disk.clone();
        let mut names = disk.list().ok()?;
        if !anywhere {
            names.retain(|name| name.starts_with("seg-"));
            names.sort_unstable();
            // The last one that is written to, and one that is ready.
            names.truncate(names.len().saturating_sub(2));
        }
        let nth = (draw % names.len().max(1) as u64) as usize;
        let name = names.into_iter().nth(nth)?;
        let size = disk.size(&name).ok().filter(|size| *size > 0)?;
        Some((name, size))
    }
}
