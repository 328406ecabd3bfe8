//! The log over memory: crashes of every kind, damage of every bit.

mod basics;
mod crashes;
mod damage;
mod faults;
mod front;
mod fuzz;
mod golden;
mod harness;
mod properties;
mod shadow;
mod unsynced;
