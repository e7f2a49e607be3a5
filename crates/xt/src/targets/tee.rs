//! `-j TEE`: sends a copy of the packet to a gateway on a link of this host (kernel
//! `tee_tg4`, `nf_dup_ipv4`). The copy is exempt from tracking and passes OUTPUT and
//! POSTROUTING; copies are not copied again.

use tidegate_ir::{Effect, TeeSpec, Verdict};
use tidegate_wire::Family;

use crate::{
    Arg, Args, Case, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Place, Refusal, Value, bad, ok, saved, text,
};

const GATEWAY: usize = 0;
const OIF: usize = 1;

/// Bytes of an interface name (`IFNAMSIZ` less the final NUL).
const NAME_MAX: usize = 15;

/// One address, saved bare.
pub(super) const ADDR: Arg = Arg::Special {
    arity: 1,
    parse: parse_addr,
    show: |v, family| text::addr(v.addrs().unwrap_or_default().0, family),
};

const OPTIONS: &[Opt] = &[
    Opt::new("gateway", ADDR)
        .mandatory()
        .help("  --gateway IPADDR    Route packet via the gateway given by address\n"),
    Opt::new("oif", Arg::Name { max: NAME_MAX })
        .help("  --oif NAME          Include oif in route calculation\n"),
];

/// `-j TEE`.
pub static TEE: Extension = Extension {
    name: "TEE",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::tail("\n"),
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    list,
    cases: CASES,
    ..Extension::TARGET
};

pub(super) fn parse_addr(input: &Input<'_>) -> Result<Value, Error> {
    let family = input.ctx.family;
    let word = input.text();
    let found = text::parse_addr(word, family)
        .or_else(|| input.ctx.names.host(word, family).first().copied());
    let addr = found.ok_or_else(|| {
        let other = match family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        Error::parameter(match text::parse_addr(word, other) {
            Some(_) => "getaddrinfo: Address family for hostname not supported\n",
            None => "getaddrinfo: Name or service not known\n",
        })
    })?;
    Ok(Value::Addrs(addr, addr))
}

/// `tee_tg_check`.
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    match args.addrs(GATEWAY) {
        Some((0, _)) | None => Err(Refusal::invalid("TEE: no gateway")),
        Some(_) => Ok(()),
    }
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let gateway = x.args.addrs(GATEWAY).unwrap_or_default().0;
    let mut out = format!(" TEE gw:{}", ctx.addr(gateway));
    if let Some(oif) = x.args.text(OIF) {
        out += &format!(" oif={oif}");
    }
    out
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let spec = TeeSpec {
        gateway: args.addrs(GATEWAY).unwrap_or_default().0,
        dev: args.text(OIF).map(str::to_owned),
    };
    Outcome::effect(Effect::Tee(spec), Verdict::Continue)
}

const CASES: &[Case] = &[
    ok("-j TEE --gateway 1.1.1.1"),
    ok("-j TEE --gateway 1.1.1.1 --oif eth9"),
    ok("-j TEE --gateway 2001:db8::1 --oif eth2").v6(),
    saved(
        "-j TEE --gateway 1.1.1.1 --oif abcdefghijklmnopq",
        "-j TEE --gateway 1.1.1.1 --oif abcdefghijklmno",
    ),
    bad("-j TEE"),
    bad("-j TEE --oif eth9"),
    bad("-j TEE ! --gateway 1.1.1.1"),
    bad("-j TEE --gateway 0.0.0.0"),
    bad("-j TEE --gateway 1.1.1.1").v6(),
];
