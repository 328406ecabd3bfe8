//! Sidecars: registration, heartbeats, assignments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::services::parse_health;
use super::store::Store;
use super::{Answer, Applied, Rejection, applied, limits, not_found, unchanged, within};
use crate::state_machine::command::{LocalService, StageAssignment, StageTarget};
use crate::state_machine::response::SidecarPipeline;
use crate::state_machine::state::{Assignment, Health, SidecarService, SidecarState};
use crate::state_machine::{Cause, Id, OrderedMap, RouterCommand};

/// What a sidecar took with it.
pub(super) struct GoneSidecar {
    pub(super) sidecar_id: Id,
    pub(super) services: Vec<Id>,
    groups: BTreeSet<Id>,
    pipelines: Vec<Id>,
}

impl Store<'_> {
    pub(super) fn apply_sidecar(&mut self, command: RouterCommand) -> Applied {
        match command {
            RouterCommand::RegisterSidecar { .. } => self.register_sidecar(command),
            RouterCommand::DeregisterSidecar { sidecar_id } => self.deregister_sidecar(&sidecar_id),
            RouterCommand::UpdateSidecarHeartbeat {
                sidecar_id,
                timestamp,
                health,
            } => self.heartbeat(sidecar_id, timestamp, &health),
            RouterCommand::AssignPipeline {
                pipeline_id,
                sidecar_id,
                stages,
            } => self.assign_pipeline(pipeline_id, sidecar_id, stages),
            RouterCommand::RevokePipeline {
                pipeline_id,
                sidecar_id,
            } => self.revoke_pipeline(&pipeline_id, &sidecar_id),
            _ => unchanged(Answer::None),
        }
    }

    fn register_sidecar(&mut self, command: RouterCommand) -> Applied {
        let RouterCommand::RegisterSidecar {
            sidecar_id,
            endpoint,
            services,
            pod_name,
            namespace,
            lease_ms,
        } = command
        else {
            return unchanged(Answer::None);
        };
        let (by_namespace, by_pod) = sidecar_id.split_once('/').unwrap_or_default();
        let or = |given: &str, other: &str| Id::from(if given.is_empty() { other } else { given });
        let new = SidecarState {
            endpoint: endpoint.into(),
            pod_name: or(&pod_name, by_pod),
            namespace: or(&namespace, by_namespace),
            services: services.into_iter().map(offered).collect(),
            assignments: OrderedMap::new(),
            assignments_revision: 0,
            registered_at_ms: self.state.clock.time_ms(),
            revision: self.state.clock.index,
            timestamp: 0,
            lease: self.lease(lease_ms),
            sidecar_id: sidecar_id.into(),
        };
        let Some(old) = self.sidecar(&new.sidecar_id) else {
            within(
                "sidecars",
                self.state.sidecars.len() + 1,
                limits::MAX_SIDECARS,
            )?;
            let answer = registered(&new, Vec::new());
            self.put_sidecar(new);
            return applied(answer);
        };
        if is_same(&old, &new) {
            self.renew_sidecar(&new.sidecar_id, None);
            return unchanged(registered(&old, Vec::new()));
        }
        let (assignments, dropped) = still_possible(&old, &new.services);
        let revision = match dropped.is_empty() {
            true => old.assignments_revision,
            false => new.revision,
        };
        let new = SidecarState {
            assignments,
            assignments_revision: revision,
            registered_at_ms: old.registered_at_ms,
            timestamp: old.timestamp,
            ..new
        };
        let answer = registered(&new, dropped);
        self.put_sidecar(new);
        applied(answer)
    }

    fn deregister_sidecar(&mut self, id: &str) -> Applied {
        let Some(gone) = self.remove_sidecar(id) else {
            return unchanged(Answer::SidecarDeregistered {
                services: Vec::new(),
                groups: Vec::new(),
                pipelines: Vec::new(),
                remote_users: Vec::new(),
            });
        };
        applied(Answer::SidecarDeregistered {
            services: gone.services,
            groups: gone.groups.into_iter().collect(),
            pipelines: gone.pipelines,
            remote_users: self.remote_users(id),
        })
    }

    /// Removes a sidecar with its locations, its assignments and the services bound to it.
    pub(super) fn remove_sidecar(&mut self, id: &str) -> Option<GoneSidecar> {
        let sidecar = self.take_sidecar(id)?;
        let why = self.tell.because(Cause::Cascade);
        let bound = &self.state.indexes.services_by_sidecar;
        let services: Vec<Id> = bound.of(id).cloned().collect();
        let mut groups = BTreeSet::new();
        for service in &services {
            if let Some((_, left)) = self.remove_service(service) {
                groups.extend(left);
            }
        }
        self.tell.because(why);
        Some(GoneSidecar {
            sidecar_id: sidecar.sidecar_id.clone(),
            services,
            groups,
            pipelines: sidecar.assignments.keys().cloned().collect(),
        })
    }

    /// The assignments elsewhere with a stage that goes to sidecar `id`.
    fn remote_users(&self, id: &str) -> Vec<SidecarPipeline> {
        let mut users = Vec::new();
        for sidecar_id in self.state.indexes.remote_users.of(id) {
            let Some(sidecar) = self.state.sidecars.get(&**sidecar_id) else {
                continue;
            };
            let goes_there = |stage: &StageAssignment| matches!(&stage.target, StageTarget::Remote { sidecar_id, .. } if sidecar_id == id);
            for (pipeline_id, assignment) in &sidecar.assignments {
                if assignment.stages.iter().any(goes_there) {
                    users.push(SidecarPipeline {
                        sidecar_id: sidecar_id.clone(),
                        pipeline_id: pipeline_id.clone(),
                    });
                }
            }
        }
        users
    }

    fn heartbeat(
        &mut self,
        id: String,
        timestamp: u64,
        health: &BTreeMap<String, String>,
    ) -> Applied {
        let Some((lease, assignments_revision)) = self.renew_sidecar(&id, Some(timestamp)) else {
            return Err(not_found("sidecar", id));
        };
        let bound = self.state.indexes.services_by_sidecar.of(&id);
        let bound: Vec<Id> = bound.cloned().collect();
        for service in &bound {
            self.renew_service(service);
        }
        if !health.is_empty() {
            self.apply_health(&id, &bound, health)?;
        }
        applied(Answer::Heartbeat {
            expires_at_ms: lease.expires_at_ms(),
            assignments_revision,
        })
    }

    /// Sets the health, by name, of what the sidecar offers and of what is bound to it. Names that
    /// are neither are passed over: the sidecar may know of a service before the router does.
    fn apply_health(
        &mut self,
        id: &str,
        bound: &[Id],
        health: &BTreeMap<String, String>,
    ) -> Result<(), Rejection> {
        let parsed: Result<BTreeMap<&str, Health>, Rejection> = health
            .iter()
            .map(|(name, word)| Ok((name.as_str(), parse_health(word)?)))
            .collect();
        let parsed = parsed?;
        for service in bound {
            let state = self.state.services.get(&**service);
            let by_name = state.and_then(|state| parsed.get(&*state.service_name));
            if let Some(&health) = by_name {
                self.set_health(service, health);
            }
        }
        let Some(sidecar) = self.sidecar(id) else {
            return Ok(());
        };
        let said = |service: &SidecarService| {
            let health = parsed.get(&*service.service_name);
            health.copied().unwrap_or(service.health)
        };
        let services = sidecar.services.iter();
        if services
            .clone()
            .any(|service| said(service) != service.health)
        {
            let services = services.map(|service| SidecarService {
                health: said(service),
                ..service.clone()
            });
            self.put_sidecar(SidecarState {
                services: services.collect(),
                revision: self.state.clock.index,
                ..SidecarState::clone(&sidecar)
            });
        }
        Ok(())
    }

    fn assign_pipeline(
        &mut self,
        pipeline_id: String,
        sidecar_id: String,
        stages: Vec<StageAssignment>,
    ) -> Applied {
        let Some(sidecar) = self.sidecar(&sidecar_id) else {
            return Err(not_found("sidecar", sidecar_id));
        };
        let mut seen = BTreeSet::new();
        if let Some(twice) = stages.iter().find(|stage| !seen.insert(&stage.stage_id)) {
            return Err(Rejection::Duplicate {
                kind: "stage",
                id: twice.stage_id.clone(),
            });
        }
        let unknown_targets = self.unknown_targets(&stages);
        if let Some(old) = sidecar.assignments.get(pipeline_id.as_str())
            && old.stages == stages
        {
            return unchanged(Answer::PipelineAssigned {
                revision: old.revision,
                unknown_targets,
            });
        }
        let mut new = SidecarState::clone(&sidecar);
        let revision = self.state.clock.index;
        let stored = self.state.pipelines.get_key_value(pipeline_id.as_str());
        let pipeline_id = stored.map_or_else(|| pipeline_id.into(), |(id, _)| id.clone());
        let assignment = Assignment {
            pipeline_id: pipeline_id.clone(),
            stages,
            revision,
        };
        new.assignments.insert(pipeline_id, Arc::new(assignment));
        within(
            "assignments",
            new.assignments.len(),
            limits::MAX_ASSIGNMENTS,
        )?;
        new.assignments_revision = revision;
        self.put_sidecar(new);
        applied(Answer::PipelineAssigned {
            revision,
            unknown_targets,
        })
    }

    fn unknown_targets(&self, stages: &[StageAssignment]) -> Vec<Id> {
        let targets = stages.iter().filter_map(|stage| match &stage.target {
            StageTarget::Remote { sidecar_id, .. } => Some(sidecar_id.as_str()),
            StageTarget::Local { .. } => None,
        });
        let unknown = targets.filter(|id| !self.state.sidecars.contains_key(*id));
        let unknown: BTreeSet<&str> = unknown.collect();
        unknown.into_iter().map(Id::from).collect()
    }

    fn revoke_pipeline(&mut self, pipeline_id: &str, sidecar_id: &str) -> Applied {
        if self.drop_assignment(sidecar_id, pipeline_id) {
            return applied(Answer::PipelineRevoked {
                revision: self.state.clock.index,
            });
        }
        let sidecar = self.state.sidecars.get(sidecar_id);
        unchanged(Answer::PipelineRevoked {
            revision: sidecar.map_or(0, |sidecar| sidecar.assignments_revision),
        })
    }
}

fn offered(service: LocalService) -> SidecarService {
    SidecarService {
        service_name: service.service_name.into(),
        service_type: match service.service_type.as_str() {
            "" => "unknown".into(),
            stated => stated.into(),
        },
        local_endpoint: service.local_endpoint.into(),
        health: Health::Healthy,
    }
}

/// Whether a registration says what there is already. Health comes from heartbeats, so it is not
/// part of the question.
fn is_same(old: &SidecarState, new: &SidecarState) -> bool {
    let offers = |one: &SidecarService, other: &SidecarService| {
        one.service_name == other.service_name
            && one.service_type == other.service_type
            && one.local_endpoint == other.local_endpoint
    };
    let mut pairs = old.services.iter().zip(new.services.iter());
    old.endpoint == new.endpoint
        && old.pod_name == new.pod_name
        && old.namespace == new.namespace
        && old.lease.lease_ms == new.lease.lease_ms
        && old.services.len() == new.services.len()
        && pairs.all(|(one, other)| offers(one, other))
}

/// The assignments that stay when a sidecar offers `services` from now on, and the pipelines of
/// those that go: they have a stage on a local endpoint that was offered and no longer is.
fn still_possible(
    old: &SidecarState,
    services: &[SidecarService],
) -> (OrderedMap<Id, Arc<Assignment>>, Vec<Id>) {
    let endpoints = |services: &[SidecarService]| -> BTreeSet<Id> {
        let all = services
            .iter()
            .map(|service| service.local_endpoint.clone());
        all.filter(|endpoint| !endpoint.is_empty()).collect()
    };
    let now = endpoints(services);
    let withdrawn = &endpoints(&old.services) - &now;
    let goes = |stage: &StageAssignment| matches!(&stage.target, StageTarget::Local { endpoint } if withdrawn.contains(endpoint.as_str()));
    let mut assignments = old.assignments.clone();
    let mut dropped = Vec::new();
    for (pipeline, assignment) in &old.assignments {
        if assignment.stages.iter().any(goes) {
            assignments.remove(&**pipeline);
            dropped.push(pipeline.clone());
        }
    }
    (assignments, dropped)
}

fn registered(sidecar: &SidecarState, dropped: Vec<Id>) -> Answer {
    Answer::SidecarRegistered {
        lease_ms: sidecar.lease.lease_ms,
        revision: sidecar.revision,
        assignments: sidecar.assignments.keys().cloned().collect(),
        dropped,
    }
}
