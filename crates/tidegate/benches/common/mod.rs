//! Traffic and surroundings that all benches share.

pub(crate) mod surroundings;
pub(crate) mod traffic;
