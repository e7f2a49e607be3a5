//! `-m state`: connection state; the same test as `-m conntrack --ctstate` (kernel
//! `conntrack_mt` with the alias flag), without the translation states.

use tidegate_ir::{Field, ctstate};

use super::ct_states::{self, ESTABLISHED, INVALID, NEW, RELATED, UNTRACKED};
use crate::{
    Arg, Case, Error, Extension, Families, Help, Input, Legal, Lower, Opt, Value, Vector, Words,
    bad, no, ok, packets, saved, yes,
};

const STATE_OPT: usize = 0;

const STATES: Words = Words {
    list: &[
        ("INVALID", INVALID),
        ("NEW", NEW),
        ("RELATED", RELATED),
        ("ESTABLISHED", ESTABLISHED),
        ("UNTRACKED", UNTRACKED),
    ],
    prefix: true,
    unknown: "Bad state \"{}\"",
};

const OPTIONS: &[Opt] = &[Opt::new(
    "state",
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| STATES.names(v.bits().unwrap_or(0)),
    },
)
.invertible()
.mandatory()
.help(
    " [!] --state [INVALID|ESTABLISHED|NEW|RELATED|UNTRACKED][,...]\n\
         \t\t\t\tState(s) to match\n",
)];

/// `-m state`.
pub static STATE: Extension = Extension {
    name: "state",
    lower: Lower::Match(|args, _| {
        let states = args.bits(STATE_OPT).unwrap_or(0);
        ct_states::test(states).inverted_if(args.inverted(STATE_OPT))
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, _| {
        let bang = if x.args.inverted(STATE_OPT) { " !" } else { "" };
        let states = STATES.names(x.args.bits(STATE_OPT).unwrap_or(0));
        format!("{bang} state {states}")
    },
    cases: CASES,
    vectors: VECTORS,
};

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    if input.text().ends_with(',') {
        return Err(Error::parameter(
            "\"--state\" requires a list of states with no spaces, e.g. ESTABLISHED,RELATED",
        ));
    }
    Arg::SetOf(&STATES).parse(input)
}

const CASES: &[Case] = &[
    saved(
        "-m state --state ESTABLISHED,RELATED",
        "-m state --state RELATED,ESTABLISHED",
    ),
    saved(
        "-m state ! --state new,inv",
        "-m state ! --state INVALID,NEW",
    ),
    ok("-m state --state NEW,ESTABLISHED,UNTRACKED"),
    bad("-m state --state SNAT"),
    bad("-m state --state NEWX"),
    bad("-m state --state NEW,"),
    bad("-m state"),
];

const VECTORS: &[Vector] = &[
    yes("-m state --state NEW", packets::SYN)
        .with(&[(Field::HasCt, 1), (Field::CtState, ctstate::NEW)]),
    no("-m state ! --state NEW", packets::SYN)
        .with(&[(Field::HasCt, 1), (Field::CtState, ctstate::NEW)]),
    no("-m state --state ESTABLISHED,RELATED", packets::SYN)
        .with(&[(Field::HasCt, 1), (Field::CtState, ctstate::NEW)]),
    yes("-m state --state INVALID", packets::SYN).with(&[(Field::CtState, ctstate::INVALID)]),
    yes("-m state ! --state NEW,ESTABLISHED", packets::SYN)
        .with(&[(Field::CtState, ctstate::INVALID)]),
    yes("-m state --state UNTRACKED", packets::SYN).with(&[(Field::CtState, ctstate::UNTRACKED)]),
    no("-m state --state INVALID", packets::SYN).with(&[(Field::CtState, ctstate::UNTRACKED)]),
];
