//! The log over memory: crashes of every kind, damage of every bit.

mod basics;
mod crashes;
mod damage;
mod faults;
mod front;
mod golden;
mod harness;
mod inspect;
mod repair;
mod times;
mod unsynced;
mod verify;
