//! `tidegate sysctl` and `[sysctl]`.

use std::io::Write;
use std::process::Stdio;

use crate::support::Daemon;
use crate::{err, out};

const UDP: &str = "net.netfilter.nf_conntrack_udp_timeout";
const LOOSE: &str = "net.netfilter.nf_conntrack_tcp_loose";

#[test]
fn settings_are_read_and_written() {
    let mut d = Daemon::new();
    d.start();
    assert_eq!(
        d.out(&format!("sysctl -w {UDP}=7 {LOOSE}=0")),
        format!("{UDP} = 7\n{LOOSE} = 0\n")
    );
    assert_eq!(d.out(&format!("sysctl -n {UDP}")), "7\n");
    assert_eq!(
        d.out("sysctl net/netfilter/nf_conntrack_tcp_loose"),
        format!("{LOOSE} = 0\n")
    );
    let all = d.out("sysctl -a");
    assert!(all.contains(&format!("\n{UDP} = 7\n")), "{all}");
    assert!(all.lines().count() > 30);
    for (line, status, text) in [
        (
            format!("sysctl {LOOSE}=2"),
            1,
            format!("sysctl: setting key \"{LOOSE}\": Invalid argument\n"),
        ),
        (
            "sysctl net.netfilter.nf_conntrack_nope".to_owned(),
            1,
            "sysctl: cannot stat /proc/sys/net/netfilter/nf_conntrack_nope: \
             No such file or directory\n"
                .to_owned(),
        ),
        (
            "sysctl -p /nonexistent".to_owned(),
            1,
            "sysctl: cannot open \"/nonexistent\": No such file or directory\n".to_owned(),
        ),
    ] {
        let run = d.ask(&line);
        assert_eq!(run.status.code(), Some(status), "{line}");
        assert_eq!(err(&run), text, "{line}");
    }
}

/// As procps 4.0.2 did it with the same file.
#[test]
fn files_are_read_where_the_command_is_typed() {
    let mut d = Daemon::new();
    d.start();
    let text = format!("# loose\n{LOOSE} = 0\nrubbish\n\n{UDP}=9\n");
    d.write("settings.conf", &text);
    let mut relative = d.command("sysctl -p settings.conf");
    let run = relative.current_dir(d.dir.path()).output().unwrap();
    assert_eq!(out(&run), format!("{LOOSE} = 0\n{UDP} = 9\n"));
    assert_eq!(
        err(&run),
        "sysctl: settings.conf(3): invalid syntax, continuing...\n"
    );
    let mut child = d
        .command("sysctl -p -")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = format!("{UDP} = 11\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(line.as_bytes())
        .unwrap();
    assert_eq!(out(&child.wait_with_output().unwrap()), line);
    assert_eq!(d.out(&format!("sysctl -n {UDP}")), "11\n");
}

/// A table that is full takes nothing more, and a new limit holds at once.
#[test]
fn what_is_set_holds() {
    let mut d = Daemon::new();
    d.start();
    let make = |port| {
        format!("conntrack -I -p udp -s 10.0.0.1 -d 192.0.2.9 --sport {port} --dport 53 -t 60")
    };
    d.out("sysctl net.netfilter.nf_conntrack_max=1");
    d.out(&make(1));
    let full = d.ask(&make(2));
    assert_eq!(full.status.code(), Some(1));
    assert!(
        err(&full).ends_with("Operation failed: not enough memory\n"),
        "{}",
        err(&full)
    );
    d.out("sysctl net.netfilter.nf_conntrack_max=2");
    d.out(&make(2));
    assert_eq!(d.out("sysctl -n net.netfilter.nf_conntrack_count"), "2\n");
}

#[test]
fn the_configuration_sets_them_at_the_start() {
    let mut d = Daemon::new();
    d.config =
        format!("[sysctl]\n\"{UDP}\" = 8\n{LOOSE} = 0\n\"net/netfilter/nf_conntrack_acct\" = 1\n");
    d.start();
    assert_eq!(
        d.out(&format!(
            "sysctl -n {UDP} {LOOSE} net.netfilter.nf_conntrack_acct"
        )),
        "8\n0\n1\n"
    );
}

#[test]
fn a_configuration_that_cannot_be_stops_the_start() {
    for (config, text) in [
        (
            "[sysctl]\nnet.netfilter.nf_conntrack_nope = 1\n",
            "[sysctl]: no setting of connection tracking is called \
             `net.netfilter.nf_conntrack_nope`",
        ),
        (
            "[sysctl]\nnet.ipv4.ip_forward = 1\n",
            "[sysctl]: no setting of connection tracking is called `net.ipv4.ip_forward`",
        ),
        // Without what all names begin with it is no name.
        (
            "[sysctl]\nmax = 1\n",
            "[sysctl]: no setting of connection tracking is called `max`",
        ),
        (
            "[sysctl]\nnet.netfilter.nf_conntrack_tcp_loose = 7\n",
            "[sysctl]: net.netfilter.nf_conntrack_tcp_loose = 7: it takes numbers from 0 to 1",
        ),
        (
            "[sysctl]\nnet.netfilter.nf_conntrack_udp_timeout = -1\n",
            "[sysctl]: net.netfilter.nf_conntrack_udp_timeout = -1: it takes numbers from 0 to \
             8589934",
        ),
        (
            "[sysctl]\nnet.netfilter.nf_conntrack_count = 1\n",
            "[sysctl]: net.netfilter.nf_conntrack_count can only be read",
        ),
        (
            "[sysctl]\nnet.netfilter.nf_conntrack_max = \"many\"\n",
            "invalid type: string \"many\", expected a whole number",
        ),
        (
            "[modules]\nload = [\"nf_conntrack_gopher\"]\n",
            "[modules]: `nf_conntrack_gopher`: modprobe: FATAL: Module nf_conntrack_gopher not \
             found.",
        ),
        (
            "[modules]\nload = [\"nf_conntrack_ftp ports=21,x\"]\n",
            "[modules]: `nf_conntrack_ftp ports=21,x`: modprobe: ERROR: could not insert \
             'nf_conntrack_ftp': Invalid argument",
        ),
        ("[log]\nsylog = \"\"\n", "unknown field `sylog`"),
        ("[log.file]\nsize = -1\n", "size = -1"),
    ] {
        let mut d = Daemon::new();
        d.config = config.to_owned();
        d.child = Some(d.spawn());
        let (status, said) = d.ended();
        assert_eq!(status, Some(1), "{config}{said}");
        assert!(said.contains(text), "{config}{said}");
        assert!(!d.path("sock").exists());
    }
}
