use super::*;

const CLIENT: u128 = 0x0a00_0002;

fn client(text: &[u8]) -> Scan {
    scan(Dir::Original, Family::V4, CLIENT, text)
}

fn found(outcome: Scan) -> Found {
    match outcome {
        Scan::Found(f) => f,
        Scan::None | Scan::Partial(_) => panic!("{outcome:?}"),
    }
}

#[test]
fn finds_the_text_to_replace() {
    let f = found(client(b"PORT 10,0,0,2,4,5\r\n"));
    assert_eq!((f.command, f.at, f.len), (Command::Port, 5, 12));
    assert_eq!((f.addr, f.port), (CLIENT, 1029));
    let f = found(client(b"EPRT #1#10.0.0.2#1029#\r\n"));
    assert_eq!((f.command, f.at, f.len), (Command::Eprt, 5, 17));
    let text = b"227 Entering Passive Mode (10,0,1,2,4,5).\r\n";
    let f = found(scan(Dir::Reply, Family::V4, 0x0a00_0102, text));
    assert_eq!((f.command, f.at, f.len), (Command::Pasv, 27, 12));
    assert_eq!((f.addr, f.port), (0x0a00_0102, 1029));
    let text = b"229 Extended (|||4005|)\r\n";
    let f = found(scan(Dir::Reply, Family::V4, 7, text));
    assert_eq!((f.command, f.at, f.len), (Command::Epsv, 14, 8));
    assert_eq!((f.addr, f.port), (7, 4005));
}

#[test]
fn reads_ipv6_addresses() {
    let text = b"EPRT |2|fd00::2|8080|\r\n";
    let f = found(scan(Dir::Original, Family::V6, 1, text));
    assert_eq!((f.at, f.len, f.port), (5, 16, 8080));
    assert_eq!(f.addr, 0xfd00_u128 << 112 | 2);
    for bad in [
        &b"EPRT |1|10.0.0.2|80|\r\n"[..],
        b"EPRT |2|fd00:::2|80|\r\n",
    ] {
        assert!(matches!(
            scan(Dir::Original, Family::V6, 1, bad),
            Scan::Partial(_)
        ));
    }
}

#[test]
fn the_message_names_the_pattern() {
    assert_eq!(client(b"P"), Scan::Partial("partial matching of `PORT'"));
    assert_eq!(client(b"E"), Scan::Partial("partial matching of `EPRT'"));
    assert_eq!(
        scan(Dir::Reply, Family::V4, 0, b"22"),
        Scan::Partial("partial matching of `227 '")
    );
    assert_eq!(
        scan(Dir::Reply, Family::V4, 0, b"229"),
        Scan::Partial("partial matching of `229 '")
    );
}

// Texts the kernel wrote (IPv6: every group in full, unlike its own listings).
#[test]
fn replacements_are_written_as_the_kernel_writes_them() {
    let v4 = 0xcb00_7164;
    let v6 = 0xfd00_0001_u128 << 96 | 1;
    let text = |c, f, a| replacement(c, f, a, 8080);
    assert_eq!(text(Command::Port, Family::V4, v4), "203,0,113,100,31,144");
    assert_eq!(text(Command::Pasv, Family::V4, v4), "203,0,113,100,31,144");
    assert_eq!(
        text(Command::Eprt, Family::V4, v4),
        "|1|203.0.113.100|8080|"
    );
    assert_eq!(
        text(Command::Eprt, Family::V6, v6),
        "|2|fd00:0001:0000:0000:0000:0000:0000:0001|8080|"
    );
    assert_eq!(text(Command::Epsv, Family::V4, v4), "|||8080|");
}

/// Which of `seqs` start a line after `ends` were remembered in that order.
fn known(ends: &[u32], seqs: [u32; 3]) -> [bool; 3] {
    let mut state = FtpState::default();
    for &end in ends {
        state.line_ended(Dir::Original, end);
    }
    seqs.map(|s| state.starts_line(Dir::Original, s))
}

// The three questions were put to the kernel with retransmitted commands.
#[test]
fn two_line_ends_are_remembered() {
    assert_eq!(
        known(&[1001, 1005, 1009], [1001, 1005, 1009]),
        [false, true, true]
    );
    assert_eq!(
        known(&[1001, 1005, 999], [1001, 1005, 999]),
        [true, true, false]
    );
    assert_eq!(
        known(&[1001, 1005, 1003], [1001, 1005, 1003]),
        [false, true, true]
    );
    assert_eq!(known(&[1001, 1001], [1001, 0, 0]), [true, false, false]);
}

#[test]
fn directions_have_their_own_memory() {
    let mut state = FtpState::default();
    state.line_ended(Dir::Reply, 5);
    assert!(!state.starts_line(Dir::Original, 5));
    assert!(state.starts_line(Dir::Reply, 5));
}
