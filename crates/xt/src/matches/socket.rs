//! `-m socket`: whether a socket waits for the packet (kernel `socket_mt`).

use tidegate_ir::{Cond, Expr, Field, Hook, Socket, Step, StepInput, Truth};

use super::pure::pure;
use crate::{Arg, Args, Case, Extension, Help, Legal, Lower, LowerCtx, Opt, Sockets, bad, ok};

const TRANSPARENT: usize = 0;
const NOWILDCARD: usize = 1;
const RESTORE: usize = 2;

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
    lower: Lower::Match(lower),
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

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    ctx.ask_sockets(
        Sockets::Users,
        "socket: the sockets of the host are not known here",
    );
    ctx.reassembles = true;
    let (transparent, nowildcard) = (args.has(TRANSPARENT), args.has(NOWILDCARD));
    if args.has(RESTORE) {
        let restore = ctx.effect(Restore, true);
        ctx.effects.push(restore);
    }
    pure(ctx, "a socket that waits for the packet", move |input| {
        let counts = |s: &Socket| (nowildcard || !s.wildcard) && (!transparent || s.transparent);
        input.facts.receiver().is_some_and(counts)
    })
}

/// Gives the packet its socket's mark.
#[derive(Debug)]
struct Restore;

impl Step for Restore {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let mark = input.facts.receiver().map(|s| s.mark);
        let keep = |mark: u32| Expr::Masked {
            keep: 0,
            xor: mark.into(),
        };
        input.writes.extend(mark.map(|m| (Field::Mark, keep(m))));
        Truth::True
    }

    fn describe(&self, _: u64) -> String {
        "the mark of the packet's socket".to_owned()
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(Restore)
    }
}

const CASES: &[Case] = &[
    ok("-m socket"),
    ok("-m socket --transparent --nowildcard").v6(),
    ok("-m socket --transparent --nowildcard --restore-skmark"),
    ok("-m socket --restore-skmark"),
    bad("-m socket").at(tidegate_ir::TableKind::Filter, Hook::Forward),
    bad("-m socket ! --transparent"),
];
