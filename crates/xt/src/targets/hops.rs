//! What the TTL and HL targets share.

use tidegate_ir::{Effect, Expr, Field, Verdict};

use crate::{Arg, Args, Error, Instance, Opt, Outcome};

pub(super) const SET: usize = 0;
pub(super) const DEC: usize = 1;
pub(super) const INC: usize = 2;

const fn byte(min: u64) -> Arg {
    Arg::Int {
        min,
        max: 255,
        hex: 0,
    }
}

pub(super) const fn set(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, byte(0)).excludes(&[DEC, INC]).help(help)
}

pub(super) const fn dec(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, byte(1)).excludes(&[SET, INC]).help(help)
}

pub(super) const fn inc(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, byte(1)).excludes(&[SET, DEC]).help(help)
}

pub(super) fn finish(args: &Args, name: &str) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter(format!(
            "{name}: You must specify an action"
        )));
    }
    Ok(())
}

/// The given option and its number.
fn action(args: &Args) -> Option<(usize, u8)> {
    let given = args.iter().next()?;
    let number = given.value.number()?;
    Some((given.opt, u8::try_from(number).ok()?))
}

pub(super) fn list(x: &Instance, name: &str) -> String {
    let (opt, n) = action(&x.args).unwrap_or_default();
    let words = match opt {
        SET => "set to",
        DEC => "decrement by",
        _ => "increment by",
    };
    format!(" {name} {words} {n}")
}

pub(super) fn outcome(args: &Args) -> Outcome {
    let (opt, n) = action(args).unwrap_or_default();
    let expr = match opt {
        SET => Expr::Masked {
            keep: 0,
            xor: u128::from(n),
        },
        DEC => Expr::AddClamped(-i16::from(n)),
        _ => Expr::AddClamped(i16::from(n)),
    };
    Outcome::effect(Effect::Assign(Field::Ttl, expr), Verdict::Continue)
}
