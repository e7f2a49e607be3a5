//! `-j SNAT`: a new source for the connection (kernel `xt_snat_target_v2`).

use tidegate_ir::{Hook, Manip, TableKind};

use super::nat_to::{self, Form};
use crate::{Arg, Case, Extension, Families, Help, Legal, Lower, Opt, bad, ok, saved};

const TO: usize = 0;
const RANDOM: usize = 1;
const RANDOM_FULLY: usize = 2;
const PERSISTENT: usize = 3;

const FORM: Form = Form {
    addrs: true,
    shifted: false,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "to-source",
        Arg::Special {
            arity: 1,
            parse: |input| nat_to::parse(input, FORM),
            show: |v, family| nat_to::show(v.nat().unwrap_or_default(), family),
        },
    )
    .mandatory()
    .help(
        " --to-source [<ipaddr>[-<ipaddr>]][:port[-port]]\n\t\t\t\tAddress to map source to.\n[--random] [--random-fully] [--persistent]\n",
    ),
    Opt::new("random", Arg::Flag),
    Opt::new("random-fully", Arg::Flag),
    Opt::new("persistent", Arg::Flag),
];

/// `-j SNAT`.
pub static SNAT: Extension = Extension {
    name: "SNAT",
    lower: Lower::Target(|args, _| {
        let to = args.nat(TO).unwrap_or_default();
        let random = args.has(RANDOM) || args.has(RANDOM_FULLY);
        nat_to::outcome(
            Manip::Src,
            nat_to::source(to),
            to,
            random,
            args.has(PERSISTENT),
        )
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal {
        tables: &[TableKind::Nat],
        hooks: &[Hook::Postrouting, Hook::Input],
        ..Legal::ANYWHERE
    },
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, ctx| {
        let to = nat_to::show(x.args.nat(TO).unwrap_or_default(), ctx.family);
        let words = [
            (RANDOM, "random"),
            (RANDOM_FULLY, "random-fully"),
            (PERSISTENT, "persistent"),
        ];
        format!(" to:{to}{}", nat_to::list_flags(&x.args, &words))
    },
    cases: CASES,
    vectors: &[],
};

const fn post(case: Case) -> Case {
    case.at(TableKind::Nat, Hook::Postrouting)
}

const CASES: &[Case] = &[
    post(ok("-j SNAT --to-source 192.0.2.1-192.0.2.3")),
    post(ok(
        "-p udp -j SNAT --to-source 1.2.3.4-1.2.3.9:1-2 --random --random-fully --persistent",
    )),
    post(saved(
        "-p udp -j SNAT --to-source 1.2.3.4-1.2.3.4:1-1",
        "-p udp -j SNAT --to-source 1.2.3.4:1",
    )),
    post(ok("-p tcp -j SNAT --to-source :80")),
    post(ok("-j SNAT --to-source 2001:db8::5-2001:db8::9").v6()),
    post(ok("-p tcp -j SNAT --to-source [2001:db8::1-2001:db8::9]:80-90").v6()),
    post(
        saved(
            "-j SNAT --to-source [2001:db8::1]",
            "-j SNAT --to-source 2001:db8::1",
        )
        .v6(),
    ),
    post(bad("-p tcp -j SNAT --to-source [2001:db8::1:80").v6()),
    post(bad("-j SNAT --to-source 1.1.1.1").v6()),
    ok("-j SNAT --to-source 1.1.1.1").at(TableKind::Nat, Hook::Input),
    post(bad("-j SNAT")),
    post(bad("-j SNAT --to-source 1.1.1.1:80")),
    post(bad("-p tcp -j SNAT --to-source 1.1.1.1:80-70")),
    post(bad("-p tcp -j SNAT --to-source 1.1.1.1:70000")),
    post(bad("-p tcp -j SNAT --to-source 1.1.1.1:1:2")),
    post(bad("-j SNAT --to-source 1.1.1.1 --to-source 2.2.2.2")),
    bad("-j SNAT --to-source 1.1.1.1").at(TableKind::Nat, Hook::Prerouting),
    bad("-j SNAT --to-source 1.1.1.1"),
];
