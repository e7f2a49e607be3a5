//! The window check (`tcp_in_window`).

use super::segment::Segment;
use crate::entry::{TcpClass, TcpConn, TcpSide, TcpState, tcp_flag};
use crate::reason::{InvalidReason, Note};
use crate::seqadj::{SeqAdj, after};
use crate::tuple::Dir;
use tidegate_wire::tcp::flags;

/// Least window assumed when judging old acknowledgements (`MAXACKWINCONST`).
const MIN_ACK_WINDOW: u32 = 66_000;

/// Outcome of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    Accept,
    Ignore(Note),
    Invalid(InvalidReason),
}

const fn before(a: u32, b: u32) -> bool {
    after(b, a)
}

/// The numbers of a segment after all corrections.
#[derive(Clone, Copy)]
struct Numbers {
    seq: u32,
    end: u32,
    ack: u32,
    sack: u32,
}

impl Numbers {
    /// `offset` is what the receiver's numbers have been changed by.
    #[inline]
    fn of(state: &TcpState, dir: Dir, segment: &Segment<'_>, offset: i32) -> Numbers {
        let receiver = &state.seen[dir.other().ix()];
        let mut sack = segment.ack;
        if receiver.flags & tcp_flag::SACK_PERM != 0 {
            sack = segment.sack();
        }
        Numbers {
            seq: segment.seq,
            end: segment.end,
            ack: segment.ack.wrapping_add_signed(offset.wrapping_neg()),
            sack: sack.wrapping_add_signed(offset.wrapping_neg()),
        }
    }
}

/// Starts a side from its SYN or SYN-ACK (`tcp_init_sender`).
fn init_from_syn(seen: &mut [TcpSide; 2], dir: Dir, segment: &Segment<'_>) {
    let receiver = seen[dir.other().ix()].flags;
    let sender = &mut seen[dir.ix()];
    sender.end = segment.end;
    sender.maxend = segment.end;
    sender.maxwin = u32::from(segment.win.max(1));
    segment.read_options(sender);
    if dir == Dir::Reply && sender.flags & receiver & tcp_flag::WINDOW_SCALE == 0 {
        seen[0].scale = 0;
        seen[1].scale = 0;
    }
}

/// Starts a side from a segment in mid-stream.
fn init_midstream(seen: &mut [TcpSide; 2], dir: Dir, segment: &Segment<'_>, sack: u32) {
    let sender = &mut seen[dir.ix()];
    let window = u32::from(segment.win) << sender.scale;
    sender.end = segment.end;
    sender.maxwin = window.max(1);
    sender.maxend = segment.end.wrapping_add(sender.maxwin);
    let receiver = &mut seen[dir.other().ix()];
    if receiver.maxwin == 0 {
        receiver.end = sack;
        receiver.maxend = sack;
    } else if sack == receiver.end.wrapping_add(1) {
        receiver.end = sack;
    }
}

/// Takes over an acknowledgement that lies in the window of a connection both sides of which
/// are known; `false`, and nothing has changed, for any other.
#[inline]
pub(super) fn accepts(state: &mut TcpState, dir: Dir, segment: &Segment<'_>) -> bool {
    let n = Numbers::of(state, dir, segment, 0);
    let known = state.seen[dir.ix()].maxwin != 0;
    let accepted = known && judge(state, dir, n) == Window::Accept;
    if accepted {
        update(state, dir, segment, n);
    }
    accepted
}

/// Judges a segment against the window and, when it passes, updates both sides.
pub(super) fn check(
    state: &mut TcpState,
    dir: Dir,
    segment: &Segment<'_>,
    seqadj: Option<&SeqAdj>,
    liberal: bool,
) -> Window {
    let offset = seqadj.map_or(0, |s| s.offset(dir.other(), segment.ack.wrapping_sub(1)));
    let mut n = Numbers::of(state, dir, segment, offset);
    if init(state, dir, segment, n.sack) {
        return Window::Accept;
    }
    let no_ack = !segment.has(flags::ACK) || (segment.has(flags::RST) && n.ack == 0);
    if no_ack {
        n.ack = state.seen[dir.other().ix()].end;
        n.sack = n.ack;
    }
    if segment.has(flags::RST) && n.seq == 0 && state.state == TcpConn::SynSent {
        n.seq = state.seen[dir.ix()].end;
        n.end = n.seq;
    }
    let outcome = judge(state, dir, n);
    match outcome {
        Window::Accept => update(state, dir, segment, n),
        Window::Ignore(Note::MoreThanExpected { .. }) => {
            let sender = &mut state.seen[dir.ix()];
            sender.end = n.end;
            sender.flags |= tcp_flag::DATA_UNACKNOWLEDGED;
        }
        Window::Ignore(_) | Window::Invalid(_) => {}
    }
    if liberal || state.seen[dir.ix()].flags & tcp_flag::BE_LIBERAL != 0 {
        return Window::Accept;
    }
    outcome
}

/// (Re-)starts what is known about the sender; `true` when that is all there is to do
/// (the second SYN of a simultaneous open).
fn init(state: &mut TcpState, dir: Dir, segment: &Segment<'_>, sack: u32) -> bool {
    let sender = &state.seen[dir.ix()];
    if sender.maxwin == 0 {
        if !segment.has(flags::SYN) {
            init_midstream(&mut state.seen, dir, segment, sack);
            return false;
        }
        init_from_syn(&mut state.seen, dir, segment);
        return !segment.has(flags::ACK);
    }
    let opening = matches!(state.state, TcpConn::SynSent | TcpConn::SynRecv);
    if segment.has(flags::SYN) && opening && after(segment.end, sender.end) {
        init_from_syn(&mut state.seen, dir, segment);
        return dir == Dir::Reply && !segment.has(flags::ACK);
    }
    false
}

/// The four tests, in the order I, III, II, IV.
#[inline]
fn judge(state: &TcpState, dir: Dir, n: Numbers) -> Window {
    let sender = &state.seen[dir.ix()];
    let receiver = &state.seen[dir.other().ix()];
    let lower = sender.end.wrapping_sub(receiver.maxwin).wrapping_sub(1);
    let ack_lower = receiver
        .end
        .wrapping_sub(sender.maxwin.max(MIN_ACK_WINDOW))
        .wrapping_sub(1);
    let ack_upper = receiver.end.wrapping_add(1);
    let bound = sender.maxend.wrapping_add(1);
    if !before(n.seq, bound) {
        let over = n.end.wrapping_sub(sender.maxend).wrapping_add(1);
        let rest_holds = receiver.maxwin != 0
            && after(n.end, lower)
            && after(n.sack, ack_lower)
            && before(n.sack, ack_upper);
        return if rest_holds && over <= receiver.maxwin {
            Window::Ignore(Note::MoreThanExpected { over })
        } else {
            let seq = n.seq;
            Window::Invalid(InvalidReason::SeqOverUpper { seq, bound, over })
        };
    }
    if !before(n.sack, ack_upper) {
        return Window::Invalid(InvalidReason::AckOverUpper {
            ack: n.sack,
            bound: ack_upper,
        });
    }
    if receiver.maxwin != 0 && !after(n.end, lower) {
        return Window::Ignore(Note::SeqUnderLower {
            end: n.end,
            bound: lower,
        });
    }
    if !after(n.sack, ack_lower) {
        return Window::Ignore(Note::AckUnderLower {
            ack: n.sack,
            bound: ack_lower,
        });
    }
    Window::Accept
}

/// Takes over the numbers of a segment that passed.
#[inline]
fn update(state: &mut TcpState, dir: Dir, segment: &Segment<'_>, n: Numbers) {
    let [original, reply] = &mut state.seen;
    let (sender, receiver) = match dir {
        Dir::Original => (original, reply),
        Dir::Reply => (reply, original),
    };
    let mut win = u32::from(segment.win);
    if !segment.has(flags::SYN) {
        win <<= sender.scale;
    }
    let advertised = win.wrapping_add(n.sack.wrapping_sub(n.ack));
    sender.maxwin = sender.maxwin.max(advertised);
    if after(n.end, sender.end) {
        sender.end = n.end;
        sender.flags |= tcp_flag::DATA_UNACKNOWLEDGED;
    }
    if segment.has(flags::ACK)
        && (sender.flags & tcp_flag::MAXACK_SET == 0 || after(n.ack, sender.maxack))
    {
        sender.maxack = n.ack;
        sender.flags |= tcp_flag::MAXACK_SET;
    }
    if receiver.maxwin != 0 && after(n.end, sender.maxend) {
        receiver.maxwin = receiver
            .maxwin
            .wrapping_add(n.end.wrapping_sub(sender.maxend));
    }
    let edge = n.sack.wrapping_add(win);
    if after(edge, receiver.maxend.wrapping_sub(1)) {
        receiver.maxend = edge.wrapping_add(u32::from(win == 0));
    }
    if n.ack == receiver.end {
        receiver.flags &= !tcp_flag::DATA_UNACKNOWLEDGED;
    }
    if segment.class == TcpClass::Ack {
        remember_ack(state, dir, segment, n);
    }
}

/// Counts identical acknowledgements in a row.
fn remember_ack(state: &mut TcpState, dir: Dir, segment: &Segment<'_>, n: Numbers) {
    let last = (
        state.last_dir,
        state.last_seq,
        state.last_ack,
        state.last_end,
        state.last_win,
    );
    if last == (dir, n.seq, n.ack, n.end, segment.win) {
        state.retrans = state.retrans.saturating_add(1);
        return;
    }
    state.last_dir = dir;
    state.last_seq = n.seq;
    state.last_ack = n.ack;
    state.last_end = n.end;
    state.last_win = segment.win;
    state.retrans = 0;
}
