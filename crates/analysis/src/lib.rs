//! Sound reasoning about rules over the whole space of packets.
//!
//! A [`Space`] gives every value that rules can tell apart a code, and a set of packets is a
//! binary decision diagram over these codes ([`bdd`]). [`Walk`] sends such sets through a
//! table's chains and knows afterwards which packets can reach and match each rule.
//!
//! Sets are never too small: where a test keeps state or a value cannot be followed, both
//! outcomes are taken to be possible. So "no packet can" is proved, while "some packet can"
//! comes with an example for the evaluator to try ([`Example`]). Work is bounded by a
//! number of diagram nodes; beyond it the answer is [`TooBig`], not a guess.
#![forbid(unsafe_code)]

pub mod bdd;
mod cover;
mod example;
mod lens;
mod looks;
mod narrow;
mod pieces;
mod possible;
mod space;
mod surroundings;
mod tracked;
mod walk;
mod way;
mod window;

pub use bdd::{Bdd, Mark, Set, TooBig};
pub use example::{Example, Facts, Point, Values};
pub use lens::{Bound, Lens, LensId};
pub use narrow::Narrow;
pub use pieces::{Followed, Piece, Pieces, Taken, Why};
pub use possible::possible;
pub use space::{Case, Space};
pub use surroundings::{Area, Goes, Surroundings};
pub use walk::{Ending, Exit, Flow, Reach, Walk};
pub use way::{Course, End, Fate, Journey, Origin, Prepared, Visit, Way};
pub use window::{Window, regions};
