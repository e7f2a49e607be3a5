//! `-j SNPT` and `-j DNPT`: another prefix for an IPv6 address, without state (RFC 6296,
//! kernel `ip6t_snpt_tg`, `ip6t_dnpt_tg`). Checksums stay right because a word of the
//! address takes up the difference.

use tidegate_ir::{Effect, Hook, Manip, NptSpec, TableKind, Verdict};
use tidegate_wire::Family;

use super::tee;
use crate::{
    Arg, Args, Case, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx, Lower, Opt,
    Outcome, Place, Refusal, Value, bad, number, ok, text,
};

const FROM: usize = 0;
const TO: usize = 1;

const PREFIX: Arg = Arg::Special {
    arity: 1,
    parse,
    show,
};

const OPTIONS: &[Opt] = &[
    Opt::new("src-pfx", PREFIX)
        .mandatory()
        .help(" --src-pfx prefix/length\n"),
    Opt::new("dst-pfx", PREFIX)
        .mandatory()
        .help(" --dst-pfx prefix/length\n"),
];

const NPT: Extension = Extension {
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: Help::tail("\n"),
    list,
    ..Extension::TARGET
};

const fn legal(hooks: &'static [Hook]) -> Legal {
    Legal {
        tables: &[TableKind::Mangle],
        hooks,
        extra: check,
        ..Legal::ANYWHERE
    }
}

/// `-j SNPT`.
pub static SNPT: Extension = Extension {
    name: "SNPT",
    lower: Lower::Target(|args, _| outcome(args, Manip::Src)),
    legal: legal(&[Hook::Input, Hook::Postrouting]),
    cases: &[
        at(
            ok("-j SNPT --src-pfx dead::/64 --dst-pfx 1c3::/64"),
            Hook::Postrouting,
        ),
        at(
            ok("-j SNPT --src-pfx dead::/48 --dst-pfx 1c3:1::/48"),
            Hook::Input,
        ),
        at(
            bad("-j SNPT --src-pfx dead::/64 --dst-pfx 1c3::/64"),
            Hook::Output,
        ),
        at(bad("-j SNPT --src-pfx dead::/64"), Hook::Postrouting),
    ],
    ..NPT
};

/// `-j DNPT`.
pub static DNPT: Extension = Extension {
    name: "DNPT",
    lower: Lower::Target(|args, _| outcome(args, Manip::Dst)),
    legal: legal(&[Hook::Prerouting, Hook::Output]),
    cases: &[
        at(
            ok("-j DNPT --src-pfx dead::/64 --dst-pfx 1c3::/64"),
            Hook::Prerouting,
        ),
        at(
            ok("-j DNPT --src-pfx dead::/64 --dst-pfx 1c3::/48"),
            Hook::Output,
        ),
        at(
            bad("-j DNPT --src-pfx dead::1/64 --dst-pfx 1c3::/48"),
            Hook::Prerouting,
        ),
        at(
            bad("-j DNPT --src-pfx dead::/65 --dst-pfx 1c3::/65"),
            Hook::Prerouting,
        ),
        at(
            bad("-j DNPT --src-pfx dead:: --dst-pfx 1c3::/64"),
            Hook::Prerouting,
        ),
        at(bad("-j DNPT --src-pfx dead::/64"), Hook::Prerouting),
        at(bad("-j DNPT"), Hook::Prerouting),
        at(
            bad("-j DNPT --src-pfx dead::/64 --dst-pfx 1c3::/64"),
            Hook::Input,
        ),
        bad("-j DNPT --src-pfx dead::/64 --dst-pfx 1c3::/64").v6(),
    ],
    ..NPT
};

/// The address as given; the length tells the prefix.
fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let (host, len) = match input.text().split_once('/') {
        Some((host, len)) => (host, number::whole(len, 0, 128)),
        None => (input.text(), Some(128)),
    };
    let len = len.ok_or_else(|| {
        Error::parameter(format!(
            "{}: bad value for option \"--{}\", neither a valid network mask nor valid CIDR (0-128).\n",
            input.ext, input.opt.name
        ))
    })?;
    let args = [host];
    let host = Input {
        args: &args,
        ..*input
    };
    let addr = tee::parse_addr(&host)?.addrs().unwrap_or_default().0;
    let mask = text::prefix_mask(len as u32, Family::V6).unwrap_or(0);
    Ok(Value::Net { addr, mask })
}

fn show(value: &Value, family: Family) -> String {
    let (addr, mask) = value.addrs().unwrap_or_default();
    let len = text::prefix_len(mask, family).unwrap_or(0);
    format!("{}/{len}", text::addr(addr, family))
}

/// `ip6t_npt_checkentry`.
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    for opt in [FROM, TO] {
        let (addr, mask) = args.addrs(opt).unwrap_or_default();
        if mask.count_ones() > 64 {
            return Err(Refusal::invalid("prefix longer than 64 bits"));
        }
        if addr & !mask != 0 {
            return Err(Refusal::invalid("address bits beyond the prefix"));
        }
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let prefix = |opt| x.args.get(opt).map(|g| show(&g.value, ctx.family));
    let (from, to) = (prefix(FROM), prefix(TO));
    format!(
        " {} src-pfx {} dst-pfx {}",
        x.ext.name,
        from.unwrap_or_default(),
        to.unwrap_or_default()
    )
}

fn outcome(args: &Args, manip: Manip) -> Outcome {
    let prefix = |opt| {
        let (addr, mask): (u128, u128) = args.addrs(opt).unwrap_or_default();
        (addr, mask.count_ones() as u8)
    };
    let spec = NptSpec {
        manip,
        from: prefix(FROM),
        to: prefix(TO),
    };
    Outcome::effect(Effect::Npt(spec), Verdict::Continue)
}

const fn at(case: Case, hook: Hook) -> Case {
    case.at(TableKind::Mangle, hook).v6()
}
