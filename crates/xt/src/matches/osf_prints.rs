//! Fingerprints of systems, as `pf.os` has them and as the kernel compares them
//! (`nf_osf_match_one`).

use std::fmt;

use tidegate_ir::{Shared, TableKey};
use tidegate_wire::{be16, tcp};

/// Kind of the table of fingerprints.
pub const KIND: &str = "osf";
/// Most fingerprints that are kept.
const MOST: usize = 16_384;
/// Most bytes of TCP options (`MAX_IPOPTLEN`), and most options of a fingerprint.
const OPTION_BYTES: usize = 40;
/// Longest genre, version and subtype (`MAXGENRELEN` less the final NUL).
const NAME: usize = 31;

/// How a window is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    /// This one; 0 for any.
    Plain(u32),
    /// So many segments of the largest size.
    Segments(u32),
    /// The same with headers.
    Packets(u32),
    /// A multiple.
    Multiple(u32),
}

/// What a system's SYN looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    window: Window,
    ttl: u8,
    dont_frag: bool,
    /// Bytes of the IP packet.
    len: u16,
    /// Kinds of TCP options in order, with their lengths.
    options: Vec<(u8, u8)>,
    /// System.
    pub genre: String,
    /// Its version.
    pub version: String,
    /// And what else tells it apart.
    pub subtype: String,
    /// The line it comes from.
    line: String,
}

/// Letters of options, their kinds and lengths.
const OPTIONS: [(char, u8, u8); 6] = [
    ('N', tcp::option::NOP, 1),
    ('E', tcp::option::EOL, 1),
    ('M', tcp::option::MSS, 4),
    ('W', tcp::option::WSCALE, 3),
    ('S', tcp::option::SACK_PERM, 2),
    ('T', tcp::option::TIMESTAMP, 10),
];

fn number(text: &str) -> Option<u32> {
    match text {
        "*" => Some(0),
        digits => digits.parse().ok(),
    }
}

fn window(text: &str) -> Option<Window> {
    Some(match text.split_at_checked(1)? {
        ("S", n) => Window::Segments(number(n)?),
        ("T", n) => Window::Packets(number(n)?),
        ("%", n) => Window::Multiple(number(n)?),
        _ => Window::Plain(number(text)?),
    })
}

/// `M1460,S,T,N,W5`, or `.` for none; what follows the letters does not count.
fn options(text: &str) -> Option<Vec<(u8, u8)>> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|w| !matches!(*w, "" | "."));
    let one = |word: &str| {
        let letter = word.chars().next()?;
        let known = OPTIONS.iter().find(|o| o.0 == letter);
        known.map(|&(_, kind, len)| (kind, len))
    };
    let all: Option<Vec<(u8, u8)>> = words.map(one).collect();
    all.filter(|all| all.len() <= OPTION_BYTES)
}

impl Fingerprint {
    /// Reads a line `window:ttl:df:length:options:genre:version:subtype…`.
    ///
    /// # Errors
    /// It is none; the sentence says why.
    pub fn parse(line: &str) -> Result<Self, String> {
        let parts: Vec<&str> = line.split(':').map(str::trim).collect();
        let [win, ttl, df, len, opts, genre, version, subtype, ..] = parts[..] else {
            return Err("a fingerprint has eight parts with colons between".to_owned());
        };
        let wrong = |what: &str| format!("`{what}` is not understood");
        let short = |s: &str| s[..s.floor_char_boundary(NAME)].to_owned();
        Ok(Fingerprint {
            window: window(win).ok_or_else(|| wrong(win))?,
            ttl: ttl.parse().map_err(|_| wrong(ttl))?,
            dont_frag: df != "0",
            len: len.parse().map_err(|_| wrong(len))?,
            options: options(opts).ok_or_else(|| wrong(opts))?,
            genre: short(genre.trim_start_matches(['@', '*'])),
            version: short(version),
            subtype: short(subtype),
            line: line.trim().to_owned(),
        })
    }

    /// How many routers it would have passed.
    #[must_use]
    pub fn hops(&self, seen: &Syn<'_>) -> i16 {
        i16::from(self.ttl) - i16::from(seen.ttl)
    }

    /// Whether a SYN of `seen` is that system's, with `ttl` as its time to live is compared.
    #[must_use]
    pub fn fits(&self, seen: &Syn<'_>, ttl: Ttl) -> bool {
        let lives = match ttl {
            Ttl::Same => seen.ttl == self.ttl,
            Ttl::AtMost => seen.ttl <= self.ttl,
            Ttl::Any => true,
        };
        let bytes: usize = self.options.iter().map(|o| usize::from(o.1)).sum();
        if seen.len != self.len
            || !lives
            || bytes != seen.options.len()
            || seen.dont_frag != self.dont_frag
        {
            return false;
        }
        let mut rest = seen.options;
        let mut segment = 0;
        for &(kind, len) in &self.options {
            if rest.first() != Some(&kind) {
                return false;
            }
            if kind == tcp::option::MSS {
                segment = be16(rest, 2).unwrap_or(0).into();
            }
            rest = rest.get(len.into()..).unwrap_or_default();
        }
        self.window.fits(seen.window.into(), segment)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl Window {
    /// Some middleboxes change the segment size; the usual ones count as well.
    fn fits(self, window: u32, segment: u32) -> bool {
        let sizes = [segment, 1460, 1448];
        match self {
            Window::Plain(n) => n == 0 || n == window,
            Window::Segments(n) => sizes.iter().any(|s| n.wrapping_mul(*s) == window),
            Window::Packets(n) => sizes.iter().any(|s| n.wrapping_mul(s + 40) == window),
            Window::Multiple(n) => window.checked_rem(n) == Some(0),
        }
    }
}

/// How a time to live is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// It must be the system's own.
    Same,
    /// It may have become less.
    AtMost,
    /// It does not count.
    Any,
}

/// What counts of an IPv4 packet with a TCP SYN.
#[derive(Clone, Copy, Debug)]
pub struct Syn<'a> {
    len: u16,
    /// Time to live.
    pub ttl: u8,
    dont_frag: bool,
    window: u16,
    options: &'a [u8],
}

impl<'a> Syn<'a> {
    /// `None` for all other packets, and where the TCP header is cut short.
    #[must_use]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        let l4 = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
        if l4.get(13)? & tcp::flags::SYN == 0 || l4.len() < 20 {
            return None;
        }
        let header = usize::from(l4[12] >> 4) * 4;
        Some(Syn {
            len: be16(packet, 2)?,
            ttl: *packet.get(8)?,
            dont_frag: packet.get(6)? & 0x40 != 0,
            window: be16(l4, 14)?,
            options: l4.get(20..header.max(20))?,
        })
    }
}

/// The fingerprints that rules compare with, in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Fingerprints(Vec<Fingerprint>);

impl Fingerprints {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Fingerprint> {
        self.0.iter()
    }

    /// Adds the fingerprints of a text like `pf.os`, or takes them out; how many that were.
    /// Comments begin with `#`.
    ///
    /// # Errors
    /// A line is no fingerprint, or there are too many: the line is named, and nothing has
    /// changed.
    pub fn change(&mut self, text: &str, remove: bool) -> Result<usize, String> {
        let mut new = self.0.clone();
        let mut changed = 0;
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let read = Fingerprint::parse(line).map_err(|why| format!("line {}: {why}", n + 1))?;
            let known = new.iter().position(|f| f.line == read.line);
            match (known, remove) {
                (Some(at), true) => drop(new.remove(at)),
                (None, false) if new.len() >= MOST => {
                    return Err(format!("line {}: more than {MOST} fingerprints", n + 1));
                }
                (None, false) => new.push(read),
                _ => continue,
            }
            changed += 1;
        }
        self.0 = new;
        Ok(changed)
    }
}

fn table() -> TableKey {
    TableKey {
        kind: KIND,
        name: String::new(),
    }
}

/// The fingerprints, whatever rules say.
pub fn all(shared: &mut Shared) -> Option<&mut Fingerprints> {
    shared.lasting(&table(), Fingerprints::default)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SYN of a Linux: window 5840 = 4 * 1460, DF, options M1460,S,T,N,W7.
    const LINUX: &str = "4500003c00014000400600000a0000020a000102040100500000000100000000a00216d0\
                         00000000020405b40402080a00000001000000000103 0307";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: String = hex.split_whitespace().collect();
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn a_fingerprint_fits_what_it_describes() {
        let packet = bytes(LINUX);
        let syn = Syn::of(&packet).unwrap();
        let fits = |line, ttl| Fingerprint::parse(line).unwrap().fits(&syn, ttl);
        assert!(fits(
            "S4:64:1:60:M*,S,T,N,W7:\t\tLinux:2.6::Linux 2.6",
            Ttl::Same
        ));
        assert!(fits("5840:64:1:60:M*,S,T,N,W0:Linux:2.6::x", Ttl::Same));
        assert!(fits("%10:64:1:60:M*,S,T,N,W0:Linux:2.6::x", Ttl::Same));
        assert!(fits("*:128:1:60:M*,S,T,N,W0:Linux:2.6::x", Ttl::AtMost));
        for other in [
            "S4:63:1:60:M*,S,T,N,W7:Linux:2.6::x",
            "S4:64:0:60:M*,S,T,N,W7:Linux:2.6::x",
            "S4:64:1:56:M*,S,T,N,W7:Linux:2.6::x",
            "S5:64:1:60:M*,S,T,N,W7:Linux:2.6::x",
            "S4:64:1:60:M*,N,T,N,W7:Linux:2.6::x",
            "S4:64:1:60:S,M*,T,N,W7:Linux:2.6::x",
            "T4:64:1:60:M*,S,T,N,W7:Linux:2.6::x",
        ] {
            assert!(!fits(other, Ttl::Same), "{other}");
        }
    }

    #[test]
    fn a_list_is_changed_whole_or_not_at_all() {
        let mut all = Fingerprints::default();
        let two = "# comment\n512:64:0:44:M*:Linux:2.0:3x:a\n64:64:0:44:.:@Some:1::b # c\n";
        assert_eq!(all.change(two, false), Ok(2));
        assert_eq!(all.change(two, false), Ok(0));
        assert!(all.change("1:2:3\n", false).unwrap_err().contains("line 1"));
        let genres: Vec<&str> = all.iter().map(|f| f.genre.as_str()).collect();
        assert_eq!(genres, ["Linux", "Some"]);
        assert_eq!(all.change(two, true), Ok(2));
        assert_eq!(all.iter().count(), 0);
    }
}
