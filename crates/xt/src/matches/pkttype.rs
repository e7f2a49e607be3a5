//! `-m pkttype`: to whom the link layer sent the packet (kernel `pkttype_mt`).

use tidegate_ir::{Cond, Field, pkttype};

use crate::{
    Arg, Case, Error, Extension, Help, Input, Lower, Opt, Value, Vector, bad, no, ok, packets,
    saved, yes,
};

const TYPE: usize = 0;

/// Names as printed, then the others that are read.
const NAMES: &[(&str, u128)] = &[
    ("unicast", pkttype::HOST),
    ("broadcast", pkttype::BROADCAST),
    ("multicast", pkttype::MULTICAST),
    ("otherhost", pkttype::OTHERHOST),
    ("host", pkttype::HOST),
    ("bcast", pkttype::BROADCAST),
    ("mcast", pkttype::MULTICAST),
];

const OPTIONS: &[Opt] = &[Opt::new(
    "pkt-type",
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| name(v.number().unwrap_or(0)).to_owned(),
    },
)
.invertible()
.mandatory()
.help("[!] --pkt-type packettype    match packet type\n")];

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let found = NAMES.iter().find(|n| n.0.eq_ignore_ascii_case(word));
    let found = found.ok_or_else(|| Error::parameter(format!("Bad packet type '{word}'")))?;
    Ok(Value::Number(found.1 as u64))
}

fn name(number: u64) -> &'static str {
    let found = NAMES.iter().find(|n| n.1 == u128::from(number));
    found.map_or("", |n| n.0)
}

/// `-m pkttype`.
pub static PKTTYPE: Extension = Extension {
    name: "pkttype",
    lower: Lower::Match(|args, _| {
        let wanted = args.number(TYPE).unwrap_or(0);
        Cond::eq(Field::PktType, wanted.into()).inverted_if(args.inverted(TYPE))
    }),
    options: OPTIONS,
    help: Help::tail(
        "Valid packet types:\n\tunicast       \t\tto us\n\tbroadcast     \t\tto all\n\tmulticast     \t\tto group\n\totherhost     \t\tto someone else\n\n",
    ),
    list: |x, _| {
        let bang = if x.args.inverted(TYPE) { "!=" } else { "=" };
        format!(" PKTTYPE {bang} {}", name(x.args.number(TYPE).unwrap_or(0)))
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m pkttype --pkt-type unicast"),
    ok("-m pkttype --pkt-type broadcast").v6(),
    ok("-m pkttype ! --pkt-type multicast"),
    ok("-m pkttype --pkt-type otherhost"),
    saved(
        "-m pkttype --pkt-type host",
        "-m pkttype --pkt-type unicast",
    ),
    saved(
        "-m pkttype --pkt-type BROADCAST",
        "-m pkttype --pkt-type broadcast",
    ),
    saved(
        "-m pkttype --pkt-type bcast",
        "-m pkttype --pkt-type broadcast",
    ),
    bad("-m pkttype --pkt-type foo"),
    bad("-m pkttype"),
];

const VECTORS: &[Vector] = &[
    yes("-m pkttype --pkt-type unicast", packets::SYN).with(&[(Field::PktType, pkttype::HOST)]),
    no("-m pkttype ! --pkt-type broadcast", packets::SYN)
        .with(&[(Field::PktType, pkttype::BROADCAST)]),
];
