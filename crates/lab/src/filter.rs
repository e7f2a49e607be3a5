//! The few words scenarios select captured packets with.
//!
//! Words are separated by blanks and must all hold; `!` before a word inverts it;
//! `or` separates alternatives:
//!
//! | word | holds for packets |
//! |---|---|
//! | `in`, `out` | to the guarded host, from it |
//! | `at=HOST` | on that host's wire |
//! | `tcp`, `udp`, `icmp`, `icmp6` | of that protocol |
//! | `ip6` | of IPv6 (all others: of IPv4) |
//! | `sport=N`, `dport=N`, `port=N` | with that port; `N:M` is a range |
//! | `src=A`, `dst=A` | with that address |
//! | `syn` | with SYN and without ACK |
//! | `type=N` | ICMP messages of that type |
//! | `tos=N` | with that type of service or traffic class, a whole byte |
//! | `ttl=N` | with that time to live or hop limit |
//! | `mss=N` | with that maximum segment size as the first TCP option |

use std::net::IpAddr;

use anyhow::{Context, Result};
use tidegate_wire::proto::{ICMP, ICMPV6, TCP, UDP};
use tidegate_wire::{Family, be16};

use crate::tap::Seen;

/// A selection of packets.
#[derive(Debug)]
pub(crate) struct Filter(Vec<Vec<Term>>);

#[derive(Debug)]
struct Term {
    inverted: bool,
    word: Word,
}

#[derive(Debug)]
enum Word {
    Inward(bool),
    At(String),
    Proto(u8),
    Version6,
    Ports(End, u16, u16),
    Addr(End, IpAddr),
    Syn,
    Type(u8),
    Tos(u8),
    Ttl(u8),
    Mss(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

impl Filter {
    /// Reads a selection.
    ///
    /// # Errors
    /// A word is unknown or its value is not what it should be.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let alternatives = text.split(" or ").map(|part| {
            let words = part.split_whitespace();
            words.map(Term::parse).collect::<Result<Vec<_>>>()
        });
        let all = alternatives.collect::<Result<_>>();
        all.map(Filter)
            .with_context(|| format!("in the selection `{text}'"))
    }

    /// Packets and bytes (as netfilter counts them: from the IP header on) of those
    /// `packets` that are selected.
    pub(crate) fn count(&self, packets: &[Seen]) -> (u64, u64) {
        let mut total = (0, 0);
        for seen in packets {
            if let Some(len) = self.selects(seen) {
                total = (total.0 + 1, total.1 + len);
            }
        }
        total
    }

    fn selects(&self, seen: &Seen) -> Option<u64> {
        let facts = Facts::of(seen)?;
        let selected = self.0.iter().any(|terms| {
            let version = terms.iter().any(|t| matches!(t.word, Word::Version6));
            version == (facts.family == Family::V6)
                && terms.iter().all(|t| t.word.holds(&facts) != t.inverted)
        });
        selected.then_some(facts.len)
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self> {
        let (inverted, word) = text.strip_prefix('!').map_or((false, text), |w| (true, w));
        let word = Word::parse(word).with_context(|| format!("`{word}'"))?;
        Ok(Term { inverted, word })
    }
}

impl Word {
    fn parse(text: &str) -> Result<Self> {
        let Some((name, value)) = text.split_once('=') else {
            return Ok(match text {
                "in" => Word::Inward(true),
                "out" => Word::Inward(false),
                "tcp" => Word::Proto(TCP),
                "udp" => Word::Proto(UDP),
                "icmp" => Word::Proto(ICMP),
                "icmp6" => Word::Proto(ICMPV6),
                "ip6" => Word::Version6,
                "syn" => Word::Syn,
                _ => anyhow::bail!("unknown word"),
            });
        };
        let end = match name {
            "src" | "sport" => End::Source,
            "dst" | "dport" => End::Destination,
            _ => End::Either,
        };
        Ok(match name {
            "at" => Word::At(value.to_owned()),
            "src" | "dst" => Word::Addr(end, value.parse()?),
            "type" => Word::Type(value.parse()?),
            "tos" => Word::Tos(value.parse()?),
            "ttl" => Word::Ttl(value.parse()?),
            "mss" => Word::Mss(value.parse()?),
            "sport" | "dport" | "port" => {
                let (from, to) = value.split_once(':').unwrap_or((value, value));
                Word::Ports(end, from.parse()?, to.parse()?)
            }
            _ => anyhow::bail!("unknown word"),
        })
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        let ports = |end: End, test: &dyn Fn(u16) -> bool| {
            (end != End::Destination && facts.sport.is_some_and(test))
                || (end != End::Source && facts.dport.is_some_and(test))
        };
        match self {
            Word::Inward(inward) => facts.seen.inward == *inward,
            Word::At(host) => *facts.seen.host == **host,
            Word::Proto(proto) => facts.proto == *proto,
            Word::Version6 => facts.family == Family::V6,
            Word::Ports(end, from, to) => ports(*end, &|p| (*from..=*to).contains(&p)),
            Word::Addr(End::Source, a) => facts.src == number(*a),
            Word::Addr(_, a) => facts.dst == number(*a),
            Word::Syn => facts.flags.is_some_and(|f| f & 0x12 == 2),
            Word::Type(kind) => facts.icmp == Some(*kind),
            Word::Tos(tos) => facts.tos == Some(*tos),
            Word::Ttl(ttl) => facts.ttl == Some(*ttl),
            Word::Mss(mss) => facts.mss == Some(*mss),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// What words ask about.
struct Facts<'a> {
    seen: &'a Seen,
    family: Family,
    len: u64,
    proto: u8,
    src: u128,
    dst: u128,
    sport: Option<u16>,
    dport: Option<u16>,
    flags: Option<u8>,
    icmp: Option<u8>,
    tos: Option<u8>,
    ttl: Option<u8>,
    mss: Option<u16>,
}

impl<'a> Facts<'a> {
    fn of(seen: &'a Seen) -> Option<Self> {
        let (layout, ip) = seen.packet()?;
        let l4 = layout.l4(ip);
        let ported = matches!(layout.proto, TCP | UDP);
        let message = matches!(layout.proto, ICMP | ICMPV6);
        let port = |at| be16(l4, at).filter(|_| ported);
        Some(Facts {
            seen,
            family: layout.family,
            len: u64::from(layout.len),
            proto: layout.proto,
            src: layout.src(ip),
            dst: layout.dst(ip),
            sport: port(0),
            dport: port(2),
            flags: l4.get(13).copied().filter(|_| layout.proto == TCP),
            icmp: l4.first().copied().filter(|_| message),
            tos: tos(layout.family, ip),
            ttl: ip
                .get(if layout.family == Family::V4 { 8 } else { 7 })
                .copied(),
            mss: be16(l4, 22).filter(|_| layout.proto == TCP && l4.get(20..22) == Some(&[2, 4])),
        })
    }
}

fn tos(family: Family, ip: &[u8]) -> Option<u8> {
    match family {
        Family::V4 => ip.get(1).copied(),
        Family::V6 => Some(be16(ip, 0)?.to_be_bytes()).map(|[a, b]| a << 4 | b >> 4),
    }
}
