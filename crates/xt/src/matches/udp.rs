//! `-m udp`: ports of the UDP header (kernel `udp_mt`).
//!
//! Later fragments never match; a packet cut inside the 8-byte header is dropped on
//! the spot. A range of all ports is kept as nothing.

use std::sync::LazyLock;

use tidegate_ir::{Cond, Field};
use tidegate_wire::proto;

use super::transport::{
    destination_port, forget_all_ports, header, list_ports, port_test, source_port,
};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Vector, bad, dropped, no, ok, packets, saved, yes,
};

const SPORT: usize = 0;
const DPORT: usize = 1;

const OPTIONS: &[Opt] = &[
    source_port(
        Arg::PortRange,
        "[!] --source-port port[:port]\n --sport ...\n\t\t\t\tmatch source port(s)\n",
    ),
    destination_port(
        Arg::PortRange,
        "[!] --destination-port port[:port]\n --dport ...\n\t\t\t\tmatch destination port(s)\n",
    ),
];

/// `-m udp`.
pub static UDP: Extension = Extension {
    name: "udp",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::protos(&[proto::UDP]),
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    forget_all_ports(args, &[SPORT, DPORT]);
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let sport = list_ports(&x.args, SPORT, "spt", ctx, "udp");
    let dport = list_ports(&x.args, DPORT, "dpt", ctx, "udp");
    format!(" udp{sport}{dport}")
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Cond {
    static WHOLE: LazyLock<Cond> = LazyLock::new(|| header(8).shared());
    let mut tests = vec![WHOLE.clone()];
    tests.extend(port_test(args, SPORT, Field::Sport));
    tests.extend(port_test(args, DPORT, Field::Dport));
    Cond::all(tests)
}

const CASES: &[Case] = &[
    saved(
        "-p udp -m udp --dport 53 --sport 1024:",
        "-p udp -m udp --sport 1024:65535 --dport 53",
    ),
    ok("-p udp -m udp ! --sport 0:65535"),
    saved("-p udp -m udp --sport :", "-p udp -m udp"),
    bad("-p udp -m udp --dport 1:2:3"),
    bad("-p udp -m udp --dport 30:20"),
    bad("-p udp -m udp --dport nosuchservice"),
    bad("-p udp -m udp --dport 1 --dport 2"),
    bad("-p tcp -m udp --dport 1"),
];

const VECTORS: &[Vector] = &[
    yes("-p udp -m udp --dport 53", packets::UDP),
    no("-p udp -m udp ! --dport 53", packets::UDP),
    no("-p udp -m udp --sport 0:1024", packets::UDP),
    no("-p udp -m udp --dport 53", packets::UDP_LATER),
    no("-p udp -m udp ! --dport 53", packets::UDP_LATER),
    yes(
        "-p udp -m udp --dport 53",
        "4500001d00012000401145cc0a0000020a000102040100350009000078",
    ),
    dropped(
        "-p udp -m udp --dport 53",
        "4500001b00010000401165ce0a0000020a00010204010035000900",
    ),
    no("-p udp -m udp --dport 53", packets::SYN),
    yes(
        "-p udp -m udp --dport 53",
        "600000000009114020010db800000000000000000000000120010db8000000000000000000000002040100350009000078",
    ),
];
