//! The settings of `serve`: a TOML file, the environment over it, flags over both.

mod file;
mod sources;

pub(crate) use file::{Config, Plaintext, UNIX};
pub(crate) use sources::{Overrides, load, load_with_origins};
