//! A million connections take 256 bytes each and 16 for the table, measured on the whole process. The
//! kernel's take 264: an object of 256 and a bucket's head of 8.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{Ip, layout};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::{Conntrack, InHook, SECOND, Tracked};

const COUNT: u32 = 1_000_000;
const PAGE: usize = 4096;

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * PAGE
}

#[test]
fn a_million_connections() {
    let before = resident();
    let mut ct = Conntrack::new(Config {
        max: COUNT,
        buckets: COUNT,
        ..Config::default()
    });
    for i in 0..COUNT {
        let [_, a, b, c] = i.to_be_bytes();
        let host = Ip {
            src: [10, a, b, c],
            dst: [192, 0, 2, 1],
        };
        let pkt = host.udp(1000, 53);
        let l = layout(&pkt);
        let Tracked::Ct(mut at) = ct.handle_packet(SECOND, &pkt, &l, InHook::Output, None) else {
            panic!("connection {i} not tracked");
        };
        ct.confirm(SECOND, &mut at).unwrap();
    }
    assert_eq!(ct.count(), COUNT);
    let each = (resident() - before) / COUNT as usize;
    assert!(each <= 256 + 16, "{each} bytes per connection");
    println!("{each} bytes per connection");
}
