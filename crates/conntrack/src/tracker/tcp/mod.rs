//! TCP (`nf_conntrack_tcp_packet`).

mod segment;
mod table;
#[cfg(test)]
mod tests;
mod window;

use super::{Packet, Verdict, assure};
use crate::config::{Config, TCP_MAX_RETRANS, TCP_UNACKNOWLEDGED, Timeouts};
use crate::entry::{
    Entry, ProtoState, Status, TcpClass, TcpConn, TcpSide, TcpState, change, tcp_flag,
};
use crate::reason::{InvalidReason, Note};
use crate::seqadj::after;
use crate::tuple::Dir;
use crate::{SECOND, Time};
use segment::Segment;
use table::{Next, next};
use tidegate_wire::proto;
use tidegate_wire::tcp::flags;
use window::Window;

/// Remaining life below which an out-of-window close leaves the timer alone.
const SHORT_LIFE: Time = 120 * SECOND;

/// What the segment does before the window is looked at.
enum Step {
    /// Go to this state if the window agrees.
    Check(TcpConn),
    /// Go to this state whatever the window.
    Skip(TcpConn),
    /// All is said.
    Done(Verdict),
}

/// One segment on its way through the tracker.
struct Run<'a> {
    config: &'a Config,
    timeouts: &'a Timeouts,
    segment: Segment<'a>,
    dir: Dir,
    status: Status,
    /// A SYN proxy opened the connection.
    proxied: bool,
    /// State the segment met; a SYN-ACK that answers an ignored SYN changes it.
    old: TcpConn,
}

/// Judges a segment and updates its connection.
pub(super) fn track(
    config: &Config,
    timeouts: &Timeouts,
    note: &mut Option<Note>,
    entry: &mut Entry,
    packet: &Packet<'_>,
    dir: Dir,
) -> Verdict {
    let segment = match sound(packet) {
        Ok(segment) => segment,
        Err(reason) => return Verdict::Invalid(reason),
    };
    if !entry.confirmed() {
        entry.proto = ProtoState::Tcp(TcpState::default());
        if let Some(tcp) = entry.tcp_mut()
            && let Err(reason) = open(config, &segment, tcp)
        {
            return Verdict::Invalid(reason);
        }
    }
    let status = entry.status;
    let seqadj = entry.seqadj().copied();
    let proxied = entry.proxied().is_some();
    let Some(tcp) = entry.tcp_mut() else {
        return Verdict::Invalid(InvalidReason::NoTuple);
    };
    let mut run = Run {
        config,
        timeouts,
        segment,
        dir,
        status,
        proxied,
        old: tcp.state,
    };
    let new = match run.step(tcp, note) {
        Step::Done(verdict) => return verdict,
        Step::Skip(new) => new,
        Step::Check(new) => {
            let liberal = config.tcp_be_liberal;
            match window::check(tcp, dir, &run.segment, seqadj.as_ref(), liberal) {
                Window::Accept => new,
                Window::Ignore(why) => {
                    *note = Some(why);
                    return Verdict::Keep;
                }
                Window::Invalid(reason) => {
                    *note = run.out_of_window(entry, packet.now);
                    return Verdict::Invalid(reason);
                }
            }
        }
    };
    let seconds = run.settle(tcp, new);
    run.finish(entry, note, new, seconds)
}

/// As [`super::go_on`]: an acknowledgement, with data or without, in the window of an
/// established connection.
#[inline]
pub(super) fn go_on(
    config: &Config,
    entry: &mut Entry,
    packet: &Packet<'_>,
    dir: Dir,
) -> Option<u32> {
    let assured = entry.status.has(Status::ASSURED);
    let tcp = entry.tcp_mut()?;
    let segment = Segment::new(packet.l4).ok()?;
    let plain = segment.class == TcpClass::Ack;
    let established = tcp.state == TcpConn::Established && assured;
    if !(plain && established && packet.checksum_ok(proto::TCP)) {
        return None;
    }
    window::accepts(tcp, dir, &segment).then(|| {
        tcp.last_class = TcpClass::Ack;
        tcp.last_dir = dir;
        timeout(config, &config.timeouts, tcp)
    })
}

/// The header, once it is sound (`tcp_error`).
#[inline]
fn sound<'a>(packet: &Packet<'a>) -> Result<Segment<'a>, InvalidReason> {
    let segment = Segment::new(packet.l4)?;
    if !packet.checksum_ok(proto::TCP) {
        return Err(InvalidReason::BadChecksum);
    }
    if !segment::legal(segment.flags) {
        return Err(InvalidReason::BadFlags(segment.flags));
    }
    Ok(segment)
}

/// State of a connection that starts with this segment (`tcp_new`), of which nothing is known yet:
/// filled in where it stays.
fn open(config: &Config, segment: &Segment<'_>, tcp: &mut TcpState) -> Result<(), InvalidReason> {
    let [creator, peer] = &mut tcp.seen;
    let Next::To(state) = next(Dir::Original, segment.class, TcpConn::None) else {
        return Err(InvalidReason::NewNotSyn(segment.class));
    };
    creator.end = segment.end;
    creator.maxwin = u32::from(segment.win.max(1));
    creator.maxend = segment.end;
    if state == TcpConn::SynSent {
        segment.read_options(creator);
    } else if config.tcp_loose {
        creator.maxend = segment.end.wrapping_add(creator.maxwin);
        creator.flags = tcp_flag::SACK_PERM | tcp_flag::BE_LIBERAL;
        peer.flags = creator.flags;
    } else {
        return Err(InvalidReason::NotLoose);
    }
    Ok(())
}

/// Seconds that a connection lives on after the segment that it remembers as the last.
pub(super) fn timeout(config: &Config, timeouts: &Timeouts, tcp: &TcpState) -> u32 {
    let timeouts = &timeouts.tcp;
    let usual = timeouts[tcp.state as usize];
    let unacknowledged =
        (tcp.seen[0].flags | tcp.seen[1].flags) & tcp_flag::DATA_UNACKNOWLEDGED != 0;
    let retrans = timeouts[TCP_MAX_RETRANS];
    if tcp.retrans >= config.tcp_max_retrans && usual > retrans {
        retrans
    } else if tcp.last_class == TcpClass::Rst {
        timeouts[TcpConn::Close as usize]
    } else if unacknowledged && usual > timeouts[TCP_UNACKNOWLEDGED] {
        timeouts[TCP_UNACKNOWLEDGED]
    } else if tcp.last_win == 0 && usual > retrans {
        retrans
    } else {
        usual
    }
}

impl Run<'_> {
    /// The state table and its special cases.
    fn step(&mut self, tcp: &mut TcpState, note: &mut Option<Note>) -> Step {
        let class = self.segment.class;
        match next(self.dir, class, self.old) {
            Next::Invalid if self.probes_proxy(tcp) => Step::Done(Verdict::Keep),
            Next::Invalid => Step::Done(Verdict::Invalid(InvalidReason::BadState {
                class,
                dir: self.dir,
                state: self.old,
            })),
            Next::Ignore => self.ignore(tcp, note),
            Next::To(TcpConn::SynSent) => self.reopen(tcp, note),
            Next::To(TcpConn::TimeWait) if self.is_challenge_ack(tcp) => {
                tcp.last_flags &= !tcp_flag::EXP_CHALLENGE_ACK;
                *note = Some(Note::ChallengeAck);
                Step::Done(Verdict::Keep)
            }
            Next::To(TcpConn::SynSent2) => {
                tcp.last_flags |= tcp_flag::SIMULTANEOUS_OPEN;
                Step::Check(TcpConn::SynSent2)
            }
            Next::To(TcpConn::SynRecv)
                if self.dir == Dir::Reply
                    && class == TcpClass::Ack
                    && tcp.last_flags & tcp_flag::SIMULTANEOUS_OPEN != 0 =>
            {
                Step::Check(TcpConn::Established)
            }
            Next::To(TcpConn::Close) if class == TcpClass::Rst => self.reset(tcp),
            Next::To(state) => Step::Check(state),
        }
    }

    /// A client that was answered by a SYN proxy asks whether it may send, while the
    /// server has not answered the proxy: the proxy will ask again.
    fn probes_proxy(&self, tcp: &TcpState) -> bool {
        self.proxied
            && self.old == TcpConn::SynSent
            && self.segment.class == TcpClass::Ack
            && self.dir == Dir::Original
            && tcp.last_dir == Dir::Original
            && tcp.seen[Dir::Original.ix()].end.wrapping_sub(1) == self.segment.seq
    }

    /// A SYN where a connection is over starts a new one if the end was orderly.
    fn reopen(&mut self, tcp: &mut TcpState, note: &mut Option<Note>) -> Step {
        if !matches!(self.old, TcpConn::TimeWait | TcpConn::Close) {
            return Step::Check(TcpConn::SynSent);
        }
        let closed_orderly = tcp.seen.iter().any(|s| s.flags & tcp_flag::CLOSE_INIT != 0);
        let reset_by_us = tcp.last_dir == self.dir && tcp.last_class == TcpClass::Rst;
        if closed_orderly || reset_by_us {
            return Step::Done(Verdict::Repeat);
        }
        self.ignore(tcp, note)
    }

    /// An ignored segment is remembered: it may be the valid one and our idea of the
    /// connection stale, which the other side's answer will tell.
    fn ignore(&mut self, tcp: &mut TcpState, note: &mut Option<Note>) -> Step {
        let Segment {
            class, ack, end, ..
        } = self.segment;
        if class == TcpClass::SynAck
            && tcp.last_class == TcpClass::Syn
            && tcp.last_dir != self.dir
            && ack == tcp.last_end
        {
            return self.resynchronise(tcp);
        }
        tcp.last_class = class;
        tcp.last_dir = self.dir;
        tcp.last_seq = self.segment.seq;
        tcp.last_end = end;
        tcp.last_win = self.segment.win;
        if class == TcpClass::Syn && self.dir == Dir::Original {
            let mut side = TcpSide::default();
            self.segment.read_options(&mut side);
            tcp.last_wscale = side.scale;
            tcp.last_flags = side.flags;
            if self.old == TcpConn::LastAck {
                tcp.last_flags |= tcp_flag::EXP_CHALLENGE_ACK;
            }
        }
        if self.old == TcpConn::SynSent && class == TcpClass::Ack && self.dir == Dir::Reply {
            tcp.last_ack = ack;
        }
        *note = Some(Note::IgnoredInState {
            class,
            dir: self.dir,
            state: self.old,
        });
        Step::Done(Verdict::Keep)
    }

    /// The other side answered a SYN we ignored: the connection starts over.
    fn resynchronise(&mut self, tcp: &mut TcpState) -> Step {
        tcp.last_flags &= !tcp_flag::EXP_CHALLENGE_ACK;
        tcp.seen[tcp.last_dir.ix()] = TcpSide {
            end: tcp.last_end,
            maxend: tcp.last_end,
            maxwin: u32::from(tcp.last_win.max(1)),
            scale: tcp.last_wscale,
            flags: tcp.last_flags,
            ..tcp.seen[tcp.last_dir.ix()]
        };
        tcp.seen[self.dir.ix()] = TcpSide {
            flags: tcp.seen[self.dir.ix()].flags & tcp_flag::BE_LIBERAL,
            ..TcpSide::default()
        };
        self.old = TcpConn::SynSent;
        Step::Check(TcpConn::SynRecv)
    }

    fn is_challenge_ack(&self, tcp: &TcpState) -> bool {
        self.old == TcpConn::LastAck
            && self.segment.class == TcpClass::Ack
            && tcp.last_dir != self.dir
            && tcp.last_class == TcpClass::Syn
            && tcp.last_flags & tcp_flag::EXP_CHALLENGE_ACK != 0
    }

    /// Whether a reset is believed (RFC 5961 section 3).
    fn reset(&mut self, tcp: &TcpState) -> Step {
        if self.old.can_early_drop() {
            return Step::Skip(TcpConn::Close);
        }
        let seq = self.segment.seq;
        let peer = &tcp.seen[self.dir.other().ix()];
        let mut new = TcpConn::Close;
        if peer.flags & tcp_flag::MAXACK_SET != 0 && tcp.last_class != TcpClass::Syn {
            let established = self.established();
            if seq == 0 && !established {
                return Step::Check(new);
            }
            if after(peer.maxack, seq) && !self.config.tcp_ignore_invalid_rst {
                return Step::Done(Verdict::Invalid(InvalidReason::RstBelowAck {
                    seq,
                    ack: peer.maxack,
                }));
            }
            let ends_train =
                tcp.last_class == TcpClass::Ack && tcp.last_dir == self.dir && seq == tcp.last_end;
            if !established || seq == peer.maxack || ends_train {
                return Step::Check(new);
            }
            new = self.old;
        }
        if self.answers_ignored(tcp) {
            return Step::Skip(new);
        }
        Step::Check(new)
    }

    /// Established both ways: assured and in state ESTABLISHED (`nf_conntrack_tcp_established`).
    fn established(&self) -> bool {
        self.old == TcpConn::Established && self.status.has(Status::ASSURED)
    }

    /// Whether a reset answers a SYN or ACK that was let through earlier.
    fn answers_ignored(&self, tcp: &TcpState) -> bool {
        let to_syn = self.status.has(Status::SEEN_REPLY)
            && tcp.last_class == TcpClass::Syn
            && tcp.last_dir != self.dir;
        let to_ack = !self.status.has(Status::ASSURED) && tcp.last_class == TcpClass::Ack;
        if (to_syn || to_ack) && self.segment.ack == tcp.last_end {
            return true;
        }
        self.old == TcpConn::SynSent
            && tcp.last_class == TcpClass::Ack
            && tcp.last_dir == Dir::Reply
            && self.segment.seq == tcp.last_ack
    }

    /// The segment is accepted: new state and the timeout it brings, in seconds.
    fn settle(&self, tcp: &mut TcpState, new: TcpConn) -> u32 {
        tcp.last_class = self.segment.class;
        tcp.last_dir = self.dir;
        tcp.state = new;
        if self.old != new && new == TcpConn::FinWait {
            tcp.seen[self.dir.ix()].flags |= tcp_flag::CLOSE_INIT;
        }
        timeout(self.config, self.timeouts, tcp)
    }

    /// Status bits, and the cases in which the timer is not simply refreshed.
    fn finish(
        &self,
        entry: &mut Entry,
        note: &mut Option<Note>,
        new: TcpConn,
        seconds: u32,
    ) -> Verdict {
        if new != self.old {
            entry.pending |= change::PROTOINFO;
        }
        if self.status.has(Status::SEEN_REPLY) {
            let from_open = matches!(self.old, TcpConn::SynRecv | TcpConn::Established);
            if from_open && new == TcpConn::Established {
                assure(entry);
            }
            return Verdict::Refresh(seconds);
        }
        if self.segment.has(flags::RST) {
            return Verdict::Die;
        }
        if self.segment.class == TcpClass::Syn && self.old == TcpConn::SynSent {
            *note = Some(Note::SynRetransmitted);
            return Verdict::Keep;
        }
        if new == TcpConn::Established {
            return Verdict::Refresh(seconds.min(self.timeouts.tcp[TCP_UNACKNOWLEDGED]));
        }
        Verdict::Refresh(seconds)
    }

    /// FIN and RST out of window from both sides: the sides close and our numbers are
    /// stale, so the entry gets a shorter life (`nf_tcp_handle_invalid`).
    fn out_of_window(&self, entry: &mut Entry, now: Time) -> Option<Note> {
        let class = self.segment.class;
        let closes = |class| matches!(class, TcpClass::Rst | TcpClass::Fin);
        if !entry.status.has(Status::ASSURED)
            || entry.status.has(Status::FIXED_TIMEOUT)
            || !closes(class)
        {
            return None;
        }
        let left = entry.timeout.saturating_sub(now);
        let seconds = self.timeouts.tcp[TCP_UNACKNOWLEDGED];
        let life = Time::from(seconds) * SECOND;
        let dir = self.dir;
        let tcp = entry.tcp_mut()?;
        let answered = tcp.last_class;
        if tcp.last_dir == dir || !closes(tcp.last_class) {
            tcp.last_class = class;
            tcp.last_dir = dir;
            return None;
        }
        if left < SHORT_LIFE || left <= life {
            return None;
        }
        entry.timeout = now.saturating_add(life);
        Some(Note::ClosesBothWays {
            class,
            dir,
            answered,
            seconds,
        })
    }
}
