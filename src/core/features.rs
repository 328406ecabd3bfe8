//! Which feature level the cluster is at (hazard J2).
//!
//! The level is part of the configuration. What a level brings (kinds of entries, formats) is used from
//! that level on only, and every member knows it by then: a leader raises the level once each member
//! has said, in the hello of the connection that is up, that it knows the next one. It never falls.

use super::{Configuration, RaftCore};

/// Lowest and highest feature level of this release.
pub(crate) const FEATURES: (u32, u32) = (1, 1);

/// Why a release that knows levels up to `known` cannot go by a configuration, if it cannot.
pub(crate) fn is_beyond(configuration: &Configuration, known: u32) -> Option<String> {
    let level = configuration.feature_level;
    (level > known).then(|| {
        format!(
            "the cluster is at feature level {level}, and this release knows levels up to {known}: \
             start this node with a release that knows level {level}, as the other members do"
        )
    })
}

impl RaftCore {
    /// The highest level that this release knows.
    pub(crate) fn knows_level(&self) -> u32 {
        self.features.1
    }

    /// The level of the configuration in force; 0 without one.
    pub(crate) fn feature_level(&self) -> u32 {
        self.configuration().map_or(0, |c| c.feature_level)
    }

    /// For tests and simulations of two releases.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn set_features(&mut self, features: (u32, u32)) {
        self.features = features;
    }

    /// The same members at the highest level that all of them know, if that is a higher one.
    pub(super) fn raised(&self, current: &Configuration) -> Option<Configuration> {
        let knows = |who| {
            if who == self.me {
                return Some(self.features.1);
            }
            let peer = self.holder(who).filter(|peer| peer.control.is_some());
            peer.map(|peer| peer.hello.knows_level)
        };
        // Nothing is less than any number: a member that is not there raises no level.
        let level = current.members().map(|member| knows(member.replica));
        let level = level.min().flatten()?;
        (level > current.feature_level).then(|| Configuration {
            feature_level: level,
            ..current.clone()
        })
    }
}
