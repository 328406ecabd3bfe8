//! Changing the members through the handle.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::handle::{DEFAULT_DEADLINE, RaftNode};
use super::inbox::Request;
use crate::core::{Change, Configuration, FEATURES, MemberInfo};
use crate::error::ChangeError;
use crate::network::LocalFacts;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, ReplicaId};

/// Options of one change of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeOptions {
    /// Only if the configuration in force is still the one at this index
    /// ([`RaftNode::membership`]).
    pub expected: Option<LogIndex>,
    /// Give up waiting after this long; 5 s when absent.
    pub deadline: Option<Duration>,
}

/// A node as a configuration names it, by what its hello said.
pub(super) fn described(replica: ReplicaId, facts: &LocalFacts) -> MemberInfo {
    MemberInfo {
        replica,
        peer_address: facts.peer_address.clone(),
        client_endpoint: facts.client_endpoint.clone(),
        features: (FEATURES.0, facts.knows_level.max(FEATURES.0)),
        priority: 0,
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// The configuration in force on this node (the newest in its log) and its index; none while
    /// the node is blank.
    pub fn membership(&self) -> Option<(LogIndex, Arc<Configuration>)> {
        let brief = self.shared().brief();
        let configuration = brief.configuration.clone()?;
        Some((brief.configured, configuration))
    }

    /// The newest configuration that this node knows to be committed and its index. It is an older
    /// one than that of [`membership`](Self::membership) while a change is under way.
    pub fn committed_membership(&self) -> Option<(LogIndex, Arc<Configuration>)> {
        self.shared().brief().committed.clone()
    }

    /// Nodes with an empty directory that are connected to this one and belong to no configuration
    /// here: they can be added as they are.
    pub fn waiting_nodes(&self) -> Vec<MemberInfo> {
        let current = self.membership().map(|(_, current)| current);
        let known = |who: ReplicaId| {
            current.as_ref().is_some_and(|current| {
                let mut members = current.members().map(|one| one.replica);
                members.any(|one| one == who) || current.tombstones.contains(&who)
            })
        };
        let blank = self.transport().blank_nodes().into_iter();
        let waiting = blank.filter(|(replica, _)| !known(*replica));
        waiting.map(|(who, facts)| described(who, &facts)).collect()
    }

    /// Has every state machine skip the committed entry `index`: a command at which the state machines
    /// of a majority, the leader's among them, stopped because they cannot apply it (their
    /// [`NodeStatus::failure`](super::NodeStatus::failure) names it). Only on the leader. Then the
    /// stopped nodes are to be restarted: they come to the state without that command. Whoever
    /// proposed it was told that its outcome is unknown.
    ///
    /// # Errors
    /// See [`ChangeError`]. After `Unknown` it may still go through.
    pub async fn skip_entry(&self, index: LogIndex) -> Result<LogIndex, ChangeError> {
        let options = ChangeOptions::default();
        self.change_members(vec![Change::Skip(index)], options)
            .await
    }

    /// Changes the members, all of `changes` in one step, and waits until that is committed: the
    /// index of the configuration then in force. Voters change by joint consensus. Who is added or
    /// takes another's place is a learner first, and votes once it has caught up, by a further
    /// change that the leader makes by itself.
    ///
    /// # Errors
    /// See [`ChangeError`]. After `Unknown` the change may still go through.
    pub async fn change_members(
        &self,
        changes: Vec<Change>,
        options: ChangeOptions,
    ) -> Result<LogIndex, ChangeError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Change {
            expected: options.expected,
            changes,
            reply,
        };
        let open = self.shared().inbox.put(|lanes| {
            if !lanes.closed {
                lanes.requests.push(request);
            }
            !lanes.closed
        });
        if !open {
            return Err(ChangeError::Stopped);
        }
        let patience = options.deadline.unwrap_or(DEFAULT_DEADLINE);
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.unwrap_or(Err(ChangeError::Stopped)),
            Err(_) => Err(ChangeError::Unknown),
        }
    }
}
