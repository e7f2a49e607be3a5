//! A long rules file: a hundred chains of hosts, ports and limits.

use std::fmt::Write;

/// The text of a file with `rules` rules, a hundred of them jumps.
pub(crate) fn file(rules: u32) -> String {
    let mut text = "*filter\n".to_owned();
    for chain in 0..100 {
        let _ = writeln!(text, ":c{chain:02} - [0:0]");
    }
    for chain in 0..100 {
        let _ = writeln!(text, "-A INPUT -s 10.{chain}.0.0/16 -j c{chain:02}");
    }
    for i in 0..rules - 100 {
        let (chain, a, b) = (i % 100, i / 256 % 256, i % 256);
        let _ = match i % 3 {
            0 => writeln!(
                text,
                "[1:60] -A c{chain:02} -s 10.0.{a}.{b}/32 -p tcp -m tcp --dport {} -j ACCEPT",
                i % 65535
            ),
            1 => writeln!(
                text,
                "-A c{chain:02} -i eth0 -p udp -m udp --sport 1000:2000 -m comment --comment \"rule {i}\" -j DROP"
            ),
            _ => writeln!(
                text,
                "-A c{chain:02} -d 10.{a}.{b}.0/24 -m conntrack --ctstate NEW -m limit --limit 5/sec -j ACCEPT"
            ),
        };
    }
    text + "COMMIT\n"
}
