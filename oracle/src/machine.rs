//! What decides the packets of a case.

use anyhow::Result;
use serde_json::Value;
use tidegate_engine::Engine;
use tidegate_engine::conntrack::Time;

use crate::report;

/// An engine by itself, or one behind the interfaces of a host.
pub(crate) trait Machine {
    /// Does `work` between two packets.
    fn with<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Engine, Time) -> R + Send + 'static,
    ) -> Result<R>;

    /// What becomes of the packet of a step, and what happens to connections meanwhile.
    fn packet(&mut self, step: &Value) -> Result<Value>;

    /// What has happened to connections and expectations since it was last asked for.
    fn events(&mut self) -> Result<Vec<Value>>;

    /// Lets time pass.
    fn sleep(&mut self, milliseconds: u64) -> Result<()>;
}

/// What the engine has noted since it was last asked.
pub(crate) fn noted(engine: &mut Engine) -> Vec<Value> {
    let conntrack = engine.conntrack_mut();
    let mut events: Vec<Value> = conntrack.events().iter().map(report::event).collect();
    events.extend(conntrack.expect_events().iter().map(report::expect_event));
    events
}
