//! IRC clients that offer a DCC connection (`nf_conntrack_irc`).

use super::{Announced, Helped, decimal, v4};
use crate::Conntrack;
use crate::reason::DropReason;
use crate::tuple::Dir;
use alloc::format;
use core::net::Ipv4Addr;
use core::ops::Range;
use tidegate_wire::proto;

/// Most payload that is looked at (`MAX_SEARCH_SIZE`).
const SEARCHED: usize = 4095;
/// Shortest rest in which a message can begin (`PRIVMSG x `).
const SHORTEST: usize = 10;
/// Shortest offer, from the colon on: ` :\1DCC SENT t AAAAAAAA P\1\n`.
const SHORTEST_OFFER: usize = 26;
/// Shortest rest after an offer's file name: `AAAAAAAA P\1\n`.
const SHORTEST_END: usize = 12;
const OFFERS: [&[u8]; 5] = [b"SEND ", b"CHAT ", b"MOVE ", b"TSEND ", b"SCHAT "];

/// An offered connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    /// Where address and port stand.
    at: Range<usize>,
    addr: u32,
    port: u16,
}

/// Offers in a client's segment that begins with a private message; `acceptable` says
/// which one counts.
fn find(payload: &[u8], acceptable: impl Fn(&Offer) -> bool) -> Option<Offer> {
    let text = payload.get(..SEARCHED).unwrap_or(payload);
    let blank = |c: &&u8| matches!(c, b' ' | b'\r' | b'\n');
    let room = text.len().saturating_sub(SHORTEST);
    let mut at = text.iter().take(room).take_while(blank).count();
    if at < room {
        let word = text.get(at..at + 8)?;
        if !word.eq_ignore_ascii_case(b"PRIVMSG ") {
            return None;
        }
        at += 8;
    }
    while at + SHORTEST_OFFER < text.len() {
        if !text.get(at..)?.starts_with(b" :") {
            at += 1;
            continue;
        }
        at += 2;
        if !text.get(at..)?.starts_with(b"\x01DCC ") {
            return None;
        }
        at += 5;
        for offer in OFFERS {
            if !text.get(at..)?.starts_with(offer) {
                continue;
            }
            at += offer.len();
            if let Some(found) = parse(text, &mut at).filter(&acceptable) {
                return Some(found);
            }
        }
    }
    None
}

/// Address and port after the name of what is offered (`parse_dcc`); `at` ends where it
/// stopped reading only if that makes a difference to what follows.
fn parse(text: &[u8], at: &mut usize) -> Option<Offer> {
    let name = text.get(*at..)?;
    let start = *at + name.iter().position(|&c| c == b' ')? + 1;
    // The kernel looks for the blank only so far.
    if start > text.len().saturating_sub(SHORTEST_END) + 1 {
        return None;
    }
    let rest = text.get(start..)?;
    rest.contains(&b'\n').then_some(())?;
    let (addr, digits) = decimal(rest);
    let after = rest.get(digits..)?;
    let blanks = after.iter().take_while(|&&c| c == b' ').count();
    let (port, port_digits) = decimal(after.get(blanks..)?);
    Some(Offer {
        at: start..start + digits + blanks + port_digits,
        addr: addr as u32,
        port: port as u16,
    })
}

impl Conntrack {
    pub(super) fn help_irc(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        let Some(payload) = helped.payload().filter(|_| helped.established()) else {
            return Ok(false);
        };
        let Some([client, server]) = self.both_ways(helped) else {
            return Ok(false);
        };
        if helped.dir() == Dir::Reply {
            return Ok(false);
        }
        // The client's own address, or the one the server knows it by.
        let own = [client.src, server.dst].map(|addr| v4(client.family, addr));
        let Some(offer) = find(payload, |o| o.port != 0 && own.contains(&Some(o.addr))) else {
            return Ok(false);
        };
        let announced = Announced {
            src: None,
            dst: server.dst,
            port: offer.port,
            proto: proto::TCP,
        };
        let expected = self.announce(helped, &announced);
        if !self.translated(helped) {
            self.expect_plainly(helped.now, expected)?;
            return Ok(false);
        }
        let port = self.expect_translated(helped.now, expected, Dir::Reply)?;
        let outside = u32::from(Ipv4Addr::from(server.dst as u32));
        let text = format!("{outside} {port}");
        self.replace(helped, offer.at, text.as_bytes())?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(text: &str) -> Option<(u32, u16)> {
        find(text.as_bytes(), |_| true).map(|o| (o.addr, o.port))
    }

    /// 3232235521 is 192.168.0.1 (the DCC protocol writes addresses as one number).
    #[test]
    fn an_offer_to_somebody() {
        let text = "PRIVMSG you :\x01DCC SEND file.txt 3232235521 5000 1234\x01\r\n";
        assert_eq!(any(text), Some((0xc0a8_0001, 5000)));
        let offer = find(text.as_bytes(), |_| true).unwrap();
        assert_eq!(&text[offer.at], "3232235521 5000");
        for verb in ["CHAT", "MOVE", "TSEND", "SCHAT"] {
            let text = format!("privmsg you :\x01DCC {verb} chat 3232235521 5000\x01\n");
            assert_eq!(any(&text), Some((0xc0a8_0001, 5000)), "{verb}");
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "NOTICE you :\x01DCC SEND file.txt 3232235521 5000 1234\x01\r\n",
            "PRIVMSG you :DCC SEND file.txt 3232235521 5000 1234\r\n",
            "PRIVMSG you :hello :\x01DCC SEND file.txt 3232235521 5000\x01\r\n",
            "PRIVMSG you :\x01DCC GET file.txt 3232235521 5000 1234\x01\r\n",
            "PRIVMSG you :\x01DCC SEND file.txt 3232235521 5000 1234\x01",
            "PRIVMSG you :\x01DCC SEND\n",
            "",
            "\n",
        ] {
            assert_eq!(any(text), None, "{text:?}");
        }
    }
}
