//! What the FTP helper reads from a control connection (`nf_conntrack_ftp`).
//!
//! A pattern counts only at the start of a segment that follows a line end. The result
//! is data: which command, where its numbers are, what it announces.

use super::{Announced, Helped, HelperState};
use crate::Conntrack;
use crate::reason::DropReason;
use crate::seqadj::after;
use crate::tuple::Dir;
use alloc::format;
use alloc::string::String;
use core::net::{Ipv4Addr, Ipv6Addr};
use tidegate_wire::{Family, proto};

/// The commands and replies that announce a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `PORT h1,h2,h3,h4,p1,p2` (RFC 959).
    Port,
    /// `EPRT |af|address|port|` (RFC 2428).
    Eprt,
    /// Reply `227` to `PASV` (RFC 1123 4.1.2.6 on its loose form).
    Pasv,
    /// Reply `229` to `EPSV` (RFC 2428).
    Epsv,
}

/// A command found at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub command: Command,
    /// Offset of the numbers in the payload.
    pub at: usize,
    /// Length of the text that [`replacement`] stands in for.
    pub len: usize,
    /// Announced address; the sender's own for [`Command::Epsv`].
    pub addr: u128,
    /// Announced port.
    pub port: u16,
}

/// Outcome of [`scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Nothing of interest.
    None,
    /// The start of a command that is cut short or malformed; the packet is dropped
    /// with this message.
    Partial(&'static str),
    /// A command.
    Found(Found),
}

/// One row of the pattern table.
struct Pattern {
    command: Command,
    /// Matched without regard to case.
    keyword: &'static [u8],
    /// Character after which the numbers start; `None`: right after the keyword.
    skip: Option<u8>,
    /// Reads the numbers.
    read: fn(&[u8], &Sender) -> Option<Numbers>,
    partial: &'static str,
}

/// Whose segment it is.
struct Sender {
    family: Family,
    addr: u128,
}

/// Numbers read from text: where they start and how long they are.
struct Numbers {
    start: usize,
    len: usize,
    addr: u128,
    port: u16,
}

const PATTERNS: [[Pattern; 2]; 2] = [
    [
        Pattern {
            command: Command::Port,
            keyword: b"PORT",
            skip: Some(b' '),
            read: read_port,
            partial: "partial matching of `PORT'",
        },
        Pattern {
            command: Command::Eprt,
            keyword: b"EPRT",
            skip: Some(b' '),
            read: read_eprt,
            partial: "partial matching of `EPRT'",
        },
    ],
    [
        Pattern {
            command: Command::Pasv,
            keyword: b"227 ",
            skip: None,
            read: read_pasv,
            partial: "partial matching of `227 '",
        },
        Pattern {
            command: Command::Epsv,
            keyword: b"229 ",
            skip: Some(b'('),
            read: read_epsv,
            partial: "partial matching of `229 '",
        },
    ],
];

/// Looks for a command at the start of `payload`, sent in `dir` by `addr`.
#[must_use]
pub fn scan(dir: Dir, family: Family, addr: u128, payload: &[u8]) -> Scan {
    let sender = Sender { family, addr };
    PATTERNS[dir.ix()]
        .iter()
        .map(|pattern| pattern.find(payload, &sender))
        .find(|outcome| *outcome != Scan::None)
        .unwrap_or(Scan::None)
}

impl Pattern {
    /// `find_pattern`.
    fn find(&self, data: &[u8], sender: &Sender) -> Scan {
        let common = data.len().min(self.keyword.len());
        if common == 0 || !data[..common].eq_ignore_ascii_case(&self.keyword[..common]) {
            return Scan::None;
        }
        match self.read_after_keyword(data, sender) {
            Some(found) => Scan::Found(found),
            None => Scan::Partial(self.partial),
        }
    }

    fn read_after_keyword(&self, data: &[u8], sender: &Sender) -> Option<Found> {
        let rest = data.get(self.keyword.len()..).filter(|r| !r.is_empty())?;
        let skipped = match self.skip {
            Some(c) => rest.iter().position(|&b| b == c)? + 1,
            None => 0,
        };
        let numbers = (self.read)(&rest[skipped..], sender)?;
        Some(Found {
            command: self.command,
            at: self.keyword.len() + skipped + numbers.start,
            len: numbers.len,
            addr: numbers.addr,
            port: numbers.port,
        })
    }
}

/// Reads `N` decimal numbers separated by `sep`; `term` (any character when `None`) must
/// follow the last. Numbers may be empty or too large and then wrap (`try_number`).
fn numbers<const N: usize>(data: &[u8], sep: u8, term: Option<u8>) -> Option<([u32; N], usize)> {
    let (mut out, mut i) = ([0u32; N], 0);
    for (len, &c) in data.iter().enumerate() {
        let slot = out.get_mut(i)?;
        if c.is_ascii_digit() {
            *slot = slot.wrapping_mul(10).wrapping_add(u32::from(c - b'0'));
        } else if c == sep {
            i += 1;
        } else {
            let done = term.is_none_or(|t| t == c) && i == N - 1;
            return done.then_some((out, len));
        }
    }
    None
}

/// Four numbers as an address; too large ones run into their neighbours.
fn address(n: &[u32]) -> u32 {
    n.iter().fold(0u32, |sum, &octet| (sum << 8) | octet)
}

fn read_six(data: &[u8], sender: &Sender, term: Option<u8>) -> Option<Numbers> {
    let (n, len) = numbers::<6>(data, b',', term)?;
    let v4 = address(&n[..4]);
    // In an IPv6 connection the four octets land in the first word of the address.
    let addr = match sender.family {
        Family::V4 => u128::from(v4),
        Family::V6 => u128::from(v4) << 96 | sender.addr << 32 >> 32,
    };
    Some(Numbers {
        start: 0,
        len,
        addr,
        port: ((n[4] << 8) | n[5]) as u16,
    })
}

fn read_port(data: &[u8], sender: &Sender) -> Option<Numbers> {
    read_six(data, sender, Some(b'\r'))
}

/// The numbers start at the first digit, whatever stands before (`try_rfc1123`).
fn read_pasv(data: &[u8], sender: &Sender) -> Option<Numbers> {
    let start = data.iter().position(u8::is_ascii_digit)?;
    let six = read_six(&data[start..], sender, None)?;
    Some(Numbers { start, ..six })
}

fn is_delimiter(c: u8) -> bool {
    c.is_ascii_graphic() && !c.is_ascii_digit()
}

/// A decimal port that ends with `delim`, and the length with it (`get_port`).
fn port(data: &[u8], delim: u8) -> Option<(u16, usize)> {
    let mut port = 0u16;
    for (i, &c) in data.iter().enumerate() {
        if c == delim {
            return (port != 0).then_some((port, i + 1));
        }
        if !c.is_ascii_digit() {
            return None;
        }
        port = port.wrapping_mul(10).wrapping_add(u16::from(c - b'0'));
    }
    None
}

fn read_eprt(data: &[u8], sender: &Sender) -> Option<Numbers> {
    let (&[delim, kind, second], rest) = data.split_first_chunk::<3>()?;
    let wanted = match sender.family {
        Family::V4 => b'1',
        Family::V6 => b'2',
    };
    if !is_delimiter(delim) || second != delim || kind != wanted || rest.is_empty() {
        return None;
    }
    let (addr, addr_len) = match sender.family {
        Family::V4 => {
            let (n, len) = numbers::<4>(rest, b'.', Some(delim))?;
            (u128::from(address(&n)), len)
        }
        Family::V6 => ipv6(rest, delim)?,
    };
    let (port, port_len) = port(rest.get(addr_len + 1..)?, delim)?;
    Some(Numbers {
        start: 0,
        len: 3 + addr_len + 1 + port_len,
        addr,
        port,
    })
}

/// An IPv6 address up to `delim` (`in6_pton`).
fn ipv6(data: &[u8], delim: u8) -> Option<(u128, usize)> {
    let len = data.iter().position(|&c| c == delim || c == 0)?;
    let text = core::str::from_utf8(&data[..len]).ok()?;
    let addr: Ipv6Addr = text.parse().ok()?;
    Some((addr.to_bits(), len))
}

fn read_epsv(data: &[u8], sender: &Sender) -> Option<Numbers> {
    let (&[delim, second, third], rest) = data.split_first_chunk::<3>()?;
    if !is_delimiter(delim) || second != delim || third != delim {
        return None;
    }
    let (port, len) = port(rest, delim)?;
    Some(Numbers {
        start: 0,
        len: 3 + len,
        addr: sender.addr,
        port,
    })
}

/// The text that announces `addr` and `port` instead (`nf_nat_ftp_fmt_cmd`).
#[must_use]
pub fn replacement(command: Command, family: Family, addr: u128, port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    match (command, family) {
        (Command::Port | Command::Pasv, _) => {
            let octets = match family {
                Family::V4 => addr as u32,
                Family::V6 => (addr >> 96) as u32,
            };
            let [a, b, c, d] = octets.to_be_bytes();
            format!("{a},{b},{c},{d},{high},{low}")
        }
        (Command::Eprt, Family::V4) => format!("|1|{}|{port}|", Ipv4Addr::from(addr as u32)),
        (Command::Eprt, Family::V6) => format!("|2|{}|{port}|", full_form(addr)),
        (Command::Epsv, _) => format!("|||{port}|"),
    }
}

/// Eight groups of four digits, nothing left out (`%pI6`).
fn full_form(addr: u128) -> String {
    let mut text = String::new();
    for (i, group) in Ipv6Addr::from(addr).segments().into_iter().enumerate() {
        let colon = if i == 0 { "" } else { ":" };
        text.push_str(&format!("{colon}{group:04x}"));
    }
    text
}

/// Sequence numbers right after a line end, of one direction, at most two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LineEnds {
    seqs: [u32; 2],
    known: u8,
}

/// What the helper remembers of a control connection (`struct nf_ct_ftp_master`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FtpState {
    ends: [LineEnds; 2],
}

impl FtpState {
    /// How many line ends of each direction are known, and where they are.
    pub(crate) fn line_ends(&self) -> [(u8, [u32; 2]); 2] {
        self.ends.map(|e| (e.known, e.seqs))
    }

    /// With these line ends known; `None` when there are too many.
    pub(crate) fn with_line_ends(ends: [(u8, [u32; 2]); 2]) -> Option<FtpState> {
        let fits = |&(known, seqs): &(u8, [u32; 2])| usize::from(known) <= seqs.len();
        ends.iter().all(fits).then(|| FtpState {
            ends: ends.map(|(known, seqs)| LineEnds { seqs, known }),
        })
    }

    /// Whether a segment of `dir` that starts at `seq` starts a line.
    #[must_use]
    pub fn starts_line(&self, dir: Dir, seq: u32) -> bool {
        let ends = &self.ends[dir.ix()];
        ends.seqs[..usize::from(ends.known)].contains(&seq)
    }

    /// Remembers that a line of `dir` ended before `seq` (`update_nl_seq`).
    pub fn line_ended(&mut self, dir: Dir, seq: u32) {
        if self.starts_line(dir, seq) {
            return;
        }
        let ends = &mut self.ends[dir.ix()];
        if let Some(free) = ends.seqs.get_mut(usize::from(ends.known)) {
            *free = seq;
            ends.known += 1;
            return;
        }
        let [a, b] = ends.seqs;
        let older = usize::from(!after(b, a));
        if after(seq, ends.seqs[older]) {
            ends.seqs[older] = seq;
        }
    }
}

impl Conntrack {
    /// The FTP helper (`help` of `nf_conntrack_ftp`).
    pub(super) fn help_ftp(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        let dir = helped.dir();
        let seq = helped.seq();
        let Some(payload) = helped.payload().filter(|_| helped.established()) else {
            return Ok(false);
        };
        let end = seq.wrapping_add(payload.len() as u32);
        let ends_line = payload.last() == Some(&b'\n');
        let Some([sender, _]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let starts_line = self
            .ftp(helped)
            .is_some_and(|ftp| ftp.starts_line(dir, seq));
        let mut changed = false;
        if starts_line {
            match scan(dir, sender.family, sender.src, payload) {
                Scan::None => {}
                Scan::Partial(why) => return Err(DropReason::Helper(why)),
                Scan::Found(found) => changed = self.follow_ftp(helped, &found)?,
            }
        }
        if ends_line && let Some(ftp) = self.ftp(helped) {
            ftp.line_ended(dir, end);
        }
        Ok(changed)
    }

    fn ftp(&mut self, helped: &Helped<'_>) -> Option<&mut FtpState> {
        let state = self.remembered(helped.attached.id)?;
        if !matches!(state, HelperState::Ftp(_)) {
            *state = HelperState::Ftp(FtpState::default());
        }
        match state {
            HelperState::Ftp(ftp) => Some(ftp),
            _ => None,
        }
    }

    /// Expects the announced connection and, when the control connection is translated,
    /// announces the outside address instead.
    fn follow_ftp(&mut self, helped: &mut Helped<'_>, found: &Found) -> Result<bool, DropReason> {
        let Some([sender, peer]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let third_party = found.addr != { sender.src };
        if third_party && !self.config.helper.ftp_loose {
            return Ok(false);
        }
        let announced = Announced {
            src: Some(peer.src),
            dst: if third_party { found.addr } else { peer.dst },
            port: found.port,
            proto: proto::TCP,
        };
        let expected = self.announce(helped, &announced);
        if !self.translated(helped) {
            self.expect_plainly(helped.now, expected)?;
            return Ok(false);
        }
        let port = self.expect_translated(helped.now, expected, helped.dir().other())?;
        let text = replacement(found.command, sender.family, peer.dst, port);
        self.replace(helped, found.at..found.at + found.len, text.as_bytes())?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
