//! What the ttl and hl matches share.

use tidegate_ir::{Cond, Field};

use crate::{Arg, Args, Context, Error, Help, Instance, Opt};

pub(super) const LT: usize = 0;
pub(super) const GT: usize = 1;
pub(super) const EQ: usize = 2;
/// Order of the options in the help text.
pub(super) const HELP: Help = Help::order(&[EQ, LT, GT]);

const BYTE: Arg = Arg::Int {
    min: 0,
    max: 255,
    hex: 0,
};

pub(super) const fn eq(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, BYTE)
        .invertible()
        .excludes(&[LT, GT])
        .help(help)
}

pub(super) const fn lt(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, BYTE).excludes(&[EQ, GT]).help(help)
}

pub(super) const fn gt(name: &'static str, help: &'static str) -> Opt {
    Opt::new(name, BYTE).excludes(&[EQ, LT]).help(help)
}

/// Refuses a use without any option with `text`.
pub(super) fn finish(args: &mut Args, _: &Context<'_>, text: &str) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter(text));
    }
    Ok(())
}

pub(super) fn list(x: &Instance, word: &str) -> String {
    let Some(given) = x.args.iter().next() else {
        return String::new();
    };
    let sign = match (given.opt, given.invert) {
        (EQ, false) => "==",
        (EQ, true) => "!=",
        (LT, _) => "<",
        _ => ">",
    };
    let value = given.value.number().unwrap_or(0);
    format!(" {word} match {word} {sign} {value}")
}

pub(super) fn lower(args: &Args) -> Cond {
    let Some(given) = args.iter().next() else {
        return Cond::Const(true);
    };
    let value = u128::from(given.value.number().unwrap_or(0));
    let test = match given.opt {
        EQ => Cond::eq(Field::Ttl, value),
        LT => Cond::Not(Box::new(Cond::range(Field::Ttl, value, 255))),
        _ => Cond::range(Field::Ttl, value + 1, 255),
    };
    test.inverted_if(given.invert)
}
