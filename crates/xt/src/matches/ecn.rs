//! `-m ecn`: congestion marks of the network header and of TCP (kernel `ecn_mt4`,
//! `ecn_mt6`).

use tidegate_ir::{Cond, Field};
use tidegate_wire::proto;

use super::ranges::bang;
use crate::{
    Arg, Args, Case, Error, Extension, Help, Legal, Lower, Opt, Place, Refusal, Vector, bad, no,
    ok, packets, yes,
};

const ECE: usize = 0;
const CWR: usize = 1;
const ECT: usize = 2;

const OPTIONS: &[Opt] = &[
    Opt::new("ecn-tcp-ece", Arg::Flag)
        .invertible()
        .help("[!] --ecn-tcp-ece\t\tMatch ECE bit of TCP header\n"),
    Opt::new("ecn-tcp-cwr", Arg::Flag)
        .invertible()
        .help("[!] --ecn-tcp-cwr \t\tMatch CWR bit of TCP header\n"),
    Opt::new(
        "ecn-ip-ect",
        Arg::Int {
            min: 0,
            max: 3,
            hex: 0,
        },
    )
    .invertible()
    .help("[!] --ecn-ip-ect [0..3]\tMatch ECN codepoint in IPv4/IPv6 header\n"),
];

/// `-m ecn`.
pub static ECN: Extension = Extension {
    name: "ecn",
    lower: Lower::Match(|args, _| {
        let mut tests = Vec::new();
        if let Some(ect) = args.number(ECT) {
            let test = Cond::bits(Field::Tos, 3, ect.into());
            tests.push(test.inverted_if(args.inverted(ECT)));
        }
        if args.has(ECE) || args.has(CWR) {
            tests.push(Cond::range(Field::L4Len, 20, 0xffff));
        }
        for (opt, bit) in [(ECE, 0x40), (CWR, 0x80)] {
            if args.has(opt) {
                let wanted = if args.inverted(opt) { 0 } else { bit };
                tests.push(Cond::bits(Field::TcpFlags, bit, wanted));
            }
        }
        Cond::all(tests)
    }),
    options: OPTIONS,
    help: Help::order(&[CWR, ECE, ECT]).titled("ECN match options"),
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish: |args, _| {
        if args.is_empty() {
            return Err(Error::parameter("ECN match: some option required"));
        }
        Ok(())
    },
    list: |x, _| {
        let mut out = " ECN match".to_owned();
        for (opt, word) in [(ECE, "ECE"), (CWR, "CWR")] {
            if x.args.has(opt) {
                out += &format!(" {}{word}", bang(&x.args, opt));
            }
        }
        if let Some(ect) = x.args.number(ECT) {
            out += &format!(" {}ECT={ect}", bang(&x.args, ECT));
        }
        out
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    if (args.has(ECE) || args.has(CWR)) && place.proto.0 != proto::TCP {
        return Err(Refusal::invalid("ecn: TCP bits need -p tcp"));
    }
    Ok(())
}

const CASES: &[Case] = &[
    ok("-p tcp -m ecn --ecn-tcp-cwr"),
    ok("-p tcp -m ecn --ecn-tcp-ece --ecn-tcp-cwr --ecn-ip-ect 2"),
    ok("-p tcp -m ecn ! --ecn-tcp-ece ! --ecn-tcp-cwr ! --ecn-ip-ect 2"),
    ok("-m ecn --ecn-ip-ect 0"),
    ok("-m ecn ! --ecn-ip-ect 3").v6(),
    bad("-m ecn --ecn-tcp-cwr"),
    bad("-p udp -m ecn --ecn-tcp-ece"),
    bad("-m ecn --ecn-ip-ect 4"),
    bad("-m ecn"),
];

const VECTORS: &[Vector] = &[
    yes("-m ecn --ecn-ip-ect 1", packets::TOS_B9),
    no("-m ecn ! --ecn-ip-ect 1", packets::TOS_B9),
    no("-p tcp -m ecn --ecn-tcp-ece", packets::SYN),
    yes(
        "-p tcp -m ecn ! --ecn-tcp-ece ! --ecn-tcp-cwr",
        packets::SYN,
    ),
];
