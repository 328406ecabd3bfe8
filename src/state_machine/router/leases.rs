//! Expiry of leases, by log time only.

use std::collections::BTreeSet;

use super::store::{Leased, Store};
use super::{Answer, Applied, applied, unchanged};
use crate::state_machine::{Cause, Id, RouterCommand};

pub(super) struct Leases;

impl Leases {
    /// The command that removes what is due, if anything is.
    pub(super) fn due<'a>(
        expired: impl Iterator<Item = (Leased, &'a Id)>,
    ) -> Option<RouterCommand> {
        let (mut sidecars, mut services) = (Vec::new(), Vec::new());
        for (kind, id) in expired {
            match kind {
                Leased::Sidecar => sidecars.push(String::from(id)),
                Leased::Service => services.push(String::from(id)),
            }
        }
        let none = sidecars.is_empty() && services.is_empty();
        (!none).then_some(RouterCommand::ExpireLeases { sidecars, services })
    }
}

impl Store<'_> {
    /// Removes those that have expired at this entry's time. Whoever proposed it, and however late
    /// it comes, a renewal that got into the log before it wins.
    pub(super) fn expire(&mut self, sidecars: &[String], services: &[String]) -> Applied {
        let active_us = self.state.clock.active_us();
        self.tell.because(Cause::Expired);
        let (mut gone_sidecars, mut gone_services) = (Vec::new(), Vec::new());
        for id in sidecars.iter().collect::<BTreeSet<_>>() {
            let sidecar = self.state.sidecars.get(id.as_str());
            if sidecar.is_some_and(|sidecar| sidecar.lease.is_expired(active_us))
                && let Some(gone) = self.remove_sidecar(id)
            {
                gone_sidecars.push(gone.sidecar_id);
                gone_services.extend(gone.services);
            }
        }
        for id in services.iter().collect::<BTreeSet<_>>() {
            let service = self.state.services.get(id.as_str());
            let last = service.and_then(|service| service.deadline_us());
            if last.is_some_and(|last| active_us > last)
                && let Some((service, _)) = self.remove_service(id)
            {
                gone_services.push(service);
            }
        }
        let none = gone_sidecars.is_empty() && gone_services.is_empty();
        let answer = Answer::Expired {
            sidecars: gone_sidecars,
            services: gone_services,
        };
        if none {
            unchanged(answer)
        } else {
            applied(answer)
        }
    }
}
