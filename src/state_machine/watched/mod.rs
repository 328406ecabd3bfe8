//! The router's state as those who watch it see it: keys, values, and the records below a prefix.

mod flat;
mod keys;
mod scan;
pub(crate) mod values;

pub use keys::StateKey;
pub(crate) use scan::scan;
