//! Services: registration, lease, health.

use std::sync::Arc;

use super::store::Store;
use super::{Answer, Applied, Rejection, applied, limits, not_found, unchanged, within};
use crate::state_machine::state::{Health, ServiceState};
use crate::state_machine::{Cause, Id, RouterCommand};

impl Store<'_> {
    pub(super) fn apply_service(&mut self, command: RouterCommand) -> Applied {
        match command {
            RouterCommand::RegisterService { .. } => self.register_service(command),
            RouterCommand::DeregisterService { service_id } => {
                match self.remove_service(&service_id) {
                    Some((_, groups)) => applied(Answer::ServiceDeregistered { groups }),
                    None => unchanged(Answer::ServiceDeregistered { groups: Vec::new() }),
                }
            }
            RouterCommand::RenewLease { service_id } => self.renew(service_id),
            RouterCommand::UpdateServiceHealth { service_id, health } => {
                self.update_health(service_id, &health)
            }
            _ => unchanged(Answer::None),
        }
    }

    fn register_service(&mut self, command: RouterCommand) -> Applied {
        let new = self.new_service(command)?;
        let Some(old) = self.state.services.get(&*new.service_id).cloned() else {
            within(
                "services",
                self.state.services.len() + 1,
                limits::MAX_SERVICES,
            )?;
            let answer = Answer::ServiceRegistered {
                lease_ms: new.lease.lease_ms,
                revision: new.revision,
                replaced: false,
            };
            self.put_service(new);
            return applied(answer);
        };
        let again = ServiceState {
            registered_at_ms: old.registered_at_ms,
            ..new
        };
        let same = ServiceState {
            health: old.health,
            revision: old.revision,
            lease: old.lease,
            ..again.clone()
        } == *old
            && old.lease.lease_ms == again.lease.lease_ms;
        // Health set anew is a change of the record; a renewed lease is none.
        let revision = match same && old.health == again.health {
            true => old.revision,
            false => again.revision,
        };
        let answer = Answer::ServiceRegistered {
            lease_ms: again.lease.lease_ms,
            revision,
            replaced: true,
        };
        self.put_service(ServiceState { revision, ..again });
        if same {
            unchanged(answer)
        } else {
            applied(answer)
        }
    }

    /// The service that a registration describes, if its sidecar is there.
    fn new_service(&self, command: RouterCommand) -> Result<ServiceState, Rejection> {
        let RouterCommand::RegisterService {
            service_id,
            service_type,
            endpoint,
            service_name,
            labels,
            group_id,
            sidecar_id,
            lease_ms,
        } = command
        else {
            return Err(not_found("service", ""));
        };
        let sidecar_id = match sidecar_id {
            None => None,
            Some(id) => match self.state.sidecars.get_key_value(id.as_str()) {
                Some((stored, _)) => Some(stored.clone()),
                None => return Err(not_found("sidecar", id)),
            },
        };
        let service_id = Id::from(service_id);
        Ok(ServiceState {
            service_name: match service_name.is_empty() {
                true => service_id.clone(),
                false => service_name.into(),
            },
            service_id,
            service_type: service_type.into(),
            endpoint: endpoint.into(),
            labels: Arc::new(labels),
            group_id: group_id.map(Id::from),
            sidecar_id,
            health: Health::Healthy,
            registered_at_ms: self.state.clock.time_ms(),
            revision: self.state.clock.index,
            lease: self.lease(lease_ms),
        })
    }

    /// Removes a service, and it from its groups; its id and the groups left, if there was one.
    pub(super) fn remove_service(&mut self, id: &str) -> Option<(Id, Vec<Id>)> {
        let gone = self.take_service(id)?;
        let groups: Vec<Id> = self.state.indexes.memberships.of(id).cloned().collect();
        let why = self.tell.because(Cause::Cascade);
        for group in &groups {
            self.leave(group, id);
        }
        self.tell.because(why);
        Some((gone.service_id.clone(), groups))
    }

    fn renew(&mut self, service_id: String) -> Applied {
        let Some(own) = self.renew_service(&service_id) else {
            return Err(not_found("service", service_id));
        };
        let service = self.state.services.get(service_id.as_str());
        let sidecar = service.and_then(|service| service.sidecar_id.as_ref());
        let bound = sidecar.and_then(|id| self.state.sidecars.get(&**id));
        let lease = bound.map_or(own, |sidecar| sidecar.lease);
        applied(Answer::LeaseRenewed {
            lease_ms: lease.lease_ms,
            expires_at_ms: lease.expires_at_ms(),
        })
    }

    fn update_health(&mut self, service_id: String, health: &str) -> Applied {
        let health = parse_health(health)?;
        match self.set_health(&service_id, health) {
            None => Err(not_found("service", service_id)),
            Some(previous) if previous == health => unchanged(Answer::Health { previous }),
            Some(previous) => applied(Answer::Health { previous }),
        }
    }

    /// Sets a service's health; what it was, if there is such a service.
    pub(super) fn set_health(&mut self, id: &str, health: Health) -> Option<Health> {
        let service = self.state.services.get(id)?;
        let previous = service.health;
        if previous != health {
            let mut service = ServiceState::clone(service);
            service.health = health;
            service.revision = self.state.clock.index;
            self.put_service(service);
        }
        Some(previous)
    }
}

pub(super) fn parse_health(word: &str) -> Result<Health, Rejection> {
    word.parse().map_err(|error| Rejection::Invalid {
        field: "health".into(),
        why: format!("{error}"),
    })
}
