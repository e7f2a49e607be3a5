//! The SCTP state table (`sctp_conntracks`).

use super::chunk;
use crate::entry::SctpConn;
use crate::tuple::Dir;

const CL: Option<SctpConn> = Some(SctpConn::Closed);
const CW: Option<SctpConn> = Some(SctpConn::CookieWait);
const CE: Option<SctpConn> = Some(SctpConn::CookieEchoed);
const ES: Option<SctpConn> = Some(SctpConn::Established);
const SS: Option<SctpConn> = Some(SctpConn::ShutdownSent);
const SR: Option<SctpConn> = Some(SctpConn::ShutdownRecd);
const SA: Option<SctpConn> = Some(SctpConn::ShutdownAckSent);
const HS: Option<SctpConn> = Some(SctpConn::HeartbeatSent);
const IV: Option<SctpConn> = None;

/// Chunk types that change states, in the order of the table's rows.
const ROWS: [u8; 11] = [
    chunk::INIT,
    chunk::INIT_ACK,
    chunk::ABORT,
    chunk::SHUTDOWN,
    chunk::SHUTDOWN_ACK,
    chunk::ERROR,
    chunk::COOKIE_ECHO,
    chunk::COOKIE_ACK,
    chunk::SHUTDOWN_COMPLETE,
    chunk::HEARTBEAT,
    chunk::HEARTBEAT_ACK,
];

/// By direction, chunk ([`ROWS`]) and state in numeric order; `None` is invalid.
#[rustfmt::skip]
const TABLE: [[[Option<SctpConn>; 9]; 11]; 2] = [
    [ //  NO  CL  CW  CE  ES  SS  SR  SA  HS
        [CL, CL, CW, CE, ES, CL, CL, SA, CW], // INIT
        [CL, CL, CW, CE, ES, SS, SR, SA, CL], // INIT_ACK
        [CL, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
        [CL, CL, CW, CE, SS, SS, SR, SA, CL], // SHUTDOWN
        [SA, CL, CW, CE, ES, SA, SA, SA, SA], // SHUTDOWN_ACK
        [CL, CL, CW, CE, ES, SS, SR, SA, CL], // ERROR
        [CL, CL, CE, CE, ES, SS, SR, SA, CL], // COOKIE_ECHO
        [CL, CL, CW, ES, ES, SS, SR, SA, CL], // COOKIE_ACK
        [CL, CL, CW, CE, ES, SS, SR, CL, CL], // SHUTDOWN_COMPLETE
        [HS, CL, CW, CE, ES, SS, SR, SA, HS], // HEARTBEAT
        [CL, CL, CW, CE, ES, SS, SR, SA, HS], // HEARTBEAT_ACK
    ],
    [
        [IV, CL, CW, CE, ES, SS, SR, SA, IV], // INIT
        [IV, CW, CW, CE, ES, SS, SR, SA, IV], // INIT_ACK
        [IV, CL, CL, CL, CL, CL, CL, CL, IV], // ABORT
        [IV, CL, CW, CE, SR, SS, SR, SA, IV], // SHUTDOWN
        [IV, CL, CW, CE, ES, SA, SA, SA, IV], // SHUTDOWN_ACK
        [IV, CL, CW, CL, ES, SS, SR, SA, IV], // ERROR
        [IV, CL, CE, CE, ES, SS, SR, SA, IV], // COOKIE_ECHO
        [IV, CL, CW, ES, ES, SS, SR, SA, IV], // COOKIE_ACK
        [IV, CL, CW, CE, ES, SS, SR, CL, IV], // SHUTDOWN_COMPLETE
        [IV, CL, CW, CE, ES, SS, SR, SA, HS], // HEARTBEAT
        [IV, CL, CW, CE, ES, SS, SR, SA, ES], // HEARTBEAT_ACK
    ],
];

/// State after a chunk; chunks outside the table keep it.
pub(super) fn next(dir: Dir, kind: u8, state: SctpConn) -> Option<SctpConn> {
    match ROWS.iter().position(|&row| row == kind) {
        Some(row) => TABLE[dir.ix()][row][state as usize],
        None => Some(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 does it, rows and columns in the same order.
    const ORIGINAL: &str = "
        CL CL CW CE ES CL CL SA CW
        CL CL CW CE ES SS SR SA CL
        CL CL CL CL CL CL CL CL CL
        CL CL CW CE SS SS SR SA CL
        SA CL CW CE ES SA SA SA SA
        CL CL CW CE ES SS SR SA CL
        CL CL CE CE ES SS SR SA CL
        CL CL CW ES ES SS SR SA CL
        CL CL CW CE ES SS SR CL CL
        HS CL CW CE ES SS SR SA HS
        CL CL CW CE ES SS SR SA HS";
    const REPLY: &str = "
        iv CL CW CE ES SS SR SA iv
        iv CW CW CE ES SS SR SA iv
        iv CL CL CL CL CL CL CL iv
        iv CL CW CE SR SS SR SA iv
        iv CL CW CE ES SA SA SA iv
        iv CL CW CL ES SS SR SA iv
        iv CL CE CE ES SS SR SA iv
        iv CL CW ES ES SS SR SA iv
        iv CL CW CE ES SS SR CL iv
        iv CL CW CE ES SS SR SA HS
        iv CL CW CE ES SS SR SA ES";

    #[test]
    fn every_cell() {
        let names = ["NO", "CL", "CW", "CE", "ES", "SS", "SR", "SA", "HS"];
        for (dir, text) in [(Dir::Original, ORIGINAL), (Dir::Reply, REPLY)] {
            let lines: alloc::vec::Vec<_> = text.trim().lines().collect();
            assert_eq!(lines.len(), ROWS.len());
            for (kind, line) in ROWS.into_iter().zip(lines) {
                for (cell, from) in line.split_whitespace().zip(SctpConn::ALL) {
                    let wanted = names.iter().position(|&n| n == cell);
                    let got = next(dir, kind, from).map(|s| s as usize);
                    assert_eq!(got, wanted, "{dir:?} {kind} {from:?}");
                }
            }
        }
    }

    #[test]
    fn data_changes_nothing() {
        for state in SctpConn::ALL {
            assert_eq!(next(Dir::Reply, 0, state), Some(state));
        }
    }
}
