//! Makes a failing run small: as few strikes, faults and nodes as still break the same invariant.

use super::faults::Fault;
use super::phases::simulate_plan;
use super::plan::{Plan, Strike};
use super::report::Failure;
use super::workload::Workload;

/// Looks for the smallest plan that breaks the same invariant, in at most `runs` runs. What is
/// returned was run, and failed.
pub fn shrink<W: Workload + Clone>(workload: &W, failure: &Failure, runs: usize) -> Failure {
    let mut shrinker = Shrinker {
        workload,
        kind: failure.kind(),
        best: failure.clone(),
        left: runs,
    };
    shrinker.end_where_it_failed();
    loop {
        let before = (shrinker.best.plan.clone(), shrinker.left);
        shrinker.fewer_strikes();
        shrinker.fewer_faults();
        shrinker.shorter_strikes();
        if shrinker.left == 0 || shrinker.best.plan == before.0 {
            return shrinker.best;
        }
    }
}

struct Shrinker<'a, W> {
    workload: &'a W,
    kind: String,
    best: Failure,
    left: usize,
}

impl<W: Workload + Clone> Shrinker<'_, W> {
    /// Keeps a plan if it breaks the same invariant.
    fn try_plan(&mut self, plan: &Plan) -> bool {
        if self.left == 0 || *plan == self.best.plan {
            return false;
        }
        self.left -= 1;
        match simulate_plan(self.workload.clone(), plan) {
            Err(failure) if failure.kind() == self.kind => {
                self.best = *failure;
                true
            }
            _ => false,
        }
    }

    fn try_change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.best.plan.clone();
        change(&mut plan);
        self.try_plan(&plan)
    }

    /// What would come after the failure does not matter.
    fn end_where_it_failed(&mut self) {
        let at = self.best.at_us;
        self.try_change(|plan| {
            plan.strikes.retain(|strike| strike.at <= at);
            plan.chaos_us = plan.chaos_us.min(at + 1);
        });
    }

    /// Delta debugging (Zeller and Hildebrandt 2002): leaves out ever smaller parts.
    fn fewer_strikes(&mut self) {
        let mut parts = 2;
        while !self.best.plan.strikes.is_empty() && self.left > 0 {
            let many = self.best.plan.strikes.len();
            let size = many.div_ceil(parts);
            let left_out = (0..many).step_by(size).any(|start| {
                let keep = |nth: usize| nth < start || nth >= start + size;
                self.keep_strikes(keep)
            });
            if left_out {
                parts = (parts - 1).max(2);
            } else if size == 1 {
                return;
            } else {
                parts = (parts * 2).min(many);
            }
        }
    }

    fn keep_strikes(&mut self, keep: impl Fn(usize) -> bool) -> bool {
        self.try_change(|plan| {
            let strikes = plan.strikes.iter().enumerate();
            let kept = strikes.filter(|(nth, _)| keep(*nth));
            plan.strikes = kept.map(|(_, strike)| *strike).collect::<Vec<Strike>>();
        })
    }

    /// A sound network, right clocks, three nodes, fewer commands, every check.
    fn fewer_faults(&mut self) {
        self.try_change(|plan| plan.rates.links.drop = 0);
        self.try_change(|plan| plan.rates.links.duplicate = 0);
        self.try_change(|plan| plan.rates.links.delay = 0);
        self.try_change(|plan| plan.rates.links.reorder = 0);
        self.try_change(|plan| plan.rates.links.stale_epoch = 0);
        self.try_change(|plan| plan.rates.links.replay = 0);
        self.try_change(|plan| plan.rates.links.full = 0);
        self.try_change(|plan| plan.rates.clock_ppm = 0);
        self.try_change(|plan| plan.rates.links.latency = 100..101);
        self.try_change(|plan| plan.rates.sync = 100..101);
        self.try_change(|plan| plan.rates.prepare = 100..101);
        self.try_change(|plan| plan.rates.apply = 100..101);
        self.try_change(|plan| plan.nodes = plan.nodes.min(3));
        self.try_change(|plan| plan.truth_every = 1);
        self.try_change(|plan| {
            let proposals = &mut plan.rates.proposals;
            *proposals = proposals.start * 4..proposals.end * 4;
        });
    }

    /// Whatever lasts, half as long; crashes that leave nothing to chance.
    fn shorter_strikes(&mut self) {
        for nth in 0..self.best.plan.strikes.len() {
            self.try_change(|plan| {
                if let Some(strike) = plan.strikes.get_mut(nth) {
                    strike.long /= 2;
                }
            });
            self.try_change(|plan| {
                if let Some(strike) = plan.strikes.get_mut(nth)
                    && strike.fault == Fault::Subset
                {
                    strike.fault = Fault::PowerCut;
                }
            });
        }
    }
}
