//! `modprobe`, `lsmod`, `modinfo` and `[modules]` (scenario B5).

use crate::support::Daemon;
use crate::{err, out};

const CONTROL: &str = "-p tcp -s 10.1.0.2 -d 10.2.0.2 --sport 41000 --dport";

/// An FTP control connection and a data connection that it announces.
fn announce(d: &Daemon, port: u16) {
    d.out(&format!(
        "conntrack -I {CONTROL} {port} --state ESTABLISHED -t 300"
    ));
    let expected = d.ask(&format!(
        "conntrack -I expect {CONTROL} {port} -t 300 --tuple-src 10.2.0.2 --tuple-dst 10.1.0.2 \
         --mask-src 255.255.255.255 --mask-dst 255.255.255.255 --tuple-port-src 0 \
         --tuple-port-dst 2580 --mask-port-src 0 --mask-port-dst 65535"
    ));
    assert!(expected.status.success(), "{}", err(&expected));
}

#[test]
fn loading_listing_and_unloading() {
    let mut d = Daemon::new();
    d.start();
    let none = "Module                  Size  Used by\nnf_conntrack               0  0\n";
    assert_eq!(d.out("lsmod"), none);
    assert_eq!(d.out("modprobe nf_conntrack_ftp ports=21,2121 loose=0"), "");
    assert_eq!(
        d.out("lsmod"),
        "Module                  Size  Used by\n\
         nf_conntrack_ftp           0  0\n\
         nf_conntrack               0  1 nf_conntrack_ftp\n"
    );
    assert!(
        d.out("status")
            .contains("\nhelpers     ftp on 21, ftp on 2121\n")
    );
    announce(&d, 2121);
    assert!(d.out("conntrack -L").contains(" helper=ftp "));
    let expected = d.out("conntrack -L expect");
    assert!(
        expected.contains("proto=6 src=10.2.0.2 dst=10.1.0.2"),
        "{expected}"
    );
    d.out("modprobe -r nf_conntrack_ftp");
    assert_eq!(d.out("conntrack -C expect"), "0\n");
    let still = d.out("conntrack -L");
    assert!(
        still.contains("dport=2121") && !still.contains("helper="),
        "{still}"
    );
    assert_eq!(d.out("lsmod"), none);
    let missing = d.ask("modprobe nf_conntrack_gopher");
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(
        err(&missing),
        "modprobe: FATAL: Module nf_conntrack_gopher not found.\n"
    );
}

#[test]
fn a_helper_that_rules_use_is_in_use() {
    let mut d = Daemon::new();
    d.start();
    d.out("modprobe nf_conntrack_ftp");
    let rule = "PREROUTING -t raw -p tcp --dport 21 -j CT --helper ftp";
    d.out(&format!("iptables -A {rule}"));
    d.out(&format!("ip6tables -A {rule}"));
    assert!(d.out("lsmod").contains("nf_conntrack_ftp           0  2\n"));
    let busy = d.ask("modprobe -r nf_conntrack_ftp");
    assert_eq!(busy.status.code(), Some(1));
    assert_eq!(
        err(&busy),
        "modprobe: FATAL: Module nf_conntrack_ftp is in use.\n"
    );
    d.out(&format!("iptables -D {rule}"));
    d.out(&format!("ip6tables -D {rule}"));
    d.out("modprobe -r nf_conntrack_ftp");
}

/// `modinfo` needs no daemon.
#[test]
fn modules_are_described() {
    let d = Daemon::new();
    let shown = d.out("modinfo nf_conntrack_ftp");
    for start in [
        "\nname:           nf_conntrack_ftp\n",
        "\nparm:           ports:",
        "\nparm:           loose:",
    ] {
        assert!(shown.contains(start), "{start}\n{shown}");
    }
    let missing = d.ask("modinfo nf_conntrack_gopher");
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(out(&missing), "");
}

#[test]
fn the_configuration_loads_them_at_the_start() {
    let mut d = Daemon::new();
    d.config = "[modules]\nload = [\"ip_conntrack_ftp ports=2121\", \"iptable_nat\"]\n".to_owned();
    d.start();
    assert!(d.out("status").contains("\nhelpers     ftp on 2121\n"));
    announce(&d, 2121);
    // They are no less unloaded for that.
    d.out("modprobe -r nf_conntrack_ftp");
    assert!(!d.out("status").contains("helpers"));
    assert_eq!(d.out("conntrack -C expect"), "0\n");
}
