//! What an engine is made with.

use tidegate_conntrack as ct;

use crate::defrag::DefragLimits;
use crate::queue::QUEUE_BYTES;

/// When connections are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrackWhen {
    /// As soon as a rule of the family needs it, as the kernel does per namespace.
    #[default]
    Needed,
    /// Always.
    Always,
    /// Never; rules that need it are not loaded.
    Never,
}

/// What the engine is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connection-tracking settings.
    pub conntrack: ct::Config,
    /// When connections are tracked.
    pub track: TrackWhen,
    /// Limits of reassembly.
    pub defrag: DefragLimits,
    /// Most bytes of packets that wait for the answers of queues' readers, with what keeping
    /// them costs.
    pub queue_bytes: usize,
    /// Seed of everything random (`-m statistic`, IPv6 fragment ids).
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            conntrack: ct::Config::default(),
            track: TrackWhen::default(),
            defrag: DefragLimits::default(),
            queue_bytes: QUEUE_BYTES,
            seed: 0,
        }
    }
}
