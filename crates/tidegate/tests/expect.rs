//! `tidegate test`: expectations in files.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

fn scenario(name: &str) -> PathBuf {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    scenarios.join(name)
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("test");
    command
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The router's rules with these expectations.
    fn router(&self, tests: &str) -> PathBuf {
        std::fs::copy(
            scenario("expectations/router.rules"),
            self.0.path().join("router.rules"),
        )
        .unwrap();
        let whole = std::fs::read_to_string(scenario("expectations/router.toml")).unwrap();
        let (head, _) = whole.split_once("[[test]]").unwrap();
        self.write("x.toml", &format!("{head}{tests}"))
    }
}

fn out(run: &Output) -> String {
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// The documented example: everything holds, every rule is matched.
#[test]
fn the_example_holds_and_covers_its_rules() {
    let run = program()
        .args(["--min-coverage", "100"])
        .arg(scenario("expectations/router.toml"))
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", out(&run));
    assert!(
        out(&run).contains("14 of 14 hold; 10 of 10 rules matched (100 %)"),
        "{}",
        out(&run)
    );
}

#[test]
fn what_does_not_hold_is_named_with_line_and_explanation() {
    let files = Files::new();
    let toml = files.router(
        "[[test]]\nname = \"a <hole>\"\nallow = \"tcp 198.51.100.9 > 203.0.113.5:22 in wan0\"\n",
    );
    let junit = files.0.path().join("junit.xml");
    let run = program()
        .arg("--coverage")
        .arg("--junit")
        .arg(&junit)
        .arg(&toml)
        .output()
        .unwrap();
    let said = out(&run);
    assert_eq!(run.status.code(), Some(5));
    let line = std::fs::read_to_string(&toml).unwrap().lines().count();
    assert!(
        said.contains(&format!("x.toml:{line}: a <hole>\n")),
        "{said}"
    );
    assert!(
        said.contains("  was DROPPED by filter INPUT policy: -P INPUT DROP, state NEW\n"),
        "{said}"
    );
    // The trace: what rule 3 wanted and saw.
    assert!(
        said.contains("-A INPUT -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j ACCEPT"),
        "{said}"
    );
    assert!(
        said.contains("source is 198.51.100.9, wanted 192.0.2.0/24"),
        "{said}"
    );
    assert!(said.contains("not matched: filter FORWARD 3"), "{said}");
    let xml = std::fs::read_to_string(junit).unwrap();
    assert!(xml.contains("tests=\"1\" failures=\"1\""), "{xml}");
    assert!(
        xml.contains("a &lt;hole&gt;: allow tcp 198.51.100.9 &gt; 203.0.113.5:22 in wan0"),
        "{xml}"
    );
}

/// Each kind of expectation can fail.
#[test]
fn every_expectation_is_looked_at() {
    let ssh = "\"tcp 192.0.2.7 > 203.0.113.5:22 in wan0\"";
    let web = "\"tcp 198.51.100.9 > 203.0.113.5:80 in wan0\"";
    let ident = "\"tcp 198.51.100.9 > 203.0.113.5:113 in wan0\"";
    for (test, wanted) in [
        (format!("deny = {ssh}"), "was ALLOWED by filter INPUT 3"),
        (format!("reject = {ssh}"), "was ALLOWED"),
        (format!("drop = {ident}"), "was REJECTED by filter INPUT 4"),
        (
            format!("reject = {ident}\nwith = \"icmp-port-unreachable\""),
            "with should be `icmp-port-unreachable`, was tcp-reset",
        ),
        (
            format!("allow = {ssh}\nstate = \"ESTABLISHED\""),
            "state should be `ESTABLISHED`, was NEW",
        ),
        (
            format!("allow = {web}\nto = \"10.0.0.2:80\""),
            "to should be `10.0.0.2:80`, was 10.0.0.2:8080",
        ),
        (
            format!("allow = {web}\nfrom = \"10.0.0.1\""),
            "from should be `10.0.0.1`, was 198.51.100.9:40000",
        ),
        (
            format!("allow = {web}\nout = \"local\""),
            "out should be `local`, was lan0",
        ),
        (
            format!("allow = {ssh}\nlog = \"ssh\""),
            "log should be `ssh`, was nothing",
        ),
        (
            format!("allow = {ssh}\nrule = \"INPUT 2\""),
            "rule should be `INPUT 2`, was filter INPUT 3",
        ),
        // A martian: not the rules' doing.
        (
            "deny = \"tcp 10.0.0.7 > 127.0.0.1:22 in lan0\"".to_owned(),
            "was DROPPED (",
        ),
    ] {
        let files = Files::new();
        let run = program()
            .arg(files.router(&format!("[[test]]\n{test}\n")))
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(5), "{test}: {}", out(&run));
        assert!(out(&run).contains(wanted), "{test}: {}", out(&run));
    }
}

#[test]
fn one_expectation_leaves_nothing_to_the_next() {
    let files = Files::new();
    // The first opens the connection that would let the second in.
    let toml = files.router(
        "[[test]]\nallow = \"udp 203.0.113.5:40000 > 198.51.100.53:53 out wan0\"\n\
         [[test]]\ndrop = \"udp 198.51.100.53:53 > 203.0.113.5:40000 in wan0\"\n",
    );
    let run = program().arg(toml).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", out(&run));
    // A limit of one an hour: the bucket is full for each.
    files.write(
        "l.rules",
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -m limit --limit 1/hour --limit-burst 1 -j ACCEPT\nCOMMIT\n",
    );
    let toml = files.write(
        "l.toml",
        "rules = \"l.rules\"\n[[test]]\nallow = [\"udp 1.1.1.1 > 10.0.0.1:1 in eth0\", \"udp 1.1.1.1 > 10.0.0.1:2 in eth0\"]\n",
    );
    let run = program().arg(toml).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", out(&run));
}

#[test]
fn mistakes_in_a_file_are_named_with_their_line() {
    for (test, wanted) in [
        ("[[test]]\nalow = \"x\"\n", "x.toml:20: unknown key `alow`"),
        ("[[test]]\nname = \"n\"\n", "expects nothing"),
        ("[[test]]\nallow = \"tcp 1.1.1.1 >\"\n", "x.toml:20:"),
        (
            "[[test]]\nallow = [\"udp 1.1.1.1 > 2.2.2.2:1\",\n\"tpc 1.1.1.1 > 2.2.2.2:1\"]\n",
            "x.toml:21: `tpc",
        ),
        ("[[test]]\nallow = 7\n", "x.toml:20: a text in quotes"),
        (
            "[[test]]\nallow = \"udp 1.1.1.1 > 2.2.2.2:1\"\nwith = \"tcp-reset\"\n",
            "`with` is said of `reject`",
        ),
        (
            "[[test]]\ncapture = \"nowhere.pcap\"\n",
            "nowhere.pcap: no such file",
        ),
        ("[[test]\n", "x.toml: TOML parse error at line 19"),
    ] {
        let files = Files::new();
        let run = program().arg(files.router(test)).output().unwrap();
        let err = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{test}: {err}");
        assert!(err.contains(wanted), "{test}: {err}");
    }
}

/// The ruleset of that capture lets all of it pass; without RELATED the data connection's
/// SYN, packet 13, is the first that it stops.
#[test]
fn captures_are_expectations_too() {
    let files = Files::new();
    let whole = std::fs::read_to_string(scenario("rules/b4.rules")).unwrap();
    let less: String = whole
        .lines()
        .filter(|l| !l.contains("RELATED"))
        .map(|l| format!("{l}\n"))
        .collect();
    files.write("whole.rules", &whole);
    files.write("less.rules", &less);
    let toml = |rules: &str| {
        let text = format!(
            "rules = \"{rules}\"\nhost = {:?}\n[[test]]\nname = \"ftp\"\ncapture = {:?}\n",
            scenario("hosts/server.toml").canonicalize().unwrap(),
            scenario("captures/ftp-pasv-once.pcap")
                .canonicalize()
                .unwrap()
        );
        files.write(&format!("{rules}.toml"), &text)
    };
    let run = program().arg(toml("whole.rules")).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", out(&run));
    let run = program().arg(toml("less.rules")).output().unwrap();
    assert_eq!(run.status.code(), Some(5));
    assert!(
        out(&run).contains("packet 13 was stopped: filter INPUT 0: -P INPUT DROP"),
        "{}",
        out(&run)
    );
}

/// A `tidegate test --watch` at work.
struct Watch {
    child: Child,
    log: PathBuf,
}

impl Watch {
    fn start(files: &Files, toml: &Path) -> Self {
        let log = files.0.path().join("log");
        let out = std::fs::File::create(&log).unwrap();
        let child = program()
            .arg("--watch")
            .arg(toml)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Watch { child, log }
    }

    /// Whether the program says this so many times and waits for changes afterwards.
    fn says(&self, wanted: &str, times: usize) -> bool {
        let ends = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap();
            let said = text.matches(wanted).count() == times && text.ends_with(" files\n");
            if said || Instant::now() > ends {
                // Longer than a file's time stamp is exact.
                std::thread::sleep(Duration::from_millis(50));
                return said;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn watch_runs_again_when_any_of_its_files_changes() {
    let files = Files::new();
    let capture = scenario("captures/ftp-pasv-once.pcap");
    let capture = std::fs::read(capture).unwrap();
    std::fs::write(files.0.path().join("x.pcap"), &capture).unwrap();
    let open = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
    files.write("x.rules", open);
    let host = "[[interface]]\nname = \"eth0\"\naddresses = [\"192.168.114.20/24\"]\n";
    files.write("x.host", host);
    let tests = "rules = \"x.rules\"\nhost = \"x.host\"\n\
        [[test]]\nallow = \"tcp 192.168.114.7 > 192.168.114.20:22 in eth0\"\n\
        [[test]]\ncapture = \"x.pcap\"\n";
    let toml = files.write("x.toml", tests);
    let watch = Watch::start(&files, &toml);
    assert!(watch.says("2 of 2 hold", 1));
    files.write("x.rules", "*filter\n:INPUT DROP [0:0]\nCOMMIT\n");
    assert!(watch.says("0 of 2 hold", 1), "the rules");
    files.write("x.rules", "*filtre\n");
    assert!(watch.says("tidegate: ", 1), "rules with a mistake");
    files.write("x.rules", open);
    assert!(watch.says("2 of 2 hold", 2), "rules mended");
    files.write("x.host", "[[interface]]\nnome = 1\n");
    assert!(watch.says("tidegate: ", 2), "a host with a mistake");
    files.write("x.host", host);
    assert!(watch.says("2 of 2 hold", 3), "a host mended");
    std::fs::remove_file(files.0.path().join("x.pcap")).unwrap();
    assert!(watch.says("x.pcap: no such file", 1), "a capture gone");
    std::fs::write(files.0.path().join("x.pcap"), &capture).unwrap();
    assert!(watch.says("2 of 2 hold", 4), "a capture back");
    // As editors do it: another file in the same place.
    let other = files.write("y.toml", &tests.replace("allow", "deny"));
    std::fs::rename(other, &toml).unwrap();
    assert!(watch.says("1 of 2 hold", 1), "the expectations");
}

/// What Jenkins, GitLab and GitHub's reporters read of JUnit's XML: well-formed, with counts
/// that agree, and every attribute that Ant's and Jenkins' schemas ask for.
#[test]
fn junit_is_what_build_servers_read() {
    let read = r#"
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
assert root.tag == "testsuites" and len(root) == 1
suite, = root
assert suite.tag == "testsuite" and {"name", "tests", "failures", "errors", "time"} <= set(suite.attrib), suite.attrib
cases = list(suite)
assert len(cases) == int(suite.get("tests")) == 2
failed = [f for c in cases for f in c]
assert len(failed) == int(suite.get("failures")) == 1 and suite.get("errors") == "0"
for case in cases:
    assert case.tag == "testcase" and {"name", "classname", "time"} <= set(case.attrib), case.attrib
    float(case.get("time"))
failure, = failed
assert failure.tag == "failure" and {"message", "type"} <= set(failure.attrib), failure.attrib
assert failure.get("message").startswith("was DROPPED"), failure.attrib
assert cases[0].get("name").startswith("a <hole> & \"more\": allow tcp"), cases[0].attrib
"#;
    if Command::new("python3").arg("-V").output().is_err() {
        eprintln!("SKIPPED: no python3 here");
        return;
    }
    let files = Files::new();
    let toml = files.router(
        "[[test]]\nname = \"a <hole> & \\\"more\\\"\"\n\
         allow = [\"tcp 198.51.100.9 > 203.0.113.5:22 in wan0\", \"tcp 192.0.2.7 > 203.0.113.5:22 in wan0\"]\n",
    );
    let xml = files.0.path().join("junit.xml");
    let run = program().arg("--junit").arg(&xml).arg(toml).output();
    assert_eq!(run.unwrap().status.code(), Some(5));
    let read = Command::new("python3").args(["-c", read]).arg(xml).output();
    let read = read.unwrap();
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
}
