//! `-m tcpmss`: the MSS option of a TCP header (kernel `tcpmss_mt`). A header that lies
//! about its length drops the packet.

use tidegate_ir::{Cond, Field};
use tidegate_wire::proto;

use super::{ranges, transport::header};
use crate::{
    Arg, Case, Error, Extension, Input, Legal, Lower, Opt, Value, Vector, bad, dropped, no, ok,
    packets, saved, yes,
};

const MSS: usize = 0;
/// The option kind.
const KIND: u8 = 2;

const OPTIONS: &[Opt] = &[Opt::new(
    "mss",
    Arg::Special {
        arity: 1,
        parse,
        show: super::transport::show_range,
    },
)
.invertible()
.mandatory()
.help("[!] --mss value[:value]\tMatch TCP MSS range.\n\t\t\t\t(only valid for TCP SYN or SYN/ACK packets)\n")];

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    Arg::IntRange { max: 0xffff }.parse(input)
}

/// `-m tcpmss`.
pub static TCPMSS: Extension = Extension {
    name: "tcpmss",
    lower: Lower::Match(|args, _| {
        let mut tests = vec![header(20)];
        let whole = Cond::range(Field::TcpOption(KIND), 0, 1);
        tests.push(Cond::DropWhen(Box::new(Cond::Not(Box::new(whole)))));
        tests.push(ranges::test(args, MSS, Field::TcpMss));
        Cond::all(tests)
    }),
    options: OPTIONS,
    legal: Legal::protos(&[proto::TCP]),
    list: |x, ctx| {
        let value = x
            .args
            .get(MSS)
            .map(|g| super::transport::show_range(&g.value, ctx.family));
        let bang = ranges::bang(&x.args, MSS);
        format!(" tcpmss match {bang}{}", value.unwrap_or_default())
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-p tcp -m tcpmss --mss 42"),
    saved(
        "-p tcp -m tcpmss --mss 42:",
        "-p tcp -m tcpmss --mss 42:65535",
    ),
    saved("-p tcp -m tcpmss --mss :42", "-p tcp -m tcpmss --mss 0:42"),
    ok("-p tcp -m tcpmss ! --mss 1:12345"),
    ok("-p tcp -m tcpmss ! --mss 0:65535"),
    ok("-p tcp -m tcpmss --mss 42:100").v6(),
    bad("-p tcp -m tcpmss --mss 65536"),
    bad("-p tcp -m tcpmss --mss 65535:1"),
    bad("-p tcp -m tcpmss"),
    bad("-m tcpmss --mss 42"),
    bad("-p udp -m tcpmss --mss 42"),
];

const VECTORS: &[Vector] = &[
    yes("-p tcp -m tcpmss --mss 1460", packets::OPTIONS),
    no("-p tcp -m tcpmss ! --mss 1000:2000", packets::OPTIONS),
    no("-p tcp -m tcpmss --mss 0:65535", packets::SYN),
    yes("-p tcp -m tcpmss ! --mss 0:65535", packets::SYN),
    dropped("-p tcp -m tcpmss --mss 1460", packets::CUT_OPTIONS),
    dropped("-p tcp -m tcpmss --mss 1460", packets::OFFSET_4),
];
