//! `-m sctp`: ports and chunks (kernel `sctp_mt`). A packet that ends within its header or
//! within the head of a chunk is dropped.

use tidegate_ir::{Cond, Field, Truth};
use tidegate_wire::{be16, proto};

use super::{
    dccp::ports,
    pure::turned,
    ranges::blank_bang,
    transport::{destination_port, header, port_test, show_range, source_port, strict_ports},
};
use crate::{
    Arg, Args, Case, Error, Extension, Help, Input, Legal, Lower, LowerCtx, Opt, Value, Vector,
    bad, dropped, no, ok, packets, saved, yes,
};

const SPORT: usize = 0;
const DPORT: usize = 1;
const CHUNKS: usize = 2;

/// Flags with their letters, from the highest bit.
type Flags = &'static [(u8, char)];

/// Number, name and the flags that have letters.
const TYPES: [(u8, &str, Flags); 22] = [
    (0, "DATA", DATA_FLAGS),
    (1, "INIT", &[]),
    (2, "INIT_ACK", &[]),
    (3, "SACK", &[]),
    (4, "HEARTBEAT", &[]),
    (5, "HEARTBEAT_ACK", &[]),
    (6, "ABORT", &[(1, 'T')]),
    (7, "SHUTDOWN", &[]),
    (8, "SHUTDOWN_ACK", &[]),
    (9, "ERROR", &[]),
    (10, "COOKIE_ECHO", &[]),
    (11, "COOKIE_ACK", &[]),
    (12, "ECN_ECNE", &[]),
    (13, "ECN_CWR", &[]),
    (14, "SHUTDOWN_COMPLETE", &[(1, 'T')]),
    (64, "I_DATA", NO_FLAGS),
    (128, "ASCONF_ACK", &[]),
    (130, "RE_CONFIG", &[]),
    (132, "PAD", &[]),
    (192, "FORWARD_TSN", &[]),
    (193, "ASCONF", &[]),
    (194, "I_FORWARD_TSN", &[]),
];
/// The tool reads these letters and forgets them.
const NO_FLAGS: Flags = &[(0, 'I'), (0, 'U'), (0, 'B'), (0, 'E')];
const DATA_FLAGS: Flags = &[(8, 'I'), (4, 'U'), (2, 'B'), (1, 'E')];

const HELP: &str = "\t\t\t\t\t\t        chunktypes are present\nchunktypes - DATA INIT INIT_ACK SACK HEARTBEAT HEARTBEAT_ACK ABORT SHUTDOWN SHUTDOWN_ACK ERROR COOKIE_ECHO COOKIE_ACK ECN_ECNE ECN_CWR SHUTDOWN_COMPLETE ASCONF ASCONF_ACK FORWARD_TSN ALL NONE\n";

const PORTS: Arg = Arg::Special {
    arity: 1,
    parse: |input| strict_ports(input, "sctp"),
    show: show_range,
};

const OPTIONS: &[Opt] = &[
    source_port(PORTS, "[!] --source-port port[:port]                          match source port(s)\n --sport ...\n")
        .twice("Only one `--source-port' allowed"),
    destination_port(PORTS, "[!] --destination-port port[:port]                     match destination port(s)\n --dport ...\n")
        .twice("Only one `--destination-port' allowed"),
    Opt::new(
        "chunk-types",
        Arg::Special {
            arity: 2,
            parse: parse_chunks,
            show: |v, _| v.text().unwrap_or("").to_owned(),
        },
    )
    .invertible()
    .twice("Only one `--chunk-types' allowed")
    .help("[!] --chunk-types (all|any|none) (chunktype[:flags])+\tmatch if all, any or none of\n"),
];

/// Which of the listed chunks a packet must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Each of them.
    All,
    /// One of them.
    Any,
    /// No others.
    Only,
}

/// A set of chunk types, and for some of them flags that count and what they must be.
#[derive(Clone, Debug)]
struct Chunks {
    wanted: Wanted,
    types: [bool; 256],
    flags: Vec<(u8, u8, u8)>,
}

fn wanted(word: &str) -> Option<Wanted> {
    let words = [
        ("all", Wanted::All),
        ("any", Wanted::Any),
        ("only", Wanted::Only),
    ];
    words
        .iter()
        .find(|w| w.0.eq_ignore_ascii_case(word))
        .map(|w| w.1)
}

impl Chunks {
    fn read(how: &str, list: &str) -> Result<Self, Error> {
        let wanted = wanted(how).ok_or_else(|| {
            Error::parameter("Match type has to be one of \"ALL\", \"ANY\" or \"ONLY\"")
        })?;
        let mut chunks = Chunks {
            wanted,
            types: [false; 256],
            flags: Vec::new(),
        };
        match list {
            l if l.eq_ignore_ascii_case("ALL") => chunks.types = [true; 256],
            l if l.eq_ignore_ascii_case("NONE") => {}
            l => l.split(',').try_for_each(|item| chunks.add(item))?,
        }
        Ok(chunks)
    }

    fn add(&mut self, item: &str) -> Result<(), Error> {
        let (name, letters) = item.split_once(':').unwrap_or((item, ""));
        let found = TYPES.iter().find(|t| t.1.eq_ignore_ascii_case(name));
        let unknown = || Error::parameter(format!("Unknown sctp chunk `{name}'"));
        let &(ty, _, known) = found.ok_or_else(unknown)?;
        self.types[usize::from(ty)] = true;
        let (mut mask, mut value) = (0, 0);
        for letter in letters.chars() {
            let flag = known.iter().find(|f| f.1.eq_ignore_ascii_case(&letter));
            let wrong = || Error::parameter(format!("Invalid flags for chunk type {ty}"));
            let &(bit, _) = flag.ok_or_else(wrong)?;
            mask |= bit;
            // A small letter asks for the flag not to be set.
            value |= if letter.is_ascii_uppercase() { bit } else { 0 };
        }
        if mask != 0 {
            self.flags.retain(|f| f.0 != ty);
            self.flags.push((ty, mask, value));
        }
        Ok(())
    }

    fn show(&self, name: impl Fn(u8, &str) -> String) -> String {
        let how = match self.wanted {
            Wanted::All => "all",
            Wanted::Any => "any",
            Wanted::Only => "only",
        };
        if self.types.iter().all(|&t| t) {
            return format!("{how} ALL");
        }
        if self.types.iter().all(|&t| !t) {
            return format!("{how} NONE");
        }
        let listed = TYPES.iter().filter(|t| self.types[usize::from(t.0)]);
        let shown = listed.map(|&(ty, word, known)| {
            let flags = self.flags.iter().find(|f| f.0 == ty);
            let letters: String = flags.map_or_else(String::new, |&(_, mask, value)| {
                let given = known.iter().filter(|k| mask & k.0 != 0);
                let letter = |k: &(u8, char)| match value & k.0 {
                    0 => k.1.to_ascii_lowercase(),
                    _ => k.1,
                };
                given.map(letter).collect()
            });
            let colon = if letters.is_empty() { "" } else { ":" };
            format!("{}{colon}{letters}", name(ty, word))
        });
        format!("{how} {}", shown.collect::<Vec<_>>().join(","))
    }

    fn flags_fit(&self, ty: u8, flags: u8) -> bool {
        let asked = self.flags.iter().find(|f| f.0 == ty);
        asked.is_none_or(|&(_, mask, value)| flags & mask == value)
    }

    /// Goes through the chunks (`match_packet`); those after the one that decides are not
    /// looked at.
    fn hold(&self, packet: &[u8]) -> Truth {
        let Ok(layout) = tidegate_wire::parse(packet) else {
            return Truth::Hotdrop;
        };
        let l4 = layout.l4(packet);
        let mut missing = self.types;
        let mut at = 12;
        loop {
            let head = l4.get(at..at + 4);
            let (Some(&[ty, flags, ..]), Some(len @ 1..)) = (head, be16(l4, at + 2)) else {
                return Truth::Hotdrop;
            };
            let fits = self.types[usize::from(ty)] && self.flags_fit(ty, flags);
            match self.wanted {
                Wanted::Any if fits => return Truth::True,
                Wanted::Only if !fits => return Truth::False,
                Wanted::All if fits => missing[usize::from(ty)] = false,
                _ => {}
            }
            at += usize::from(len).next_multiple_of(4);
            if at >= l4.len() {
                break;
            }
        }
        match self.wanted {
            Wanted::All => missing.iter().all(|&m| !m).into(),
            Wanted::Any => Truth::False,
            Wanted::Only => Truth::True,
        }
    }
}

fn parse_chunks(input: &Input<'_>) -> Result<Value, Error> {
    let &[how, list] = input.args else {
        return Err(Error::parameter("--chunk-types requires two args"));
    };
    let chunks = Chunks::read(how, list)?;
    Ok(Value::Text(chunks.show(|_, word| word.to_owned())))
}

/// What the option asks for.
fn chunks(args: &Args) -> Option<Chunks> {
    let (how, list) = args.text(CHUNKS)?.split_once(' ')?;
    Chunks::read(how, list).ok()
}

/// `-m sctp`.
pub static SCTP: Extension = Extension {
    name: "sctp",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::tail(HELP).titled("sctp match options"),
    legal: Legal::protos(&[proto::SCTP]),
    list: |x, ctx| {
        let mut out = " sctp".to_owned();
        for (opt, word) in [(SPORT, "spt"), (DPORT, "dpt")] {
            out += &ports(&x.args, opt, word, ctx);
        }
        if let Some(chunks) = chunks(&x.args) {
            let shown = chunks.show(|ty, word| match ctx.numeric {
                true => format!("0x{ty:04X}"),
                false => word.to_owned(),
            });
            out += &format!("{} {shown}", blank_bang(&x.args, CHUNKS));
        }
        out
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let mut tests = vec![header(12)];
    tests.extend(port_test(args, SPORT, Field::Sport));
    tests.extend(port_test(args, DPORT, Field::Dport));
    if let Some(chunks) = chunks(args) {
        let asks = format!("chunks {}", args.text(CHUNKS).unwrap_or(""));
        tests.push(turned(ctx, asks, args.inverted(CHUNKS), move |input| {
            chunks.hold(input.facts.packet())
        }));
    }
    Cond::all(tests)
}

const CASES: &[Case] = &[
    ok("-p sctp -m sctp"),
    ok("-p sctp -m sctp --sport 1:10"),
    saved(
        "-p sctp -m sctp --dport :10",
        "-p sctp -m sctp --dport 0:10",
    ),
    ok("-p sctp -m sctp ! --sport 22:80 ! --dport 1"),
    ok("-p sctp -m sctp --dport 22").v6(),
    ok("-p sctp -m sctp --chunk-types all ALL"),
    ok("-p sctp -m sctp --chunk-types all NONE"),
    ok("-p sctp -m sctp --chunk-types any DATA:Be"),
    ok("-p sctp -m sctp --chunk-types any DATA:BE,INIT,ABORT:T"),
    ok("-p sctp -m sctp --chunk-types only DATA"),
    saved(
        "-p sctp -m sctp ! --chunk-types any INIT,ASCONF,ASCONF_ACK,FORWARD_TSN",
        "-p sctp -m sctp ! --chunk-types any INIT,ASCONF_ACK,FORWARD_TSN,ASCONF",
    ),
    saved(
        "-p sctp -m sctp --chunk-types any DATA:UBEI,FORWARD_TSN",
        "-p sctp -m sctp --chunk-types any DATA:IUBE,FORWARD_TSN",
    ),
    saved(
        "-p sctp -m sctp --chunk-types any DATA:",
        "-p sctp -m sctp --chunk-types any DATA",
    ),
    ok("-p sctp -m sctp --chunk-types any I_DATA,RE_CONFIG,PAD,I_FORWARD_TSN"),
    saved(
        "-p sctp -m sctp --chunk-types any I_DATA:b",
        "-p sctp -m sctp --chunk-types any I_DATA",
    ),
    bad("-p sctp -m sctp --sport 10:1"),
    bad("-p sctp -m sctp --sport 65536"),
    bad("-m sctp --sport 1"),
    bad("-p sctp -m sctp --chunk-types foo DATA"),
    bad("-p sctp -m sctp --chunk-types any FOO"),
    bad("-p sctp -m sctp --chunk-types any DATA:Z"),
    bad("-p sctp -m sctp --chunk-types any INIT:U"),
    bad("-p sctp -m sctp --chunk-types any"),
    bad("-p sctp -m sctp --sport 5 --sport 6"),
    bad("-p sctp -m sctp --chunk-types any DATA --chunk-types any INIT"),
];

const VECTORS: &[Vector] = &[
    yes(
        "-p sctp -m sctp --dport 80 --chunk-types any DATA",
        packets::SCTP,
    ),
    yes(
        "-p sctp -m sctp --chunk-types all SACK,DATA:BE",
        packets::SCTP,
    ),
    no(
        "-p sctp -m sctp --chunk-types all SACK,DATA:b",
        packets::SCTP,
    ),
    yes(
        "-p sctp -m sctp --chunk-types only SACK,DATA",
        packets::SCTP,
    ),
    no("-p sctp -m sctp --chunk-types only DATA", packets::SCTP),
    no("-p sctp -m sctp ! --chunk-types any SACK", packets::SCTP),
    no("-p sctp -m sctp --chunk-types any INIT", packets::SCTP),
    dropped("-p sctp -m sctp --chunk-types any INIT", packets::CUT_SCTP),
];
