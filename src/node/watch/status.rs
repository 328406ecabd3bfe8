//! Watching a node: where it stands now, and when that changes.

use std::sync::Arc;

use tokio::sync::watch;

use crate::core::{Configuration, RaftRole};
use crate::error::WaitError;
use crate::node::handle::RaftNode;
use crate::node::shared::Shared;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, NodeId, Term};

/// Where a node stands at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Its role.
    pub role: RaftRole,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: Term,
    /// Highest index known committed.
    pub commit: LogIndex,
    /// Highest index applied.
    pub applied: LogIndex,
    /// Index of the configuration in force; 0 while the node is blank.
    pub configured: LogIndex,
    /// The configuration in force.
    pub membership: Option<Arc<Configuration>>,
}

impl PartialEq for NodeView {
    /// Configurations are compared by identity: after a truncation another one may stand at the
    /// same index, and a burst has no time to compare addresses.
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.membership, &other.membership) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let facts = |view: &Self| {
            let indices = (view.commit, view.applied, view.configured);
            (view.role, view.leader, view.term, indices)
        };
        same && facts(self) == facts(other)
    }
}

/// Tells how a node's [`NodeView`] changes. The newest one is always at hand; those in between may
/// be skipped. See [`RaftNode::watch_status`].
#[derive(Clone, Debug)]
pub struct NodeWatch {
    views: watch::Receiver<NodeView>,
    stopped: watch::Receiver<bool>,
}

impl NodeWatch {
    /// The newest view; a change up to here is not told any more.
    pub fn current(&mut self) -> NodeView {
        self.views.borrow_and_update().clone()
    }

    /// Waits for a view that was not seen yet, and returns it.
    ///
    /// # Errors
    /// Once the node has stopped, and its last view was seen.
    pub async fn changed(&mut self) -> Result<NodeView, WaitError> {
        tokio::select! {
            biased;
            changed = self.views.changed() => changed.map_err(|_| WaitError::Stopped)?,
            _ = self.stopped.wait_for(|stopped| *stopped) => return Err(WaitError::Stopped),
        }
        Ok(self.current())
    }

    /// Waits until a view fulfils `wanted`, and returns it.
    ///
    /// # Errors
    /// If the node stops before.
    pub async fn wait_for(
        &mut self,
        wanted: impl Fn(&NodeView) -> bool,
    ) -> Result<NodeView, WaitError> {
        let mut view = self.current();
        while !wanted(&view) {
            view = self.changed().await?;
        }
        Ok(view)
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// Watches leader, term, commit, applied and membership. While nobody watches, it costs the
    /// node one comparison with zero a burst.
    pub fn watch_status(&self) -> NodeWatch {
        self.shared().watch_status()
    }
}

impl<S: StateMachine> Shared<S> {
    pub(crate) fn watch_status(&self) -> NodeWatch {
        let watch = NodeWatch {
            views: self.views.subscribe(),
            stopped: self.stopped.subscribe(),
        };
        self.refresh_views();
        watch
    }

    /// Tells those who watch, if there are any, of what is different.
    ///
    /// Everything is read under the watch's lock, after it was written where it is read from: so
    /// whoever comes second, be it the driver, the applier or a new watcher, publishes what is
    /// newer, never what is older.
    pub(crate) fn refresh_views(&self) {
        if self.views.receiver_count() == 0 {
            return;
        }
        self.views.send_if_modified(|view| {
            let now = self.view();
            let differs = *view != now;
            if differs {
                *view = now;
            }
            differs
        });
    }

    fn view(&self) -> NodeView {
        // What is applied first: all of it is committed, in what is shown too.
        let applied = self.applied_index();
        let commit = self.commit_index();
        let brief = self.brief();
        NodeView {
            role: brief.role,
            leader: brief.leader,
            term: brief.term,
            commit,
            applied,
            configured: brief.configured,
            membership: brief.configuration.clone(),
        }
    }
}
