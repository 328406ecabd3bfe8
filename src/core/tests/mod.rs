//! The core in deterministic company: simulated logs, links and time, and invariants that are
//! checked on the ground truth after every event. One number replays a whole run.

mod bed;
mod contract;
mod digests;
mod disk;
mod drive;
mod election;
mod features;
mod founding;
mod ghost;
mod hand_over;
mod links;
mod membership;
mod membership_changes;
mod mute;
mod net;
mod preference;
mod quarantine;
mod reads;
mod repairing;
mod replication;
mod room;
mod script;
mod seeds;
mod small;
mod snapshots;
mod window;
