//! Tests of a packet's bytes that no field stands for and that keep nothing.

use std::{fmt, sync::Arc};

use tidegate_ir::{Cond, Step, StepInput, Truth};

use crate::LowerCtx;

type Test = dyn Fn(&mut StepInput<'_>) -> Truth + Send + Sync;

/// A test without state.
#[derive(Clone)]
struct Pure {
    /// What it asks, for explanations.
    asks: String,
    test: Arc<Test>,
}

impl fmt::Debug for Pure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pure").field(&self.asks).finish()
    }
}

impl Step for Pure {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        (self.test)(input)
    }

    fn describe(&self, _: u64) -> String {
        self.asks.clone()
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }
}

/// The same, inverted or not by the test itself: where it drops the packet while inverted,
/// the rule holds first (`SCCHECK` and its like: `hotdrop` is set and the result turned).
pub(super) fn turned(
    ctx: &mut LowerCtx<'_>,
    asks: impl Into<String>,
    invert: bool,
    test: impl Fn(&mut StepInput<'_>) -> Truth + Send + Sync + 'static,
) -> Cond {
    pure(ctx, asks, move |input| match (test(input), invert) {
        (Truth::Hotdrop, true) => Truth::HotdropTaken,
        (truth, true) => (truth == Truth::False).into(),
        (truth, false) => truth,
    })
}

/// A condition that `test` decides; `asks` tells what about, for explanations.
pub(super) fn pure<T: Into<Truth>>(
    ctx: &mut LowerCtx<'_>,
    asks: impl Into<String>,
    test: impl Fn(&mut StepInput<'_>) -> T + Send + Sync + 'static,
) -> Cond {
    ctx.step(Pure {
        asks: asks.into(),
        test: Arc::new(move |input: &mut StepInput<'_>| test(input).into()),
    })
}
