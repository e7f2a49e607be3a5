//! Where things stand in a SIP message (RFC 3261) and its session description (RFC 4566),
//! found as the kernel finds them (`nf_conntrack_sip`).

use super::super::decimal;
use crate::Family;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::Range;

/// Where SIP listens unless an address says otherwise.
const PORT: u16 = 5060;
/// The smallest port that counts in an address.
const LEAST_PORT: u64 = 1024;

/// What a search led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// There is none.
    No,
    /// There is something, but not what should be there; it begins here.
    Bad(usize),
    /// Here it is.
    At(T),
}

/// How long a value is.
#[derive(Clone, Copy)]
enum Value {
    Digits,
    /// An address and perhaps a port.
    Address,
    /// The same, behind a user and `@` if there are.
    Uri,
}

/// A header of a message.
#[derive(Clone, Copy)]
pub(super) struct Header {
    name: &'static [u8],
    compact: Option<u8>,
    /// What the value stands behind.
    search: &'static [u8],
    value: Value,
}

const fn header(name: &'static str, compact: Option<u8>, search: &'static str, v: Value) -> Header {
    Header {
        name: name.as_bytes(),
        compact,
        search: search.as_bytes(),
        value: v,
    }
}

pub(super) const CSEQ: Header = header("CSeq", None, "", Value::Digits);
pub(super) const FROM: Header = header("From", Some(b'f'), "sip:", Value::Uri);
pub(super) const TO: Header = header("To", Some(b't'), "sip:", Value::Uri);
pub(super) const CONTACT: Header = header("Contact", Some(b'm'), "sip:", Value::Uri);
pub(super) const VIA_UDP: Header = header("Via", Some(b'v'), "UDP ", Value::Address);
pub(super) const VIA_TCP: Header = header("Via", Some(b'v'), "TCP ", Value::Address);
pub(super) const EXPIRES: Header = header("Expires", None, "", Value::Digits);
pub(super) const CONTENT_LENGTH: Header = header("Content-Length", Some(b'l'), "", Value::Digits);

/// A line of a session description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Version,
    Owner,
    Connection,
    Media,
}

impl Line {
    pub(super) const fn name(self) -> &'static [u8] {
        match self {
            Line::Version => b"v=",
            Line::Owner => b"o=",
            Line::Connection => b"c=",
            Line::Media => b"m=",
        }
    }
}

/// An address and a port, and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Range<usize>,
    pub(super) addr: u128,
    pub(super) port: u16,
    /// Where reading goes on.
    pub(super) end: usize,
}

/// A message, or a session description, of a family.
#[derive(Clone, Copy)]
pub(super) struct Text<'t> {
    pub(super) bytes: &'t [u8],
    pub(super) family: Family,
}

fn starts_with(text: &[u8], what: &[u8]) -> bool {
    text.get(..what.len())
        .is_some_and(|t| t.eq_ignore_ascii_case(what))
}

fn is_break(c: u8) -> bool {
    matches!(c, b'\r' | b'\n')
}

fn is_blank(c: u8) -> bool {
    matches!(c, b' ' | b'\t')
}

impl Text<'_> {
    fn from(&self, at: usize) -> &[u8] {
        self.bytes.get(at..).unwrap_or(&[])
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn digits(&self, at: usize) -> usize {
        decimal(self.from(at)).1
    }

    /// The decimal number at `at`, as a C `unsigned int`.
    pub(super) fn number(&self, at: usize) -> u32 {
        decimal(self.from(at)).0 as u32
    }

    /// Past the line break at `at`, when the line goes on behind it
    /// (`sip_follow_continuation`).
    fn follow(&self, at: usize) -> Option<usize> {
        let mut next = at + 1;
        if self.byte(at) == Some(b'\r') && self.byte(next)? == b'\n' {
            next += 1;
        }
        is_blank(self.byte(next)?).then_some(())?;
        let blanks = self.from(next).iter().take_while(|&&c| is_blank(c));
        Some(next + blanks.count())
    }

    /// Past blanks and one continued line break (`sip_skip_whitespace`).
    fn skip_blanks(&self, at: usize) -> Option<usize> {
        let at = at + self.from(at).iter().take_while(|&&c| is_blank(c)).count();
        match self.byte(at) {
            Some(c) if is_break(c) => self.follow(at),
            _ => Some(at),
        }
    }

    /// Where `what` stands from `at` on, in a line and its continuations
    /// (`ct_sip_header_search`).
    fn search(&self, mut at: usize, what: &[u8]) -> Option<usize> {
        let end = self.bytes.len().checked_sub(what.len())?;
        while at < end {
            if is_break(self.byte(at)?) {
                // The kernel goes on behind the first byte of the continuation.
                at = self.follow(at).filter(|&next| next < self.bytes.len())?;
            } else if starts_with(self.from(at), what) {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    /// The start of the line after the break at `at` (or of the next byte, as the kernel
    /// counts).
    fn line_after(&self, at: usize) -> Option<usize> {
        let mut next = at + 1;
        if self.byte(at)? == b'\r' && self.byte(next)? == b'\n' {
            next += 1;
        }
        (next < self.bytes.len()).then_some(next)
    }

    /// The starts of lines from `at` on; a line is looked at where the kernel looks.
    fn lines(&self, from: usize) -> impl Iterator<Item = usize> {
        let mut at = from;
        core::iter::from_fn(move || {
            let rest = self.from(at);
            let brk = at + rest.iter().position(|&c| is_break(c))?;
            let line = self.line_after(brk)?;
            at = line + 1;
            Some(line)
        })
    }

    /// An address, and where it ends (`sip_parse_addr`); IPv6 in brackets where `brackets`
    /// says so.
    fn address(&self, at: usize, brackets: bool) -> Option<(u128, usize)> {
        match self.family {
            Family::V4 => {
                let text = self.from(at);
                let len = text
                    .iter()
                    .take_while(|c| c.is_ascii_hexdigit() || **c == b'.');
                let text = text.get(..len.count())?;
                let mut parts = text.split(|&c| c == b'.');
                let mut bytes = [0u8; 4];
                for byte in &mut bytes {
                    let part = parts.next().filter(|p| !p.is_empty())?;
                    let (value, digits) = decimal(part);
                    *byte = u8::try_from(value).ok().filter(|_| digits == part.len())?;
                }
                let whole = parts.next().is_none();
                whole.then_some((u128::from(u32::from_be_bytes(bytes)), at + text.len()))
            }
            Family::V6 => {
                let open = self.byte(at) == Some(b'[');
                if brackets && !open {
                    return None;
                }
                let start = at + usize::from(open);
                let text = self.from(start);
                let len = text
                    .iter()
                    .take_while(|c| c.is_ascii_hexdigit() || matches!(c, b'.' | b':'));
                let text = text.get(..len.count())?;
                let addr: Ipv6Addr = core::str::from_utf8(text).ok()?.parse().ok()?;
                let end = start + text.len();
                let closed = self.byte(end) == Some(b']');
                if brackets && !closed {
                    return None;
                }
                Some((addr.to_bits(), end + usize::from(closed)))
            }
        }
    }

    /// An address with its port, and where they end; a port that is written must be one
    /// that counts.
    fn with_port(&self, at: usize) -> Option<(u128, u16, usize)> {
        let (addr, end) = self.address(at, true)?;
        if self.byte(end) != Some(b':') {
            return Some((addr, PORT, end));
        }
        let (port, digits) = decimal(self.from(end + 1));
        let port = u16::try_from(port).ok().filter(|_| port >= LEAST_PORT)?;
        Some((addr, port, end + 1 + digits))
    }

    /// Where the host of a URI begins: behind a user (`skp_epaddr_len`).
    fn host(&self, at: usize) -> usize {
        let stop = |c: u8| c == b'@' || is_break(c);
        let user = self.from(at).iter().position(|&c| stop(c));
        match user.map(|n| at + n) {
            Some(end) if self.byte(end) == Some(b'@') => end + 1,
            _ => at,
        }
    }

    /// A value that stands at `at`.
    fn value(&self, value: Value, at: usize) -> Option<Range<usize>> {
        let range = match value {
            Value::Digits => at..at + self.digits(at),
            Value::Address => at..self.with_port(at)?.2,
            Value::Uri => {
                let host = self.host(at);
                host..self.with_port(host)?.2
            }
        };
        (!range.is_empty()).then_some(range)
    }

    /// The value of a header from `from` on (`ct_sip_get_header`).
    pub(super) fn header(&self, header: &Header, from: usize) -> Found<Range<usize>> {
        for line in self.lines(from) {
            let name = match self.from(line) {
                text if starts_with(text, header.name) => header.name.len(),
                [c, next, ..]
                    if header.compact == Some(c.to_ascii_lowercase())
                        && !next.is_ascii_alphabetic() =>
                {
                    1
                }
                _ => continue,
            };
            return self.value_of(header, line + name);
        }
        Found::No
    }

    /// The value behind a header's name.
    fn value_of(&self, header: &Header, at: usize) -> Found<Range<usize>> {
        let colon = self
            .skip_blanks(at)
            .filter(|&c| self.byte(c) == Some(b':') && c + 1 < self.bytes.len());
        let Some(start) = colon.and_then(|c| self.skip_blanks(c + 1)) else {
            return Found::No;
        };
        let value = match header.search {
            [] => Some(start),
            what => self.search(start, what).map(|at| at + what.len()),
        };
        match value.and_then(|at| self.value(header.value, at)) {
            Some(range) => Found::At(range),
            None => Found::Bad(start),
        }
    }

    /// The next value in the same header, behind a comma (`ct_sip_next_header`).
    fn next_value(&self, header: &Header, from: usize) -> Found<Range<usize>> {
        let comma = self.search(from, b",");
        let Some(at) = comma.and_then(|at| self.search(at, header.search)) else {
            return Found::No;
        };
        let at = at + header.search.len();
        match self.value(header.value, at) {
            Some(range) => Found::At(range),
            None => Found::Bad(at),
        }
    }

    /// The next value from `from` on, in this header (`inside`) or the following ones
    /// (`ct_sip_walk_headers`).
    fn walk(&self, header: &Header, mut from: usize, inside: bool) -> Option<Range<usize>> {
        let mut inside = inside;
        loop {
            let found = if inside {
                self.next_value(header, from)
            } else {
                self.header(header, from)
            };
            match found {
                Found::At(range) => return Some(range),
                Found::Bad(at) => from = at.max(from + usize::from(inside)),
                Found::No if inside => inside = false,
                Found::No => return None,
            }
        }
    }

    /// The next address in a header (`ct_sip_parse_header_uri`); `inside` as above.
    pub(super) fn place(&self, header: &Header, from: usize, inside: bool) -> Found<Place> {
        match self.walk(header, from, inside) {
            None => Found::No,
            Some(range) => match self.with_port(range.start) {
                Some((addr, port, end)) => Found::At(Place {
                    at: range,
                    addr,
                    port,
                    end,
                }),
                None => Found::Bad(range.start),
            },
        }
    }

    /// The address that a request is for (`ct_sip_parse_request`).
    pub(super) fn request(&self) -> Option<Place> {
        const SCHEME: &[u8] = b"sip:";
        let method = self.bytes.iter().take_while(|c| c.is_ascii_alphabetic());
        let mut at = Some(method.count()).filter(|&n| n > 0)? + 1;
        let end = self.bytes.len().checked_sub(SCHEME.len())?;
        while at < end {
            if is_break(self.byte(at)?) {
                return None;
            }
            if starts_with(self.from(at), SCHEME) {
                at += SCHEME.len();
                break;
            }
            at += 1;
        }
        let host = self.host(at);
        let (addr, port, end) = self.with_port(host)?;
        Some(Place {
            at: host..end,
            addr,
            port,
            end,
        })
    }

    /// What follows `name` among the parameters of a value that ends at `from`, up to the
    /// next value.
    fn parameter(&self, from: usize, name: &str) -> Option<usize> {
        let end = self.search(from, b",").unwrap_or(self.bytes.len());
        let value = Text {
            bytes: self.bytes.get(..end)?,
            family: self.family,
        };
        Some(value.search(from, name.as_bytes())? + name.len())
    }

    /// A word among the parameters (`ct_sip_parse_param`).
    pub(super) fn word(&self, from: usize, name: &str) -> Option<&[u8]> {
        self.parameter(from, name).map(|at| self.from(at))
    }

    /// An address among them (`ct_sip_parse_address_param`).
    pub(super) fn address_in(
        &self,
        from: usize,
        name: &str,
        brackets: bool,
    ) -> Option<(Range<usize>, u128)> {
        let at = self.parameter(from, name)?;
        let (addr, end) = self.address(at, brackets)?;
        Some((at..end, addr))
    }

    /// A number among them (`ct_sip_parse_numerical_param`).
    pub(super) fn number_in(&self, from: usize, name: &str) -> Found<(Range<usize>, u32)> {
        let Some(at) = self.parameter(from, name) else {
            return Found::No;
        };
        match decimal(self.from(at)) {
            (_, 0) => Found::Bad(at),
            (number, digits) => Found::At((at..at + digits, number as u32)),
        }
    }

    /// A line of a session description from `from` on, before one that begins `until`
    /// (`ct_sip_get_sdp_header`): where its value stands.
    pub(super) fn sdp(&self, line: Line, until: Option<Line>, from: usize) -> Found<Range<usize>> {
        for at in self.lines(from) {
            let text = self.from(at);
            if until.is_some_and(|u| starts_with(text, u.name())) {
                return Found::No;
            }
            if starts_with(text, line.name()) {
                let start = at + line.name().len();
                return match self.sdp_value(line, start) {
                    Some(range) if !range.is_empty() => Found::At(range),
                    _ => Found::Bad(start),
                };
            }
        }
        Found::No
    }

    fn sdp_value(&self, line: Line, start: usize) -> Option<Range<usize>> {
        match line {
            Line::Version => Some(start..start + self.digits(start)),
            Line::Media => {
                let letters = self.from(start).iter();
                let letters = letters.take_while(|c| c.is_ascii_alphabetic()).count();
                let port = start + letters + 1;
                (self.byte(start + letters)? == b' ').then_some(())?;
                Some(start..port + self.digits(port))
            }
            Line::Owner | Line::Connection => {
                let kind: &[u8] = match self.family {
                    Family::V4 => b"IN IP4 ",
                    Family::V6 => b"IN IP6 ",
                };
                let text = self.from(start);
                let end = text.iter().position(|&c| is_break(c));
                let text = text.get(..end.unwrap_or(text.len()))?;
                let found = text.windows(kind.len()).position(|w| w == kind)?;
                let at = start + found + kind.len();
                let (_, end) = self.address(at, false)?;
                Some(at..end)
            }
        }
    }

    /// The address that such a line names.
    pub(super) fn sdp_address(&self, from: usize) -> Option<u128> {
        match self.sdp(Line::Connection, Some(Line::Media), from) {
            Found::At(range) => Some(self.address(range.start, false)?.0),
            Found::No | Found::Bad(_) => None,
        }
    }

    /// Whether these can be the first bytes of a connection that speaks SIP: a status line,
    /// a request line, or empty lines that keep it open.
    pub(super) fn begins(&self) -> bool {
        let line = self.bytes.split(|&c| is_break(c)).find(|l| !l.is_empty());
        line.is_none_or(|l| {
            let request = l.len() >= 8 && l.to_ascii_uppercase().ends_with(b" SIP/2.0");
            starts_with(l, b"SIP/2.0 ") || request
        })
    }
}

/// How an address is written; IPv6 in brackets where `brackets` says so.
pub(super) fn write_address(family: Family, addr: u128, brackets: bool) -> alloc::string::String {
    use alloc::format;
    match family {
        Family::V4 => format!("{}", Ipv4Addr::from(addr as u32)),
        Family::V6 if brackets => format!("[{}]", Ipv6Addr::from(addr)),
        Family::V6 => format!("{}", Ipv6Addr::from(addr)),
    }
}

#[cfg(test)]
mod tests;
