//! `-j LOG`: one line per packet in the kernel's log form (kernel `log_tg`).
//!
//! The prefix is cut to 29 bytes (here: to whole characters). The next rule follows.

use tidegate_ir::{Effect, LogSpec, Verdict};

use crate::{
    Arg, Args, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx, Lower, LowerCtx,
    Opt, Outcome, Value, bad, ok, saved, text,
};

const PREFIX: usize = 0;
const LEVEL: usize = 1;
const TCP_SEQUENCE: usize = 2;
const TCP_OPTIONS: usize = 3;
const IP_OPTIONS: usize = 4;
const UID: usize = 5;
const MAC_DECODE: usize = 6;

/// Bytes of a prefix that the kernel keeps.
const PREFIX_MAX: usize = 29;
/// `warning`.
const DEFAULT_LEVEL: u64 = 4;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "log-prefix",
        Arg::Special {
            arity: 1,
            parse: parse_prefix,
            show: |v, _| text::quote(v.text().unwrap_or("")),
        },
    )
    .help(" --log-prefix prefix\t\tPrefix log messages with this prefix.\n"),
    Opt::new("log-level", Arg::SyslogLevel)
        .help(" --log-level level\t\tLevel of logging (numeric or see syslog.conf)\n"),
    Opt::new("log-tcp-sequence", Arg::Flag)
        .help(" --log-tcp-sequence\t\tLog TCP sequence numbers.\n"),
    Opt::new("log-tcp-options", Arg::Flag).help(" --log-tcp-options\t\tLog TCP options.\n"),
    Opt::new("log-ip-options", Arg::Flag).help(" --log-ip-options\t\tLog IP options.\n"),
    Opt::new("log-uid", Arg::Flag).help(" --log-uid\t\t\tLog UID owning the local socket.\n"),
    Opt::new("log-macdecode", Arg::Flag)
        .help(" --log-macdecode\t\tDecode MAC addresses and protocol.\n"),
];

/// `-j LOG`.
pub static LOG: Extension = Extension {
    name: "LOG",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::order(&[
        LEVEL,
        PREFIX,
        TCP_SEQUENCE,
        TCP_OPTIONS,
        IP_OPTIONS,
        UID,
        MAC_DECODE,
    ]),
    legal: Legal::ANYWHERE,
    finish: |args, _| {
        if args.number(LEVEL) == Some(DEFAULT_LEVEL) {
            args.remove(LEVEL);
        }
        Ok(())
    },
    save: crate::save_all,
    list,
    cases: &[
        ok("-j LOG"),
        saved("-j LOG --log-level warning", "-j LOG"),
        ok(
            "-j LOG --log-prefix \"drop: \" --log-level 6 --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid",
        ),
        saved(
            "-j LOG --log-prefix 123456789012345678901234567890",
            "-j LOG --log-prefix 12345678901234567890123456789",
        ),
        bad("-j LOG --log-level 8"),
        bad("-j LOG --log-prefix \"\""),
        bad("-j LOG ! --log-uid"),
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

/// Names of the levels 0 to 7 in listings.
const LEVEL_NAMES: [&str; 8] = [
    "emerg", "alert", "crit", "error", "warn", "notice", "info", "debug",
];

/// Options in the order of their bit in the kernel's flag byte, with their listing word.
const FLAG_WORDS: [(usize, u32, &str); 5] = [
    (TCP_SEQUENCE, 0x01, "tcp-sequence"),
    (TCP_OPTIONS, 0x02, "tcp-options"),
    (IP_OPTIONS, 0x04, "ip-options"),
    (UID, 0x08, "uid"),
    (MAC_DECODE, 0x20, "macdecode"),
];

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let given = || FLAG_WORDS.iter().filter(|w| x.args.has(w.0));
    let level = x.args.number(LEVEL).unwrap_or(DEFAULT_LEVEL);
    let mut out = " LOG".to_owned();
    if ctx.numeric {
        let flags: u32 = given().map(|w| w.1).sum();
        out += &format!(" flags {flags} level {level}");
    } else {
        let name = usize::try_from(level).ok().and_then(|l| LEVEL_NAMES.get(l));
        out += &format!(" level {}", name.unwrap_or(&""));
        out.extend(given().map(|w| format!(" {}", w.2)));
    }
    if let Some(prefix) = x.args.text(PREFIX) {
        out += &format!(" prefix \"{prefix}\"");
    }
    out
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let level = args.number(LEVEL).unwrap_or(DEFAULT_LEVEL);
    let spec = LogSpec {
        level: u8::try_from(level).unwrap_or(4),
        prefix: args.text(PREFIX).unwrap_or("").to_owned(),
        tcp_sequence: args.has(TCP_SEQUENCE),
        tcp_options: args.has(TCP_OPTIONS),
        ip_options: args.has(IP_OPTIONS),
        uid: args.has(UID),
        mac_decode: args.has(MAC_DECODE),
    };
    Outcome::effect(Effect::Log(spec), Verdict::Continue)
}
