//! `-j IDLETIMER`: tells programs of this host when nothing has passed for a time (kernel
//! `idletimer_tg`).

use crate::{
    Arg, Args, Case, Extension, Families, Instance, Legal, ListCtx, Lower, Opt, Place, Refusal,
    bad, ok, saved,
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
    lower: Lower::Target(|_, ctx| {
        ctx.refuse_target("IDLETIMER: no program can be told of idle times")
    }),
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

/// `idletimer_tg_helper`.
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let timeout = args.number(TIMEOUT).unwrap_or(0);
    if timeout == 0 || timeout >= TIMEOUT_MAX {
        return Err(Refusal::invalid("IDLETIMER: timeout out of range"));
    }
    if args.text(LABEL) == Some("") {
        return Err(Refusal::invalid("IDLETIMER: no label"));
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
];
