//! `-m realm`: the realm of the route (kernel `realm_mt`).

use tidegate_ir::{Cond, Field, Hook};
use tidegate_wire::Family;

use super::{named, ranges::blank_bang};
use crate::{
    Arg, Case, Extension, Families, Legal, Lower, Opt, Vector, bad, names::List, no, ok, packets,
    saved, yes,
};

const REALM_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "realm",
    Arg::Special {
        arity: 1,
        parse: |input| named::parse(input, List::Realms),
        show: |v, _| named::show(v),
    },
)
.invertible()
.mandatory()
.help("[!] --realm value[/mask]\n\t\t\t\tMatch realm\n")];

/// `-m realm`.
pub static REALM: Extension = Extension {
    name: "realm",
    lower: Lower::Match(|args, _| {
        let realm = args.get(REALM_OPT);
        realm.map_or(Cond::Const(false), |g| named::test(Field::Realm, g))
    }),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    legal: Legal::hooks(&[Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting]),
    list: |x, ctx| {
        let value = x.args.get(REALM_OPT).map(|g| named::list(&g.value, ctx));
        let bang = blank_bang(&x.args, REALM_OPT);
        format!("{bang} realm {}", value.unwrap_or_default())
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m realm --realm 0x1/0x2a"),
    ok("-m realm ! --realm 0x2a"),
    saved("-m realm --realm 5/0xffffffff", "-m realm --realm 0x5"),
    bad("-m realm --realm nosuch"),
    bad("-m realm"),
    bad("-m realm --realm 1").at(tidegate_ir::TableKind::Raw, Hook::Prerouting),
];

/// By the definition of the fields.
const VECTORS: &[Vector] = &[
    yes("-m realm --realm 0x2a", packets::SYN).with(&[(Field::Realm, 0x2a)]),
    no("-m realm --realm 0x2a", packets::SYN).with(&[(Field::Realm, 0x1_002a)]),
    yes("-m realm --realm 0x2a/0xffff", packets::SYN).with(&[(Field::Realm, 0x1_002a)]),
    no("-m realm --realm 0x2a/0xff00", packets::SYN).with(&[(Field::Realm, 0x2a)]),
    yes("-m realm ! --realm 0x2a", packets::SYN).with(&[(Field::Realm, 0)]),
];
