//! `-j ACCEPT`, `-j DROP`, `-j QUEUE`, `-j RETURN`: the verdicts without a module of their own.

use tidegate_ir::{Effect, QueueSpec, Verdict};

use crate::{Extension, Families, Help, Legal, Lower, Outcome, ok};

const fn verdict(name: &'static str, lower: Lower, cases: &'static [crate::Case]) -> Extension {
    Extension {
        name,
        lower,
        families: Families::Both,
        options: &[],
        help: Help::tail("(If target is DROP, ACCEPT, RETURN or nothing)\n")
            .titled("standard match options:"),
        legal: Legal::ANYWHERE,
        finish: |_, _| Ok(()),
        save: crate::save_all,
        list: |_, _| String::new(),
        cases,
        vectors: &[],
    }
}

/// `-j ACCEPT`: leave the table.
pub static ACCEPT: Extension = verdict(
    "ACCEPT",
    Lower::Target(|_, _| Outcome::verdict(Verdict::Accept)),
    &[ok("-p tcp -j ACCEPT"), ok("! -p udp -j ACCEPT")],
);

/// `-j DROP`: discard.
pub static DROP: Extension = verdict(
    "DROP",
    Lower::Target(|_, _| Outcome::verdict(Verdict::Drop)),
    &[ok("-j DROP")],
);

/// `-j QUEUE`: hand to who reads queue 0.
pub static QUEUE: Extension = verdict(
    "QUEUE",
    Lower::Target(|_, _| {
        let spec = QueueSpec {
            first: 0,
            last: 0,
            bypass: false,
            by_cpu: false,
        };
        Outcome::effect(Effect::Queue(spec), Verdict::Accept)
    }),
    &[ok("-p udp -j QUEUE"), ok("-j QUEUE").v6()],
);

/// `-j RETURN`: back to the calling chain.
pub static RETURN: Extension = verdict(
    "RETURN",
    Lower::Target(|_, _| Outcome::verdict(Verdict::Return)),
    &[ok("-j RETURN").v6()],
);
