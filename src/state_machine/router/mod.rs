//! [`RouterStateMachine`]: applies commands to the router's state.

mod groups;
mod leases;
mod offsets;
mod pipelines;
mod services;
mod sidecars;
mod store;
mod tell;

use std::io;
use std::sync::Arc;

use super::command::{self, RouterCommand, limits};
use super::digest::Canon;
use super::response::{Answer, Outcome, Rejection, RouterResponse};
use super::state::RouterState;
use super::{
    ApplyContext, Changes, CommandError, Found, Frozen, ResponseKind, RestoreError, StateMachine,
    snapshot, watched,
};
use crate::types::Micros;
use leases::Leases;
use store::{Deadlines, Store};
use tell::Tell;

/// What a command comes to; `Err` is [`Outcome::Rejected`].
type Applied = Result<Outcome, Rejection>;

fn applied(answer: Answer) -> Applied {
    Ok(Outcome::Applied(answer))
}

fn unchanged(answer: Answer) -> Applied {
    Ok(Outcome::Unchanged(answer))
}

fn not_found(kind: &'static str, id: impl Into<String>) -> Rejection {
    let id = id.into();
    Rejection::NotFound { kind, id }
}

/// Refuses to go over `limit` with `count` of `which`.
fn within(which: &str, count: usize, limit: usize) -> Result<(), Rejection> {
    if count <= limit {
        return Ok(());
    }
    Err(Rejection::LimitExceeded {
        which: which.into(),
        limit: limit as u64,
    })
}

/// Conveyor's router as a replicated state machine.
///
/// Time is log time, and leases run on log time less the time without a leader, so that neither an
/// outage nor a clock that jumped at an election expires anybody.
#[derive(Debug, Default)]
pub struct RouterStateMachine {
    state: Arc<RouterState>,
    deadlines: Deadlines,
    canon: Canon,
}

impl RouterStateMachine {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state as it is.
    pub fn state(&self) -> &RouterState {
        &self.state
    }

    /// The digest computed from every record rather than kept up: equal to
    /// [`StateMachine::digest`], or there is a bug. Takes time in proportion to the state.
    pub fn recompute_digest(&self) -> u128 {
        let clock = Canon::default().clock(&self.state.clock);
        store::recompute(&self.state).wrapping_add(clock)
    }

    /// Whether all that is derived from the records is what it is when derived anew.
    #[cfg(test)]
    fn is_consistent(&self) -> bool {
        let mut anew = RouterState::clone(&self.state);
        store::derive(&mut anew);
        anew == *self.state && Deadlines::rebuild(&anew) == self.deadlines
    }
}

impl RouterState {
    /// 128 bits that are equal for equal states.
    pub fn digest(&self) -> u128 {
        self.records
            .wrapping_add(Canon::default().clock(&self.clock))
    }
}

impl StateMachine for RouterStateMachine {
    type Command = RouterCommand;
    type Response = RouterResponse;
    type View = RouterState;

    fn encode(command: &RouterCommand, out: &mut Vec<u8>) -> Result<(), CommandError> {
        command::encode(command, out)
    }

    fn decode(payload: &[u8]) -> Result<RouterCommand, CommandError> {
        command::decode(payload)
    }

    fn apply(&mut self, context: &ApplyContext, command: RouterCommand) -> RouterResponse {
        self.apply_and_tell(context, command, &mut Changes::unheard())
    }

    const TELLS_CHANGES: bool = true;

    fn apply_and_tell(
        &mut self,
        context: &ApplyContext,
        command: RouterCommand,
        changes: &mut Changes,
    ) -> RouterResponse {
        let state = Arc::make_mut(&mut self.state);
        let clock = &mut state.clock;
        (clock.index, clock.term) = (context.index, context.term);
        clock.time_us = clock.time_us.max(context.time_us);
        let time_ms = clock.time_ms();
        let mut store = Store {
            state,
            deadlines: &mut self.deadlines,
            canon: &mut self.canon,
            tell: Tell::new(changes),
        };
        let applied = command.check().and_then(|()| store.apply(command));
        let outcome = applied.unwrap_or_else(|rejection| {
            let hash = store.canon.rejection(context.index, &rejection);
            let clock = &mut store.state.clock;
            clock.rejections += 1;
            clock.rejection_digest = clock.rejection_digest.wrapping_add(hash);
            Outcome::Rejected(rejection)
        });
        RouterResponse {
            index: context.index,
            term: context.term,
            time_ms,
            duplicate: false,
            outcome,
        }
    }

    fn scan(view: &RouterState, prefix: &str, after: Option<&str>, found: &mut Found<'_>) {
        watched::scan(view, prefix, after, found);
    }

    fn encode_response(response: &RouterResponse) -> Option<Vec<u8>> {
        response.to_remembered()
    }

    fn decode_response(bytes: &[u8]) -> Option<RouterResponse> {
        RouterResponse::from_remembered(bytes)
    }

    fn response_to_peer(response: &RouterResponse) -> Option<Vec<u8>> {
        serde_json::to_vec(response).ok()
    }

    fn response_from_peer(bytes: &[u8]) -> Option<RouterResponse> {
        serde_json::from_slice(bytes).ok()
    }

    const COMMANDS: &'static [&'static str] = command::NAMES;

    fn command_kind(command: &RouterCommand) -> usize {
        command::nth(command)
    }

    fn response_kind(response: &RouterResponse) -> ResponseKind {
        match response.outcome {
            Outcome::Applied(_) => ResponseKind::Applied,
            Outcome::Unchanged(_) => ResponseKind::Unchanged,
            Outcome::Rejected(_) => ResponseKind::Rejected,
        }
    }

    fn begin_term(&mut self, context: &ApplyContext) {
        let clock = &mut Arc::make_mut(&mut self.state).clock;
        let gap = context.time_us.saturating_sub(clock.time_us);
        // Before the first entry there was nobody whose lease could have run.
        clock.leaderless_us += gap;
        clock.time_us += gap;
        (clock.index, clock.term) = (context.index, context.term);
    }

    fn due(&self, time_us: Micros) -> Option<RouterCommand> {
        let clock = &self.state.clock;
        let active_us = time_us
            .max(clock.time_us)
            .saturating_sub(clock.leaderless_us);
        Leases::due(self.deadlines.expired(active_us).take(limits::MAX_EXPIRED))
    }

    fn view(&self) -> Arc<RouterState> {
        self.state.clone()
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(snapshot::FrozenRouter(self.state.clone()))
    }

    fn restore(&mut self, reader: &mut dyn io::Read) -> Result<(), RestoreError> {
        let (mut state, digest) = snapshot::read(reader)?;
        store::derive(&mut state);
        if state.digest() != digest {
            return Err(RestoreError::Invalid(
                "its records do not give the digest that it states".into(),
            ));
        }
        self.deadlines = Deadlines::rebuild(&state);
        self.state = Arc::new(state);
        Ok(())
    }

    fn digest(&self) -> u128 {
        self.state.digest()
    }
}

impl Store<'_> {
    fn apply(&mut self, command: RouterCommand) -> Applied {
        use RouterCommand as C;
        match command {
            C::Noop => applied(Answer::None),
            C::RegisterService { .. }
            | C::DeregisterService { .. }
            | C::RenewLease { .. }
            | C::UpdateServiceHealth { .. } => self.apply_service(command),
            C::CreatePipeline { .. }
            | C::UpdatePipeline { .. }
            | C::DeletePipeline { .. }
            | C::EnablePipeline { .. }
            | C::DisablePipeline { .. } => self.apply_pipeline(command),
            C::CommitSourceOffset { .. }
            | C::AdvanceWatermark { .. }
            | C::SaveServiceCheckpoint { .. }
            | C::ReportSource { .. } => self.apply_source(command),
            C::JoinGroup { .. }
            | C::LeaveGroup { .. }
            | C::AssignPartitions { .. }
            | C::CommitGroupOffset { .. }
            | C::CommitGroupOffsets { .. } => self.apply_group(command),
            C::RegisterSidecar { .. }
            | C::DeregisterSidecar { .. }
            | C::UpdateSidecarHeartbeat { .. }
            | C::AssignPipeline { .. }
            | C::RevokePipeline { .. } => self.apply_sidecar(command),
            C::ExpireLeases { sidecars, services } => self.expire(&sidecars, &services),
        }
    }
}

#[cfg(test)]
mod tests;
