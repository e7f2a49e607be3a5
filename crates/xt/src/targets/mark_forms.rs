//! The ways to write a change of a mark, shared by MARK and CONNMARK.

use crate::{Arg, Args, Value};

/// An argument of the and, or and xor forms.
pub(super) const BITS: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

/// Option indices of the forms.
pub(super) struct Forms {
    pub(super) xset: usize,
    pub(super) set: usize,
    pub(super) and: usize,
    pub(super) or: usize,
    pub(super) xor: usize,
}

/// Turns every form into the `xset` form: clear the bits of a mask, flip a value in.
pub(super) fn normalise(args: &mut Args, forms: &Forms) {
    let bits = |args: &mut Args, opt| {
        let number = args.remove(opt)?.value.number()?;
        u32::try_from(number).ok()
    };
    let set = args.masked(forms.set);
    args.remove(forms.set);
    let change = set
        .map(|(value, mask)| (value, mask | value))
        .or_else(|| bits(args, forms.and).map(|b| (0, !b)))
        .or_else(|| bits(args, forms.or).map(|b| (b, b)))
        .or_else(|| bits(args, forms.xor).map(|b| (b, 0)));
    if let Some((value, mask)) = change {
        args.set(forms.xset, false, Value::Masked { value, mask });
    }
}

/// The change in a listing's words.
pub(super) fn describe(value: u32, mask: u32) -> String {
    match (value, mask) {
        (0, _) => format!("and {:#x}", !mask),
        (v, m) if v == m => format!("or {v:#x}"),
        (v, 0) => format!("xor {v:#x}"),
        (v, u32::MAX) => format!("set {v:#x}"),
        (v, m) => format!("xset {v:#x}/{m:#x}"),
    }
}
