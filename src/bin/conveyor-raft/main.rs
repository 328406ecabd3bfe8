//! The `conveyor-raft` program.
fn main() {}
