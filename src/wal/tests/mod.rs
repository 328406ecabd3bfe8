//! The log over memory: crashes of every kind, damage of every bit.

mod basics;
mod crashes;
mod damage;
mod faults;
mod front;
mod fuzz;
mod golden;
mod harness;
mod inspect;
mod properties;
mod repair;
mod shadow;
mod times;
mod unsynced;
mod verify;
