//! What the matches on a range of 32-bit numbers share: SPIs, fragment ids.

use tidegate_ir::{Cond, Field};

use crate::{Arg, Args};

/// A number or a range of them.
pub(super) const RANGE: Arg = Arg::IntRange {
    max: u32::MAX as u64,
};

const ALL: (u64, u64) = (0, u32::MAX as u64);

/// Takes out a range that says nothing: all numbers, not inverted.
pub(super) fn forget_all(args: &mut Args, opt: usize) {
    if args.range(opt) == Some(ALL) && !args.inverted(opt) {
        args.remove(opt);
    }
}

/// `spi:5`, `spis:!1:9`; `None` when the option is not given.
pub(super) fn listed(args: &Args, opt: usize, word: &str) -> Option<String> {
    let (lo, hi) = args.range(opt)?;
    let bang = bang(args, opt);
    Some(if lo == hi {
        format!("{word}:{bang}{lo}")
    } else {
        format!("{word}s:{bang}{lo}:{hi}")
    })
}

/// The test of a range; true when the option is not given.
pub(super) fn test(args: &Args, opt: usize, field: Field) -> Cond {
    let Some((lo, hi)) = args.range(opt) else {
        return Cond::Const(true);
    };
    Cond::range(field, lo.into(), hi.into()).inverted_if(args.inverted(opt))
}

/// `!` when the option is inverted.
pub(super) fn bang(args: &Args, opt: usize) -> &'static str {
    if args.inverted(opt) { "!" } else { "" }
}

/// The same with a blank before it, or after.
pub(super) fn blank_bang(args: &Args, opt: usize) -> &'static str {
    if args.inverted(opt) { " !" } else { "" }
}
