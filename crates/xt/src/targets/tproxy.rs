//! `-j TPROXY`: hands the packet to a transparent socket of this host without changing it
//! (kernel `tproxy_tg4`, `tproxy_tg6_v1`).

use tidegate_ir::{Effect, Hook, TableKind, TproxySpec, Verdict};
use tidegate_wire::proto;

use super::tee::ADDR;
use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx,
    Lower, LowerCtx, Opt, Outcome, Sockets, Value, bad, number, ok, saved, text,
};

const PORT: usize = 0;
const IP: usize = 1;
const MARK: usize = 2;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "on-port",
        Arg::Special {
            arity: 1,
            parse: parse_port,
            show: |v, _| v.number().unwrap_or(0).to_string(),
        },
    )
    .mandatory()
    .help("  --on-port port\t\t    Redirect connection to port, or the original port if 0\n"),
    Opt::new("on-ip", ADDR).help("  --on-ip ip\t\t\t    Optionally redirect to the given IP\n"),
    Opt::new(
        "tproxy-mark",
        Arg::Special {
            arity: 1,
            parse: |input| Arg::Mark.parse(input),
            show: |v, _| {
                let (value, mask) = v.masked().unwrap_or_default();
                format!("{value:#x}/{mask:#x}")
            },
        },
    )
    .help("  --tproxy-mark value[/mask]\t    Mark packets with the given value/mask\n"),
];

/// `-j TPROXY`.
pub static TPROXY: Extension = Extension {
    name: "TPROXY",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::tail("\n").titled("TPROXY target options:"),
    legal: Legal {
        tables: &[TableKind::Mangle],
        hooks: &[Hook::Prerouting],
        protos: &[proto::TCP, proto::UDP],
        ..Legal::ANYWHERE
    },
    finish,
    list,
    cases: CASES,
    ..Extension::TARGET
};

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Outcome {
    ctx.ask_sockets(
        Sockets::Handing,
        "TPROXY: packets cannot be handed to a socket here",
    );
    ctx.reassembles = true;
    let (mark, mask) = args.masked(MARK).unwrap_or_default();
    let spec = TproxySpec {
        addr: args.addrs(IP).unwrap_or_default().0,
        port: args.number(PORT).unwrap_or(0) as u16,
        mask,
        mark,
    };
    Outcome::effect(Effect::Tproxy(spec), Verdict::Accept)
}

/// A service, or a number of which 16 bits count.
fn parse_port(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let proto = input.ctx.proto_name();
    let port = match number::whole(word, 0, u32::MAX.into()) {
        Some(n) => Some(n & u64::from(u16::MAX)),
        None => input
            .ctx
            .names
            .service(word, proto.as_deref())
            .map(u64::from),
    };
    port.map(Value::Number)
        .ok_or_else(|| Error::parameter(format!("Port \"{word}\" does not resolve to anything.\n")))
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if !args.has(IP) {
        args.set(IP, false, Value::Addrs(0, 0));
    }
    if !args.has(MARK) {
        args.set(MARK, false, Value::Masked { value: 0, mask: 0 });
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let addr = text::addr(x.args.addrs(IP).unwrap_or_default().0, ctx.family);
    let port = x.args.number(PORT).unwrap_or(0);
    let (value, mask) = x.args.masked(MARK).unwrap_or_default();
    format!(" TPROXY redirect {addr}:{port} mark {value:#x}/{mask:#x}")
}

const fn pre(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    pre(ok(
        "-p tcp -j TPROXY --on-port 12345 --on-ip 10.0.0.1 --tproxy-mark 0x23/0xff",
    )),
    pre(ok("-p udp -j TPROXY --on-port 12345 --on-ip 2001:db8::1 --tproxy-mark 0x23/0xff").v6()),
    pre(saved(
        "-p udp -j TPROXY --on-port 12345",
        "-p udp -j TPROXY --on-port 12345 --on-ip 0.0.0.0 --tproxy-mark 0x0/0x0",
    )),
    pre(saved(
        "-p tcp -j TPROXY --on-port 0 --tproxy-mark 1",
        "-p tcp -j TPROXY --on-port 0 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff",
    )),
    pre(saved(
        "-p tcp -j TPROXY --on-port http",
        "-p tcp -j TPROXY --on-port 80 --on-ip 0.0.0.0 --tproxy-mark 0x0/0x0",
    )),
    pre(saved(
        "-p tcp -j TPROXY --on-port 65537",
        "-p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x0/0x0",
    )),
    pre(bad("-j TPROXY --on-port 12345")),
    pre(bad("! -p udp -j TPROXY --on-port 12345")),
    pre(bad("-p icmp -j TPROXY --on-port 12345")),
    pre(bad("-p tcp -j TPROXY")),
    pre(bad("-p tcp -j TPROXY --on-ip 1.1.1.1")),
    bad("-p tcp -j TPROXY --on-port 5").at(TableKind::Mangle, Hook::Input),
    bad("-p tcp -j TPROXY --on-port 5"),
];
