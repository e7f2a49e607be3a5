//! Packets while clients keep the daemon busy.

use std::fs;

use crate::live::played;

/// 20 clients list 50,000 connections again and again; meanwhile the server answers pings.
const SCRIPT: &str = r#"
tidegate iptables -A INPUT -m conntrack --ctstate INVALID -j DROP
seq 50000 | sed 's|.*|-I -p udp -s 10.8.0.1 -d 192.0.2.9 --sport & --dport 2 -t 900|' >lines
tidegate conntrack -R lines
for _ in $(seq 20); do
    ( while :; do tidegate conntrack -L >list 2>&1; done ) & busy="$busy $!"
done
sleep 0.5
on_client ping -q -i 0.01 -c 200 -W 5 10.7.0.2 >ping
kill $busy
"#;

#[test]
fn many_listings_at_once_leave_packets_their_turn() {
    let directory = tempfile::tempdir().unwrap();
    let d = directory.path();
    let config = "[sysctl]\nnet.netfilter.nf_conntrack_max = 100000\n[log]\nsyslog = \"\"\n";
    if !played(d, config, SCRIPT) {
        return;
    }
    let ping = fs::read_to_string(d.join("ping")).unwrap();
    assert!(ping.contains(" 200 received"), "{ping}");
    // `rtt min/avg/max/mdev = 0.5/0.9/5.3/0.2 ms`
    let times = ping.split_once(" = ").unwrap().1;
    let mean: f64 = times.split('/').nth(1).unwrap().parse().unwrap();
    assert!(mean < 50.0, "{ping}");
}
