//! `-m tcp`: ports, flags and options of the TCP header (kernel `tcp_mt`).
//!
//! Later fragments never match, inverted or not. An IPv4 fragment at offset 1 (bytes 8
//! to 15, where flags could be overwritten) and a packet cut inside the header are
//! dropped on the spot. ECE and CWR cannot be named. `--syn` is kept as
//! `--tcp-flags FIN,SYN,RST,ACK SYN`, a range of all ports as nothing.

use std::sync::LazyLock;

use tidegate_ir::{Cond, Field};
use tidegate_wire::{Family, proto};

use super::transport::{
    destination_port, forget_all_ports, header, list_ports, port_test, show_range, source_port,
    strict_ports,
};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx,
    Lower, LowerCtx, Opt, Value, Vector, bad, dropped, no, number, ok, packets, saved, yes,
};

const SPORT: usize = 0;
const DPORT: usize = 1;
const OPTION: usize = 2;
const FLAGS: usize = 3;
const SYN: usize = 4;

const PORTS: Arg = Arg::Special {
    arity: 1,
    parse: |input| strict_ports(input, "tcp"),
    show: show_range,
};

const OPTIONS: &[Opt] = &[
    source_port(
        PORTS,
        "[!] --source-port port[:port]\n --sport ...\n\t\t\t\tmatch source port(s)\n",
    )
    .twice("Only one `--source-port' allowed"),
    destination_port(
        PORTS,
        "[!] --destination-port port[:port]\n --dport ...\n\t\t\t\tmatch destination port(s)\n",
    )
    .twice("Only one `--destination-port' allowed"),
    Opt::new(
        "tcp-option",
        Arg::Special {
            arity: 1,
            parse: parse_option,
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .invertible()
    .twice("Only one `--tcp-option' allowed")
    .help("[!] --tcp-option number        match if TCP option set\n"),
    Opt::new(
        "tcp-flags",
        Arg::Special {
            arity: 2,
            parse: parse_flags,
            show: |v, _| {
                let (value, mask) = v.masked().unwrap_or_default();
                format!("{} {}", names(mask), names(value))
            },
        },
    )
    .invertible()
    .excludes(&[SYN])
    .twice("Only one of `--syn' or `--tcp-flags'  allowed")
    .help(
        "[!] --tcp-flags mask comp\tmatch when TCP flags & mask == comp\n\
         \t\t\t\t(Flags: SYN ACK FIN RST URG PSH ALL NONE)\n",
    ),
    Opt::new("syn", Arg::Flag)
        .invertible()
        .excludes(&[FLAGS])
        .twice("Only one of `--syn' or `--tcp-flags'  allowed")
        .help(
            "[!] --syn\t\t\tmatch when only SYN flag set\n\
             \t\t\t\t(equivalent to --tcp-flags SYN,RST,ACK,FIN SYN)\n",
        ),
];

/// `-m tcp`.
pub static TCP: Extension = Extension {
    name: "tcp",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::order(&[FLAGS, SYN, SPORT, DPORT, OPTION]),
    legal: Legal::protos(&[proto::TCP]),
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

/// Flag names in printing order; `ALL` and `NONE` are only read.
const FLAG_NAMES: &[(&str, u32)] = &[
    ("FIN", 0x01),
    ("SYN", 0x02),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
    ("ALL", 0x3f),
    ("NONE", 0),
];

fn names(bits: u32) -> String {
    if bits == 0 {
        return "NONE".to_owned();
    }
    let single = FLAG_NAMES.iter().take(6);
    let set: Vec<_> = single.filter(|f| bits & f.1 != 0).map(|f| f.0).collect();
    set.join(",")
}

fn flag_bits(list: &str) -> Result<u32, Error> {
    let mut bits = 0;
    for word in list.split(',').filter(|w| !w.is_empty()) {
        let known = FLAG_NAMES.iter().find(|f| f.0.eq_ignore_ascii_case(word));
        bits |= known
            .ok_or_else(|| Error::parameter(format!("Unknown TCP flag `{word}'")))?
            .1;
    }
    Ok(bits)
}

fn parse_flags(input: &Input<'_>) -> Result<Value, Error> {
    let &[mask, value] = input.args else {
        return Err(Error::parameter("--tcp-flags requires two args."));
    };
    Ok(Value::Masked {
        mask: flag_bits(mask)?,
        value: flag_bits(value)?,
    })
}

fn parse_option(input: &Input<'_>) -> Result<Value, Error> {
    number::whole(input.text(), 1, 255)
        .map(Value::Number)
        .ok_or_else(|| Error::parameter(format!("Bad TCP option \"{}\"", input.text())))
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    forget_all_ports(args, &[SPORT, DPORT]);
    if let Some(syn) = args.remove(SYN) {
        let value = Value::Masked {
            mask: 0x17,
            value: 0x02,
        };
        args.set(FLAGS, syn.invert, value);
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let args = &x.args;
    let bang = |opt| if args.inverted(opt) { "!" } else { "" };
    let mut out = " tcp".to_owned();
    out += &list_ports(args, SPORT, "spt", ctx, "tcp");
    out += &list_ports(args, DPORT, "dpt", ctx, "tcp");
    if let Some(n) = args.number(OPTION) {
        out += &format!(" option={}{n}", bang(OPTION));
    }
    if let Some((value, mask)) = args.masked(FLAGS) {
        out += &format!(" flags:{}", bang(FLAGS));
        out += &if ctx.numeric {
            format!("0x{mask:02X}/0x{value:02X}")
        } else {
            format!("{}/{}", names(mask), names(value))
        };
    }
    out
}

/// Whether the rule part asks for SYN set, as TCPMSS demands (`find_syn_match`).
#[must_use]
pub fn wants_syn(args: &Args) -> bool {
    !args.inverted(FLAGS)
        && args
            .masked(FLAGS)
            .is_some_and(|(value, _)| value & 0x02 != 0)
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    static WHOLE4: LazyLock<Cond> = LazyLock::new(|| {
        let tiny = Cond::drop_when(Cond::eq(Field::FragOff, 1));
        Cond::all(vec![tiny, header(20)]).shared()
    });
    static WHOLE6: LazyLock<Cond> = LazyLock::new(|| header(20).shared());
    let whole = match ctx.family {
        Family::V4 => &WHOLE4,
        Family::V6 => &WHOLE6,
    };
    let mut tests = vec![LazyLock::force(whole).clone()];
    tests.extend(port_test(args, SPORT, Field::Sport));
    tests.extend(port_test(args, DPORT, Field::Dport));
    if let Some((value, mask)) = args.masked(FLAGS) {
        let test = Cond::bits(Field::TcpFlags, u128::from(mask), u128::from(value));
        tests.push(test.inverted_if(args.inverted(FLAGS)));
    }
    if let Some(kind) = args.number(OPTION).and_then(|n| u8::try_from(n).ok()) {
        let field = Field::TcpOption(kind);
        let readable = Cond::range(field, 0, 1);
        tests.push(Cond::drop_when(readable.inverted_if(true)));
        tests.push(Cond::eq(field, 1).inverted_if(args.inverted(OPTION)));
    }
    Cond::all(tests)
}

const CASES: &[Case] = &[
    saved(
        "-p tcp -m tcp --sport 1024: ! --dport 80:443",
        "-p tcp -m tcp --sport 1024:65535 ! --dport 80:443",
    ),
    saved(
        "-p tcp -m tcp ! --syn",
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN",
    ),
    saved(
        "-p tcp -m tcp --tcp-flags syn,ALL none",
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
    ),
    saved(
        "-p tcp -m tcp --tcp-option 0x8",
        "-p tcp -m tcp --tcp-option 8",
    ),
    bad("-p tcp -m tcp --tcp-flags SYN"),
    bad("-p tcp -m tcp --tcp-flags SYN SYN --syn"),
    bad("-p tcp -m tcp --tcp-option 0"),
    bad("-p tcp -m tcp --dport 30:20"),
    bad("-m tcp --dport 1"),
    bad("! -p tcp -m tcp --dport 1"),
    ok("-p tcp -m tcp --dport 1").v6(),
];

const VECTORS: &[Vector] = &[
    yes("-p tcp -m tcp --dport 80", packets::SYN),
    no("-p tcp -m tcp --dport 81:90", packets::SYN),
    yes(
        "-p tcp -m tcp ! --dport 81:90 --sport 1024:65535",
        packets::SYN,
    ),
    no("-p tcp -m tcp ! --sport 0:1025", packets::SYN),
    yes("-p tcp -m tcp --syn", packets::SYN),
    no("-p tcp -m tcp --syn", packets::SYN_ACK),
    yes(
        "-p tcp -m tcp --syn",
        "4500002800010000400665cc0a0000020a00010204010050000000010000000050c2200000000000",
    ),
    yes("-p tcp -m tcp ! --syn", packets::SYN_ACK),
    yes(
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
        "4500002800010000400665cc0a0000020a0001020401005000000001000000005000200000000000",
    ),
    no("-p tcp -m tcp --tcp-flags SYN SYN,ACK", packets::SYN_ACK),
    no("-p tcp -m tcp --dport 80", packets::LATER),
    no("-p tcp -m tcp ! --dport 80", packets::LATER),
    dropped(
        "-p tcp -m tcp --dport 80",
        "4500002800010001400665cb0a0000020a0001020401005000000001000000005002200000000000",
    ),
    yes(
        "-p tcp -m tcp --dport 80",
        "4500002800012000400645cc0a0000020a0001020401005000000001000000005002200000000000",
    ),
    dropped(
        "-p tcp -m tcp --dport 80",
        "4500002700010000400665cd0a0000020a00010204010050000000010000000050022000000000",
    ),
    no("-p tcp -m tcp --dport 80", packets::UDP),
    yes("-p tcp -m tcp --tcp-option 4", packets::OPTIONS),
    no("-p tcp -m tcp ! --tcp-option 4", packets::OPTIONS),
    no("-p tcp -m tcp --tcp-option 3", packets::OPTIONS),
    no("-p tcp -m tcp --tcp-option 3", packets::SYN),
    yes("-p tcp -m tcp ! --tcp-option 3", packets::SYN),
    dropped("-p tcp -m tcp --tcp-option 3", packets::CUT_OPTIONS),
    dropped("-p tcp -m tcp ! --tcp-option 3", packets::CUT_OPTIONS),
    dropped("-p tcp -m tcp --tcp-option 3", packets::OFFSET_4),
    yes("-p tcp -m tcp --dport 80", packets::OFFSET_4),
    no("-p tcp -m tcp --dport 81 --tcp-option 3", packets::OFFSET_4),
    yes(
        "-p tcp -m tcp --tcp-option 3",
        "4500002c00010000400665c80a0000020a000102040100500000000100000000600220000000000000030307",
    ),
    yes(
        "-p tcp -m tcp --tcp-option 3",
        "4500002c00010000400665c80a0000020a000102040100500000000100000000600220000000000009000300",
    ),
    no(
        "-p tcp -m tcp --tcp-option 3",
        "4500002c00010000400665c80a0000020a000102040100500000000100000000600220000000000009c80300",
    ),
    yes("-p tcp -m tcp --dport 80", packets::SYN6),
    no("-p tcp -m tcp ! --dport 80", packets::SYN6),
    yes(
        "-p tcp -m tcp --dport 80",
        "60000000001c004020010db800000000000000000000000120010db800000000000000000000000206000000000000000401005000000001000000005002200000000000",
    ),
    no("-p tcp -m tcp --dport 80", packets::LATER6),
    no("-p tcp -m tcp ! --dport 80", packets::LATER6),
    yes(
        "-p tcp -m tcp --dport 80",
        "60000000001c2c4020010db800000000000000000000000120010db800000000000000000000000206000001000000010401005000000001000000005002200000000000",
    ),
    dropped(
        "-p tcp -m tcp --dport 80",
        "60000000000a064020010db800000000000000000000000120010db800000000000000000000000204010050000000010000",
    ),
    no(
        "-p tcp -m tcp --dport 80",
        "60000000001c2c4020010db800000000000000000000000120010db800000000000000000000000206000009000000010401005000000001000000005002200000000000",
    ),
];
