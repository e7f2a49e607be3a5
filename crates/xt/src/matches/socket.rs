//! `-m socket`: whether a socket waits for the packet (kernel `socket_mt`).

use tidegate_ir::Hook;

use crate::{Arg, Case, Extension, Help, Legal, Lower, Opt, bad, ok};

const OPTIONS: &[Opt] = &[
    Opt::new("transparent", Arg::Flag).help("  --transparent    Ignore non-transparent sockets\n"),
    Opt::new("nowildcard", Arg::Flag)
        .help("  --nowildcard     Do not ignore LISTEN sockets bound on INADDR_ANY\n"),
    Opt::new("restore-skmark", Arg::Flag).help(
        "  --restore-skmark Set the packet mark to the socket mark if\n                   the socket matches and transparent / \n                   nowildcard conditions are satisfied\n\n",
    ),
];

/// `-m socket`.
pub static SOCKET: Extension = Extension {
    name: "socket",
    lower: Lower::Match(|_, ctx| ctx.refuse("socket: the sockets of the host are not known")),
    options: OPTIONS,
    help: Help::order(&[1, 0, 2]),
    legal: Legal::hooks(&[Hook::Prerouting, Hook::Input]),
    list: |x, family| {
        let options = crate::save_all(x, family.family);
        format!(" socket{options}")
    },
    cases: CASES,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m socket"),
    ok("-m socket --transparent --nowildcard").v6(),
    ok("-m socket --transparent --nowildcard --restore-skmark"),
    ok("-m socket --restore-skmark"),
    bad("-m socket").at(tidegate_ir::TableKind::Filter, Hook::Forward),
    bad("-m socket ! --transparent"),
];
