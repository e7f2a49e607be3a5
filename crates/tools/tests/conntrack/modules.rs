//! Helpers as modules.

use tidegate_conntrack::HelperKind;
use tidegate_tools::Printed;
use tidegate_tools::modules::{lsmod, modinfo, modprobe};

use crate::local::{Local, words};

fn unused(_: &str) -> usize {
    0
}

fn probe(local: &Local, line: &str) -> Printed {
    let words = words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    modprobe(local, &words, &unused)
}

fn ports(local: &Local) -> Vec<u16> {
    local.change(|ct, _| ct.config().helpers.iter().map(|h| h.port).collect())
}

/// Texts are kmod's.
#[test]
fn what_modprobe_says() {
    for (line, err, status) in [
        ("foo", "modprobe: FATAL: Module foo not found.\n", 1),
        ("-r foo", "modprobe: FATAL: Module foo not found.\n", 1),
        ("-q foo", "", 1),
        ("", "modprobe: ERROR: missing parameters. See -h.\n", 1),
        ("--x", "modprobe: unrecognized option '--x'\n", 1),
        ("-x", "modprobe: invalid option -- 'x'\n", 1),
        (
            "-r nf_conntrack",
            "modprobe: FATAL: Module nf_conntrack is builtin.\n",
            1,
        ),
        (
            "nf_conntrack_ftp ports=21,x",
            "modprobe: ERROR: could not insert 'nf_conntrack_ftp': Invalid argument\n",
            1,
        ),
        (
            "nf_conntrack_ftp ports=1,2,3,4,5,6,7,8,9",
            "modprobe: ERROR: could not insert 'nf_conntrack_ftp': Invalid argument\n",
            1,
        ),
        ("nf_conntrack_ftp nosuch=1", "", 0),
        ("iptable_nat", "", 0),
        ("xt_state", "", 0),
        ("-r nf_conntrack_ftp", "", 0),
    ] {
        let printed = probe(&Local::small(), line);
        assert_eq!(
            (printed.err.as_str(), printed.status),
            (err, status),
            "{line}"
        );
    }
    let verbose = probe(&Local::small(), "-v ip_conntrack_ftp ports=21,2121 loose=1");
    assert_eq!(
        verbose.out,
        "insmod nf_conntrack_ftp ports=21,2121 loose=1\n"
    );
}

#[test]
fn loading_turns_automatic_assignment_on() {
    let local = Local::small();
    assert!(ports(&local).is_empty());
    probe(&local, "nf_conntrack_ftp ports=21,2121 loose=1");
    assert_eq!(ports(&local), [21, 2121]);
    assert!(local.change(|ct, _| ct.config().helper.ftp_loose));
    // Loaded is loaded: other parameters change nothing.
    probe(&local, "nf-conntrack-ftp ports=99");
    assert_eq!(ports(&local), [21, 2121]);
    local.lines(
        "-I -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport 41000 --dport 2121 --state ESTABLISHED -t 300",
    );
    assert!(local.lines("-L")[0].contains(" helper=ftp "));
    assert_eq!(
        local.change(|ct, _| lsmod(ct, &unused)).out,
        "Module                  Size  Used by\n\
         nf_conntrack_ftp           0  0\n\
         nf_conntrack               0  1 nf_conntrack_ftp\n"
    );
}

#[test]
fn unloading_takes_expectations_and_assignments_away() {
    let local = Local::small();
    probe(&local, "nf_conntrack_ftp");
    local.lines(
        "-I -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport 41000 --dport 21 --state ESTABLISHED -t 300",
    );
    local.lines(
        "-I expect -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport 41000 --dport 21 -t 300 \
         --tuple-src 10.2.0.2 --tuple-dst 10.1.0.2 --mask-src 255.255.255.255 \
         --mask-dst 255.255.255.255 --tuple-port-src 0 --tuple-port-dst 2580 \
         --mask-port-src 0 --mask-port-dst 65535",
    );
    assert_eq!(local.run("-C expect", "").out, "1\n");
    let busy = modprobe(&local, &["-r", "nf_conntrack_ftp"], &|_| 1);
    assert_eq!(
        busy.err,
        "modprobe: FATAL: Module nf_conntrack_ftp is in use.\n"
    );
    assert_eq!(local.run("-C expect", "").out, "1\n");
    probe(&local, "-r nf_conntrack_ftp");
    assert_eq!(local.run("-C expect", "").out, "0\n");
    assert!(!local.lines("-L")[0].contains("helper="));
    assert!(ports(&local).is_empty());
    let helped = local.change(|ct, _| {
        ct.iter()
            .filter(|(_, e)| e.helper == Some(HelperKind::Ftp))
            .count()
    });
    assert_eq!(helped, 0);
    assert_eq!(
        local.change(|ct, _| lsmod(ct, &unused)).out,
        "Module                  Size  Used by\nnf_conntrack               0  0\n"
    );
}

#[test]
fn modules_are_described() {
    let shown = modinfo(&["nf_conntrack_ftp"]).out;
    for start in [
        "name:           nf_conntrack_ftp\n",
        "parm:           ports:",
        "parm:           loose:",
    ] {
        assert!(shown.contains(start), "{start}\n{shown}");
    }
    assert_eq!(
        modinfo(&["-F", "name", "ip_conntrack_ftp"]).out,
        "nf_conntrack_ftp\n"
    );
    assert_eq!(
        modinfo(&["foo"]).err,
        "modinfo: ERROR: Module foo not found.\n"
    );
    assert_eq!(
        modinfo(&[]).err,
        "modinfo: ERROR: missing module or filename.\n"
    );
}
