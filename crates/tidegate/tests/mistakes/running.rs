//! Mistakes around a running firewall: what `tidegate apply` and `status` say.

use std::process::Output;

use serde_json::Value;

use crate::namespace::Script;
use crate::support::{Daemon, PROGRAM};

/// A daemon, and a shell whose tools are its.
struct Host(Daemon);

impl Host {
    fn new(rules: &str) -> Self {
        let mut daemon = Daemon::new();
        daemon.write("rules.v4", rules);
        daemon.start();
        let bin = daemon.path("bin");
        std::fs::create_dir(&bin).unwrap();
        daemon.out(&format!("link {}", bin.display()));
        std::os::unix::fs::symlink(PROGRAM, bin.join("tidegate")).unwrap();
        Host(daemon)
    }

    fn shell(&self, line: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        std::process::Command::new("sh")
            .args(["-ec", line])
            .env("PATH", format!("{}:{path}", self.0.path("bin").display()))
            .env("TIDEGATE_SOCKET", self.0.path("sock"))
            .env_remove("TIDEGATE_STATE")
            .env_remove("SSH_CONNECTION")
            .current_dir(self.0.dir.path())
            .output()
            .unwrap()
    }

    fn out(&self, line: &str) -> String {
        let run = self.shell(line);
        let err = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{line}: {err}");
        String::from_utf8(run.stdout).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.out("tidegate status --json")).unwrap()
    }
}

const OPEN: &str = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";

/// The 47-minute outage: `-P INPUT DROP`. The remedy goes into the new rules.
#[test]
fn a_policy_that_locks_the_administrator_out() {
    let host = Host::new(OPEN);
    let closed = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n";
    host.0.write("new", closed);
    let apply = "SSH_CONNECTION='127.0.0.9 40000 127.0.0.1 22' tidegate apply --dry-run --json new";
    let run = host.shell(apply);
    assert_eq!(run.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&run.stdout).unwrap();
    let finding = &json["findings"][0];
    assert_eq!(finding["code"], "TG001");
    let text = finding["text"].as_str().unwrap();
    assert!(text.contains("your session 127.0.0.9:40000") && text.contains("by the INPUT policy"));
    let remedies = json["findings"].as_array().unwrap().iter();
    let remedies = remedies.filter_map(|f| f["remedy"].as_str());
    // Add "RULE" at the end of CHAIN, and "RULE" ...
    let mut rules: Vec<&str> = remedies
        .flat_map(|r| r.split('"').skip(1).step_by(2))
        .collect();
    rules.dedup();
    let mended = closed.replace("COMMIT", &format!("{}\nCOMMIT", rules.join("\n")));
    host.0.write("new", &mended);
    let run = host.shell(apply);
    let json: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(
        (run.status.code(), &json["findings"]),
        (Some(0), &Value::Array(Vec::new()))
    );
}

#[test]
fn a_table_of_connections_that_fills() {
    let host = Host::new(OPEN);
    host.out("tidegate sysctl -w net.netfilter.nf_conntrack_max=10");
    assert_eq!(host.status()["forecast"]["code"], Value::Null);
    for n in 1..=9 {
        let src = if n < 8 {
            format!("198.51.100.{n}")
        } else {
            format!("192.0.2.{n}")
        };
        host.out(&format!(
            "conntrack -I -p tcp -s {src} -d 10.0.0.5 --sport 4000 --dport 80 --state SYN_SENT -t 100"
        ));
    }
    let found = host.status()["forecast"].clone();
    assert_eq!(
        (&found["code"], &found["fill"]),
        (&"TG030".into(), &90.0.into())
    );
    let first = &found["top"][0];
    assert_eq!(
        (&first["network"], &first["share"], &first["state"]),
        (&"198.51.100.0/24".into(), &77.8.into(), &"SYN_SENT".into())
    );
    let text = host.out("tidegate status");
    for part in [
        "TG030       the table of connections: 90 % full",
        "77.8 % are SYN_SENT from 198.51.100.0/24, none of them assured",
    ] {
        assert!(text.contains(part), "{text}");
    }
    host.out(found["remedy"].as_str().unwrap());
    assert_eq!(host.status()["forecast"]["code"], Value::Null);
    assert!(
        host.out("iptables -t raw -S")
            .contains("-s 198.51.100.0/24 -j DROP")
    );
}

/// chef-bcpc#994: a larger maximum alone leaves long chains.
#[test]
fn a_larger_maximum_without_more_buckets() {
    let host = Host::new(OPEN);
    host.out("tidegate sysctl -w net.netfilter.nf_conntrack_buckets=65536");
    host.out("tidegate sysctl -w net.netfilter.nf_conntrack_max=1048576");
    let found = host.status()["chains"].clone();
    assert_eq!(
        (&found["code"], &found["length"], &found["buckets"]),
        (&"TG031".into(), &16.into(), &65536.into())
    );
    let text = host.out("tidegate status");
    assert!(
        text.contains("TG031       nf_conntrack_max is 16 times the buckets"),
        "{text}"
    );
    host.out(found["remedy"].as_str().unwrap());
    assert_eq!(host.status()["chains"], Value::Null);
}

/// kubernetes#125467: flows stay on the backend that has moved.
#[test]
fn connections_that_follow_a_translation_of_yesterday() {
    let rules = |to: &str| {
        format!(
            "*nat\n-A PREROUTING -d 203.0.113.1 -p udp -m udp --dport 53 -j DNAT --to-destination {to}\nCOMMIT\n*filter\nCOMMIT\n"
        )
    };
    let host = Host::new(&rules("10.0.3.7"));
    for port in [4000, 4001, 4002] {
        host.out(&format!(
            "conntrack -I -p udp -s 192.0.2.7 -d 203.0.113.1 --sport {port} --dport 53 --dst-nat 10.0.3.7 -t 300"
        ));
    }
    // The same rules in other words leave nothing behind.
    host.0.write("new", &rules("10.0.3.7:53"));
    let apply = "tidegate apply --dry-run new 2>&1 >/dev/null";
    assert!(!host.out(apply).contains("TG060"), "{}", host.out(apply));
    host.0.write("new", &rules("10.0.3.8"));
    let err = host.out(apply);
    let wanted = "TG060 3 udp connections to 203.0.113.1:53 stay translated to 10.0.3.7:53";
    assert!(err.contains(wanted), "{err}");
    let remedy = err.lines().find_map(|l| l.strip_prefix("Do: ")).unwrap();
    host.out(remedy);
    assert!(!host.out(apply).contains("TG060"));
    assert_eq!(host.status()["connections"], 0);
}

#[test]
fn rules_that_would_be_lost_at_a_reboot() {
    let host = Host::new(OPEN);
    assert_eq!(host.status()["drift"], Value::Array(Vec::new()));
    host.out("iptables -N DOCKER && iptables -A DOCKER -j RETURN && iptables -A INPUT -p tcp --dport 22 -j ACCEPT");
    let text = host.out("tidegate status");
    let wanted = "TG100       running is not";
    assert!(
        text.contains(wanted) && text.contains("+3 -0 lines (1 in chains of Docker"),
        "{text}"
    );
    host.out("tidegate save");
    assert_eq!(host.status()["drift"], Value::Array(Vec::new()));
    host.out("iptables -F INPUT");
    let drift = &host.status()["drift"][0];
    assert_eq!(
        (&drift["code"], &drift["only_saved"]),
        (&"TG100".into(), &2.into())
    );
    host.out("tidegate reload");
    assert_eq!(host.status()["drift"], Value::Array(Vec::new()));
}

/// What TG123 and TG051 advise is understood.
#[test]
fn remedies_for_lists_and_windows_are_orders() {
    let host = Host::new(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -m recent --update --seconds 30 --hitcount 2 --name ssh --rsource -j DROP\nCOMMIT\n",
    );
    host.out("tidegate recent ssh +198.51.100.4");
    assert!(host.out("tidegate recent ssh").contains("198.51.100.4"));
    host.out("tidegate recent ssh -198.51.100.4");
    assert!(!host.out("tidegate recent ssh").contains("198.51.100.4"));
    host.out("tidegate sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1");
}

/// A host by itself.
const fn alone(needs: &str) -> Script<'_> {
    Script {
        files: &[],
        needs,
        far: false,
        prelude: "",
    }
}

/// cilium#28260: two packet filters at once.
#[test]
fn packet_filters_of_the_kernel_beside_this_one() {
    alone("ip link set lo up && nft add table inet x").succeeds(
        r#"
        ip link set lo up
        printf '[datapath]\nkind = "none"\n[rules]\nv4 = "%s/a"\nv6 = "%s/b"\n' $DIR $DIR > $DIR/conf
        $TIDEGATE up --config $DIR/conf --socket $DIR/sock 2>$DIR/log & daemon=$!
        trap 'kill $daemon' EXIT
        for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
        ! $TIDEGATE status | grep TG110 || exit 2
        nft add table inet docker
        nft 'add chain inet docker c { type filter hook input priority 0; }'
        nft add rule inet docker c tcp dport 1 drop
        nft add rule inet docker c tcp dport 2 drop
        $TIDEGATE status > $DIR/out
        grep -q 'TG110       the kernel also has nft table inet docker (2 rules)' $DIR/out || { cat $DIR/out; exit 3; }
        grep 'Do: nft' $DIR/out | sed 's/.*Do: //' | sh -e
        ! $TIDEGATE status | grep TG110 || exit 4
        "#,
    );
}

/// A connection from before a firewall that adopts none, over which nothing is said now.
#[test]
fn connections_from_before_the_firewall() {
    alone("ip link set lo up && python3 -c ''").succeeds(
        r#"
        ip link set lo up
        python3 -c '
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 2200)); s.listen()
c = socket.create_connection(("127.0.0.1", 2200), source_address=("127.0.0.9", 40000))
a, _ = s.accept()
print("ready", flush=True)
time.sleep(50)
' > $DIR/python & python=$!
        for i in $(seq 200); do grep -q ready $DIR/python && break; sleep 0.05; done
        printf '*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n' > $DIR/open
        printf '*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n' > $DIR/new
        printf '[state]\nadopt = "none"\n' > $DIR/config
        $TIDEGATE up --config $DIR/config --socket $DIR/sock --rules $DIR/open 2>$DIR/log & daemon=$!
        trap 'kill $daemon $python' EXIT
        for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
        $TIDEGATE apply --dry-run $DIR/new >$DIR/out 2>$DIR/err || { cat $DIR/err; exit 2; }
        grep -q 'TG002 1 TCP connections of this host are unknown.*1 would be cut, as 127.0.0.9:40000 → 127.0.0.1:2200: DROPPED by the INPUT policy' $DIR/err || { cat $DIR/err; exit 3; }
        grep '^Do: ' $DIR/err | sed "s,Do: conntrack,$TIDEGATE conntrack," | sh -e >/dev/null
        $TIDEGATE apply --dry-run $DIR/new 2>$DIR/err >/dev/null || exit 4
        ! grep TG002 $DIR/err || exit 5
        "#,
    );
}
