//! SYNPROXY: clients are answered with cookies; a connection to the server is opened for
//! those who come back with one, and both are spliced (`nf_synproxy_core`).

use tidegate_conntrack::entry::TcpConn;
use tidegate_conntrack::synproxy::Client;
use tidegate_conntrack::{Attached, CtInfo, Dir, Template, Tuple, Zone};
use tidegate_ir::{RuleId, SynProxySpec};
use tidegate_wire::proto;
use tidegate_wire::tcp::{Tcp, flags};

use crate::emit::{self, Segment};
use crate::outcome::DropReason;
use crate::packet::{Packet, Tracking};
use crate::run::{Run, Stop};
use crate::synproxy::{Options, Part, minute, part};
use crate::trace::Trace;

/// Taken: the packet goes no further.
const TAKEN: Stop = Stop::Drop(DropReason::SynProxy);

/// A segment as the proxy reads it.
struct Seen<'p> {
    packet: &'p Packet,
    ports: [u16; 2],
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: Options,
}

impl<'p> Seen<'p> {
    fn of(packet: &'p Packet) -> Option<Seen<'p>> {
        let tcp = Tcp::new(packet.l4())?;
        Some(Seen {
            packet,
            ports: [tcp.sport(), tcp.dport()],
            seq: tcp.seq(),
            ack: tcp.ack(),
            flags: tcp.flags(),
            window: tcp.window(),
            options: Options::of(&tcp),
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Who sent it, if its SYN had the number `seq`.
    fn client(&self, seq: u32) -> Client {
        Client {
            family: self.packet.family(),
            addresses: [self.packet.src(), self.packet.dst()],
            ports: self.ports,
            seq,
        }
    }
}

impl<T: Trace> Run<'_, T> {
    /// A packet has come by the proxy's rule (`synproxy_tg4`, `synproxy_tg6`).
    pub(crate) fn syn_proxy(
        &mut self,
        packet: &Packet,
        spec: &SynProxySpec,
        rule: RuleId,
    ) -> Result<(), Stop> {
        let sound = part(packet).filter(|_| emit::transport_checksum_ok(packet));
        let (Some(part), Some(seen)) = (sound, Seen::of(packet)) else {
            return Err(Stop::Drop(DropReason::Target(rule)));
        };
        match part {
            Part::Syn => self.answer_client(&seen, spec),
            Part::Ack if self.open(&seen, seen.seq) => {}
            Part::Ack | Part::Damaged => return Err(Stop::Drop(DropReason::BadCookie(rule))),
        }
        Err(TAKEN)
    }

    /// `synproxy_send_client_synack`.
    fn answer_client(&mut self, seen: &Seen<'_>, spec: &SynProxySpec) {
        self.engine.synproxy.syn_received += 1;
        let options = seen.options.answered(spec, self.now);
        let mss = seen.options.mss.unwrap_or(0);
        let cookies = self.engine.conntrack.cookies();
        let isn = cookies.make(&seen.client(seen.seq), minute(self.now), mss);
        let ecn = if options.ecn { flags::ECE } else { 0 };
        let answer = Segment {
            ports: [seen.ports[1], seen.ports[0]],
            seq: isn,
            ack: seen.seq.wrapping_add(1),
            flags: flags::SYN | flags::ACK | ecn,
            // Nothing may come before there is a server to take it.
            window: 0,
        };
        let tracking = match self.is_asking(seen) {
            true => Tracking::Untracked,
            false => replies(&seen.packet.tracking),
        };
        self.send_segment(seen, &answer, true, &options, tracking);
    }

    /// Whether the proxy has asked the server in this client's name and heard nothing yet. Its
    /// own answer to one more SYN of the client must then not be taken for the server's.
    fn is_asking(&self, seen: &Seen<'_>) -> bool {
        let Client {
            family,
            addresses: [src, dst],
            ports: [src_id, dst_id],
            ..
        } = seen.client(0);
        let tuple = Tuple {
            family,
            proto: proto::TCP,
            src,
            dst,
            src_id,
            dst_id,
        };
        let conntrack = &self.engine.conntrack;
        let found = conntrack.find(&tuple, Zone::default());
        let entry = found.and_then(|(id, _)| conntrack.entry(id));
        entry.is_some_and(|e| {
            e.proxied().is_some() && e.tcp().is_some_and(|t| t.state == TcpConn::SynSent)
        })
    }

    /// Opens the connection to the server for a client whose ACK has a valid cookie
    /// (`synproxy_recv_client_ack`, `synproxy_send_server_syn`); false for others. `next` is
    /// the number of the client's first byte.
    fn open(&mut self, seen: &Seen<'_>, next: u32) -> bool {
        let syn = next.wrapping_sub(1);
        let isn = seen.ack.wrapping_sub(1);
        let cookies = self.engine.conntrack.cookies();
        let Some(mss) = cookies.read(&seen.client(syn), minute(self.now), isn) else {
            self.engine.synproxy.cookie_invalid += 1;
            return false;
        };
        self.engine.synproxy.cookie_valid += 1;
        let options = seen.options.remembered(mss);
        let ecn = if options.ecn {
            flags::ECE | flags::CWR
        } else {
            0
        };
        let opening = Segment {
            ports: seen.ports,
            seq: syn,
            // Nobody else reads it: the splice will, once the connection is known.
            ack: isn,
            flags: flags::SYN | ecn,
            window: seen.window,
        };
        let template = Tracking::Template(Template {
            proxied: true,
            ..Template::default()
        });
        self.send_segment(seen, &opening, false, &options, template);
        true
    }

    /// What the proxy does for its connections before each packet's last hook
    /// (`ipv4_synproxy_hook`, `ipv6_synproxy_hook`).
    pub(crate) fn splice(&mut self, packet: &mut Packet) -> Result<(), Stop> {
        let Some(attached) = packet.tracking.connection().copied() else {
            return Ok(());
        };
        let Some(entry) = self.engine.conntrack.entry(attached.id) else {
            return Ok(());
        };
        let opened = entry.proxied().is_some() && packet.layout.proto == proto::TCP;
        let Some(tcp) = entry.tcp().filter(|_| opened && !packet.looped) else {
            return Ok(());
        };
        let (state, window) = (tcp.state, tcp.seen[Dir::Original.ix()].maxwin);
        let seen = Seen::of(packet).ok_or(Stop::Drop(DropReason::Malformed(
            tidegate_wire::Malformed::Truncated,
        )))?;
        match state {
            TcpConn::Close => self.closed(&seen, &attached)?,
            TcpConn::SynSent => self.opening(&seen, &attached)?,
            TcpConn::SynRecv
                if seen.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK =>
            {
                self.opened(&seen, &attached, window as u16);
                return Err(TAKEN);
            }
            _ => {}
        }
        let proxied = self.engine.conntrack.entry(attached.id);
        if let Some(proxied) = proxied.and_then(|e| e.proxied()).copied() {
            let l4 = usize::from(packet.layout.l4);
            proxied.adjust(attached.dir, packet.bytes.get_mut(l4..).unwrap_or_default());
        }
        Ok(())
    }

    /// A server that refuses, or a client that begins anew.
    fn closed(&mut self, seen: &Seen<'_>, attached: &Attached) -> Result<(), Stop> {
        let conntrack = &mut self.engine.conntrack;
        let entry = conntrack.entry(attached.id);
        let Some(proxied) = entry.and_then(|e| e.proxied()).copied() else {
            return Ok(());
        };
        let forth = attached.dir == Dir::Original;
        if seen.has(flags::RST) && !forth {
            let offset = proxied.isn.wrapping_sub(seen.seq).wrapping_add(1);
            conntrack.shift_sequence(attached.id, attached.dir, offset as i32);
            return Ok(());
        }
        if !seen.has(flags::SYN) || seen.has(flags::ACK) || !forth {
            return Ok(());
        }
        if let Some(proxied) = conntrack.proxied_mut(attached.id) {
            proxied.ahead = 0;
        }
        conntrack.shift_sequence(attached.id, Dir::Reply, 0);
        self.engine.synproxy.conn_reopened += 1;
        self.opening(seen, attached)
    }

    /// The server has been asked and has not answered.
    fn opening(&mut self, seen: &Seen<'_>, attached: &Attached) -> Result<(), Stop> {
        let probe = !seen.has(flags::SYN) && seen.has(flags::ACK);
        if probe && attached.dir == Dir::Original {
            // A client asks whether it may send with the number before its first byte.
            if self.open(seen, seen.seq.wrapping_add(1)) {
                self.engine.synproxy.cookie_retrans += 1;
            }
            return Err(TAKEN);
        }
        if let Some(proxied) = self.engine.conntrack.proxied_mut(attached.id) {
            proxied.isn = seen.ack;
            if let Some(stamps) = seen.options.stamps {
                proxied.stamp = stamps.echo;
            }
        }
        Ok(())
    }

    /// The server takes the connection: it hears the client's answer, and the client that it
    /// may send.
    fn opened(&mut self, seen: &Seen<'_>, attached: &Attached, window: u16) {
        let conntrack = &mut self.engine.conntrack;
        let entry = conntrack.entry(attached.id);
        let Some(proxied) = entry.and_then(|e| e.proxied()).copied() else {
            return;
        };
        if let Some(stamps) = seen.options.stamps
            && let Some(kept) = conntrack.proxied_mut(attached.id)
        {
            kept.ahead = stamps.value.wrapping_sub(kept.stamp);
        }
        let offset = proxied.isn.wrapping_sub(seen.seq) as i32;
        let stamps = seen.options.stamps;
        let to_server = Segment {
            ports: [seen.ports[1], seen.ports[0]],
            seq: seen.ack,
            ack: seen.seq.wrapping_add(1),
            flags: flags::ACK,
            window,
        };
        let options = Options::only_stamps(stamps.map(crate::synproxy::Stamps::swapped));
        self.send_segment(seen, &to_server, true, &options, Tracking::None);
        let conntrack = &mut self.engine.conntrack;
        conntrack.shift_sequence(attached.id, attached.dir, offset);
        // It is reported even where nothing had to be shifted.
        conntrack.proxied_mut(attached.id);
        let to_client = Segment {
            ports: seen.ports,
            seq: seen.seq.wrapping_add(1),
            ack: seen.ack,
            flags: flags::ACK,
            // From now on windows are scaled.
            window: seen.window >> seen.options.scale.unwrap_or(0),
        };
        let options = Options::only_stamps(stamps);
        let tracking = replies(&seen.packet.tracking);
        self.send_segment(seen, &to_client, false, &options, tracking);
    }

    fn send_segment(
        &mut self,
        seen: &Seen<'_>,
        segment: &Segment,
        back: bool,
        options: &Options,
        tracking: Tracking,
    ) {
        let ttl = self.engine.env.settings.default_ttl;
        let bytes = segment.packet(seen.packet, back, ttl, &options.bytes());
        self.send_own(bytes, seen.packet, 0, tracking, None);
    }
}

/// What an answer to a packet carries: its connection, from the other end.
fn replies(tracking: &Tracking) -> Tracking {
    match tracking.connection() {
        Some(a) => Tracking::Connection(Attached {
            id: a.id,
            dir: Dir::Reply,
            info: CtInfo::EstablishedReply,
        }),
        None => Tracking::None,
    }
}
