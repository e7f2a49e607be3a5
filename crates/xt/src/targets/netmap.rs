//! `-j NETMAP`: another network for an address, the host part stays (kernel `netmap_tg4`,
//! `netmap_tg6`): the destination before routing, the source after it.

use tidegate_ir::{Hook, Manip, NatSource, TableKind};
use tidegate_wire::Family;

use super::{nat_to, tee};
use crate::{
    Arg, Case, Error, Extension, Families, Input, Legal, Lower, NatTo, Opt, Value, bad, ok, saved,
    text,
};

const TO: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "to",
    Arg::Special {
        arity: 1,
        parse,
        show,
    },
)
.mandatory()
.help("  --to address[/mask]\n\t\t\t\tNetwork address to map to.\n\n")];

/// `-j NETMAP`.
pub static NETMAP: Extension = Extension {
    name: "NETMAP",
    lower: Lower::Target(|args, _| {
        let (addr, mask) = args.addrs(TO).unwrap_or_default();
        let to = NatSource::Network { addr, mask };
        nat_to::outcome(Manip::Dst, to, NatTo::default(), false, false)
    }),
    families: Families::Both,
    options: OPTIONS,
    legal: Legal {
        tables: &[TableKind::Nat],
        hooks: &[
            Hook::Prerouting,
            Hook::Input,
            Hook::Output,
            Hook::Postrouting,
        ],
        ..Legal::ANYWHERE
    },
    list: |x, ctx| {
        let to = x.args.get(TO).map(|g| show(&g.value, ctx.family));
        format!(" to:{}", to.unwrap_or_default())
    },
    cases: CASES,
    ..Extension::TARGET
};

/// The address under its mask. What is no prefix counts as a full mask in IPv4.
fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let family = input.ctx.family;
    let (host, mask) = match input.text().split_once('/') {
        Some((host, mask)) => (host, prefix(mask, family)),
        None => (input.text(), Some(text::full_mask(family))),
    };
    let mask = match (mask, family) {
        (Some(mask), _) => mask,
        (None, Family::V4) => text::full_mask(family),
        (None, Family::V6) => {
            return Err(Error::parameter(format!(
                "{}: bad value for option \"--{}\", neither a valid network mask nor valid CIDR (0-128).\n",
                input.ext, input.opt.name
            )));
        }
    };
    let args = [host];
    let host = Input {
        args: &args,
        ..*input
    };
    let addr = tee::parse_addr(&host)?.addrs().unwrap_or_default().0;
    Ok(Value::Net {
        addr: addr & mask,
        mask,
    })
}

fn prefix(mask: &str, family: Family) -> Option<u128> {
    if let Ok(len) = mask.parse() {
        return text::prefix_mask(len, family);
    }
    text::parse_addr(mask, family).filter(|&m| text::prefix_len(m, family).is_some())
}

fn show(value: &Value, family: Family) -> String {
    let (addr, mask) = value.addrs().unwrap_or_default();
    let len = text::prefix_len(mask, family).unwrap_or(0);
    format!("{}/{len}", text::addr(addr, family))
}

const fn pre(case: Case) -> Case {
    case.at(TableKind::Nat, Hook::Prerouting)
}

const CASES: &[Case] = &[
    pre(ok("-j NETMAP --to 1.2.3.0/24")),
    pre(ok("-j NETMAP --to dead::/64").v6()),
    pre(saved("-j NETMAP --to 1.2.3.4", "-j NETMAP --to 1.2.3.4/32")),
    pre(saved("-j NETMAP --to dead::1", "-j NETMAP --to dead::1/128").v6()),
    pre(saved(
        "-j NETMAP --to 1.2.3.4/16",
        "-j NETMAP --to 1.2.0.0/16",
    )),
    pre(saved(
        "-j NETMAP --to 1.2.3.4/255.255.0.0",
        "-j NETMAP --to 1.2.0.0/16",
    )),
    pre(saved(
        "-j NETMAP --to 1.2.3.4/255.0.255.0",
        "-j NETMAP --to 1.2.3.4/32",
    )),
    pre(saved(
        "-j NETMAP --to 1.2.3.4/33",
        "-j NETMAP --to 1.2.3.4/32",
    )),
    pre(saved(
        "-j NETMAP --to 1.2.3.4/0",
        "-j NETMAP --to 0.0.0.0/0",
    )),
    ok("-j NETMAP --to 1.2.3.0/24").at(TableKind::Nat, Hook::Postrouting),
    ok("-j NETMAP --to 1.2.3.0/24").at(TableKind::Nat, Hook::Input),
    ok("-j NETMAP --to 1.2.3.0/24").at(TableKind::Nat, Hook::Output),
    pre(bad("-j NETMAP")),
    pre(bad("-j NETMAP --to dead::1/129").v6()),
    bad("-j NETMAP --to 1.2.3.0/24"),
];
