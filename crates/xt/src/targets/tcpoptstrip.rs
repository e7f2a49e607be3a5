//! `-j TCPOPTSTRIP`: overwrites TCP options with no-operations (kernel `tcpoptstrip_tg4`).

use tidegate_ir::{Effect, TableKind, TcpOptions, Verdict};
use tidegate_wire::proto;

use crate::{
    Arg, Case, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx, Lower, Opt,
    Outcome, Value, bad, number, ok, saved,
};

const STRIP: usize = 0;

/// Options by name (RFC 9293, 7323, 2018, 2385).
const NAMES: &[(&str, u8)] = &[
    ("wscale", 3),
    ("mss", 2),
    ("sack-permitted", 4),
    ("sack", 5),
    ("timestamp", 8),
    ("md5", 19),
];

const TAIL: &str = "  Instead of the numeric value, you can also use the following names:
    wscale            strip \"Window scale\" option
    mss               strip \"Maximum Segment Size\" option
    sack-permitted    strip \"SACK permitted\" option
    sack              strip \"Selective ACK\" option
    timestamp         strip \"Timestamp\" option
    md5               strip \"MD5 signature\" option
";

const OPTIONS: &[Opt] = &[Opt::new(
    "strip-options",
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| v.text().unwrap_or("").to_owned(),
    },
)
.help("  --strip-options value     strip specified TCP options denoted by value\n                            (separated by comma) from TCP header\n")];

/// `-j TCPOPTSTRIP`.
pub static TCPOPTSTRIP: Extension = Extension {
    name: "TCPOPTSTRIP",
    lower: Lower::Target(|args, _| {
        let kinds = kinds(args.text(STRIP).unwrap_or("")).collect();
        Outcome::effect(Effect::StripTcpOptions(kinds), Verdict::Continue)
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::tail(TAIL),
    legal: Legal {
        tables: &[TableKind::Mangle],
        protos: &[proto::TCP],
        ..Legal::ANYWHERE
    },
    list,
    cases: CASES,
    ..Extension::TARGET
};

/// The options of the normal form: numbers in ascending order.
fn kinds(list: &str) -> impl Iterator<Item = u8> {
    list.split(',').filter_map(|kind| kind.parse().ok())
}

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let mut found = TcpOptions::default();
    for word in input.text().split(',') {
        let named = NAMES.iter().find(|n| n.0 == word).map(|n| n.1);
        let kind = named
            .or_else(|| number::whole(word, 0, 255).map(|n| n as u8))
            .ok_or_else(|| Error::parameter(format!("Bad TCP option value \"{word}\"")))?;
        if kind < 2 {
            return Err(Error::parameter("Option value may not be 0 or 1"));
        }
        if found.has(kind) {
            return Err(Error::parameter(format!(
                "Option \"{word}\" already specified"
            )));
        }
        found.extend([kind]);
    }
    let all = (2..=255).filter(|&k| found.has(k)).map(|k| k.to_string());
    Ok(Value::Text(all.collect::<Vec<_>>().join(",")))
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let Some(strip) = x.args.text(STRIP) else {
        return String::new();
    };
    let one = |kind: u8| {
        let name = NAMES.iter().find(|n| n.1 == kind && !ctx.numeric);
        name.map_or_else(|| kind.to_string(), |n| n.0.to_owned())
    };
    let words: Vec<_> = kinds(strip).map(one).collect();
    format!(" TCPOPTSTRIP options {}", words.join(","))
}

const fn mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, tidegate_ir::Hook::Prerouting)
}

const CASES: &[Case] = &[
    mangle(ok("-p tcp -j TCPOPTSTRIP")),
    mangle(ok("-p tcp -j TCPOPTSTRIP --strip-options 2,3,4,5,6,7")),
    mangle(ok("-p tcp -j TCPOPTSTRIP --strip-options 2,3").v6()),
    mangle(saved(
        "-p tcp -j TCPOPTSTRIP --strip-options md5,mss,wscale,sack-permitted,sack,timestamp,33",
        "-p tcp -j TCPOPTSTRIP --strip-options 2,3,4,5,8,19,33",
    )),
    mangle(bad("-p tcp -j TCPOPTSTRIP --strip-options 0")),
    mangle(bad("-p tcp -j TCPOPTSTRIP --strip-options 1")),
    mangle(bad("-p tcp -j TCPOPTSTRIP --strip-options 256")),
    mangle(bad("-p tcp -j TCPOPTSTRIP --strip-options foo")),
    mangle(bad("-p tcp -j TCPOPTSTRIP --strip-options 3,3,2")),
    mangle(bad("-p tcp -j TCPOPTSTRIP --strip-options 3,")),
    mangle(bad("-j TCPOPTSTRIP --strip-options 3")),
    bad("-p tcp -j TCPOPTSTRIP --strip-options 3"),
];
