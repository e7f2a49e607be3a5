//! `-m rt`: the IPv6 routing header (kernel `rt_mt6`).

use tidegate_ir::{Cond, Field, StepInput, Truth};
use tidegate_wire::{Family, be32, be128, ext6, proto};

use super::{
    pure::pure,
    ranges::{self, bang},
};
use crate::{
    Arg, Args, Case, Error, Extension, Families, Input, ListCtx, Lower, LowerCtx, Opt, Value,
    Vector, bad, no, ok, packets, saved, text, yes,
};

const TYPE: usize = 0;
const SEGMENTS: usize = 1;
const LEN: usize = 2;
const RESERVED: usize = 3;
const ADDRS: usize = 4;
const LOOSE: usize = 5;

/// Most addresses.
const MOST: usize = 16;

const NUMBER: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new("rt-type", NUMBER)
        .invertible()
        .help("[!] --rt-type type             match the type\n"),
    Opt::new("rt-segsleft", ranges::RANGE)
        .invertible()
        .help("[!] --rt-segsleft num[:num]    match the Segments Left field (range)\n"),
    Opt::new("rt-len", NUMBER)
        .invertible()
        .help("[!] --rt-len length            total length of this header\n"),
    Opt::new(
        "rt-0-res",
        Arg::Special {
            arity: 0,
            parse: |input| {
                needs_type_0(input)?;
                Ok(Value::Flag)
            },
            show: |_, _| String::new(),
        },
    )
    .help(" --rt-0-res                    check the reserved field too (type 0)\n"),
    Opt::new(
        "rt-0-addrs",
        Arg::Special {
            arity: 1,
            parse: parse_addrs,
            show: |v, _| v.text().unwrap_or("").to_owned(),
        },
    )
    .help(" --rt-0-addrs ADDR[,ADDR...]   Type=0 addresses (list, max: 16)\n"),
    Opt::new(
        "rt-0-not-strict",
        Arg::Special {
            arity: 0,
            parse: |input| {
                if input.given.has(ADDRS) {
                    return Ok(Value::Flag);
                }
                Err(Error::parameter(
                    "`--rt-0-addr ...' required before `--rt-0-not-strict'",
                ))
            },
            show: |_, _| String::new(),
        },
    )
    .help(" --rt-0-not-strict             List of Type=0 addresses not a strict list\n"),
];

fn needs_type_0(input: &Input<'_>) -> Result<(), Error> {
    let given = input.given;
    if given.number(TYPE) == Some(0) && !given.inverted(TYPE) {
        return Ok(());
    }
    Err(Error::parameter(format!(
        "`--rt-type 0' required before `--{}'",
        input.opt.name
    )))
}

fn parse_addrs(input: &Input<'_>) -> Result<Value, Error> {
    needs_type_0(input)?;
    let mut list = Vec::new();
    for word in input.text().split(',') {
        if list.len() == MOST {
            return Err(Error::parameter("too many addresses specified"));
        }
        let addr = text::parse_addr(word, Family::V6);
        let addr = addr.ok_or_else(|| Error::parameter(format!("bad address: {word}")))?;
        list.push(text::addr(addr, Family::V6));
    }
    Ok(Value::Text(list.join(",")))
}

/// `-m rt`.
pub static RT: Extension = Extension {
    name: "rt",
    lower: Lower::Match(lower),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    finish: |args, _| {
        ranges::forget_all(args, SEGMENTS);
        Ok(())
    },
    list: |x, ctx| list(&x.args, ctx),
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn list(args: &Args, _: &ListCtx<'_>) -> String {
    let mut out = " rt".to_owned();
    if let Some(ty) = args.number(TYPE) {
        out += &format!(" type:{}{ty}", bang(args, TYPE));
    }
    if let Some(segments) = ranges::listed(args, SEGMENTS, "segsleft") {
        out += &format!(" {segments}");
    }
    if let Some(len) = args.number(LEN) {
        out += &format!(" length:{}{len}", bang(args, LEN));
    }
    if args.has(RESERVED) {
        out += " reserved";
    }
    if let Some(addrs) = args.text(ADDRS) {
        out += &format!(" 0-addrs {addrs}");
    }
    if args.has(LOOSE) {
        out += " 0-not-strict";
    }
    out
}

const fn field(at: u8, len: u8) -> Field {
    Field::Ext {
        header: proto::ROUTING,
        at,
        len,
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let mut tests = super::ext_header::present(proto::ROUTING, 4);
    let wanted = Wanted::new(args);
    tests.push(pure(ctx, "a whole routing header", |input| {
        header(input).is_some()
    }));
    tests.push(ranges::test(args, SEGMENTS, field(3, 1)));
    if let Some(len) = args.number(LEN) {
        // In the header it counts units of eight bytes, one fewer than there are.
        let units = (len % 8 == 0).then(|| (len / 8).checked_sub(1)).flatten();
        let test = units.map_or(Cond::Const(false), |u| Cond::eq(field(1, 1), u.into()));
        tests.push(test.inverted_if(args.inverted(LEN)));
    }
    if let Some(ty) = args.number(TYPE) {
        tests.push(Cond::eq(field(2, 1), ty.into()).inverted_if(args.inverted(TYPE)));
    }
    if args.has(RESERVED) || args.has(ADDRS) {
        tests.push(pure(ctx, "the routing header's addresses", move |input| {
            wanted.hold(input)
        }));
    }
    Cond::all(tests)
}

/// The routing header, if the packet has it whole.
fn header<'a>(input: &'a StepInput<'_>) -> Option<&'a [u8]> {
    ext6::whole(input.facts.packet(), proto::ROUTING)
}

/// What type 0 is asked about.
#[derive(Clone, Debug)]
struct Wanted {
    reserved: bool,
    addrs: Vec<u128>,
    strict: bool,
}

impl Wanted {
    fn new(args: &Args) -> Self {
        let listed = args.text(ADDRS).unwrap_or("").split(',');
        Wanted {
            reserved: args.has(RESERVED),
            addrs: listed
                .filter_map(|a| text::parse_addr(a, Family::V6))
                .collect(),
            strict: !args.has(LOOSE),
        }
    }

    fn hold(&self, input: &mut StepInput<'_>) -> Truth {
        let Some(header) = header(input) else {
            return Truth::False;
        };
        let reserved = !self.reserved || be32(header, 4) == Some(0);
        (reserved && (self.addrs.is_empty() || self.addresses(header))).into()
    }

    /// Strictly, the header has just these addresses; else it has them in this order.
    fn addresses(&self, header: &[u8]) -> bool {
        let count = (header.len() - 8) / 16;
        let mut there = (0..count).filter_map(|i| be128(header, 8 + 16 * i));
        if self.strict {
            return there.eq(self.addrs.iter().copied());
        }
        self.addrs.iter().all(|wanted| there.any(|a| a == *wanted))
    }
}

const CASES: &[Case] = &[
    ok("-m rt --rt-type 0").v6(),
    ok("-m rt ! --rt-type 255").v6(),
    ok("-m rt --rt-segsleft 0:5").v6(),
    ok("-m rt ! --rt-segsleft 0:4294967295").v6(),
    saved("-m rt --rt-segsleft 0:4294967295", "-m rt").v6(),
    ok("-m rt ! --rt-len 10").v6(),
    ok("-m rt --rt-type 0 ! --rt-segsleft 1:23 ! --rt-len 42 --rt-0-res").v6(),
    ok("-m rt --rt-type 0 --rt-0-addrs ::1,::2 --rt-0-not-strict").v6(),
    ok("-m rt").v6(),
    bad("-m rt --rt-0-res").v6(),
    bad("-m rt --rt-type 1 --rt-0-res").v6(),
    bad("-m rt ! --rt-type 0 --rt-0-res").v6(),
    bad("-m rt --rt-0-not-strict").v6(),
    bad("-m rt --rt-type 0 --rt-0-addrs foo").v6(),
    bad("-m rt --rt-type 0 --rt-0-addrs ::1,::2,::3,::4,::5,::6,::7,::8,::9,::a,::b,::c,::d,::e,::f,::10,::11").v6(),
    bad("-m rt --rt-type -1").v6(),
    bad("-m rt"),
];

const VECTORS: &[Vector] = &[
    yes(
        "-m rt --rt-type 0 --rt-segsleft 1 --rt-len 24 --rt-0-res --rt-0-addrs fd00::9",
        packets::ROUTING,
    ),
    no(
        "-m rt --rt-type 0 --rt-0-addrs fd00::9,fd00::a",
        packets::ROUTING,
    ),
    no("-m rt --rt-type 2", packets::ROUTING),
    no("-m rt ! --rt-segsleft 0:1", packets::ROUTING),
    no("-m rt", packets::SYN6),
];
