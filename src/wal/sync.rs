//! The primitives that threads of the log meet on. A test under every interleaving puts others in
//! their place (`tests/wal_interleavings.rs`).

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
pub(crate) use std::thread;
