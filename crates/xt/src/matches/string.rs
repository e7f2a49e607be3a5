//! `-m string`: bytes somewhere in the packet, from its network header on (kernel
//! `string_mt`). The whole of them must lie between `--from` and `--to`. Both algorithms
//! find the same.

use tidegate_ir::Cond;

use super::{pure::pure, ranges::blank_bang};
use crate::{
    Arg, Args, Case, Errno, Error, Extension, Help, Input, Instance, Legal, Lower, LowerCtx, Opt,
    Place, Refusal, Value, Vector, bad, no, ok, packets, saved, yes,
};

const STRING_OPT: usize = 0;
const HEX: usize = 1;
const ALGO: usize = 2;
const FROM: usize = 3;
const TO: usize = 4;
const ICASE: usize = 5;

/// Longest pattern.
const MOST: usize = 128;
const END: u64 = 0xffff;

const OFFSET: Arg = Arg::Int {
    min: 0,
    max: END,
    hex: 0,
};

/// The pattern is kept as hexadecimal digits.
const PATTERN_SHOW: fn(&Value, tidegate_wire::Family) -> String =
    |v, _| shown(&bytes(v.text().unwrap_or("")));

const OPTIONS: &[Opt] = &[
    Opt::new(
        "string",
        Arg::Special {
            arity: 1,
            parse: parse_plain,
            show: PATTERN_SHOW,
        },
    )
    .invertible()
    .excludes(&[HEX])
    .help("[!] --string string          Match a string in a packet\n"),
    Opt::new(
        "hex-string",
        Arg::Special {
            arity: 1,
            parse: parse_hex,
            show: PATTERN_SHOW,
        },
    )
    .invertible()
    .excludes(&[STRING_OPT])
    .help("[!] --hex-string string      Match a hex string in a packet\n"),
    Opt::new(
        "algo",
        Arg::Special {
            arity: 1,
            parse: |input| Ok(input.cut(15)),
            show: |v, _| v.text().unwrap_or("").to_owned(),
        },
    )
    .help("--algo                       Algorithm\n"),
    Opt::new("from", OFFSET).help("--from                       Offset to start searching from\n"),
    Opt::new("to", OFFSET).help("--to                         Offset to stop searching\n"),
    Opt::new("icase", Arg::Flag).help("--icase                      Ignore case (default: 0)\n"),
];

/// `-m string`.
pub static STRING: Extension = Extension {
    name: "string",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::order(&[FROM, TO, ALGO, ICASE, STRING_OPT, HEX]),
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    save: |x, _| words(x, &[" --from", " --to", " --algo", " --icase"], true),
    list: |x, _| {
        let rest = words(x, &[" FROM", " TO", " ALGO name", " ICASE"], false);
        format!(" STRING match {rest}")
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn pattern(bytes: &[u8], input: &Input<'_>) -> Result<Value, Error> {
    if bytes.len() > MOST {
        return Err(Error::parameter(format!(
            "STRING too long \"{}\"",
            input.text()
        )));
    }
    Ok(Value::Text(
        bytes.iter().map(|b| format!("{b:02x}")).collect(),
    ))
}

fn parse_plain(input: &Input<'_>) -> Result<Value, Error> {
    pattern(input.text().as_bytes(), input)
}

/// Reads text with bytes in hexadecimal between bars; a backslash takes the next
/// character as it is.
fn parse_hex(input: &Input<'_>) -> Result<Value, Error> {
    let error = |text: String| Err(Error::parameter(text));
    if input.text().is_empty() {
        return error("STRING must contain at least one char".to_owned());
    }
    let mut out = Vec::new();
    let mut chars = input.text().bytes().peekable();
    let mut hex = false;
    while let Some(b) = chars.next() {
        match b {
            b'\\' if !hex => match chars.next() {
                Some(next) => out.push(next),
                None => return error("Bad literal placement at end of string".to_owned()),
            },
            b'|' if hex => hex = false,
            b'|' => {
                hex = true;
                if chars.peek() == Some(&b'|') {
                    return error("Odd number of hex digits".to_owned());
                }
            }
            b if !hex => out.push(b),
            b' ' => {}
            b => {
                let Some(low) = chars.next().filter(|&b| b != b'|') else {
                    return error("Invalid hex block".to_owned());
                };
                let digit = |b: u8| char::from(b).to_digit(16);
                match (digit(b), digit(low)) {
                    (Some(high), Some(low)) => out.push((high << 4 | low) as u8),
                    (None, _) => return error(format!("Invalid hex char '{}'", char::from(b))),
                    (_, None) => return error(format!("Invalid hex char '{}'", char::from(low))),
                }
            }
        }
        if out.len() > MOST {
            return error(format!("STRING too long \"{}\"", input.text()));
        }
    }
    if hex {
        return error("Invalid hex block".to_owned());
    }
    pattern(&out, input)
}

fn bytes(digits: &str) -> Vec<u8> {
    let pair = |i| u8::from_str_radix(digits.get(i..i + 2)?, 16).ok();
    (0..digits.len()).step_by(2).filter_map(pair).collect()
}

/// Whether the tool prints the pattern in hexadecimal.
fn is_hex(pattern: &[u8]) -> bool {
    pattern.iter().any(|b| !(b' '..=b'~').contains(b))
}

/// The pattern in quotes.
fn shown(pattern: &[u8]) -> String {
    if is_hex(pattern) {
        let digits: String = pattern.iter().map(|b| format!("{b:02x}")).collect();
        return format!("\"|{digits}|\"");
    }
    let mut out = String::from('"');
    for &b in pattern {
        if matches!(b, b'"' | b'\\') {
            out.push('\\');
        }
        out.push(b.into());
    }
    out + "\""
}

fn finish(args: &mut Args, _: &crate::Context<'_>) -> Result<(), Error> {
    if !args.has(STRING_OPT) && !args.has(HEX) {
        return Err(Error::parameter(
            "STRING match: You must specify `--string' or `--hex-string'",
        ));
    }
    if !args.has(ALGO) {
        return Err(Error::parameter(
            "string: option \"--algo\" must be specified\n",
        ));
    }
    if let Some(given) = args.remove(HEX) {
        args.set(STRING_OPT, given.invert, given.value);
    }
    if args.number(FROM) == Some(0) {
        args.remove(FROM);
    }
    if args.number(TO) == Some(END) {
        args.remove(TO);
    }
    Ok(())
}

/// Pattern and options; saved, the pattern has its option before it.
fn words(x: &Instance, names: &[&str; 4], saved: bool) -> String {
    let args = &x.args;
    let pattern = bytes(args.text(STRING_OPT).unwrap_or(""));
    let bang = blank_bang(args, STRING_OPT);
    let mut out = match (saved, is_hex(&pattern)) {
        (true, true) => format!("{bang} --hex-string "),
        (true, false) => format!("{bang} --string "),
        (false, _) => format!("{} ", bang.trim()),
    };
    out += &format!(
        "{}{} {}",
        shown(&pattern),
        names[2],
        args.text(ALGO).unwrap_or("")
    );
    for (opt, name) in [(FROM, names[0]), (TO, names[1])] {
        if let Some(n) = args.number(opt) {
            out += &format!("{name} {n}");
        }
    }
    if args.has(ICASE) {
        out += names[3];
    }
    out
}

fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let algo = args.text(ALGO).unwrap_or("");
    if !matches!(algo, "bm" | "kmp" | "fsm") {
        return Err(Refusal {
            errno: Errno::NotFound,
            why: format!("string: no algorithm {algo}"),
        });
    }
    let from = args.number(FROM).unwrap_or(0);
    let empty = args.text(STRING_OPT) == Some("");
    if algo == "fsm" || empty || from > args.number(TO).unwrap_or(END) {
        return Err(Refusal::invalid("string: no such pattern or range"));
    }
    Ok(())
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let number = |opt, usual| args.number(opt).unwrap_or(usual) as usize;
    let (from, to) = (number(FROM, 0), number(TO, END));
    let pattern = bytes(args.text(STRING_OPT).unwrap_or(""));
    let asks = format!("{} in bytes {from} to {to}", shown(&pattern));
    let search = Search::new(pattern, args.has(ICASE));
    let test = pure(ctx, asks, move |input| {
        let packet = input.facts.packet();
        let to = to.min(packet.len());
        packet.get(from..to).is_some_and(|bytes| search.find(bytes))
    });
    test.inverted_if(args.inverted(STRING_OPT))
}

/// A pattern to be looked for in linear time (Knuth, Morris and Pratt).
struct Search {
    pattern: Vec<u8>,
    /// For each length of a part that fits: the longest shorter one that still fits.
    shorter: Vec<usize>,
    fold: bool,
}

/// The upper case of a byte as the kernel's Latin-1 table has it.
fn upper(b: u8) -> u8 {
    match b {
        b'a'..=b'z' | 0xdf..=0xf6 | 0xf8..=0xff => b - 32,
        b => b,
    }
}

impl Search {
    fn new(mut pattern: Vec<u8>, fold: bool) -> Self {
        if fold {
            pattern.iter_mut().for_each(|b| *b = upper(*b));
        }
        let mut shorter = vec![0; pattern.len() + 1];
        let mut len = 0;
        for at in 1..pattern.len() {
            while len > 0 && pattern[len] != pattern[at] {
                len = shorter[len];
            }
            if pattern[len] == pattern[at] {
                len += 1;
            }
            shorter[at + 1] = len;
        }
        Search {
            pattern,
            shorter,
            fold,
        }
    }

    fn find(&self, bytes: &[u8]) -> bool {
        let mut len = 0;
        for &b in bytes {
            let b = if self.fold { upper(b) } else { b };
            while len > 0 && self.pattern[len] != b {
                len = self.shorter[len];
            }
            if self.pattern.get(len) == Some(&b) {
                len += 1;
            }
            if len == self.pattern.len() {
                return true;
            }
        }
        false
    }
}

const CASES: &[Case] = &[
    saved(
        "-m string --algo bm --string test",
        "-m string --string \"test\" --algo bm",
    ),
    ok("-m string --string \"test\" --algo kmp --from 5 --to 100 --icase"),
    ok("-m string ! --string \"test\" --algo kmp --icase").v6(),
    ok("-m string --hex-string \"|0a0a|\" --algo bm"),
    saved(
        "-m string --hex-string \"abc|0d 0a|def\" --algo bm",
        "-m string --hex-string \"|6162630d0a646566|\" --algo bm",
    ),
    saved(
        "-m string --hex-string \"abc|64|\" --algo bm",
        "-m string --string \"abcd\" --algo bm",
    ),
    saved(
        "-m string --string 'a \"b\" c' --algo bm",
        "-m string --string \"a \\\"b\\\" c\" --algo bm",
    ),
    ok("-m string --string \"it's\" --algo bm"),
    ok("-m string --string \"a|b\" --algo bm"),
    saved(
        "-m string --string é --algo bm",
        "-m string --hex-string \"|c3a9|\" --algo bm",
    ),
    saved(
        "-m string --hex-string '\\|a' --algo bm",
        "-m string --string \"|a\" --algo bm",
    ),
    saved(
        "-m string --string \"test\" --algo bm --from 0 --to 65535",
        "-m string --string \"test\" --algo bm",
    ),
    ok("-m string ! --hex-string \"|00ff|\" --algo kmp --to 40"),
    bad("-m string --string \"\" --algo bm"),
    bad("-m string --hex-string \"|0a\" --algo bm"),
    bad("-m string --hex-string \"|0|\" --algo bm"),
    bad("-m string --hex-string \"|zz|\" --algo bm"),
    bad("-m string --hex-string \"\" --algo bm"),
    bad("-m string --hex-string \"||\" --algo bm"),
    bad("-m string --string a --algo wrong"),
    bad("-m string --string a --algo fsm"),
    bad("-m string --string a --hex-string b --algo bm"),
    bad("-m string --string a"),
    bad("-m string --algo bm"),
    bad("-m string"),
    bad("-m string --string a --algo bm --from 10 --to 5"),
    bad("-m string --string a --algo bm --from 65536"),
    bad("-m string --string a --algo bm --to 65536"),
    bad("-m string ! --icase --string a --algo bm"),
    bad("-m string --string a --string b --algo bm"),
];

const VECTORS: &[Vector] = &[
    yes(
        "-m string --hex-string \"|0a000002|\" --algo bm",
        packets::SYN,
    ),
    yes(
        "-m string --hex-string \"|0a000002|\" --algo kmp --from 12 --to 16",
        packets::SYN,
    ),
    no(
        "-m string --hex-string \"|0a000002|\" --algo kmp --from 13",
        packets::SYN,
    ),
    no(
        "-m string --hex-string \"|0a000002|\" --algo kmp --to 15",
        packets::SYN,
    ),
    no(
        "-m string ! --hex-string \"|0a000002|\" --algo kmp",
        packets::SYN,
    ),
    yes("-m string --string X --algo bm --icase", packets::UDP),
    no("-m string --string X --algo bm", packets::UDP),
    yes("-m string --string x --algo bm --from 28", packets::UDP),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_plain_search_finds() {
        // All patterns of up to four letters in all texts of up to eight, of two letters.
        let words = |most: u32| (1..=most).flat_map(|n| (0..1u32 << n).map(move |w| (n, w)));
        let spell =
            |(n, w): (u32, u32)| -> Vec<u8> { (0..n).map(|i| (w >> i & 1) as u8).collect() };
        for pattern in words(4).map(spell) {
            let search = Search::new(pattern.clone(), false);
            for text in words(8).map(spell) {
                let there = text.windows(pattern.len()).any(|w| w == pattern);
                assert_eq!(search.find(&text), there, "{pattern:?} in {text:?}");
            }
        }
    }

    #[test]
    fn case_is_that_of_latin_1() {
        assert_eq!(
            [b'a', b'Z', 0xe9, 0xf7, 0xd7].map(upper),
            [b'A', b'Z', 0xc9, 0xf7, 0xd7]
        );
    }
}
