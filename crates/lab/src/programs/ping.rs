//! Ping: ICMP echo requests and their answers (RFC 792, RFC 4443).

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_wire::{Family, checksum};

use super::words::{Words, resolve};

/// Echo request and reply, and the messages of errors, by family.
struct Kinds {
    request: u8,
    reply: u8,
    errors: &'static [u8],
}

const V4: Kinds = Kinds {
    request: 8,
    reply: 0,
    errors: &[3, 11, 12],
};
const V6: Kinds = Kinds {
    request: 128,
    reply: 129,
    errors: &[1, 2, 3, 4],
};

/// What ICMP's "destination unreachable" codes are called, by family.
const UNREACHABLE4: &[&str] = &["Network", "Host", "Protocol", "Port"];
const UNREACHABLE6: &[&str] = &["Network", "Prohibited", "Scope", "Host", "Port"];

/// `ping`
pub(super) fn ping(words: &Words) -> Result<()> {
    let to = resolve(words.word(0, "HOST")?, 0)?;
    let count: u16 = words.get("c")?.unwrap_or(1);
    let pause = Duration::from_secs_f64(words.get("i")?.unwrap_or(1.0_f64).clamp(0.0, 60.0));
    let wait = Duration::from_secs_f64(words.get("W")?.unwrap_or(2.0_f64).clamp(0.0, 60.0));
    let size: usize = words.get("s")?.unwrap_or(56).min(60_000);
    let mut pinger = Pinger::new(to, size)?;
    let mut received = 0;
    for seq in 1..=count {
        let begin = Instant::now();
        if let Err(error) = pinger.send(seq) {
            println!("ping: sendmsg: {}", plain(&error));
        } else if pinger.answered(seq, begin + if seq == count { wait } else { pause })? {
            received += 1;
        }
        if seq < count {
            std::thread::sleep(pause.saturating_sub(begin.elapsed()));
        }
    }
    let lost = 100 - 100 * received / u32::from(count.max(1));
    println!("{count} packets transmitted, {received} received, {lost}% packet loss");
    if received == 0 {
        bail!("no answer");
    }
    Ok(())
}

/// The C library's text alone.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

struct Pinger {
    socket: Socket,
    to: SocketAddr,
    kinds: &'static Kinds,
    id: [u8; 2],
    size: usize,
}

impl Pinger {
    fn new(to: SocketAddr, size: usize) -> Result<Self> {
        let (domain, protocol, kinds) = match to.ip() {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, &V4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, &V6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("raw socket")?;
        let id = u16::try_from(std::process::id() & 0xffff)?.to_be_bytes();
        Ok(Pinger {
            socket,
            to,
            kinds,
            id,
            size,
        })
    }

    fn send(&self, seq: u16) -> std::io::Result<()> {
        let mut message = vec![self.kinds.request, 0, 0, 0];
        message.extend(self.id);
        message.extend(seq.to_be_bytes());
        message.resize(8 + self.size, 0x20);
        if self.to.is_ipv4() {
            // ICMPv6's is the kernel's to compute.
            let sum = checksum::finish(0, &message);
            tidegate_wire::put(&mut message, 2, &sum.to_be_bytes());
        }
        self.socket.send_to(&message, &self.to.into()).map(drop)
    }

    /// Waits for the answer to request `seq`.
    fn answered(&mut self, seq: u16, end: Instant) -> Result<bool> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            let len = match self.socket.read(&mut buffer) {
                Ok(len) => len,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(false);
                }
                Err(e) => return Err(e.into()),
            };
            let message = self.icmp(buffer.get(..len).unwrap_or_default());
            let kind = message.first().copied();
            if kind == Some(self.kinds.reply) && self.ours(message, seq) {
                println!("answer from {}: icmp_seq={seq}", self.to.ip());
                return Ok(true);
            }
            if kind.is_some_and(|k| self.kinds.errors.contains(&k)) && self.about_ours(message, seq)
            {
                println!("{} icmp_seq={seq}", self.complaint(message));
                return Ok(false);
            }
        }
    }

    /// Raw IPv4 sockets hand out the IP header, IPv6 ones do not.
    fn icmp<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let header = if self.to.is_ipv4() {
            usize::from(bytes.first().copied().unwrap_or(0) & 15) * 4
        } else {
            0
        };
        bytes.get(header..).unwrap_or_default()
    }

    fn ours(&self, echo: &[u8], seq: u16) -> bool {
        echo.get(4..6) == Some(&self.id) && echo.get(6..8) == Some(&seq.to_be_bytes())
    }

    /// Whether an error quotes our request.
    fn about_ours(&self, message: &[u8], seq: u16) -> bool {
        let quoted = message.get(8..).unwrap_or_default();
        tidegate_wire::parse_embedded(self.family(), quoted)
            .is_some_and(|layout| self.ours(layout.l4(quoted), seq))
    }

    const fn family(&self) -> Family {
        match self.to {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }

    fn complaint(&self, message: &[u8]) -> String {
        let names = if self.to.is_ipv4() {
            UNREACHABLE4
        } else {
            UNREACHABLE6
        };
        let code = usize::from(message.get(1).copied().unwrap_or(0));
        match (message.first(), names.get(code)) {
            (Some(3), Some(what)) if self.to.is_ipv4() => format!("Destination {what} Unreachable"),
            (Some(1), Some(what)) if self.to.is_ipv6() => format!("Destination {what} Unreachable"),
            (Some(kind), _) => format!("ICMP type {kind} code {code}"),
            (None, _) => String::new(),
        }
    }
}
