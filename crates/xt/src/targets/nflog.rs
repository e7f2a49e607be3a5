//! `-j NFLOG`: a copy of the packet for who listens to a group (kernel `nflog_tg`).
//!
//! The prefix is cut to 63 bytes (here: to whole characters). `--nflog-range` has no
//! effect in the kernel and none here; `--nflog-threshold` is a hint about batches that
//! nothing here needs. The next rule follows.

use tidegate_ir::{Effect, NflogSpec, Verdict};

use crate::{
    Arg, Args, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx, Lower, LowerCtx,
    Opt, Outcome, Value, bad, ok, saved, text,
};

const PREFIX: usize = 0;
const GROUP: usize = 1;
const RANGE: usize = 2;
const SIZE: usize = 3;
const THRESHOLD: usize = 4;

/// Bytes of a prefix that the kernel keeps (`XT_NFLOG_PREFIX_LEN` less the final NUL).
const PREFIX_MAX: usize = 63;

const SHORT: Arg = Arg::Int {
    min: 0,
    max: u16::MAX as u64,
    hex: 0,
};
const LONG: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "nflog-prefix",
        Arg::Special {
            arity: 1,
            parse: parse_prefix,
            show: |v, _| text::quote(v.text().unwrap_or("")),
        },
    )
    .help(" --nflog-prefix STRING\t\tPrefix string for log messages\n"),
    Opt::new("nflog-group", SHORT)
        .help(" --nflog-group NUM\t\tNETLINK group used for logging\n"),
    Opt::new("nflog-range", LONG)
        .excludes(&[SIZE])
        .warning("warn: --nflog-range has never worked and is no longer supported, please use --nflog-size instead")
        .help(" --nflog-range NUM\t\tThis option has no effect, use --nflog-size\n"),
    Opt::new("nflog-size", LONG)
        .excludes(&[RANGE])
        .help(" --nflog-size NUM\t\tNumber of bytes to copy\n"),
    Opt::new("nflog-threshold", SHORT)
        .help(" --nflog-threshold NUM\t\tMessage threshold of in-kernel queue\n"),
];

/// `-j NFLOG`.
pub static NFLOG: Extension = Extension {
    name: "NFLOG",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::order(&[GROUP, RANGE, SIZE, THRESHOLD, PREFIX]),
    legal: Legal::ANYWHERE,
    finish: |args, _| {
        // A size of 0 is a size: nothing of the packet.
        for opt in [GROUP, RANGE, THRESHOLD] {
            if args.number(opt) == Some(0) {
                args.remove(opt);
            }
        }
        Ok(())
    },
    save: crate::save_all,
    list,
    cases: &[
        ok("-j NFLOG"),
        saved("-j NFLOG --nflog-group 0", "-j NFLOG"),
        ok("-j NFLOG --nflog-group 5"),
        ok("-j NFLOG --nflog-group 65535").v6(),
        saved("-j NFLOG --nflog-group 0x10", "-j NFLOG --nflog-group 16"),
        bad("-j NFLOG --nflog-group 65536"),
        bad("-j NFLOG --nflog-group -1"),
        bad("-j NFLOG ! --nflog-group 1"),
        bad("-j NFLOG --nflog-group 1 --nflog-group 2"),
        ok("-j NFLOG --nflog-size 0"),
        ok("-j NFLOG --nflog-size 1"),
        ok("-j NFLOG --nflog-size 4294967295"),
        bad("-j NFLOG --nflog-size 4294967296"),
        bad("-j NFLOG --nflog-size -1"),
        saved("-j NFLOG --nflog-threshold 0", "-j NFLOG"),
        ok("-j NFLOG --nflog-threshold 1"),
        ok("-j NFLOG --nflog-threshold 65535"),
        bad("-j NFLOG --nflog-threshold 65536"),
        ok(
            "-j NFLOG --nflog-prefix 123456789012345678901234567890123456789012345678901234567890123",
        ),
        saved(
            "-j NFLOG --nflog-prefix 12345678901234567890123456789012345678901234567890123456789012345",
            "-j NFLOG --nflog-prefix 123456789012345678901234567890123456789012345678901234567890123",
        ),
        ok("-j NFLOG --nflog-prefix \"a b\""),
        bad("-j NFLOG --nflog-prefix \"\""),
        saved(
            "-j NFLOG --nflog-threshold 8 --nflog-size 7 --nflog-group 1 --nflog-prefix abc",
            "-j NFLOG --nflog-prefix abc --nflog-group 1 --nflog-size 7 --nflog-threshold 8",
        ),
        bad("-j NFLOG --nflog-foo"),
    ],
    vectors: &[],
};

fn parse_prefix(input: &Input<'_>) -> Result<Value, Error> {
    let prefix = input.text();
    if prefix.is_empty() {
        return Err(Error::parameter(
            "Argument must have a minimum length of 1 characters\n",
        ));
    }
    if prefix.contains('\n') {
        return Err(Error::parameter("Newlines not allowed in --log-prefix"));
    }
    let kept = prefix.floor_char_boundary(PREFIX_MAX);
    Ok(Value::Text(prefix[..kept].to_owned()))
}

/// Saved options without their dashes.
fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let given = x.args.iter().filter_map(|g| {
        let row = x.ext.options.get(g.opt)?;
        let value = row.arg.show(&g.value, ctx.family);
        Some(format!(" {} {value}", row.saved))
    });
    given.collect()
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let group = args.number(GROUP).unwrap_or(0);
    let spec = NflogSpec {
        group: u16::try_from(group).unwrap_or(0),
        prefix: args.text(PREFIX).unwrap_or("").to_owned(),
        size: args.number(SIZE).and_then(|n| u32::try_from(n).ok()),
    };
    Outcome::effect(Effect::Nflog(spec), Verdict::Continue)
}
