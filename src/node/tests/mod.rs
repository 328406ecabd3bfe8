//! The driver, three at a time in virtual time.

mod bed;
mod durability;
mod failures;
mod forwarding;
mod joining;
mod members;
mod pipelines;
mod quarantine;
mod sessions;
mod slow;
mod smoke;
mod snapshots;
mod versions;
mod watching;
