//! What is replicated: the [`StateMachine`] trait, and Conveyor's router state behind it.
//!
//! [`RouterStateMachine`] applies [`RouterCommand`]s to a [`RouterState`] and answers each with a
//! [`RouterResponse`]. The state's maps are persistent inside, so that a reader may keep any old
//! state for as long as it likes while new commands are applied.

mod answer;
mod changes;
mod command;
mod contract;
mod digest;
pub mod json;
mod ordered;
mod response;
mod router;
mod snapshot;
mod state;
mod watched;

pub use changes::{Cause, Change, Changes};
pub use command::{
    EventTime, LocalService, RouterCommand, SourceWatermark, StageAssignment, StageTarget, limits,
};
pub use contract::{
    ApplyContext, CommandError, Found, Frozen, ResponseKind, RestoreError, StateMachine,
};
pub use ordered::{Id, OrderedMap};
pub use response::{Answer, Behind, Outcome, Rejection, RouterResponse, SidecarPipeline};
pub use router::RouterStateMachine;
pub use state::{
    Assignment, Checkpoints, GlobalWatermark, GroupPartition, GroupState, Health, Lease, Location,
    LocationKey, Offset, PipelineCheckpoints, PipelineFilter, PipelineState, RouterState,
    ServiceCheckpoint, ServiceFilter, ServiceState, SidecarFilter, SidecarService, SidecarState,
    SourcePartition, Summary, Watermark,
};
pub use watched::StateKey;
