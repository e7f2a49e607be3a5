//! `-j IDLETIMER`: a timer by name that every packet starts anew (kernel `idletimer_tg`).
//!
//! Rules that name one label share its timer. It runs from the first packet on.

use tidegate_ir::{Step, StepInput, TableKey, Truth, Verdict};

use crate::{
    Arg, Args, Case, Extension, Families, Instance, Legal, ListCtx, Lower, LowerCtx, Opt, Outcome,
    Place, Refusal, bad, ok, saved,
};

const TIMEOUT: usize = 0;
const LABEL: usize = 1;
const ALARM: usize = 2;

/// Bytes of a label (`MAX_IDLETIMER_LABEL_SIZE` less the final NUL).
const LABEL_MAX: usize = 27;
/// Longest timeout: its milliseconds fit an `int`.
const TIMEOUT_MAX: u64 = i32::MAX as u64 / 1000;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "timeout",
        Arg::Int {
            min: 0,
            max: u32::MAX as u64,
            hex: 0,
        },
    )
    .mandatory()
    .help(" --timeout time\tTimeout until the notification is sent (in seconds)\n"),
    Opt::new("label", Arg::Name { max: LABEL_MAX })
        .mandatory()
        .help(" --label string\tUnique rule identifier\n"),
    Opt::new("alarm", Arg::Flag).help(" --alarm\tUse alarm instead of default timer\n"),
];

/// `-j IDLETIMER`.
pub static IDLETIMER: Extension = Extension {
    name: "IDLETIMER",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: crate::Help::tail("\n"),
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    list,
    cases: CASES,
    ..Extension::TARGET
};

/// What timers are called in [`Shared`](tidegate_ir::Shared).
pub const KIND: &str = "idletimer";

/// The key of the timer with that label.
#[must_use]
pub fn table(label: &str) -> TableKey {
    TableKey {
        kind: KIND,
        name: label.to_owned(),
    }
}

/// A timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer {
    /// When it runs out, in nanoseconds; `None` before the first packet.
    expires: Option<u64>,
}

impl Timer {
    /// Whole seconds until it runs out, 0 when it has; `None` before the first packet.
    #[must_use]
    pub fn left(&self, now: u64) -> Option<u64> {
        Some(self.expires?.saturating_sub(now) / SECOND)
    }
}

const SECOND: u64 = 1_000_000_000;

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Outcome {
    let restart = Restart {
        key: table(args.text(LABEL).unwrap_or("")),
        timeout: args.number(TIMEOUT).unwrap_or(0) * SECOND,
    };
    Outcome::effect(ctx.effect(restart, false), Verdict::Continue)
}

/// Starts the timer anew.
#[derive(Clone, Debug)]
struct Restart {
    key: TableKey,
    /// Nanoseconds.
    timeout: u64,
}

impl Step for Restart {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let now = input.now;
        if let Some(timer) = input.shared.table(&self.key, Timer::default) {
            timer.expires = Some(now.saturating_add(self.timeout));
        }
        Truth::True
    }

    fn describe(&self, _: u64) -> String {
        let seconds = self.timeout / SECOND;
        format!("timer {} starts anew, {seconds} s", self.key.name)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut tidegate_ir::Shared) {
        shared.table(&self.key, Timer::default);
    }

    fn tables(&self) -> Vec<TableKey> {
        vec![self.key.clone()]
    }
}

/// What else is in the directory of timers (`idletimer_check_sysfs_name`).
const TAKEN: [&str; 3] = ["power", "subsystem", "uevent"];

/// `idletimer_tg_helper`.
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let timeout = args.number(TIMEOUT).unwrap_or(0);
    if timeout == 0 || timeout >= TIMEOUT_MAX {
        return Err(Refusal::invalid("IDLETIMER: timeout out of range"));
    }
    let label = args.text(LABEL).unwrap_or("");
    if label.is_empty() || label.contains('/') || TAKEN.contains(&label) {
        return Err(Refusal::invalid(
            "IDLETIMER: there can be no timer of that name",
        ));
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let timeout = x.args.number(TIMEOUT).unwrap_or(0);
    let label = x.args.text(LABEL).unwrap_or("");
    let alarm = if x.args.has(ALARM) { " alarm" } else { "" };
    format!(" timeout:{timeout} label:{label}{alarm}")
}

const CASES: &[Case] = &[
    ok("-j IDLETIMER --timeout 42 --label foo"),
    ok("-j IDLETIMER --timeout 42 --label bar --alarm"),
    ok("-j IDLETIMER --timeout 42 --label bar6").v6(),
    saved(
        "-j IDLETIMER --timeout 42 --label abcdefghijklmnopqrstuvwxyz0123456789",
        "-j IDLETIMER --timeout 42 --label abcdefghijklmnopqrstuvwxyz0",
    ),
    bad("-j IDLETIMER --timeout"),
    bad("-j IDLETIMER --timeout 42"),
    bad("-j IDLETIMER --label x"),
    bad("-j IDLETIMER --timeout 0 --label y"),
    bad("-j IDLETIMER --timeout 4294967295 --label y"),
    bad("-j IDLETIMER --timeout 42 --label \"\""),
    bad("-j IDLETIMER --timeout 42 --label power"),
    bad("-j IDLETIMER --timeout 42 --label a/b"),
];
