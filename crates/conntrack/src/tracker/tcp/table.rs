//! The state table (`tcp_conntracks`).

use crate::entry::{TcpClass, TcpConn};
use crate::tuple::Dir;

/// What the table says about a segment in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go to this state.
    To(TcpConn),
    /// The segment cannot belong here.
    Invalid,
    /// Let it pass, change nothing.
    Ignore,
}

const SS: Next = Next::To(TcpConn::SynSent);
const SR: Next = Next::To(TcpConn::SynRecv);
const ES: Next = Next::To(TcpConn::Established);
const FW: Next = Next::To(TcpConn::FinWait);
const CW: Next = Next::To(TcpConn::CloseWait);
const LA: Next = Next::To(TcpConn::LastAck);
const TW: Next = Next::To(TcpConn::TimeWait);
const CL: Next = Next::To(TcpConn::Close);
const S2: Next = Next::To(TcpConn::SynSent2);
const IV: Next = Next::Invalid;
const IG: Next = Next::Ignore;

/// By direction, class and state, each in numeric order.
#[rustfmt::skip]
const TABLE: [[[Next; 10]; 6]; 2] = [
    [ //  NO  SS  SR  ES  FW  CW  LA  TW  CL  S2
        [SS, SS, IG, IG, IG, IG, IG, SS, SS, S2], // syn
        [IV, IV, SR, IV, IV, IV, IV, IV, IV, SR], // synack
        [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV], // fin
        [ES, IV, ES, ES, CW, CW, TW, TW, CL, IV], // ack
        [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL], // rst
        [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV], // none
    ],
    [
        [IV, S2, IV, IV, IV, IV, IV, SS, IV, S2], // syn
        [IV, SR, IG, IG, IG, IG, IG, IG, IG, SR], // synack
        [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV], // fin
        [IV, IG, SR, ES, CW, CW, TW, TW, CL, IG], // ack
        [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL], // rst
        [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV], // none
    ],
];

/// The table's word on a segment of `class` in `dir` when the connection is in `state`.
#[inline]
pub(super) const fn next(dir: Dir, class: TcpClass, state: TcpConn) -> Next {
    TABLE[dir as usize][class as usize][state as usize]
}
