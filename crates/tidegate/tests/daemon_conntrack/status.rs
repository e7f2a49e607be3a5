//! `tidegate status` on connections, drops and logs.

use serde_json::Value;

use crate::support::Daemon;

#[test]
fn drops_and_logs_by_name() {
    let mut d = Daemon::new();
    d.config = format!(
        "[log]\nsyslog = \"\"\nfile = {{ path = {:?} }}\nnflog = {{ directory = {:?} }}\n",
        d.path("lines"),
        d.path("captures")
    );
    d.start();
    let text = d.out("status --drops");
    let wanted = format!(
        "dropped  0\ninvalid  0\nlost  0\n0 lines to {}\n0 packets to {}\n",
        d.path("lines").display(),
        d.path("captures").display()
    );
    assert_eq!(text, wanted);
    let json: Value = serde_json::from_str(&d.out("status --drops --json")).unwrap();
    assert_eq!(json["dropped"]["policy"], 0);
    assert_eq!(json["dropped"]["conntrack_full"], 0);
    assert_eq!(json["invalid"]["tcp_state"], 0);
    // Without packets there are no reasons to lose some.
    assert_eq!(json["lost"], serde_json::json!({}));
    let target = &json["logs"]["targets"][0];
    assert_eq!(target["name"], d.path("lines").to_str().unwrap());
    assert_eq!(target["written"], 0);
    assert_eq!(json["logs"]["captures"]["lost"], 0);
}

#[test]
fn connections_are_counted_and_helpers_named() {
    let mut d = Daemon::new();
    d.config = "[sysctl]\nnet.netfilter.nf_conntrack_max = 1234\n".to_owned();
    d.start();
    d.out("conntrack -I -p udp -s 10.0.0.1 -d 192.0.2.9 --sport 1 --dport 53 -t 60");
    assert!(d.out("status").contains("\nconnections 1 of 1234\n"));
    d.out("sysctl net.netfilter.nf_conntrack_max=0");
    assert!(d.out("status").contains("\nconnections 1 of unlimited\n"));
    d.out("modprobe nf_conntrack_ftp ports=2121");
    let json: Value = serde_json::from_str(&d.out("status --json")).unwrap();
    assert_eq!(json["connections"], 1);
    assert_eq!(json["connections_max"], 0);
    assert_eq!(json["helpers"][0], "ftp on 2121");
}
