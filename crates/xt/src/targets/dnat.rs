//! `-j DNAT`: a new destination for the connection (kernel `xt_dnat_target_v2`). A
//! shifted port range maps the first port to the base, the second to the next, and
//! so on.

use tidegate_ir::{Hook, Manip, TableKind};

use super::nat_to::{self, Form};
use crate::{Arg, Case, Extension, Families, Help, Legal, Lower, Opt, bad, ok, saved};

const TO: usize = 0;
const RANDOM: usize = 1;
const PERSISTENT: usize = 2;

const FORM: Form = Form {
    addrs: true,
    shifted: true,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "to-destination",
        Arg::Special {
            arity: 1,
            parse: |input| nat_to::parse(input, FORM),
            show: |v, family| nat_to::show(v.nat().unwrap_or_default(), family),
        },
    )
    .mandatory()
    .help(
        " --to-destination [<ipaddr>[-<ipaddr>]][:port[-port[/port]]]\n\t\t\t\tAddress to map destination to.\n[--random] [--persistent]\n",
    ),
    Opt::new("random", Arg::Flag),
    Opt::new("persistent", Arg::Flag),
];

/// `-j DNAT`.
pub static DNAT: Extension = Extension {
    name: "DNAT",
    lower: Lower::Target(|args, _| {
        let to = args.nat(TO).unwrap_or_default();
        nat_to::outcome(
            Manip::Dst,
            nat_to::source(to),
            to,
            args.has(RANDOM),
            args.has(PERSISTENT),
        )
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal {
        tables: &[TableKind::Nat],
        hooks: &[Hook::Prerouting, Hook::Output],
        ..Legal::ANYWHERE
    },
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, ctx| {
        let to = nat_to::show(x.args.nat(TO).unwrap_or_default(), ctx.family);
        let words = [(RANDOM, "random"), (PERSISTENT, "persistent")];
        format!(" to:{to}{}", nat_to::list_flags(&x.args, &words))
    },
    cases: CASES,
    vectors: &[],
};

const fn pre(case: Case) -> Case {
    case.at(TableKind::Nat, Hook::Prerouting)
}

const CASES: &[Case] = &[
    pre(ok("-p tcp -j DNAT --to-destination 10.0.0.2:8080")),
    pre(ok(
        "-p tcp -j DNAT --to-destination 10.0.0.2-10.0.0.5:1000-1010 --random --persistent",
    )),
    pre(ok("-p tcp -j DNAT --to-destination 1.1.1.1:80-90/5")),
    pre(saved(
        "-p tcp -j DNAT --to-destination 1.1.1.1:0x50-80",
        "-p tcp -j DNAT --to-destination 1.1.1.1:80",
    )),
    pre(ok("-p tcp -j DNAT --to-destination :80")),
    pre(ok("-p tcp -j DNAT --to-destination [2001:db8::1]:80-90/5").v6()),
    pre(ok("-j DNAT --to-destination ::").v6()),
    pre(ok("-p tcp -j DNAT --to-destination [::]:80").v6()),
    ok("-j DNAT --to-destination 1.1.1.1").at(TableKind::Nat, Hook::Output),
    pre(bad("-p tcp -j DNAT --to-destination 1.1.1.1:80/3")),
    pre(bad("-p tcp -j DNAT --to-destination 1.1.1.1:80-90/0")),
    pre(bad("-p tcp -j DNAT --to-destination 1.1.1.1:foo")),
    pre(bad("-p tcp -j DNAT --to-destination 1.1.1.1:80x")),
    pre(bad("-p tcp -j DNAT --to-destination 1.1.1")),
    pre(bad("-p tcp -j DNAT --to-destination 1.1.1.1-")),
    pre(bad("-j DNAT --to-destination 1.1.1.1 --random-fully")),
    pre(bad("-j DNAT")),
    bad("-j DNAT --to-destination 1.1.1.1").at(TableKind::Nat, Hook::Postrouting),
];
