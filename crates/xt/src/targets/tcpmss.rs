//! `-j TCPMSS`: lowers the segment size a TCP SYN offers (kernel `tcpmss_tg4`,
//! `tcpmss_tg6`). The rule must have a tcp match that asks for SYN. Of the two options
//! the last one counts.

use tidegate_ir::{Effect, Hook, Mss, TableKind, Verdict};
use tidegate_wire::{Family, proto};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Place, Refusal, bad, matches::tcp, ok, saved,
};

const SET: usize = 0;
const CLAMP: usize = 1;

/// Largest value of `--set-mss`: what fits a packet after the network header.
const MAX_MSS: u64 = 65535 - 20;

const fn options(clamp: &'static str) -> [Opt; 2] {
    let value = Arg::Int {
        min: 0,
        max: MAX_MSS,
        hex: 0,
    };
    [
        Opt::new("set-mss", value)
            .replaces(&[CLAMP])
            .help("  --set-mss value               explicitly set MSS option to specified value\n"),
        Opt::new("clamp-mss-to-pmtu", Arg::Flag)
            .replaces(&[SET])
            .help(clamp),
    ]
}

const OPTIONS4: [Opt; 2] =
    options("  --clamp-mss-to-pmtu           automatically clamp MSS value to (path_MTU - 20)\n");
const OPTIONS6: [Opt; 2] =
    options("  --clamp-mss-to-pmtu           automatically clamp MSS value to (path_MTU - 40)\n");

/// `-j TCPMSS` of IPv6.
pub static TCPMSS6: Extension = Extension {
    families: Families::Only(Family::V6),
    options: &OPTIONS6,
    cases: &[ok("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000").v6()],
    ..TCPMSS
};

/// `-j TCPMSS` of IPv4.
pub static TCPMSS: Extension = Extension {
    name: "TCPMSS",
    lower: Lower::Target(lower),
    families: Families::Only(Family::V4),
    options: &OPTIONS4,
    help: Help::TABLE.titled("TCPMSS target mutually-exclusive options:"),
    legal: Legal {
        protos: &[proto::TCP],
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: &[],
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter(
            "TCPMSS target: At least one parameter is required",
        ));
    }
    Ok(())
}

/// Clamping needs an output route; any form needs a SYN match (`tcpmss_tg4_check`).
fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let routed = [Hook::Forward, Hook::Output, Hook::Postrouting];
    if args.has(CLAMP) && place.hooks.iter().any(|h| !routed.contains(h)) {
        return Err(Refusal::invalid(
            "TCPMSS: path-MTU clamping only in FORWARD, OUTPUT and POSTROUTING",
        ));
    }
    let syn = |m: &Instance| std::ptr::eq(m.ext, &tcp::TCP) && tcp::wants_syn(&m.args);
    if !place.matches.iter().any(syn) {
        return Err(Refusal::invalid("TCPMSS: only on TCP SYN packets"));
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    match x.args.number(SET) {
        Some(mss) => format!(" TCPMSS set {mss}"),
        None => " TCPMSS clamp to PMTU".to_owned(),
    }
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let mss = match args.number(SET).and_then(|n| u16::try_from(n).ok()) {
        Some(n) => Mss::Set(n),
        None => Mss::ClampToPathMtu,
    };
    Outcome::effect(Effect::TcpMss(mss), Verdict::Continue)
}

const fn forward(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Forward)
}

const CASES: &[Case] = &[
    forward(ok(
        "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    )),
    forward(saved(
        "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j TCPMSS --set-mss 0x100",
        "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j TCPMSS --set-mss 256",
    )),
    forward(bad("-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS")),
    forward(saved(
        "-p tcp -m tcp --tcp-flags SYN SYN -j TCPMSS --clamp-mss-to-pmtu --set-mss 9",
        "-p tcp -m tcp --tcp-flags SYN SYN -j TCPMSS --set-mss 9",
    )),
    forward(bad("-p tcp -j TCPMSS --set-mss 1000")),
    forward(bad("-j TCPMSS --set-mss 1000")),
    forward(bad("-p tcp -m tcp ! --syn -j TCPMSS --set-mss 1000")),
    forward(bad("-p tcp -m tcp --syn -j TCPMSS --set-mss 70000")),
    bad("-p tcp -m tcp --syn -j TCPMSS --clamp-mss-to-pmtu"),
    bad("-p tcp -m tcp --syn -j TCPMSS --clamp-mss-to-pmtu")
        .at(TableKind::Mangle, Hook::Prerouting),
];
