//! `-m multiport`: up to 15 ports, a range counting as two (kernel `multiport_mt`).
//!
//! `--ports` holds when the source or the destination port is listed. Later
//! fragments never match; a packet without its four port bytes is dropped on the spot.

use std::sync::LazyLock;

use tidegate_ir::{Cond, Field, Ranges};
use tidegate_wire::{Family, proto};

use super::transport::{header, strict_port};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx,
    Lower, LowerCtx, Opt, Value, Vector, bad, dropped, names, no, ok, packets, saved, show_ports,
    yes,
};

const SPORTS: usize = 0;
const DPORTS: usize = 1;
const PORTS: usize = 2;
/// Ports the kernel's structure holds.
const SLOTS: usize = 15;

const PROTOCOLS: &[u8] = &[
    proto::TCP,
    proto::UDP,
    proto::UDPLITE,
    proto::SCTP,
    proto::DCCP,
];

const LIST: Arg = Arg::Special {
    arity: 1,
    parse,
    show: |v, _: Family| show_ports(v.ports().unwrap_or_default()),
};

const OPTIONS: &[Opt] = &[
    Opt::new("source-ports", LIST)
        .saved("sports")
        .aliases(&["sports", "source-port"])
        .invertible()
        .excludes(&[DPORTS, PORTS])
        .help("[!] --source-ports port[,port:port,port...]\n --sports ...\n\t\t\t\tmatch source port(s)\n"),
    Opt::new("destination-ports", LIST)
        .saved("dports")
        .aliases(&["dports", "destination-port"])
        .invertible()
        .excludes(&[SPORTS, PORTS])
        .help("[!] --destination-ports port[,port:port,port...]\n --dports ...\n\t\t\t\tmatch destination port(s)\n"),
    Opt::new("ports", LIST)
        .invertible()
        .excludes(&[SPORTS, DPORTS])
        .help("[!] --ports port[,port:port,port]\n\t\t\t\tmatch both source and destination port(s)\n"),
];

/// `-m multiport`.
pub static MULTIPORT: Extension = Extension {
    name: "multiport",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::protos(PROTOCOLS),
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

fn checked_proto(ctx: &Context<'_>) -> Result<u8, Error> {
    match ctx.proto {
        None | Some((0, _)) => Err(Error::parameter(
            "multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'",
        )),
        Some((number, false)) if PROTOCOLS.contains(&number) => Ok(number),
        Some(_) => Err(Error::parameter(
            "multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP",
        )),
    }
}

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let name = names::known_protocol_name(checked_proto(input.ctx)?);
    let port = |word: &str| strict_port(word, input, name);
    let mut list = Vec::new();
    let mut slots = 0;
    for item in input.text().split(',') {
        let (lo, hi) = match item.split_once(':') {
            None => {
                let p = port(item)?;
                (p, p)
            }
            Some((lo, hi)) => (port(lo)?, port(hi)?),
        };
        let range = item.contains(':');
        slots += if range { 2 } else { 1 };
        if slots > SLOTS {
            return Err(Error::parameter("too many ports specified"));
        }
        if range && lo >= hi {
            return Err(Error::parameter("invalid portrange specified"));
        }
        list.push((lo, hi));
    }
    Ok(Value::Ports(list))
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter("no ports specified"));
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let Some(given) = x.args.iter().next() else {
        return String::new();
    };
    let word = OPTIONS.get(given.opt).map_or("", |o| o.saved);
    let bang = if given.invert { " !" } else { "" };
    let proto = names::known_protocol_name(ctx.proto);
    let name = |p: u16| ctx.port(u64::from(p), proto);
    let one = |&(lo, hi): &(u16, u16)| {
        if lo == hi {
            name(lo)
        } else {
            format!("{}:{}", name(lo), name(hi))
        }
    };
    let ports = given.value.ports().unwrap_or_default();
    let ports: Vec<_> = ports.iter().map(one).collect();
    format!(" multiport {word} {bang}{}", ports.join(","))
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Cond {
    static WHOLE: LazyLock<Cond> = LazyLock::new(|| header(4).shared());
    let mut tests = vec![WHOLE.clone()];
    let Some(given) = args.iter().next() else {
        return Cond::all(tests);
    };
    let ports = given.value.ports().unwrap_or_default();
    let ranges = ports.iter().map(|&(lo, hi)| (lo.into(), hi.into()));
    let ranges = Ranges::new(ranges.collect());
    let test = match given.opt {
        SPORTS => Cond::within(Field::Sport, ranges),
        DPORTS => Cond::within(Field::Dport, ranges),
        _ => Cond::any(vec![
            Cond::within(Field::Sport, ranges.clone()),
            Cond::within(Field::Dport, ranges),
        ]),
    };
    tests.push(test.inverted_if(given.invert));
    Cond::all(tests)
}

const CASES: &[Case] = &[
    ok("-p tcp -m multiport --dports 22,80,443,8000:8080"),
    ok("-p udp -m multiport ! --sports 53,123"),
    ok("-p tcp -m multiport ! --ports 80,8:9"),
    saved(
        "-p udp -m multiport --destination-port 5,5",
        "-p udp -m multiport --dports 5,5",
    ),
    ok("-p sctp -m multiport --ports 1,2,3").v6(),
    bad("-p tcp -m multiport"),
    bad("-m multiport --dports 80"),
    bad("-p icmp -m multiport --dports 80"),
    bad("! -p tcp -m multiport --dports 80"),
    bad("-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"),
    bad("-p tcp -m multiport --dports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15:16"),
    bad("-p tcp -m multiport --dports 5:3"),
    bad("-p tcp -m multiport --dports 5:5"),
    bad("-p tcp -m multiport --dports 1 --sports 2"),
    bad("-p tcp -m multiport --dports 1,"),
];

const VECTORS: &[Vector] = &[
    yes("-p tcp -m multiport --dports 22,80", packets::SYN),
    no("-p tcp -m multiport ! --dports 22,80", packets::SYN),
    no("-p tcp -m multiport --dports 70:79,81", packets::SYN),
    yes("-p tcp -m multiport --sports 1000:1025", packets::SYN),
    yes("-p tcp -m multiport --ports 1025", packets::SYN),
    yes("-p tcp -m multiport --ports 80", packets::SYN),
    no("-p tcp -m multiport --ports 1,1026", packets::SYN),
    no("-p tcp -m multiport ! --ports 80,1026", packets::SYN),
    no(
        "-p tcp -m multiport --dports 80",
        "4500002800010001400665cb0a0000020a0001020401005000000001000000005002200000000000",
    ),
    no(
        "-p tcp -m multiport ! --dports 81",
        "4500002800010002400665ca0a0000020a0001020401005000000001000000005002200000000000",
    ),
    yes(
        "-p tcp -m multiport --dports 80",
        "4500001800010000400665dc0a0000020a00010204010050",
    ),
    dropped(
        "-p tcp -m multiport --dports 80",
        "4500001700010000400665dd0a0000020a000102040100",
    ),
    yes("-p tcp -m multiport --dports 80", packets::SYN6),
];
