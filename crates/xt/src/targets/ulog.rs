//! `-j ULOG`: what NFLOG took the place of (gone from the kernel since 3.17). Old rules go on telling
//! who listens to the group of the same number.

use tidegate_ir::{Effect, NflogSpec, Verdict};
use tidegate_wire::Family;

use crate::{
    Arg, Args, Error, Extension, Families, Help, Input, Lower, LowerCtx, Opt, Outcome, Value, bad,
    ok, saved, text,
};

const PREFIX: usize = 0;
const GROUP: usize = 1;
const RANGE: usize = 2;
const THRESHOLD: usize = 3;

/// Bytes of a prefix (`ULOG_PREFIX_LEN`).
const PREFIX_MAX: usize = 32;

const fn number(min: u64, max: u64) -> Arg {
    Arg::Int { min, max, hex: 0 }
}

const OPTIONS: &[Opt] = &[
    Opt::new(
        "ulog-prefix",
        Arg::Special {
            arity: 1,
            parse: parse_prefix,
            show: |v, _| text::quote(v.text().unwrap_or("")),
        },
    )
    .help(" --ulog-prefix prefix\t\tPrefix log messages with this prefix.\n"),
    Opt::new("ulog-nlgroup", number(1, 32))
        .help(" --ulog-nlgroup nlgroup\t\tNETLINK group used for logging\n"),
    Opt::new("ulog-cprange", number(0, u64::MAX))
        .help(" --ulog-cprange size\t\tBytes of each packet to be passed\n"),
    Opt::new("ulog-qthreshold", number(1, 50))
        .help(" --ulog-qthreshold\t\tThreshold of in-kernel queue\n"),
];

/// `-j ULOG`.
pub static ULOG: Extension = Extension {
    name: "ULOG",
    lower: Lower::Target(lower),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    help: Help::order(&[GROUP, RANGE, THRESHOLD, PREFIX]),
    finish: |args, _| {
        for (opt, usual) in [(GROUP, 1), (RANGE, 0), (THRESHOLD, 1)] {
            if args.number(opt) == Some(usual) {
                args.remove(opt);
            }
        }
        Ok(())
    },
    list: |x, _| {
        let number = |opt, usual| x.args.number(opt).unwrap_or(usual);
        let prefix = x.args.text(PREFIX).map(|p| format!(" prefix \"{p}\""));
        format!(
            " ULOG copy_range {} nlgroup {}{} queue_threshold {}",
            number(RANGE, 0),
            number(GROUP, 1),
            prefix.unwrap_or_default(),
            number(THRESHOLD, 1)
        )
    },
    cases: &[
        ok("-j ULOG"),
        saved("-j ULOG --ulog-nlgroup 1", "-j ULOG"),
        ok("-j ULOG --ulog-nlgroup 32"),
        saved(
            "-j ULOG --ulog-qthreshold 20 --ulog-cprange 60 --ulog-nlgroup 2 --ulog-prefix abc",
            "-j ULOG --ulog-prefix abc --ulog-nlgroup 2 --ulog-cprange 60 --ulog-qthreshold 20",
        ),
        bad("-j ULOG --ulog-nlgroup 0"),
        bad("-j ULOG --ulog-nlgroup 33"),
        bad("-j ULOG --ulog-qthreshold 0"),
        bad("-j ULOG --ulog-qthreshold 51"),
        bad("-j ULOG --ulog-cprange -1"),
        bad("-j ULOG ! --ulog-nlgroup 2"),
        bad("-j ULOG").v6(),
    ],
    ..Extension::TARGET
};

fn parse_prefix(input: &Input<'_>) -> Result<Value, Error> {
    let prefix = input.text();
    if prefix.contains('\n') {
        return Err(Error::parameter("Newlines not allowed in --ulog-prefix"));
    }
    let kept = prefix.floor_char_boundary(PREFIX_MAX);
    Ok(Value::Text(prefix[..kept].to_owned()))
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let size = args.number(RANGE).and_then(|n| u32::try_from(n).ok());
    let spec = NflogSpec {
        group: args
            .number(GROUP)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(1),
        prefix: args.text(PREFIX).unwrap_or("").to_owned(),
        size,
    };
    Outcome::effect(Effect::Nflog(spec), Verdict::Continue)
}
