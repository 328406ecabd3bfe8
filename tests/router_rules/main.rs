//! The router's rules, one test for each, on a state machine alone.

mod commands;
mod leases;
mod limits;
mod support;
