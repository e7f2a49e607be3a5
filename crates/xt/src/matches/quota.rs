//! `-m quota`: matches until so many bytes have passed (kernel `quota_mt`). A packet that
//! does not fit in what is left uses it up.

use tidegate_ir::{Cond, Step, StepInput, Truth};

use crate::{Arg, Case, Extension, Lower, Opt, bad, ok, saved};

const QUOTA_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "quota",
    Arg::Int {
        min: 0,
        max: u64::MAX,
        hex: 0,
    },
)
.invertible()
.mandatory()
.help("[!] --quota quota\t\tquota (bytes)\n")];

/// `-m quota`.
pub static QUOTA: Extension = Extension {
    name: "quota",
    lower: Lower::Match(|args, ctx| {
        let whole = args.number(QUOTA_OPT).unwrap_or(0);
        let step: Cond = ctx.step(Quota { whole, left: whole });
        step.inverted_if(args.inverted(QUOTA_OPT))
    }),
    options: OPTIONS,
    list: |x, _| format!(" quota: {} bytes", x.args.number(QUOTA_OPT).unwrap_or(0)),
    cases: CASES,
    ..Extension::MATCH
};

#[derive(Clone, Debug)]
struct Quota {
    whole: u64,
    left: u64,
}

impl Quota {
    fn take(&mut self, len: u32) -> bool {
        let left = self.left.checked_sub(len.into());
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Step for Quota {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        self.take(input.len).into()
    }

    fn describe(&self, _: u64) -> String {
        format!("{} of {} bytes left", self.left, self.whole)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(Quota {
            left: self.whole,
            ..*self
        })
    }
}

const CASES: &[Case] = &[
    ok("-m quota --quota 0"),
    ok("-m quota ! --quota 1000").v6(),
    ok("-m quota --quota 18446744073709551615"),
    saved("-m quota --quota 0x10", "-m quota --quota 16"),
    bad("-m quota --quota 18446744073709551616"),
    bad("-m quota --quota -1"),
    bad("-m quota"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_uses_up_the_rest() {
        let mut quota = Quota {
            whole: 100,
            left: 100,
        };
        assert_eq!([60, 40, 1].map(|n| quota.take(n)), [true, true, false]);
        quota.left = 50;
        assert_eq!([51, 10].map(|n| quota.take(n)), [false, false]);
        assert_eq!(quota.fresh().describe(0), "100 of 100 bytes left");
    }
}
