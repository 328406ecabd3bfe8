//! The core in deterministic company: simulated logs, links and time, and invariants that are
//! checked on the ground truth after every event. One number replays a whole run.

mod bed;
mod contract;
mod disk;
mod drive;
mod election;
mod founding;
mod ghost;
mod hand_over;
mod links;
mod membership;
mod membership_changes;
mod mute;
mod net;
mod preference;
mod reads;
mod replication;
mod script;
mod seeds;
mod small;
mod snapshots;
