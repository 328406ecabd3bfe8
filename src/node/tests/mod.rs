//! The driver, three at a time in virtual time.

mod bed;
mod durability;
mod failures;
mod members;
mod slow;
mod smoke;
mod watching;
