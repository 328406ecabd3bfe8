//! Pipelines.

use std::sync::Arc;

use super::store::Store;
use super::{Answer, Applied, Rejection, applied, limits, not_found, unchanged, within};
use crate::state_machine::state::{PipelineState, SidecarState};
use crate::state_machine::{Cause, Id, RouterCommand};

impl Store<'_> {
    pub(super) fn apply_pipeline(&mut self, command: RouterCommand) -> Applied {
        match command {
            RouterCommand::CreatePipeline {
                pipeline_id,
                name,
                config,
            } => self.create_pipeline(pipeline_id, name, config),
            RouterCommand::UpdatePipeline {
                pipeline_id,
                config,
                expected_version,
            } => self.update_pipeline(pipeline_id, config, expected_version),
            RouterCommand::DeletePipeline { pipeline_id } => self.delete_pipeline(&pipeline_id),
            RouterCommand::EnablePipeline { pipeline_id } => self.set_enabled(pipeline_id, true),
            RouterCommand::DisablePipeline { pipeline_id } => self.set_enabled(pipeline_id, false),
            _ => unchanged(Answer::None),
        }
    }

    fn create_pipeline(&mut self, id: String, name: String, config: Vec<u8>) -> Applied {
        let pipeline_id = Id::from(id);
        let name = match name.is_empty() {
            true => pipeline_id.clone(),
            false => Id::from(name),
        };
        if let Some(old) = self.state.pipelines.get(&*pipeline_id) {
            let version = old.version;
            return match old.name == name && *old.config == *config {
                true => unchanged(Answer::Pipeline { version }),
                false => Err(Rejection::AlreadyExists { version }),
            };
        }
        within(
            "pipelines",
            self.state.pipelines.len() + 1,
            limits::MAX_PIPELINES,
        )?;
        let time_ms = self.state.clock.time_ms();
        self.put_pipeline(PipelineState {
            pipeline_id,
            name,
            config: config.into(),
            enabled: false,
            version: 1,
            created_at_ms: time_ms,
            updated_at_ms: time_ms,
            revision: self.state.clock.index,
        });
        applied(Answer::Pipeline { version: 1 })
    }

    fn update_pipeline(&mut self, id: String, config: Vec<u8>, expected: Option<u64>) -> Applied {
        let Some(old) = self.state.pipelines.get(id.as_str()).cloned() else {
            return Err(not_found("pipeline", id));
        };
        let current = old.version;
        // Before the version: who repeats an update that went through is told that it did.
        if *old.config == *config {
            return unchanged(Answer::Pipeline { version: current });
        }
        if expected.is_some_and(|expected| expected != current) {
            return Err(Rejection::VersionMismatch { current });
        }
        let version = current + 1;
        self.put_pipeline(PipelineState {
            config: config.into(),
            version,
            updated_at_ms: self.state.clock.time_ms(),
            revision: self.state.clock.index,
            ..PipelineState::clone(&old)
        });
        applied(Answer::Pipeline { version })
    }

    fn set_enabled(&mut self, id: String, enabled: bool) -> Applied {
        let Some(old) = self.state.pipelines.get(id.as_str()).cloned() else {
            return Err(not_found("pipeline", id));
        };
        let answer = Answer::Pipeline {
            version: old.version,
        };
        if old.enabled == enabled {
            return unchanged(answer);
        }
        self.put_pipeline(PipelineState {
            enabled,
            updated_at_ms: self.state.clock.time_ms(),
            revision: self.state.clock.index,
            ..PipelineState::clone(&old)
        });
        applied(answer)
    }

    fn delete_pipeline(&mut self, id: &str) -> Applied {
        let gone = self.take_pipeline(id).is_some();
        let runs = &self.state.indexes.sidecars_by_pipeline;
        let sidecars: Vec<Id> = runs.of(id).cloned().collect();
        self.tell.because(Cause::Cascade);
        for sidecar in &sidecars {
            self.drop_assignment(sidecar, id);
        }
        let none = !gone && sidecars.is_empty();
        let answer = Answer::PipelineDeleted { sidecars };
        if none {
            unchanged(answer)
        } else {
            applied(answer)
        }
    }

    /// Takes a pipeline from a sidecar; whether it ran it.
    pub(super) fn drop_assignment(&mut self, sidecar: &str, pipeline: &str) -> bool {
        let Some(old) = self.state.sidecars.get(sidecar) else {
            return false;
        };
        let mut new = SidecarState::clone(old);
        if new.assignments.remove(pipeline).is_none() {
            return false;
        }
        new.assignments_revision = self.state.clock.index;
        self.put_sidecar(new);
        true
    }

    /// The sidecar as it is, if there is one.
    pub(super) fn sidecar(&self, id: &str) -> Option<Arc<SidecarState>> {
        self.state.sidecars.get(id).cloned()
    }
}
