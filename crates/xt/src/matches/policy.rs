//! `-m policy`: IPsec policies (kernel `policy_mt`). No packet here went through IPsec,
//! so `none` always holds and `ipsec` never.

use tidegate_ir::{Cond, Hook};
use tidegate_wire::{Family, proto};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Input, Instance, Legal, ListCtx, Lower, Opt, Place,
    Refusal, Value, Vector, Words, bad, no, ok, packets, saved, yes,
};

const DIR: usize = 0;
const POL: usize = 1;
const STRICT: usize = 2;
const REQID: usize = 3;
const SPI: usize = 4;
const SRC: usize = 5;
const DST: usize = 6;
const PROTO: usize = 7;
const MODE: usize = 8;
const NEXT: usize = 9;

/// Options of one element, in the order they are printed.
const ELEMENT: [usize; 6] = [REQID, SPI, PROTO, MODE, DST, SRC];
/// Most elements.
const DEPTH: usize = 4;

const IN: u64 = 0;
const NONE: u64 = 0;
const TUNNEL: u64 = 1;

const DIRS: Words = Words {
    list: &[("in", 0), ("out", 1)],
    prefix: false,
    unknown: "policy_match: invalid dir \"{}\"",
};
const POLICIES: Words = Words {
    list: &[("none", 0), ("ipsec", 1)],
    prefix: false,
    unknown: "policy match: invalid policy \"{}\"",
};
const MODES: Words = Words {
    list: &[("transport", 0), ("tunnel", 1)],
    prefix: false,
    unknown: "policy match: invalid mode \"{}\"",
};

/// An option of an element: its plain argument, with the element's number.
const fn part(
    parse: fn(&Input<'_>) -> Result<Value, Error>,
    show: fn(&Value, Family) -> String,
) -> Arg {
    Arg::Special {
        arity: 1,
        parse,
        show,
    }
}

const NUMBER: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new("dir", Arg::OneOf(&DIRS))
        .help("  --dir in|out\t\t\tmatch policy applied during decapsulation/\n\t\t\t\tpolicy to be applied during encapsulation\n"),
    Opt::new("pol", Arg::OneOf(&POLICIES)).help("  --pol none|ipsec\t\tmatch policy\n"),
    Opt::new("strict", Arg::Flag)
        .help("  --strict \t\t\tmatch entire policy instead of single element\n\t\t\t\tat any position\nThese options may be used repeatedly, to describe policy elements:\n"),
    Opt::new("reqid", part(|i| element(i, NUMBER), |v, _| number(v).to_string()))
        .repeats()
        .invertible()
        .help("[!] --reqid reqid\t\tmatch reqid\n"),
    Opt::new("spi", part(|i| element(i, NUMBER), |v, _| format!("{:#x}", number(v))))
        .repeats()
        .invertible()
        .help("[!] --spi spi\t\t\tmatch SPI\n"),
    Opt::new("tunnel-src", part(|i| element(i, Arg::Network), net))
        .repeats()
        .invertible()
        .help("[!] --tunnel-src addr/mask\tmatch tunnel source\n"),
    Opt::new("tunnel-dst", part(|i| element(i, Arg::Network), net))
        .repeats()
        .invertible()
        .help("[!] --tunnel-dst addr/mask\tmatch tunnel destination\n"),
    Opt::new("proto", part(protocol, |v, _| protocol_name(number(v)).to_owned()))
        .repeats()
        .invertible()
        .help("[!] --proto proto\t\tmatch protocol (ah/esp/ipcomp)\n"),
    Opt::new(
        "mode",
        part(
            |i| element(i, Arg::OneOf(&MODES)),
            |v, _| MODES.name(number(v)).unwrap_or("").to_owned(),
        ),
    )
    .repeats()
    .invertible()
    .help("[!] --mode mode \t\tmatch mode (transport/tunnel)\n"),
    Opt::new(
        "next",
        Arg::Special {
            arity: 0,
            parse: next,
            show: |_, _| String::new(),
        },
    )
    .repeats()
    .needs(&[STRICT])
    .help("  --next \t\t\tbegin next element in policy\n"),
];

fn number(value: &Value) -> u64 {
    match value {
        Value::At(_, inner) => inner.number().unwrap_or(0),
        value => value.number().unwrap_or(0),
    }
}

fn net(value: &Value, family: Family) -> String {
    match value {
        Value::At(_, inner) => Arg::Network.show(inner, family),
        value => Arg::Network.show(value, family),
    }
}

/// The element whose turn it is.
fn current(args: &Args) -> u8 {
    let next = args.iter().filter(|g| g.opt == NEXT).count();
    next as u8
}

/// The value that an element has for an option, and whether it is inverted.
fn of(args: &Args, opt: usize, wanted: u8) -> Option<(&Value, bool)> {
    let of_opt = args.iter().filter(|g| g.opt == opt);
    of_opt
        .filter_map(|g| match &g.value {
            Value::At(n, value) if *n == wanted => Some((&**value, g.invert)),
            _ => None,
        })
        .next()
}

fn element(input: &Input<'_>, arg: Arg) -> Result<Value, Error> {
    let value = arg.parse(input)?;
    placed(input, value)
}

fn placed(input: &Input<'_>, value: Value) -> Result<Value, Error> {
    let now = current(input.given);
    let opt = OPTIONS.iter().position(|o| o.name == input.opt.name);
    if opt.is_some_and(|opt| of(input.given, opt, now).is_some()) {
        let name = input.opt.name;
        return Err(Error::parameter(format!(
            "policy match: double --{name} option"
        )));
    }
    Ok(Value::At(now, Box::new(value)))
}

fn next(input: &Input<'_>) -> Result<Value, Error> {
    if usize::from(current(input.given)) + 1 == DEPTH {
        return Err(Error::parameter(
            "policy match: maximum policy depth reached",
        ));
    }
    Ok(Value::Flag)
}

fn protocol(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let known = crate::number::whole(word, 0, 255)
        .or_else(|| input.ctx.names.protocol(word).map(u64::from))
        .ok_or_else(|| Error::parameter(format!("unknown protocol \"{word}\" specified")))?;
    let found = Some(known).filter(|&n| !protocol_name(n).is_empty());
    let found =
        found.ok_or_else(|| Error::parameter("policy match: protocol must be ah/esp/ipcomp"))?;
    placed(input, Value::Number(found))
}

fn protocol_name(n: u64) -> &'static str {
    match n {
        n if n == u64::from(proto::ESP) => "esp",
        n if n == u64::from(proto::AH) => "ah",
        n if n == u64::from(proto::IPCOMP) => "ipcomp",
        _ => "",
    }
}

/// `-m policy`.
pub static POLICY: Extension = Extension {
    name: "policy",
    lower: Lower::Match(|args, _| Cond::Const(args.number(POL) == Some(NONE))),
    options: OPTIONS,
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    help: crate::Help::order(&[DIR, POL, STRICT, REQID, SPI, PROTO, MODE, SRC, DST, NEXT]),
    save,
    list,
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if !args.has(DIR) {
        return Err(Error::parameter(
            "policy match: neither --dir in nor --dir out specified",
        ));
    }
    if args.number(POL) == Some(NONE) {
        if args.has(STRICT) {
            return Err(Error::parameter(
                "policy match: policy none but --strict given",
            ));
        }
        for opt in ELEMENT {
            while args.remove(opt).is_some() {}
        }
        return Ok(());
    }
    if !args.has(POL) {
        args.set(POL, false, Value::Number(1));
    }
    (0..=current(args)).try_for_each(|n| check_element(args, n))
}

fn check_element(args: &Args, n: u8) -> Result<(), Error> {
    if args.has(STRICT) && ELEMENT.iter().all(|&opt| of(args, opt, n).is_none()) {
        return Err(Error::parameter(format!(
            "policy match: empty policy element {n}. --strict is in effect, but at least one of reqid, spi, tunnel-src, tunnel-dst, proto or mode is required."
        )));
    }
    let tunnel = of(args, MODE, n).is_some_and(|(v, invert)| v.number() == Some(TUNNEL) && !invert);
    let ends = of(args, SRC, n).is_some() || of(args, DST, n).is_some();
    if ends && !tunnel {
        return Err(Error::parameter(
            "policy match: --tunnel-src/--tunnel-dst is only valid in tunnel mode",
        ));
    }
    Ok(())
}

fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let wrong: [Hook; 2] = if args.number(DIR) == Some(IN) {
        [Hook::Postrouting, Hook::Output]
    } else {
        [Hook::Prerouting, Hook::Input]
    };
    if place.hooks.iter().any(|h| wrong.contains(h)) {
        return Err(Refusal::invalid("policy: no such direction there"));
    }
    Ok(())
}

fn save(x: &Instance, family: Family) -> String {
    let mut out: String = [DIR, POL, STRICT]
        .into_iter()
        .map(|opt| x.save_option(opt, family))
        .collect();
    for n in 0..=current(&x.args) {
        if n > 0 {
            out += " --next";
        }
        for opt in ELEMENT {
            if let Some((value, invert)) = of(&x.args, opt, n) {
                let bang = if invert { " !" } else { "" };
                let row = &OPTIONS[opt];
                out += &format!("{bang} --{} {}", row.name, row.arg.show(value, family));
            }
        }
    }
    out
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let args = &x.args;
    let dir = DIRS.name(args.number(DIR).unwrap_or(0)).unwrap_or("");
    let pol = POLICIES.name(args.number(POL).unwrap_or(0)).unwrap_or("");
    let mut out = format!(" policy match dir {dir} pol {pol}");
    if args.has(STRICT) {
        out += " strict";
    }
    let last = current(args);
    for n in 0..=last {
        if last > 0 {
            out += &format!(" [{n}]");
        }
        for opt in ELEMENT {
            let Some((value, invert)) = of(args, opt, n) else {
                continue;
            };
            let bang = if invert { " !" } else { "" };
            let row = &OPTIONS[opt];
            let text = if opt == PROTO && ctx.numeric {
                number(value).to_string()
            } else {
                row.arg.show(value, ctx.family)
            };
            out += &format!("{bang} {} {text}", row.name);
        }
    }
    out
}

const CASES: &[Case] = &[
    ok("-m policy --dir in --pol none"),
    ok("-m policy --dir in --pol ipsec"),
    ok(
        "-m policy --dir in --pol ipsec --strict --reqid 1 --spi 0x1 --proto esp --mode tunnel --tunnel-dst 10.0.0.0/8 --tunnel-src 10.0.0.0/8 --next --reqid 2",
    ),
    saved(
        "-m policy --dir in --pol ipsec --strict --reqid 1 --spi 1 --proto ipcomp",
        "-m policy --dir in --pol ipsec --strict --reqid 1 --spi 0x1 --proto ipcomp",
    ),
    ok("-m policy --dir in --pol ipsec --mode tunnel ! --tunnel-src 1.2.3.4/24"),
    saved("-m policy --dir in", "-m policy --dir in --pol ipsec"),
    saved(
        "-m policy --dir in --pol none --reqid 1",
        "-m policy --dir in --pol none",
    ),
    saved(
        "-m policy --dir in --pol ipsec --strict --mode tunnel --tunnel-src fe80::/10 --proto ah",
        "-m policy --dir in --pol ipsec --strict --proto ah --mode tunnel --tunnel-src fe80::/10",
    )
    .v6(),
    ok(
        "-m policy --dir in --pol ipsec --strict --reqid 1 --next --reqid 2 --next --reqid 3 --next --reqid 4",
    ),
    bad(
        "-m policy --dir in --pol ipsec --strict --reqid 1 --next --reqid 2 --next --reqid 3 --next --reqid 4 --next --reqid 5",
    ),
    bad("-m policy --dir out --pol ipsec"),
    bad("-m policy --dir fwd --pol ipsec"),
    bad("-m policy --dir in --pol foo"),
    bad("-m policy --pol none"),
    bad("-m policy"),
    bad("-m policy --dir in --pol none --strict"),
    bad("-m policy --dir in --pol ipsec --next --reqid 1"),
    bad("-m policy --dir in --pol ipsec --strict"),
    bad("-m policy --dir in --pol ipsec --strict --reqid 1 --next"),
    bad("-m policy --dir in --pol ipsec --tunnel-src 10.0.0.1"),
    bad("-m policy --dir in --pol ipsec --proto tcp"),
    bad("-m policy --dir in --pol ipsec --mode foo"),
    bad("-m policy --dir in --pol ipsec --reqid 4294967296"),
    bad("-m policy --dir in --pol ipsec --reqid 1 --reqid 2"),
];

const VECTORS: &[Vector] = &[
    yes("-m policy --dir in --pol none", packets::SYN),
    no("-m policy --dir in --pol ipsec", packets::SYN),
];
