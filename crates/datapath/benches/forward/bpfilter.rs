//! bpfilter, where it is: `scripts/install-bpfilter` unpacks it beside what is built.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use super::Case;
use crate::net::Host;

/// The rules of a case, as a chain that sees what is forwarded. It knows no connections.
fn chain(case: &Case) -> Result<String, String> {
    if !case.stateless || case.uniform {
        return Err("nothing to compare with".to_owned());
    }
    let mut text =
        "chain forward BF_HOOK_NF_FORWARD{family=inet4,priorities=101-102} ACCEPT\n".to_owned();
    for (source, port) in case.strangers() {
        let _ = writeln!(text, "rule ip4.saddr eq {source} udp.dport eq {port} DROP");
    }
    let last = if case.flood { "DROP" } else { "ACCEPT" };
    let _ = writeln!(text, "rule meta.iface eq eth0 counter {last}");
    Ok(text)
}

/// Starts the daemon with directories of its own, loads the rules, and says what chains have
/// counted as often as it is asked. When nobody can ask any more, all ends.
const SERVE: &str = r#"
    mount -t tmpfs none /run
    mkdir /run/bpfilter /run/bpf
    mount -t bpf bpf /run/bpf
    cat > /run/rules
    bpfilter --transient --no-iptables --no-nftables --bpffs-path=/run/bpf > /run/log 2>&1 &
    for n in $(seq 50); do
        [ -S /run/bpfilter/daemon.sock ] && break
        sleep 0.1
    done
    if said=$(bfcli ruleset set --from-file /run/rules 2>&1); then
        echo ready
    else
        echo $said $(tail -n 3 /run/log)
        exit 1
    fi
    while read question <&3; do
        bfcli ruleset get
        echo end
    done
"#;

type Answers = Box<dyn BufRead + Send>;

pub(super) struct Bpfilter {
    child: Child,
    talk: Mutex<(Option<ChildStdin>, Answers)>,
}

/// Where its programs and its library are, if they have been unpacked.
fn unpacked() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let dir = own.ancestors().nth(3)?.join("bpfilter");
    dir.join("usr/sbin/bpfilter").exists().then_some(dir)
}

impl Bpfilter {
    pub(super) fn new(router: &Host, case: &Case) -> Result<Self, String> {
        let missing = "not here: scripts/install-bpfilter";
        let dir = unpacked().ok_or(missing)?;
        let chain = chain(case)?;
        let rules = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        std::fs::write(rules.path(), chain).map_err(|e| e.to_string())?;
        let path = std::env::var("PATH").unwrap_or_default();
        let script = format!("exec 3<&0 <{}\n{SERVE}", rules.path().display());
        let mut program = Command::new("unshare");
        program
            .args([
                "-m",
                "--fork",
                "--pid",
                "--mount-proc",
                "--kill-child",
                "sh",
                "-ec",
                &script,
            ])
            .env("PATH", format!("{}:{path}", dir.join("usr/sbin").display()))
            .env("LD_LIBRARY_PATH", dir.join("usr/lib/x86_64-linux-gnu"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = router.run(|| program.spawn()).map_err(|e| e.to_string())?;
        let talk = child.stdin.take().zip(child.stdout.take());
        let (ask, answers) = talk.ok_or("no pipes")?;
        let mut answers: Answers = Box::new(BufReader::new(answers));
        let mut line = String::new();
        let _ = answers.read_line(&mut line);
        let talk = Mutex::new((Some(ask), answers));
        let running = Bpfilter { child, talk };
        match line.trim() {
            "ready" => Ok(running),
            why => Err(why.to_owned()),
        }
    }

    /// Packets that the last rule has counted.
    pub(super) fn counted(&self) -> u64 {
        let mut talk = self.talk.lock().unwrap();
        let (ask, answers) = &mut *talk;
        let asked = ask.as_mut().map(|a| writeln!(a, "?"));
        assert!(asked.is_some_and(|a| a.is_ok()), "bpfilter has ended");
        let lines = answers.lines().map_while(Result::ok);
        let lines = lines.take_while(|l| l != "end");
        // "counters 12 packets 552 bytes", the policy's first.
        let counts = lines.filter_map(|line| {
            let rest = line.trim().strip_prefix("counters ")?.to_owned();
            rest.split(' ').next()?.parse::<u64>().ok()
        });
        counts.last().unwrap_or_default()
    }
}

impl Drop for Bpfilter {
    fn drop(&mut self) {
        // It reads the end of the questions.
        if let Ok(mut talk) = self.talk.lock() {
            talk.0 = None;
        }
        let _ = self.child.wait();
    }
}
