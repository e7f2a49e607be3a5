//! Sequences whose outcome is known from the real tool: status 0 (`true`) or not. The
//! table lives on from line to line.

use crate::local::Local;

const TCP: &str = "-p tcp --sport 10 --dport 20";
const REST: &str = "--state LISTEN -u SEEN_REPLY -t 50";
const IGMP: &str = "-s 0.0.0.0 -d 224.0.0.22 -r 224.0.0.22 -q 0.0.0.0";
const PING: &str = "-s 1.1.1.1 -d 2.2.2.2 -r 2.2.2.2 -q 1.1.1.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 1226";

fn check(steps: &[(String, bool)]) {
    let local = Local::small();
    for (line, good) in steps {
        let printed = local.run(line, "");
        assert_eq!(printed.status == 0, *good, "{line}: {}", printed.err);
    }
}

#[test]
fn making_and_removing() {
    let make = |rest: &str| format!("-I {rest} {REST}");
    let steps = [
        (make(&format!("-s 1.1.1.1 {TCP}")), false),
        (make(&format!("-d 2.2.2.2 {TCP}")), false),
        (make("-s 1.1.1.1 -d 2.2.2.2 --sport 10 --dport 20"), false),
        (make("-s 1.1.1.1 -d 2.2.2.2 -p tcp --dport 20"), false),
        (make("-s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 20"), false),
        (
            format!("-I -s 1.1.1.1 -d 2.2.2.2 {TCP} --state LISTEN -u SEEN_REPLY"),
            false,
        ),
        (make(&format!("-s 1.1.1.1 -d 2.2.2.2 {TCP}")), true),
        (make(&format!("-s 1.1.1.1 -d 2.2.2.2 {TCP}")), false),
        (format!("-D -s 1.1.1.1 -d 2.2.2.2 {TCP}"), true),
        (format!("-D -s 1.1.1.1 -d 2.2.2.2 {TCP}"), false),
    ];
    check(&steps);
    let back = "-r 2.2.2.2 -q 1.1.1.1 -p tcp --reply-port-src 11 --reply-port-dst 21";
    check(&[
        (make(back), true),
        (format!("-D {back}"), true),
        (format!("-D {back}"), false),
    ]);
    let six = "-s 2001:DB8::1.1.1.1 -d 2001:DB8::2.2.2.2";
    check(&[
        (make(&format!("{six} {TCP}")), true),
        (format!("-D {six} {TCP}"), true),
        (
            make(&format!("-s 2001:DB8::1.1.1.1 -d 2.2.2.2 {TCP}")),
            false,
        ),
    ]);
    check(&[
        (format!("-I -t 29 -u SEEN_REPLY {PING}"), true),
        (format!("-D -u SEEN_REPLY {PING}"), true),
    ]);
}

#[test]
fn protocols_by_name_and_number() {
    let step = |command: &str, proto: &str, good| (format!("{command} {IGMP} -p {proto}"), good);
    check(&[
        step("-I -t 10", "2", true),
        step("-I -t 10", "2", false),
        step("-I -t 10", "igmp", false),
        step("-D", "2", true),
        step("-D", "2", false),
        step("-I -t 10", "igmp", true),
        step("-U -t 11", "2", true),
        step("-D", "2", true),
        step("-D", "igmp", false),
        step("-I -t 10", "200", true),
        step("-U -t 11", "200", true),
        step("-D", "200", true),
        step("-D", "200", false),
        step("-I -t 10", "256", false),
        step("-I -t 10", "foo", false),
        step("-I -t 10", "-10", false),
        step("-I -t 10", "2000", false),
        step("-I -t 10", "20foo", false),
        step("-I -t 10", "foo20", false),
    ]);
}

#[test]
fn removing_by_what_fits() {
    let make = format!("-I -s 1.1.1.1 -d 2.2.2.2 {TCP} {REST}");
    let masks = "-D -s 1.1.1.0 --mask-src 255.255.255.0 -d 2.2.2.0 --mask-dst 255.255.255.0";
    let nets = "-D -s 1.1.1.0/24 -d 2.2.2.0/24";
    let step = |line: &str, good| (line.to_owned(), good);
    check(&[
        step(&make, true),
        step(&format!("-D -s 2.2.2.2 {TCP}"), false),
        step(&format!("-D -d 1.1.1.1 {TCP}"), false),
        step(
            "-I -s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 20 --dport 20",
            false,
        ),
        step(
            "-I -s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 10 --dport 10",
            false,
        ),
        step("-D -s 1.1.1.1", true),
        step(&format!("{make} -m 20"), true),
        step("-D -m 10", false),
        step("-D -m 20", true),
        step("-D -m 20", false),
        step(&make, true),
        step(masks, true),
        step(masks, false),
        step(&make, true),
        step(nets, true),
        step(nets, false),
        step("-D -s ::1 -d 2.2.2.2", false),
        step(
            "-I -s ::1 -d ::2 -p tcp --sport 20 --dport 10 --state LISTEN -u SEEN_REPLY -t 40",
            true,
        ),
        step("-D -s ::1", true),
    ]);
}

#[test]
fn filters() {
    let step = |line: &str, good| (line.to_owned(), good);
    check(&[
        (format!("-I -s 1.1.1.1 -d 2.2.2.2 {TCP} {REST}"), true),
        step("-L -s 1.1.1.1", true),
        step("-L -d 2.2.2.2", true),
        step("-L -p tcp", true),
        step("-L -u SEEN_REPLY", true),
        step("-L -p tcp --state LISTEN", true),
        step("-U -s 1.1.1.1 -m 1", true),
        step("-L -m 1", true),
        step("-L -f ipv4", true),
        step("-L --mark 0", true),
        step("-L --mark 0/0xffffffff", true),
        step(
            "-L -s 1.1.1.0 --mask-src 255.255.255.0 -d 2.0.0.0 --mask-dst 255.0.0.0",
            true,
        ),
        step("-L -s 1.1.1.4/24 -d 2.3.4.5/8", true),
        step("-L -s 1.1.2.0/24 -d 2.3.4.5/8", true),
        step("-L -s 2.2.2.2 -d ::1", false),
        step("-L -s ::1", true),
        step("-L -s abcd:abcd:abcd:: --mask-src ffff:ffff:ffff::", true),
        step("-L --mask-src ffff:ffff:ffff:: --mask-dst 255.0.0.0", false),
        step("-D -d 2.2.2.2", true),
    ]);
}
