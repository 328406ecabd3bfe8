//! What a command tells of the records that it changes.

use crate::state_machine::state::{
    Assignment, GroupKey, GroupState, Offset, PipelineState, ServiceCheckpoint, ServiceState,
    SidecarState, Watermark,
};
use crate::state_machine::watched::values;
use crate::state_machine::{Cause, Changes, StateKey};

/// Where changes are told, with why they happen.
pub(super) struct Tell<'a> {
    changes: &'a mut Changes,
    cause: Cause,
}

impl<'a> Tell<'a> {
    pub(super) fn new(changes: &'a mut Changes) -> Self {
        let cause = Cause::Command;
        Self { changes, cause }
    }

    /// Why things change from here on; returns why they did so far.
    pub(super) fn because(&mut self, cause: Cause) -> Cause {
        std::mem::replace(&mut self.cause, cause)
    }

    /// A record whose lease alone is another is renewed, not changed.
    fn why(&self, changed: bool) -> Cause {
        match changed {
            true => self.cause,
            false => Cause::Renewal,
        }
    }

    fn put(&mut self, cause: Cause, key: &StateKey<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        self.changes.put_at(cause, |out| key.write(out), write);
    }

    pub(super) fn service(&mut self, service: &ServiceState, changed: bool) {
        let key = StateKey::Service((&*service.service_id).into());
        let cause = self.why(changed);
        self.put(cause, &key, |out| values::service(service, out));
    }

    pub(super) fn no_service(&mut self, id: &str) {
        self.changes
            .delete(self.cause, StateKey::Service(id.into()));
    }

    pub(super) fn sidecar(&mut self, sidecar: &SidecarState, changed: bool) {
        let key = StateKey::Sidecar((&*sidecar.sidecar_id).into());
        let cause = self.why(changed);
        self.put(cause, &key, |out| values::sidecar(sidecar, out));
    }

    pub(super) fn no_sidecar(&mut self, id: &str) {
        self.changes
            .delete(self.cause, StateKey::Sidecar(id.into()));
    }

    pub(super) fn assignment(&mut self, sidecar: &str, assignment: &Assignment) {
        let key = StateKey::Assignment(sidecar.into(), (&*assignment.pipeline_id).into());
        self.put(self.cause, &key, |out| {
            values::assignment(sidecar, assignment, out);
        });
    }

    pub(super) fn no_assignment(&mut self, sidecar: &str, pipeline: &str) {
        let key = StateKey::Assignment(sidecar.into(), pipeline.into());
        self.changes.delete(self.cause, key);
    }

    /// A location follows from what its sidecar offers.
    pub(super) fn location(&mut self, name: &str, sidecar: &str) {
        let key = StateKey::Location(name.into(), sidecar.into());
        self.put(Cause::Cascade, &key, |out| {
            values::location(name, sidecar, out);
        });
    }

    pub(super) fn no_location(&mut self, name: &str, sidecar: &str) {
        let key = StateKey::Location(name.into(), sidecar.into());
        self.changes.delete(Cause::Cascade, key);
    }

    pub(super) fn pipeline(&mut self, pipeline: &PipelineState) {
        let key = StateKey::Pipeline((&*pipeline.pipeline_id).into());
        self.put(self.cause, &key, |out| values::pipeline(pipeline, out));
    }

    pub(super) fn no_pipeline(&mut self, id: &str) {
        self.changes
            .delete(self.cause, StateKey::Pipeline(id.into()));
    }

    pub(super) fn group(&mut self, group: &GroupState) {
        let key = StateKey::Group((&*group.group_id).into());
        self.put(self.cause, &key, |out| values::group(group, out));
    }

    pub(super) fn checkpoint(&mut self, checkpoint: &ServiceCheckpoint) {
        let key = StateKey::Checkpoint((&*checkpoint.service_id).into());
        self.put(self.cause, &key, |out| values::checkpoint(checkpoint, out));
    }

    pub(super) fn source_offset(&mut self, source: &str, partition: u32, value: Offset) {
        let key = StateKey::SourceOffset(source.into(), partition);
        self.put(self.cause, &key, |out| {
            values::source_offset(source, partition, value, out);
        });
    }

    pub(super) fn group_offset(&mut self, key: &GroupKey<'_>, value: Offset) {
        let &GroupKey(group, source, partition) = key;
        let key = StateKey::GroupOffset(group.into(), source.into(), partition);
        self.put(self.cause, &key, |out| {
            values::group_offset(group, source, partition, value, out);
        });
    }

    pub(super) fn watermark(&mut self, source: &str, partition: u32, value: &Watermark) {
        let key = StateKey::Watermark(source.into(), partition);
        self.put(self.cause, &key, |out| {
            values::watermark(source, partition, value, out);
        });
    }
}
