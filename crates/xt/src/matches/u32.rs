//! `-m u32`: numbers of 32 bits anywhere in the packet, masked, moved and followed
//! (kernel `u32_match_it`). Reading outside the packet makes the test false, before any
//! inversion.

use tidegate_wire::be32;

use super::{pure::pure, ranges::blank_bang};
use crate::{
    Arg, Case, Error, Extension, Input, Lower, Opt, Value, Vector, bad, no, number, ok, packets,
    saved, yes,
};

const TESTS: usize = 0;
/// Most numbers of a location, values and tests.
const MOST: usize = 10;

const OPTIONS: &[Opt] = &[Opt::new(
    "u32",
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| format!("\"{}\"", v.text().unwrap_or("")),
    },
)
.invertible()
.mandatory()
.help(
    "[!] --u32 tests\n\t\ttests := location \"=\" value | tests \"&&\" location \"=\" value\n\t\tvalue := range | value \",\" range\n\t\trange := number | number \":\" number\n\t\tlocation := number | location operator number\n\t\toperator := \"&\" | \"<<\" | \">>\" | \"@\"\n",
)];

/// `-m u32`.
pub static U32: Extension = Extension {
    name: "u32",
    lower: Lower::Match(|args, ctx| {
        let text = args.text(TESTS).unwrap_or("").to_owned();
        let tests = read(&text).unwrap_or_default();
        let test = pure(ctx, text, move |input| {
            let packet = input.facts.packet();
            tests.iter().all(|t| t.holds(packet).unwrap_or(false))
        });
        test.inverted_if(args.inverted(TESTS))
    }),
    options: OPTIONS,
    list: |x, _| {
        let bang = blank_bang(&x.args, TESTS);
        format!(" u32{bang} \"{}\"", x.args.text(TESTS).unwrap_or(""))
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

/// What is done to the number read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    And,
    Left,
    Right,
    /// Reads another number, so many bytes on.
    At,
}

const OPS: [(&str, Op); 4] = [
    ("&", Op::And),
    ("<<", Op::Left),
    (">>", Op::Right),
    ("@", Op::At),
];

/// A location and the ranges its value may lie in.
#[derive(Clone, Debug, Default)]
struct Test {
    start: u32,
    ops: Vec<(Op, u32)>,
    values: Vec<(u32, u32)>,
}

impl Test {
    fn holds(&self, packet: &[u8]) -> Option<bool> {
        let mut base = 0u32;
        let load = |base: u32, at: u32| be32(packet, base.checked_add(at)? as usize);
        let mut value = load(0, self.start)?;
        for &(op, n) in &self.ops {
            match op {
                Op::And => value &= n,
                Op::Left => value = value.wrapping_shl(n),
                Op::Right => value = value.wrapping_shr(n),
                Op::At => {
                    base = base.checked_add(value)?;
                    value = load(base, n)?;
                }
            }
        }
        Some(
            self.values
                .iter()
                .any(|&(lo, hi)| (lo..=hi).contains(&value)),
        )
    }

    fn show(&self) -> String {
        let mut out = format!("{:#x}", self.start);
        for &(op, n) in &self.ops {
            let sign = OPS.iter().find(|o| o.1 == op).map_or("", |o| o.0);
            out += &format!("{sign}{n:#x}");
        }
        let value = |&(lo, hi): &(u32, u32)| {
            if lo == hi {
                format!("{lo:#x}")
            } else {
                format!("{lo:#x}:{hi:#x}")
            }
        };
        let values: Vec<_> = self.values.iter().map(value).collect();
        format!("{out}={}", values.join(","))
    }
}

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let tests = read(input.text())?;
    let shown: Vec<_> = tests.iter().map(Test::show).collect();
    Ok(Value::Text(shown.join("&&")))
}

/// A text being read.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, sign: &str) -> bool {
        let there = self.rest().starts_with(sign);
        if there {
            self.at += sign.len();
        }
        there
    }

    fn error(&self, text: &str) -> Error {
        Error::parameter(format!("u32: at char {}: {text}", self.at))
    }

    fn number(&mut self) -> Result<u32, Error> {
        let wrong = || self.error("not a number or out of range");
        let (n, rest) = number::prefix(self.rest()).ok_or_else(wrong)?;
        let n = u32::try_from(n).map_err(|_| wrong())?;
        self.at = self.text.len() - rest.len();
        Ok(n)
    }
}

fn read(text: &str) -> Result<Vec<Test>, Error> {
    let mut r = Reader { text, at: 0 };
    let mut tests = Vec::new();
    loop {
        let test = location(&mut r)?;
        tests.push(values(&mut r, test)?);
        r.blanks();
        let ended = r.rest().is_empty();
        r.at += usize::from(!ended);
        if tests.len() > MOST {
            return Err(r.error("too many \"&&\"s"));
        }
        if ended {
            return Ok(tests);
        }
        if !r.take("&") {
            return Err(r.error("a second '&' was expected"));
        }
    }
}

fn location(r: &mut Reader<'_>) -> Result<Test, Error> {
    let ended = || Error::parameter("u32: abrupt end of input after location specifier");
    r.blanks();
    if r.rest().is_empty() {
        return Err(ended());
    }
    let mut test = Test {
        start: r.number()?,
        ..Test::default()
    };
    loop {
        r.blanks();
        if r.rest().is_empty() {
            return Err(ended());
        }
        if r.take("=") {
            return Ok(test);
        }
        let op = OPS.iter().find(|o| r.rest().starts_with(o.0));
        let &(sign, op) = op.ok_or_else(|| r.error("operator expected"))?;
        r.take(sign);
        r.blanks();
        test.ops.push((op, r.number()?));
        if test.ops.len() == MOST {
            return Err(r.error("too many operators"));
        }
    }
}

fn values(r: &mut Reader<'_>, mut test: Test) -> Result<Test, Error> {
    r.blanks();
    if r.rest().is_empty() {
        return Err(Error::parameter("u32: test ended with no value specified"));
    }
    loop {
        r.blanks();
        let lo = r.number()?;
        r.blanks();
        let mut hi = lo;
        if r.take(":") {
            r.blanks();
            hi = r.number()?;
            r.blanks();
        }
        if test.values.len() == MOST {
            return Err(r.error("too many \",\"s"));
        }
        test.values.push((lo, hi));
        match r.rest().chars().next() {
            None | Some('&') => return Ok(test),
            Some(',') => r.at += 1,
            Some(_) => return Err(r.error("expected \",\" or \"&&\"")),
        }
    }
}

const CASES: &[Case] = &[
    saved("-m u32 --u32 0x0=0x0", "-m u32 --u32 \"0x0=0x0\""),
    saved(
        "-m u32 --u32 \"0x0=0x0 && 0x0=0x1\"",
        "-m u32 --u32 \"0x0=0x0&&0x0=0x1\"",
    ),
    saved(
        "-m u32 ! --u32 \"0>>22&0x3C@12>>26&0x3C@0=0x1,2:3\"",
        "-m u32 ! --u32 \"0x0>>0x16&0x3c@0xc>>0x1a&0x3c@0x0=0x1,0x2:0x3\"",
    )
    .v6(),
    saved(
        "-m u32 --u32 \"0 >> 22 & 0x3C @ 12 << 1 = 5\"",
        "-m u32 --u32 \"0x0>>0x16&0x3c@0xc<<0x1=0x5\"",
    ),
    ok("-m u32 --u32 \"0x0=0x5:0x1\""),
    ok("-m u32 --u32 \"0x0=0x1,0x2,0x3,0x4,0x5,0x6,0x7,0x8,0x9,0xa\""),
    bad("-m u32"),
    bad("-m u32 --u32 \"\""),
    bad("-m u32 --u32 0"),
    bad("-m u32 --u32 0="),
    bad("-m u32 --u32 foo=1"),
    bad("-m u32 --u32 0=1:"),
    bad("-m u32 --u32 0=1,"),
    bad("-m u32 --u32 \"0=1&\""),
    bad("-m u32 --u32 \"0=1&&\""),
    bad("-m u32 --u32 \"0=1 0\""),
    bad("-m u32 --u32 \"0*5=1\""),
    bad("-m u32 --u32 0=0x100000000"),
    bad("-m u32 --u32 \"0&1&2&3&4&5&6&7&8&9&10=0\""),
    bad("-m u32 --u32 0=1,2,3,4,5,6,7,8,9,10,11"),
    bad("-m u32 --u32 \"0=1&&0=1&&0=1&&0=1&&0=1&&0=1&&0=1&&0=1&&0=1&&0=1&&0=1\""),
];

const VECTORS: &[Vector] = &[
    yes("-m u32 --u32 \"6&0xFF=6 && 4&0x3FFF=0\"", packets::SYN),
    yes("-m u32 --u32 \"0>>22&0x3C@0&0xFFFF=80\"", packets::SYN),
    no("-m u32 --u32 \"0>>22&0x3C@0&0xFFFF=81:90\"", packets::SYN),
    no("-m u32 ! --u32 \"0>>22&0x3C@0&0xFFFF=80\"", packets::SYN),
    no("-m u32 --u32 \"37=0:0xffffffff\"", packets::SYN),
    yes("-m u32 ! --u32 \"37=0:0xffffffff\"", packets::SYN),
    yes("-m u32 --u32 \"36=0:0xffffffff\"", packets::SYN),
];
