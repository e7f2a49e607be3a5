//! The daemon without a datapath, as its clients see it: tools, orders, bad clients,
//! crash and restart. Needs no privileges.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/daemon.rs"]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, PROGRAM};

#[test]
fn tools_work_on_the_rules_in_force() {
    let mut d = Daemon::new();
    d.write(
        "rules.v4",
        "*filter\n:INPUT DROP [5:300]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n",
    );
    d.start();
    assert_eq!(d.rules(), ["-A INPUT -i lo -j ACCEPT"]);
    d.out("iptables -A INPUT -p tcp --dport 22 -j ACCEPT");
    d.out("ip6tables -P FORWARD DROP");
    // Without packets a rule may ask for what only a kernel could tell.
    d.out("ip6tables -A OUTPUT -m owner --uid-owner 0 -j ACCEPT");
    let listed = d.out("iptables -L INPUT -n --line-numbers");
    assert!(
        listed.starts_with("Chain INPUT (policy DROP)\n"),
        "{listed}"
    );
    assert!(listed.contains(
        "\n2    ACCEPT     tcp  --  0.0.0.0/0            0.0.0.0/0            tcp dpt:22\n"
    ));
    assert!(d.out("ip6tables-save").contains(":FORWARD DROP"));
    let refused = d.ask("iptables -D INPUT -j DROP");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "iptables: Bad rule (does a matching rule exist in that chain?).\n"
    );
    let status = d.out("status");
    assert!(status.contains("rules.v4, changed since\n"), "{status}");
    assert!(status.contains("enforcing   nothing\n"), "{status}");
    let json: serde_json::Value = serde_json::from_str(&d.out("status --json")).unwrap();
    assert_eq!(json["rules"][0]["rules"], 2);
    assert_eq!(json["kind"], "none");
    d.out("down");
    let (code, said) = d.ended();
    assert_eq!(code, Some(0), "{said}");
    let gone = d.ask("iptables -L");
    assert_eq!(gone.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no tidegate daemon is running"));
}

/// The process stays and is another daemon, which has the rules and what they have counted.
#[test]
fn an_upgrade_keeps_the_process_and_the_rules() {
    let mut d = Daemon::new();
    d.start();
    d.out("iptables -A INPUT -s 10.0.0.1 -c 7 700 -j ACCEPT");
    let status = |d: &Daemon| -> serde_json::Value {
        serde_json::from_str(&d.out("status --json")).unwrap()
    };
    let before = status(&d);
    d.out("upgrade");
    let after = status(&d);
    assert_eq!(before["pid"], after["pid"]);
    assert_ne!(before["since"], after["since"]);
    let rules = d.out("iptables -S INPUT -v");
    assert!(
        rules.contains("-A INPUT -s 10.0.0.1/32 -c 7 700 -j ACCEPT"),
        "{rules}"
    );
    d.out("down");
    let (code, said) = d.ended();
    assert_eq!(code, Some(0), "{said}");
}

/// iptables' words where the kernel lacks `nf_conntrack`: of the table nat, as for any
/// table that does not exist; of a rule, as for an extension that the kernel lacks.
#[test]
fn without_connection_tracking_what_needs_it_is_refused() {
    let mut d = Daemon::new();
    d.config = "track = \"never\"\n".to_owned();
    d.start();
    d.write("nat", "*nat\nCOMMIT\n");
    d.write(
        "state",
        "*filter\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m state --state NEW -j ACCEPT\nCOMMIT\n",
    );
    d.write(
        "ports",
        "*filter\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n",
    );
    let no_nat = "(legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)\n\
                  Perhaps iptables or your kernel needs to be upgraded.\n";
    let unknown = "iptables: No chain/target/match by that name.\n";
    let no_nat6 = no_nat.replace("iptables", "ip6tables");
    for (line, status, said) in [
        ("iptables -t nat -L", 3, no_nat),
        ("ip6tables -t nat -P OUTPUT ACCEPT", 3, no_nat6.as_str()),
        ("iptables -A INPUT -m state --state NEW", 1, unknown),
        ("iptables -A INPUT -m conntrack --ctproto tcp", 1, unknown),
        ("iptables -A INPUT -m connmark --mark 1", 1, unknown),
        ("iptables -t raw -A OUTPUT -j CT --notrack", 1, unknown),
        (
            "iptables-save -t nat",
            1,
            "Cannot initialize: Table does not exist (do you need to insmod?)\n",
        ),
        (
            "iptables-restore @nat",
            2,
            "iptables-restore: unable to initialize table 'nat'\nError occurred at line: 1\n",
        ),
        (
            "iptables-restore @state",
            1,
            "iptables-restore: line 4 failed\n",
        ),
    ] {
        let dir = format!("{}/", d.dir.path().display());
        let run = d.ask(&line.replace('@', &dir));
        let err = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(status), "{line}: {err}");
        assert!(err.contains(said), "{line}: {err}");
    }
    assert!(d.rules().is_empty());
    d.out(&format!("iptables-restore {}", d.path("ports").display()));
    assert_eq!(d.rules(), ["-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT"]);
}

#[test]
fn a_restore_comes_from_standard_input_or_a_file_and_is_all_or_nothing() {
    let mut d = Daemon::new();
    d.start();
    d.write("good", "*filter\n-A INPUT -s 10.0.0.1 -j DROP\nCOMMIT\n*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n");
    d.write("bad", "*filter\n-A INPUT -s 10.0.0.9 -j DROP\nCOMMIT\n*nat\n-A POSTROUTING -j MASQERADE\nCOMMIT\n");
    let good = d.path("good");
    d.out(&format!("iptables-restore {}", good.display()));
    let before = d.rules();
    assert_eq!(before.len(), 2);
    let refused = d.ask(&format!("iptables-restore {}", d.path("bad").display()));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line: 5"));
    assert_eq!(d.rules(), before);
    let mut child = d
        .command("iptables-restore -n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = b"*filter\n-A INPUT -s 10.0.0.2 -j DROP\nCOMMIT\n";
    child.stdin.take().unwrap().write_all(text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(d.rules().len(), 3);
}

#[test]
fn rules_in_force_outlive_a_crash_and_files_a_stop() {
    let mut d = Daemon::new();
    d.write("rules.v4", "*filter\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n");
    d.start();
    d.out("iptables -A INPUT -s 192.0.2.7 -j DROP");
    let recorded = |d: &Daemon| {
        std::fs::read_to_string(d.path("running.v4")).is_ok_and(|t| t.contains("192.0.2.7"))
    };
    let ends = Instant::now() + Duration::from_secs(10);
    while !recorded(&d) {
        assert!(Instant::now() < ends, "the rules in force are not recorded");
        std::thread::sleep(Duration::from_millis(10));
    }
    d.kill();
    d.start();
    assert_eq!(d.rules().len(), 2);
    d.out("save");
    d.out("iptables -F");
    d.out("down");
    assert_eq!(d.ended().0, Some(0));
    d.start();
    assert_eq!(d.rules().len(), 2, "what was saved, not what was in force");
    d.write("rules.v4", "*filter\n-A INPUT -j DROP\nCOMMIT\n");
    d.out("reload");
    assert_eq!(d.rules(), ["-A INPUT -j DROP"]);
    d.write("rules.v4", "*filter\n-A INPUT -j DORP\nCOMMIT\n");
    let refused = d.ask("reload");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("rules.v4: line 2"), "{said}");
    assert_eq!(d.rules(), ["-A INPUT -j DROP"]);
}

#[test]
fn connections_outlive_a_stop_and_a_crash() {
    let mut d = Daemon::new();
    d.start();
    let make = |port: u16| {
        format!(
            "conntrack -I -p tcp -s 10.0.0.2 -d 10.0.1.2 --sport {port} --dport 22 \
             --state ESTABLISHED -t 4000 -u ASSURED,SEEN_REPLY -m 7"
        )
    };
    let listed = |d: &Daemon| {
        let mut ports: Vec<String> = d
            .out("conntrack -L")
            .lines()
            .filter(|l| l.contains("ESTABLISHED") && l.contains("[ASSURED] mark=7"))
            .filter_map(|l| Some(l.split_once("sport=")?.1.split_once(' ')?.0.to_owned()))
            .collect();
        ports.sort();
        ports
    };
    d.out(&make(4001));
    d.out("down");
    assert_eq!(d.ended().0, Some(0));
    d.start();
    assert_eq!(listed(&d), ["4001"]);
    d.out(&make(4002));
    // The record of both is longer than that of one.
    let size = |d: &Daemon| std::fs::metadata(d.path("connections")).map_or(0, |m| m.len());
    let one = size(&d);
    let ends = Instant::now() + Duration::from_secs(20);
    while size(&d) <= one {
        assert!(Instant::now() < ends, "the connections are not recorded");
        std::thread::sleep(Duration::from_millis(50));
    }
    d.kill();
    d.start();
    assert_eq!(listed(&d), ["4001", "4002"]);
    // A damaged record is no reason not to start.
    d.kill();
    d.write("connections", "TGCONNS\nnonsense");
    d.start();
    assert!(listed(&d).is_empty());
    assert!(d.path("connections.damaged").exists());
}

#[test]
fn a_start_that_cannot_be_names_file_and_line() {
    let mut d = Daemon::new();
    d.write(
        "rules.v4",
        "*filter\n-A INPUT -p tcp --dport 99999 -j ACCEPT\nCOMMIT\n",
    );
    d.child = Some(d.spawn());
    let (code, said) = d.ended();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("rules.v4: line 2: iptables-restore"),
        "{said}"
    );
    assert!(!d.path("sock").exists());
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let mut d = Daemon::new();
    d.start();
    let second = d.spawn().wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("running already"), "{said}");
    d.out("iptables -A INPUT -j DROP");
}

#[test]
fn garbage_half_messages_and_oversized_requests_hurt_nobody_else() {
    let mut d = Daemon::new();
    d.start();
    let connect = || {
        let stream = UnixStream::connect(d.path("sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    };
    let mut stalled = Vec::new();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[b'Q', 0xff, 0xff, 0xff, 0xff],
        b"Q\0\0\0\x04{\"x}",
        b"Q\0\0\0\x02[]",
        b"Q\0\0\0\x13{\"name\":\"iptables\"}trailing",
        b"X\0\0\0\x01\0",
    ] {
        let mut stream = connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.is_empty(), "no answer to {bytes:?}");
    }
    for _ in 0..40 {
        let mut stream = connect();
        stream.write_all(b"Q\0\0\x01\0{\"na").unwrap();
        stalled.push(stream);
    }
    let before = Instant::now();
    d.out("iptables -A INPUT -j DROP");
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(d.rules(), ["-A INPUT -j DROP"]);
}

#[test]
fn a_hundred_callers_at_once_lose_nothing() {
    let mut d = Daemon::new();
    d.start();
    let callers: Vec<Child> = (0..100)
        .map(|n| {
            d.command(&format!("iptables -A INPUT -s 10.1.0.{n} -j DROP"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut caller in callers {
        assert!(caller.wait().unwrap().success());
    }
    assert_eq!(d.rules().len(), 100);
}

#[test]
fn callers_without_rights_get_eperm_and_are_logged() {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root {
        eprintln!("SKIPPED: needs root to call as somebody else");
        return;
    }
    let mut d = Daemon::new();
    d.start();
    Command::new("chmod")
        .arg("755")
        .arg(d.dir.path())
        .status()
        .unwrap();
    // The program may lie where nobody but root can look.
    let program = d.path("program");
    std::fs::copy(PROGRAM, &program).unwrap();
    let call = |line: &str| {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(line.split_whitespace())
            .env("TIDEGATE_SOCKET", d.path("sock"))
            .output()
            .unwrap()
    };
    let refused = call("iptables -F");
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains(
            "can't initialize iptables table `filter': Permission denied (you must be root)"
        ),
        "{said}"
    );
    assert_eq!(call("down").status.code(), Some(1));
    d.out("down");
    let (_, said) = d.ended();
    assert!(said.contains("refused uid 65534"), "{said}");
}
