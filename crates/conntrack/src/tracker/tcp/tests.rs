//! The state table and flag sets, against the kernel's (every cell was also driven
//! through Linux 6.18).

use super::segment::legal;
use super::table::{Next, next};
use crate::entry::{TcpClass, TcpConn};
use crate::tuple::Dir;

const STATES: &str = "NO SS SR ES FW CW LA TW CL S2";

const ORIGINAL: &str = "
    syn     SS SS ig ig ig ig ig SS SS S2
    synack  iv iv SR iv iv iv iv iv iv SR
    fin     iv iv FW FW LA LA LA TW CL iv
    ack     ES iv ES ES CW CW TW TW CL iv
    rst     iv CL CL CL CL CL CL CL CL CL
    none    iv iv iv iv iv iv iv iv iv iv";

const REPLY: &str = "
    syn     iv S2 iv iv iv iv iv SS iv S2
    synack  iv SR ig ig ig ig ig ig ig SR
    fin     iv iv FW FW LA LA LA TW CL iv
    ack     iv ig SR ES CW CW TW TW CL ig
    rst     iv CL CL CL CL CL CL CL CL CL
    none    iv iv iv iv iv iv iv iv iv iv";

fn state(short: &str) -> Option<TcpConn> {
    STATES
        .split(' ')
        .position(|s| s == short)
        .map(|i| TcpConn::ALL[i])
}

fn class(name: &str) -> TcpClass {
    match name {
        "syn" => TcpClass::Syn,
        "synack" => TcpClass::SynAck,
        "fin" => TcpClass::Fin,
        "ack" => TcpClass::Ack,
        "rst" => TcpClass::Rst,
        "none" => TcpClass::None,
        other => panic!("{other}"),
    }
}

fn compare(dir: Dir, text: &str) -> usize {
    let mut cells = 0;
    for line in text.trim().lines() {
        let mut words = line.split_whitespace();
        let class = class(words.next().unwrap());
        for (cell, from) in words.zip(TcpConn::ALL) {
            let wanted = match cell {
                "iv" => Next::Invalid,
                "ig" => Next::Ignore,
                short => Next::To(state(short).unwrap()),
            };
            assert_eq!(next(dir, class, from), wanted, "{dir:?} {class:?} {from:?}");
            cells += 1;
        }
    }
    cells
}

#[test]
fn every_cell_of_the_state_table() {
    assert_eq!(compare(Dir::Original, ORIGINAL), 60);
    assert_eq!(compare(Dir::Reply, REPLY), 60);
}

#[test]
fn every_flag_set() {
    // FIN 01, SYN 02, RST 04, ACK 10, URG 20.
    const WANTED: [u8; 9] = [0x02, 0x22, 0x12, 0x04, 0x14, 0x11, 0x31, 0x10, 0x30];
    for five in 0..32u8 {
        let flags = five & 0x07 | (five & 0x18) << 1;
        for ignored in [0, 0x08, 0x40, 0x80, 0xc8] {
            assert_eq!(
                legal(flags | ignored),
                WANTED.contains(&flags),
                "{flags:#x}"
            );
        }
    }
}
