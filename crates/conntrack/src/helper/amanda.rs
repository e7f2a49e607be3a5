//! Amanda backups (`nf_conntrack_amanda`): a reply tells the server where to connect to.

use super::{Announced, Helped, decimal};
use crate::Conntrack;
use crate::reason::DropReason;
use crate::tuple::Dir;
use alloc::string::ToString;
use core::ops::Range;
use tidegate_wire::proto;

/// What stands before a port in the line that begins with [`CONNECT`].
const STREAMS: [&[u8]; 4] = [b"DATA ", b"MESG ", b"INDEX ", b"STATE "];
const CONNECT: &[u8] = b"CONNECT ";
/// Digits of a port.
const DIGITS: usize = 5;

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// Where the line with the streams is: after [`CONNECT`], up to the line's end.
fn line(payload: &[u8]) -> Option<Range<usize>> {
    let start = find(payload, CONNECT)? + CONNECT.len();
    let len = find(payload.get(start..)?, b"\n")?;
    Some(start..start + len)
}

/// Where the digits of a stream's port are, and the port; `None` when there is no such
/// stream in the line.
fn port_of(stream: &[u8], payload: &[u8], line: &Range<usize>) -> Option<(Range<usize>, u16)> {
    let text = payload.get(line.clone())?;
    let at = find(text, stream)? + stream.len();
    let text = text.get(at..)?;
    let (port, digits) = decimal(text.get(..DIGITS).unwrap_or(text));
    let at = line.start + at;
    Some((at..at + digits, port as u16))
}

impl Conntrack {
    pub(super) fn help_amanda(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        if helped.dir() == Dir::Original {
            return Ok(false);
        }
        // Backups take their time to begin.
        let life = self.config.helper.amanda_master_timeout;
        self.prolong(helped.now, helped.attached.id, life);
        let Some([_, client]) = self.both_ways(helped) else {
            return Ok(false);
        };
        let mut changed = false;
        let Some(line) = helped.payload().and_then(line) else {
            return Ok(false);
        };
        for stream in STREAMS {
            let found = helped.payload().and_then(|p| port_of(stream, p, &line));
            let Some((range, port)) = found else {
                continue;
            };
            if port == 0 {
                break;
            }
            let announced = Announced {
                src: Some(client.src),
                dst: client.dst,
                port,
                proto: proto::TCP,
            };
            let expected = self.announce(helped, &announced);
            if !self.translated(helped) {
                self.expect_plainly(helped.now, expected)?;
                continue;
            }
            let given = self.expect_translated(helped.now, expected, Dir::Original)?;
            self.replace(helped, range, given.to_string().as_bytes())?;
            changed = true;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A reply as amandad sends it.
    const REPLY: &[u8] = b"Amanda 2.5 REP HANDLE 000-00C06D00 SEQ 1130000000\n\
        CONNECT DATA 1124 MESG 1125 INDEX 1126\nOPTIONS features=ffff;\n";

    fn streams(payload: &[u8]) -> Vec<(Range<usize>, u16)> {
        let line = line(payload);
        let found = line.map(|line| STREAMS.map(|s| port_of(s, payload, &line)));
        found.into_iter().flatten().flatten().collect()
    }

    #[test]
    fn all_streams_of_the_line() {
        let found = streams(REPLY);
        let ports: Vec<u16> = found.iter().map(|f| f.1).collect();
        assert_eq!(ports, [1124, 1125, 1126]);
        for (range, port) in found {
            assert_eq!(&REPLY[range], port.to_string().as_bytes());
        }
    }

    #[test]
    fn only_in_the_line_that_says_connect() {
        assert!(streams(b"DATA 5\nMESG 6\n").is_empty());
        assert!(streams(b"CONNECT DATA 5").is_empty(), "no end of line");
        assert_eq!(streams(b"CONNECT MESG 6\nDATA 5\n").len(), 1);
        // No more than five digits count.
        assert_eq!(streams(b"CONNECT DATA 123456\n"), [(13..18, 12345)]);
    }
}
