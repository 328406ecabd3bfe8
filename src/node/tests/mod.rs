//! The driver, three at a time in virtual time.

mod bed;
mod durability;
mod failures;
mod slow;
mod smoke;
