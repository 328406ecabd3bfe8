//! The log over memory: crashes of every kind, damage of every bit.

mod basics;
mod harness;
