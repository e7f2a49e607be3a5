//! A desk with rules, where what a command advises can be done.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// Rules of both families in files, and the tools that work on them.
pub(crate) struct Desk {
    dir: TempDir,
    v6: bool,
    zone: &'static str,
}

/// A finding of `check` or `explain`.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) code: String,
    pub(crate) text: String,
    /// Chain and number, or nothing.
    pub(crate) place: String,
    /// Everything that is said.
    pub(crate) all: String,
    /// Commands to be given one after the other.
    pub(crate) remedy: String,
}

impl Desk {
    /// With IPv4 rules.
    pub(crate) fn new(v4: &str) -> Self {
        let desk = Desk {
            dir: tempfile::tempdir().unwrap(),
            v6: false,
            zone: "UTC",
        };
        let bin = desk.path("bin");
        std::fs::create_dir(&bin).unwrap();
        let link = Command::new(PROGRAM).arg("link").arg(&bin).status();
        assert!(link.unwrap().success());
        std::os::unix::fs::symlink(PROGRAM, bin.join("tidegate")).unwrap();
        desk.write("v4", v4);
        desk.write("v6", "");
        desk
    }

    /// With IPv6 rules beside them.
    pub(crate) fn and6(mut self, v6: &str) -> Self {
        self.write("v6", v6);
        self.v6 = true;
        self
    }

    /// Where another time is told.
    pub(crate) fn living_in(mut self, zone: &'static str) -> Self {
        self.zone = zone;
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs a shell's command line with the tools first on the path; they work on the
    /// rules of this desk.
    pub(crate) fn shell(&self, line: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("sh")
            .args(["-ec", line])
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("TIDEGATE_STATE", self.path("state"))
            .env("TZ", self.zone)
            .env_remove("TIDEGATE_SOCKET")
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }

    pub(crate) fn out(&self, line: &str) -> String {
        let run = self.shell(line);
        let err = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{line}: {err}");
        String::from_utf8(run.stdout).unwrap()
    }

    /// Does what was advised.
    pub(crate) fn follow(&self, remedy: &str) {
        let state = format!(
            "# tidegate-state ipv4\n{}# tidegate-state ipv6\n{}",
            self.text("v4"),
            self.text("v6")
        );
        self.write("state", &state);
        self.out(&format!(
            "{remedy}\niptables-save -c > v4; ip6tables-save -c > v6"
        ));
    }

    /// What `check` finds; files that are refused have one finding.
    pub(crate) fn check(&self) -> Vec<Finding> {
        let v6 = if self.v6 { "--rules6 v6" } else { "" };
        let run = self.shell(&format!("tidegate check v4 {v6} --json"));
        let text = String::from_utf8_lossy(&run.stdout);
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&run.stderr)));
        json.as_array()
            .unwrap()
            .iter()
            .map(Finding::checked)
            .collect()
    }

    /// What `explain` finds about packets.
    pub(crate) fn explain(&self, options: &str, packets: &[&str]) -> Vec<Finding> {
        let packets: String = packets.iter().map(|p| format!(" '{p}'")).collect();
        let v6 = if self.v6 { "--rules6 v6" } else { "" };
        let out = self.out(&format!(
            "tidegate explain --json --rules v4 {v6} {options}{packets}"
        ));
        let json: Value = serde_json::from_str(&out).unwrap();
        let findings = json["findings"].as_array().unwrap();
        findings.iter().map(Finding::explained).collect()
    }
}

impl Finding {
    fn checked(json: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let help = match &json["help"] {
            Value::Array(all) => all.iter().map(&text).collect::<Vec<_>>().join(" && "),
            one => text(one),
        };
        let place = &json["place"];
        Finding {
            code: text(&json["code"]),
            text: text(&json["text"]),
            place: match place["chain"].as_str() {
                Some(chain) => format!("{chain} {}", place["number"]),
                None => json["line"]
                    .as_u64()
                    .map_or(String::new(), |l| format!("line {l}")),
            },
            all: json.to_string(),
            remedy: help,
        }
    }

    pub(crate) fn explained(json: &Value) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        Finding {
            code: text("code"),
            text: text("text"),
            place: String::new(),
            all: json.to_string(),
            remedy: text("remedy"),
        }
    }
}

/// The only finding with that code.
pub(crate) fn one(all: &[Finding], code: &str) -> Finding {
    let found: Vec<_> = all.iter().filter(|f| f.code == code).collect();
    assert!(!found.is_empty(), "no {code} in {all:?}");
    found[0].clone()
}

/// `check` finds the mistake at its place, says what is named, and what it advises takes
/// the finding away.
pub(crate) fn caught(desk: &Desk, code: &str, place: &str, says: &[&str]) {
    let found = one(&desk.check(), code);
    assert_eq!(found.place, place, "{found:?}");
    for part in says {
        assert!(found.all.contains(part), "{part}: {found:?}");
    }
    for command in found.remedy.split(" && ") {
        let tool = command.split(' ').next().unwrap();
        assert!(matches!(tool, "iptables" | "ip6tables"), "{command}");
    }
    desk.follow(&found.remedy);
    let after = desk.check();
    assert!(
        !after.iter().any(|f| f.code == code),
        "after `{}`: {after:?}",
        found.remedy
    );
}
