//! Tests that keep state between packets.

use core::fmt::Debug;

use alloc::string::String;

/// Index of a [`Step`] in [`Ruleset::steps`](crate::Ruleset::steps).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u32);

/// What a step may look at. Time and randomness come from outside, so that the same
/// inputs give the same answers.
#[derive(Clone, Copy, Debug)]
pub struct StepInput {
    /// Nanoseconds on the caller's monotonic clock.
    pub now: u64,
    /// A fresh random number.
    pub random: u32,
    /// Bytes of the network packet.
    pub len: u32,
}

/// A test that keeps state, as one rule owns it.
pub trait Step: Debug + Send + Sync {
    /// Whether this packet matches; updates the state.
    fn call(&mut self, input: &StepInput) -> bool;

    /// The state in a few words, for explanations ("bucket empty, refills in 0.4 s").
    fn describe(&self, now: u64) -> String;

    /// A copy of the step in its initial state, for loading the same rules anew.
    fn fresh(&self) -> alloc::boxed::Box<dyn Step>;
}
