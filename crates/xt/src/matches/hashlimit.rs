//! `-m hashlimit`: a rate for each address, network or port (kernel `hashlimit_mt`
//! revision 3). Tables are shared by the rules that name them and outlive changes of the
//! rules.

use tidegate_ir::{Cond, TableKey};
use tidegate_wire::Family;

use super::{
    hashlimit_step::HashLimit,
    hashlimit_table::{
        BYTE_MODE, Config, DPORT, DST, MATCH_MODE, RATE_SCALE, SPORT, SRC, bytes_of, cost_is_sound,
    },
    limit::{largest_unit, read_rate},
    recent::is_file_name,
};
use crate::{
    Arg, Args, Case, Context, Errno, Error, Extension, Input, Instance, ListCtx, Lower, LowerCtx,
    Opt, Place, Refusal, Value, Words, bad, number, ok, saved, text,
};

const UPTO: usize = 0;
const ABOVE: usize = 1;
const BURST: usize = 2;
const MODE: usize = 3;
const NAME: usize = 4;
const SIZE: usize = 5;
const MAX: usize = 6;
const GC: usize = 7;
const EXPIRE: usize = 8;
const SRC_MASK: usize = 9;
const DST_MASK: usize = 10;
const RATE_MATCH: usize = 11;
const INTERVAL: usize = 12;

const MOST_BURST: u64 = 1_000_000;
/// Usual number of packets at once, milliseconds between collections.
const USUAL_BURST: u64 = 5;
const USUAL_GC: u64 = 1000;
/// Usual milliseconds an entry of a rate in bytes is kept: without a burst, and with.
const BYTE_EXPIRE: u64 = 15_000;
const BYTE_EXPIRE_BURST: u64 = 60_000;

const MODES: Words = Words {
    list: &[
        ("srcip", SRC),
        ("srcport", SPORT),
        ("dstip", DST),
        ("dstport", DPORT),
    ],
    prefix: false,
    unknown: "",
};

/// A rate: the period of one packet, or the cost of 16 bytes, and the seconds of the unit
/// it was given in; 0 for a rate in bytes.
const RATE: Arg = Arg::Special {
    arity: 1,
    parse: parse_rate,
    show: |v, _| {
        let (avg, unit) = v.range().unwrap_or_default();
        match unit {
            0 => shown_bytes(avg) + "/s",
            _ => largest_unit(avg, RATE_SCALE).0,
        }
    },
};

const WORD: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new("hashlimit-upto", RATE)
        .aliases(&["hashlimit"])
        .invertible()
        .excludes(&[ABOVE])
        .help("  --hashlimit-upto <avg>           max average match rate\n                                   [Packets per second unless followed by \n                                   /sec /minute /hour /day postfixes]\n"),
    Opt::new("hashlimit-above", RATE)
        .invertible()
        .excludes(&[UPTO])
        .help("  --hashlimit-above <avg>          min average match rate\n"),
    Opt::new(
        "hashlimit-burst",
        Arg::Special {
            arity: 1,
            parse: |input| Ok(Value::Text(input.text().to_owned())),
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .help("  --hashlimit-burst <num>\t    number to match in a burst, default 5\n"),
    Opt::new(
        "hashlimit-mode",
        Arg::Special {
            arity: 1,
            parse: parse_mode,
            show: |v, _| MODES.names(v.bits().unwrap_or(0)),
        },
    )
    .help("  --hashlimit-mode <mode>          mode is a comma-separated list of\n                                   dstip,srcip,dstport,srcport (or none)\n"),
    Opt::new(
        "hashlimit-name",
        Arg::Special {
            arity: 1,
            parse: |input| Arg::Text { min: 1, max: 254 }.parse(input),
            show: |v, _| text::bare(v.text().unwrap_or("")),
        },
    )
    .help("  --hashlimit-name <name>          name for /proc/net/ipt_hashlimit\n"),
    Opt::new("hashlimit-htable-size", WORD)
        .help("  --hashlimit-htable-size <num>    number of hashtable buckets\n"),
    Opt::new("hashlimit-htable-max", WORD)
        .help("  --hashlimit-htable-max <num>     number of hashtable entries\n"),
    Opt::new("hashlimit-htable-gcinterval", WORD)
        .help("  --hashlimit-htable-gcinterval    interval between garbage collection runs\n"),
    Opt::new("hashlimit-htable-expire", WORD)
        .help("  --hashlimit-htable-expire        after which time are idle entries expired?\n"),
    Opt::new("hashlimit-srcmask", LENGTH)
        .help("  --hashlimit-srcmask <length>     source address grouping prefix length\n"),
    Opt::new("hashlimit-dstmask", LENGTH)
        .help("  --hashlimit-dstmask <length>     destination address grouping prefix length\n"),
    Opt::new("hashlimit-rate-match", Arg::Flag)
        .help("  --hashlimit-rate-match           rate match the flow without rate-limiting it\n"),
    Opt::new(
        "hashlimit-rate-interval",
        Arg::Special {
            arity: 1,
            parse: |input| {
                let n = number::whole(input.text(), 1, u32::MAX.into());
                n.map(Value::Number).ok_or_else(|| input.bad_value(input.text()))
            },
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .help("  --hashlimit-rate-interval        interval in seconds for hashlimit-rate-match\n\n"),
];

/// The order of the help text.
const HELP: &[usize] = &[
    UPTO, ABOVE, MODE, SRC_MASK, DST_MASK, NAME, BURST, SIZE, MAX, GC, EXPIRE, RATE_MATCH, INTERVAL,
];

const LENGTH: Arg = Arg::Special {
    arity: 1,
    parse: parse_length,
    show: |v, _| v.number().unwrap_or(0).to_string(),
};

/// Reads a number of bits or a mask; the kernel refuses what is too long for IPv4.
fn parse_length(input: &Input<'_>) -> Result<Value, Error> {
    let (word, family) = (input.text(), input.ctx.family);
    let width = u64::from(text::full_mask(family).count_ones());
    let by_length = number::whole(word, 0, 128).filter(|&n| family == Family::V4 || n <= width);
    let by_mask = || {
        let mask = text::parse_addr(word, family)?;
        text::prefix_len(mask, family).map(u64::from)
    };
    by_length.or_else(by_mask).map(Value::Number).ok_or_else(|| {
        Error::parameter(format!(
            "hashlimit: bad value for option \"--{}\", neither a valid network mask nor valid CIDR (0-{width}).\n",
            input.opt.name
        ))
    })
}

/// Bytes as `N`, `Nkb` or `Nmb`.
fn read_bytes(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let n: u64 = text[..end].parse().ok()?;
    let scale = match text[end..].bytes().next() {
        Some(b'k') => 1 << 10,
        Some(b'm') => 1 << 20,
        _ => 1,
    };
    n.checked_mul(scale)
}

fn parse_rate(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    if text.contains("b/s") {
        let bytes = read_bytes(text).ok_or_else(|| input.bad_value(text))?;
        let cost = cost_of(bytes);
        if cost == 0 {
            return Err(Error::parameter(format!("Rate too fast \"{text}\"")));
        }
        return Ok(Value::Range(cost, 0));
    }
    let (rate, unit) = read_rate(text).ok_or_else(|| input.bad_value(text))?;
    match RATE_SCALE * u64::from(unit) / rate {
        0 => Err(Error::parameter(format!("Rate too fast \"{text}\""))),
        period => Ok(Value::Range(period, unit.into())),
    }
}

fn parse_mode(input: &Input<'_>) -> Result<Value, Error> {
    let mut bits = 0;
    for word in input.text().split(',').filter(|w| !w.is_empty()) {
        bits |= MODES
            .find(word)
            .ok_or_else(|| input.bad_value(input.text()))?;
    }
    Ok(Value::Bits(bits))
}

/// What 16 bytes cost at so many bytes a second.
fn cost_of(bytes: u64) -> u64 {
    u64::from(u32::MAX) / ((bytes >> 4) + 1)
}

/// The rate in the largest unit a whole number of which costs as much.
fn shown_bytes(cost: u64) -> String {
    let bytes = bytes_of(cost);
    let units = [(20, "mb"), (10, "kb")];
    let whole =
        |&&(bits, _): &&(u32, &str)| bytes >> bits != 0 && cost_of(bytes >> bits << bits) == cost;
    match units.iter().find(whole) {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}b"),
    }
}

/// Bytes in the largest unit that they reach.
fn rough_bytes(bytes: u64) -> String {
    match bytes {
        n if n >= 1 << 20 => format!("{}mb", n >> 20),
        n if n >= 1 << 10 => format!("{}kb", n >> 10),
        n => format!("{n}b"),
    }
}

/// `-m hashlimit`.
pub static HASHLIMIT: Extension = Extension {
    name: "hashlimit",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: crate::Help::order(HELP),
    legal: crate::Legal {
        extra: check,
        ..crate::Legal::ANYWHERE
    },
    finish,
    save,
    list,
    cases: CASES,
    ..Extension::MATCH
};

/// The option that gives the rate.
fn rate_opt(args: &Args) -> usize {
    if args.has(ABOVE) { ABOVE } else { UPTO }
}

/// Cost or period, and the unit, 0 for bytes.
fn rate(args: &Args) -> (u64, u64) {
    args.range(rate_opt(args)).unwrap_or((1, 1))
}

fn finish(args: &mut Args, ctx: &Context<'_>) -> Result<(), Error> {
    if !args.has(UPTO) && !args.has(ABOVE) {
        return Err(Error::parameter("You have to specify --hashlimit"));
    }
    if !args.has(NAME) {
        return Err(Error::parameter(
            "hashlimit: option \"--hashlimit-name\" must be specified\n",
        ));
    }
    let opt = rate_opt(args);
    if args.inverted(opt)
        && let Some(given) = args.remove(opt)
    {
        let other = if opt == UPTO { ABOVE } else { UPTO };
        args.set(other, false, given.value);
    }
    let (avg, unit) = rate(args);
    let burst = burst(args, avg, unit)?;
    args.set(BURST, false, Value::Number(burst));
    for (opt, usual) in [(SIZE, 0), (MAX, 0), (GC, USUAL_GC)] {
        if args.number(opt) == Some(usual) {
            args.remove(opt);
        }
    }
    if !args.has(EXPIRE) {
        let usual = match (unit, burst) {
            (0, 0) => BYTE_EXPIRE,
            (0, _) => BYTE_EXPIRE_BURST,
            _ => unit * 1000,
        };
        args.set(EXPIRE, false, Value::Number(usual));
    }
    if args.bits(MODE) == Some(0) {
        args.remove(MODE);
    }
    let width = u64::from(text::full_mask(ctx.family).count_ones());
    for opt in [SRC_MASK, DST_MASK] {
        if args.number(opt) == Some(width) {
            args.remove(opt);
        }
    }
    rate_match(args, avg, unit);
    // The unit has said what it had to: a rate is the same in another one.
    let (avg, unit) = rate(args);
    args.set(rate_opt(args), false, Value::Range(avg, unit.min(1)));
    Ok(())
}

/// A rate to be compared counts what may come in an interval.
fn rate_match(args: &mut Args, avg: u64, unit: u64) {
    if !args.has(RATE_MATCH) {
        args.remove(INTERVAL);
        return;
    }
    if !args.has(INTERVAL) {
        args.set(INTERVAL, false, Value::Number(unit.max(1)));
    }
    if let Some(avg) = avg.checked_div(unit) {
        args.set(rate_opt(args), false, Value::Range(avg.max(1), 1));
    }
}

/// Packets at once; for a rate in bytes, how often so much as a second's worth may come
/// at once beside the first time.
fn burst(args: &Args, avg: u64, unit: u64) -> Result<u64, Error> {
    let Some(word) = args.text(BURST) else {
        return Ok(if unit == 0 { 0 } else { USUAL_BURST });
    };
    if unit != 0 {
        return number::whole(word, 1, MOST_BURST).ok_or_else(|| {
            Error::parameter(format!(
                "bad value for option \"--hashlimit-burst\", or out of range (1-{MOST_BURST})."
            ))
        });
    }
    let second = bytes_of(avg);
    let bytes = read_bytes(word).unwrap_or(0);
    if bytes < second || second == 0 {
        return Err(Error::parameter(format!(
            "burst cannot be smaller than {second}b"
        )));
    }
    Ok(bytes.div_ceil(second))
}

fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let name = args.text(NAME).unwrap_or("");
    let width = u64::from(text::full_mask(place.family).count_ones());
    let long = |opt| args.number(opt).is_some_and(|n| n > width);
    let zero = |opt| args.number(opt) == Some(0);
    if !is_file_name(name) || long(SRC_MASK) || long(DST_MASK) || zero(GC) || zero(EXPIRE) {
        return Err(Refusal::invalid("hashlimit: no such table"));
    }
    let (avg, unit) = rate(args);
    let sound =
        args.has(RATE_MATCH) || cost_is_sound(avg, args.number(BURST).unwrap_or(0), unit == 0);
    if !sound {
        return Err(Refusal {
            errno: Errno::Range,
            why: "hashlimit: the rate overflows".to_owned(),
        });
    }
    Ok(())
}

/// How the rate is written, and the milliseconds that entries are then usually kept.
fn shown_rate(args: &Args) -> (String, u64) {
    let (avg, unit) = rate(args);
    match (unit, args.number(BURST)) {
        (0, Some(0) | None) => (shown_bytes(avg) + "/s", BYTE_EXPIRE),
        (0, _) => (shown_bytes(avg) + "/s", BYTE_EXPIRE_BURST),
        _ => {
            let (text, unit) = largest_unit(avg, RATE_SCALE);
            (text, u64::from(unit) * 1000)
        }
    }
}

fn shown_burst(args: &Args) -> Option<String> {
    let (avg, unit) = rate(args);
    match (unit, args.number(BURST)?) {
        (0, 0) => None,
        (0, n) => Some(rough_bytes(bytes_of(avg).saturating_mul(n))),
        (_, n) => Some(n.to_string()),
    }
}

fn save(x: &Instance, family: Family) -> String {
    let args = &x.args;
    let (rate, usual) = shown_rate(args);
    let mut out = format!(" --{} {rate}", OPTIONS[rate_opt(args)].name);
    if let Some(burst) = shown_burst(args) {
        out += &format!(" --hashlimit-burst {burst}");
    }
    for opt in [MODE, NAME, SIZE, MAX, GC] {
        out += &x.save_option(opt, family);
    }
    if args.number(EXPIRE) != Some(usual) {
        out += &x.save_option(EXPIRE, family);
    }
    for opt in [SRC_MASK, DST_MASK, RATE_MATCH] {
        out += &x.save_option(opt, family);
    }
    if args.number(INTERVAL) != Some(1) {
        out += &x.save_option(INTERVAL, family);
    }
    out
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let args = &x.args;
    let word = if args.has(ABOVE) { "above" } else { "up to" };
    let (avg, unit) = rate(args);
    let (mut rate, mut usual) = shown_rate(args);
    if let (Some(interval), true) = (args.number(INTERVAL), unit != 0) {
        let (text, seconds) = largest_unit(avg.saturating_mul(interval), RATE_SCALE);
        (rate, usual) = (text, u64::from(seconds) * 1000);
    }
    let mut out = format!(" limit: {word} {rate}");
    if let Some(burst) = shown_burst(args) {
        out += &format!(" burst {burst}");
    }
    if let Some(mode) = args.bits(MODE) {
        out += &format!(" mode {}", MODES.names(mode).replace(',', "-"));
    }
    for (opt, word) in [
        (SIZE, "htable-size"),
        (MAX, "htable-max"),
        (GC, "htable-gcinterval"),
    ] {
        if let Some(n) = args.number(opt) {
            out += &format!(" {word} {n}");
        }
    }
    if let Some(expire) = args.number(EXPIRE).filter(|&e| e != usual) {
        out += &format!(" htable-expire {expire}");
    }
    for (opt, word) in [(SRC_MASK, "srcmask"), (DST_MASK, "dstmask")] {
        if let Some(n) = args.number(opt) {
            out += &format!(" {word} {n}");
        }
    }
    if args.has(RATE_MATCH) {
        out += " rate-match";
    }
    if let Some(n) = args.number(INTERVAL).filter(|&n| n != 1) {
        out += &format!(" rate-interval {n}");
    }
    out
}

/// The shared table of that name: each family has its own.
#[must_use]
pub fn table(name: &str, family: Family) -> TableKey {
    TableKey {
        kind: match family {
            Family::V4 => "ipt_hashlimit",
            Family::V6 => "ip6t_hashlimit",
        },
        name: name.to_owned(),
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let family = ctx.family;
    let mask = |opt| {
        let len = args.number(opt).and_then(|n| u32::try_from(n).ok());
        len.map_or(Some(text::full_mask(family)), |n| {
            text::prefix_mask(n, family)
        })
    };
    let number = |opt, usual| args.number(opt).unwrap_or(usual);
    let (avg, unit) = rate(args);
    let mut mode = args.bits(MODE).unwrap_or(0);
    mode |= if unit == 0 { BYTE_MODE } else { 0 };
    mode |= if args.has(RATE_MATCH) { MATCH_MODE } else { 0 };
    let step = ctx.step(HashLimit {
        key: table(args.text(NAME).unwrap_or(""), family),
        config: Config {
            family,
            mode,
            avg,
            burst: number(BURST, 0),
            interval: number(INTERVAL, 0),
            size: number(SIZE, 0),
            max: number(MAX, 0),
            gc: number(GC, USUAL_GC),
            expire: number(EXPIRE, 1000),
            masks: (mask(SRC_MASK).unwrap_or(0), mask(DST_MASK).unwrap_or(0)),
        },
    });
    step.inverted_if(args.has(ABOVE))
}

const CASES: &[Case] = &[
    ok("-m hashlimit --hashlimit-above 1/sec --hashlimit-burst 5 --hashlimit-name a"),
    saved(
        "-m hashlimit --hashlimit-upto 5/s --hashlimit-burst 10 --hashlimit-mode srcip,dstip,srcport,dstport --hashlimit-name a",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 10 --hashlimit-mode srcip,srcport,dstip,dstport --hashlimit-name a",
    ),
    saved(
        "-m hashlimit --hashlimit-upto 5/s --hashlimit-mode dstport,srcip --hashlimit-name a --hashlimit-srcmask 24 --hashlimit-dstmask 0",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip,dstport --hashlimit-name a --hashlimit-srcmask 24 --hashlimit-dstmask 0",
    ),
    saved("-m hashlimit ! --hashlimit 5/s --hashlimit-name a", "-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name a"),
    saved(
        "-m hashlimit --hashlimit-upto 3000/min --hashlimit-name a",
        "-m hashlimit --hashlimit-upto 50/sec --hashlimit-burst 5 --hashlimit-name a --hashlimit-htable-expire 60000",
    ),
    ok("-m hashlimit --hashlimit-upto 512kb/s --hashlimit-burst 1mb --hashlimit-name a"),
    saved("-m hashlimit --hashlimit-upto 100b/s --hashlimit-name a", "-m hashlimit --hashlimit-upto 96b/s --hashlimit-name a"),
    ok("-m hashlimit --hashlimit-upto 123456b/s --hashlimit-burst 1mb --hashlimit-name mini7"),
    saved(
        "-m hashlimit --hashlimit-upto 5/min --hashlimit-burst 3 --hashlimit-name r6 --hashlimit-rate-match",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 3 --hashlimit-name r6 --hashlimit-htable-expire 60000 --hashlimit-rate-match --hashlimit-rate-interval 60",
    ),
    saved(
        "-m hashlimit --hashlimit-above 40mb/s --hashlimit-name rate4 --hashlimit-rate-interval 10",
        "-m hashlimit --hashlimit-above 40mb/s --hashlimit-name rate4",
    ),
    saved(
        "-m hashlimit --hashlimit-upto 5/s --hashlimit-srcmask 64 --hashlimit-mode srcip --hashlimit-name a",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name a --hashlimit-srcmask 64",
    )
    .v6(),
    bad("-m hashlimit --hashlimit-upto 512kb/s --hashlimit-burst 5 --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 5/s --hashlimit-burst 1mb --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 5/s --hashlimit-burst 1000001 --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 0/s --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 5/foo --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 1000001/s --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 5/s --hashlimit-name a/b"),
    bad("-m hashlimit --hashlimit-upto 5/s --hashlimit-mode foo --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 5/s --hashlimit-srcmask 33 --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 5/s --hashlimit-above 5/s --hashlimit-name a"),
    bad("-m hashlimit --hashlimit-upto 1/sec --hashlimit-htable-expire 0 --hashlimit-name b"),
    bad("-m hashlimit --hashlimit-upto 1/day --hashlimit-burst 5 --hashlimit-name b"),
    bad("-m hashlimit --hashlimit-name mini1"),
    bad("-m hashlimit --hashlimit-upto 1/sec"),
    bad("-m hashlimit"),
];
