//! Hosts, and those that are guarded.

#[path = "host.rs"]
mod host;

use std::fmt::Write as _;
use std::io;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

#[allow(unused_imports, reason = "benches use less of it")]
pub(crate) use host::{Host, Running, eventually, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate_datapath::{Datapath, Observer, Options, Ring};
use tidegate_engine::conntrack::Time;
use tidegate_engine::{Config, Engine, Output};
use tidegate_syntax::{Sockets, lower_knowing, parse_rules};
use tidegate_sys::Namespace;
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// Whether namespaces can be made here. Says so once when not.
pub(crate) fn able() -> bool {
    static ABLE: OnceLock<bool> = OnceLock::new();
    *ABLE.get_or_init(|| {
        if let Err(e) = Namespace::new() {
            skipped(&format!(
                "no network namespace can be made here ({e}): see as_an_ordinary_user"
            ));
            return false;
        }
        let missing = ["ip", "tc", "ping"].into_iter().find(|tool| {
            let run = Command::new(tool).arg("-V").output();
            run.is_err()
        });
        if let Some(tool) = missing {
            skipped(&format!("the live tests need {tool}"));
        }
        missing.is_none()
    })
}

/// Whether all tests take frames by `AF_XDP` where they can.
pub(crate) fn all_by_xdp() -> bool {
    std::env::var_os("TIDEGATE_RING").is_some_and(|ring| ring == "xdp")
}

impl Host {
    /// Whether all of three echo requests are answered. For the last answer `ping` waits
    /// twice the longest round trip before it, or as long as between requests.
    pub(crate) fn pings(&self, to: &str, size: usize) -> bool {
        let script = format!("ping -n -c 3 -i 0.3 -W 2 -s {size} {to}");
        let said = self.try_sh(&script).unwrap_or_else(|said| said);
        let all = said.contains(" 0% packet loss");
        if !all {
            eprintln!("{said}");
        }
        all
    }

    /// That no echo request is answered.
    pub(crate) fn silent(&self, to: &str) -> bool {
        let script = format!("ping -n -q -c 3 -i 0.05 -W 0.3 {to} || true");
        self.sh(&script).contains(" 100% packet loss")
    }

    /// Guards the host with rules of both families.
    pub(crate) fn guard(&self, v4: &str, v6: &str) -> Guard {
        self.guard_with(Options::default(), v4, v6)
    }

    pub(crate) fn guard_with(&self, mut options: Options, v4: &str, v6: &str) -> Guard {
        if all_by_xdp() {
            options.ring = Ring::Xdp;
        }
        options.fast |= std::env::var_os("TIDEGATE_FAST").is_some();
        let seen = Seen::default();
        let observer = Box::new(seen.clone());
        let datapath = self.run(|| Datapath::start(options, Config::default(), observer));
        let guard = Guard {
            datapath: datapath.unwrap(),
            seen,
        };
        guard.load(Family::V4, v4);
        guard.load(Family::V6, v6);
        self.run(|| guard.datapath.guard()).unwrap();
        guard
    }

    /// The program of the example, which can be killed.
    pub(crate) fn guard_program(&self, words: &[&str]) -> Running {
        let mut program = Command::new(example_path("guard"));
        program.args(words).stdout(Stdio::piped());
        let child = self.run(|| program.spawn()).unwrap();
        let mut running = Running(child);
        let out = running.0.stdout.as_mut().unwrap();
        let mut said = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(out), &mut said).unwrap();
        assert_eq!(said, "guarding\n");
        running
    }
}

/// A built example of this package.
pub(crate) fn example_path(name: &str) -> std::path::PathBuf {
    let own = std::env::current_exe().unwrap();
    let beside = own.with_file_name(name);
    if beside.exists() {
        return beside;
    }
    let built = own.parent().unwrap().with_file_name("examples").join(name);
    assert!(
        built.exists(),
        "{}: cargo build --examples",
        built.display()
    );
    built
}

impl Running {
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end in order.
    pub(crate) fn end(mut self) {
        let pid = Pid::from_raw(self.0.id() as i32);
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Seen {
    fn output(&mut self, _: Time, output: &Output) {
        if let Output::Log { line, .. } = output {
            self.0.lock().unwrap().push(line.clone());
        }
    }
}

/// A guarded host's datapath.
pub(crate) struct Guard {
    pub(crate) datapath: Datapath,
    pub(crate) seen: Seen,
}

impl Guard {
    pub(crate) fn load(&self, family: Family, rules: &str) {
        let parsed = parse_rules(rules, family, &NoNames)
            .unwrap_or_else(|e| panic!("{rules}: line {}: {}", e.line, e.render("test")));
        let lowered = lower_knowing(&parsed, Sockets::Groups);
        let lowered = lowered.map_err(|e| e.render("test", None)).unwrap();
        let rules = Arc::new(lowered.ruleset);
        self.datapath.with(|engine, _| engine.load(rules)).unwrap();
    }

    /// Packets that the `n`th rule of the rules in force has counted, from 0.
    pub(crate) fn counted(&self, family: Family, n: usize) -> u64 {
        let count = move |engine: &mut Engine, _| {
            let (_, _, rule) = engine.rules(family).rules().nth(n).unwrap();
            engine.counter(family, rule.id).packets
        };
        self.datapath.with(count).unwrap()
    }

    pub(crate) fn traffic(&self, name: &str) -> tidegate_datapath::Traffic {
        let report = self.datapath.report();
        let found = report.interfaces.iter().find(|i| i.name == name);
        found
            .unwrap_or_else(|| panic!("{name}: {report:?}"))
            .traffic
    }
}

/// A filter table.
pub(crate) fn filter(rules: &[&str]) -> String {
    table("filter", &["INPUT", "FORWARD", "OUTPUT"], rules)
}

/// A nat table.
pub(crate) fn nat(rules: &[&str]) -> String {
    let chains = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"];
    table("nat", &chains, rules)
}

fn table(name: &str, chains: &[&str], rules: &[&str]) -> String {
    let mut text = format!("*{name}\n");
    for chain in chains {
        let _ = writeln!(text, ":{chain} ACCEPT [0:0]");
    }
    for rule in rules {
        let _ = writeln!(text, "{rule}");
    }
    text + "COMMIT\n"
}

/// The usual pair: client 10.0.0.2 and fd00::2, server 10.0.0.1 and fd00::1, joined by
/// `eth0` of both.
pub(crate) fn client_and_server() -> (Host, Host) {
    let (client, server) = (Host::new(), Host::new());
    client.link("eth0", &server, "eth0");
    client.sh("ip addr add 10.0.0.2/24 dev eth0; ip addr add fd00::2/64 dev eth0 nodad");
    server.sh("ip addr add 10.0.0.1/24 dev eth0; ip addr add fd00::1/64 dev eth0 nodad");
    (client, server)
}
