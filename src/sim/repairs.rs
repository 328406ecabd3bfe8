//! Logs that are refused and then repaired: the replica comes back with a part of what it had, and
//! gets the rest from its peers.

use std::sync::Arc;

use super::host::StartFault;
use super::schedule::{At, Event};
use super::truth::Image;
use super::workload::Workload;
use super::world::World;
use crate::types::NodeId;
use crate::wal::{Crash, OpenError, plan_repair, repair};

/// How many refused logs in a thousand are repaired.
const REPAIRED: u64 = 700;
/// Repairs in a thousand that are cut off by a crash.
const CUT_OFF: u64 = 300;
/// A repair takes some dozens of steps on the disk.
const STEPS: u64 = 60;

impl<W: Workload> World<W> {
    /// The operator has the log repaired and starts the node again, if that is possible. What the
    /// replica had promised `before` is held against the cluster until the repair ends.
    pub(crate) fn repair(
        &mut self,
        node: NodeId,
        error: &StartFault,
        before: Option<&Arc<Image>>,
    ) -> bool {
        let damaged = matches!(error, StartFault::Log(OpenError::Corrupt(_)));
        let chosen = self.repairs.chance(REPAIRED);
        let cut_off = self.repairs.chance(CUT_OFF);
        let (stamp, draw) = (self.repairs.next(), self.repairs.next());
        let Some(host) = self.host(node).filter(|_| damaged && chosen) else {
            return false;
        };
        let Ok(plan) = plan_repair(&host.disk) else {
            return false;
        };
        if cut_off {
            host.disk.fail_after(draw % STEPS);
        }
        let done = repair(&host.disk, &plan, &format!("{stamp:x}"));
        let crash = match draw >> 8 & 3 {
            // What a power cut leaves of half a repair may look like a torn end instead.
            _ if done.is_err() => Crash::Kill,
            0 => Crash::Kill,
            1 => Crash::Subset(draw),
            _ => Crash::PowerCut,
        };
        host.disk.crash(crash);
        host.repairing = true;
        if let Some(replica) = host.replica() {
            self.oracle.repaired(replica, before.map(Arc::clone));
        }
        self.repaired.0 += u64::from(done.is_ok());
        self.note(|| {
            let (kept, lost) = (plan.kept, plan.lost_upto);
            format!("node {node} is repaired, kept up to {kept} of {lost}: {done:?}, {crash:?}")
        });
        self.schedule.add(self.now + 100_000, Event::Start(node));
        true
    }

    /// The repair has ended: from now on the replica answers for itself again.
    pub(crate) fn observe_repair(&mut self, at: At) -> Result<(), String> {
        let Some(host) = self.host(at.node).filter(|host| host.repairing) else {
            return Ok(());
        };
        let Some(process) = host.process.as_deref() else {
            return Ok(());
        };
        if process.driver.core().is_repairing() {
            return Ok(());
        }
        host.repairing = false;
        let me = process.me;
        self.oracle.unearth(me);
        self.repaired.1 += 1;
        if self.image(at.node)?.repairing {
            return Err(format!(
                "S19: {me} counts, and its disk says that it does not"
            ));
        }
        self.note(|| format!("node {} has everything back", at.node));
        self.observe_loss()
    }
}
