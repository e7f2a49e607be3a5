//! A client and the host that a daemon guards, with an FTP server on it.

use std::cell::RefCell;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::host::{Host, Running, eventually, skipped};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");
/// What is needed beside root.
const TOOLS: [&str; 5] = ["ip", "unshare", "nsenter", "vsftpd", "iptables-legacy"];

pub(crate) const SERVER: &str = "10.0.0.1";
pub(crate) const CLIENT: &str = "10.0.0.2";

/// Whether the tests can run here. Says why when not, past the test runner's capture.
pub(crate) fn able() -> bool {
    let why = reason();
    if let Some(why) = &why {
        skipped(why);
    }
    why.is_none()
}

fn reason() -> Option<String> {
    if std::env::var_os("TIDEGATE_FAST_TESTS").is_none() {
        return Some("tests of the fast path run by themselves: TIDEGATE_FAST_TESTS=1".to_owned());
    }
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let whole = users.split_whitespace().nth(2) == Some("4294967295");
    if !whole || !rustix::process::geteuid().is_root() {
        return Some("programs are loaded by the machine's root only".to_owned());
    }
    let is_missing = |tool: &&str| {
        let mut shell = Command::new("sh");
        let found = shell.args(["-c", &format!("command -v {tool}")]).output();
        !found.is_ok_and(|o| o.status.success())
    };
    let missing = TOOLS.into_iter().find(is_missing);
    missing.map(|tool| format!("local connections across an upgrade need {tool}"))
}

impl Host {
    pub(crate) fn listen(&self, at: &str) -> TcpListener {
        self.run(|| TcpListener::bind(at)).unwrap()
    }

    pub(crate) fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to = to.parse().unwrap();
        self.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))
    }

    pub(crate) fn udp(&self, at: &str) -> UdpSocket {
        self.run(|| UdpSocket::bind(at)).unwrap()
    }

    /// Segments that the host has sent again.
    pub(crate) fn retransmitted(&self) -> u32 {
        let script = "awk '/^Tcp:/ { n = $13 } END { print n }' /proc/thread-self/net/snmp";
        self.sh(script).trim().parse().unwrap()
    }
}

/// Both hosts, the daemon of the one, and what it needs.
pub(crate) struct Guarded {
    pub(crate) dir: TempDir,
    pub(crate) client: Host,
    pub(crate) server: Host,
    daemon: RefCell<Option<Running>>,
    /// Keeps a BPF file system.
    keeper: Running,
    _ftpd: Running,
}

impl Guarded {
    /// With rules in force, and more configuration of the datapath.
    pub(crate) fn new(rules: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (client, server) = (Host::new(), Host::new());
        client.link("eth0", &server, "eth0");
        client.sh(&format!("ip addr add {CLIENT}/24 dev eth0"));
        server.sh(&format!("ip addr add {SERVER}/24 dev eth0"));
        std::fs::write(dir.path().join("rules"), rules).unwrap();
        let at = dir.path().display();
        let config = format!(
            "[rules]\nv4 = \"{at}/rules\"\nv6 = \"{at}/none\"\ntimeouts = \"{at}/timeouts\"\nsets = \"{at}/sets\"
             [datapath]\nkind = \"ebpf\"\n{more}
             [state]\ndirectory = \"{at}/state\"\nevery = 1
             [modules]\nload = [\"nf_conntrack_ftp\"]
             [sysctl]\nnet.netfilter.nf_conntrack_acct = 1\n"
        );
        std::fs::write(dir.path().join("conf"), config).unwrap();
        let mut keeper = Command::new("unshare");
        keeper.args([
            "-m",
            "sh",
            "-ec",
            "mount -t bpf bpf /sys/fs/bpf; touch $0/kept; exec sleep 300",
        ]);
        let keeper = Running(keeper.arg(dir.path()).spawn().unwrap());
        assert!(eventually(|| dir.path().join("kept").exists()));
        let ftpd = crate::ftp::serve(&server, dir.path());
        let guarded = Guarded {
            dir,
            client,
            server,
            daemon: RefCell::default(),
            keeper,
            _ftpd: Running(ftpd),
        };
        guarded.start();
        guarded
    }

    /// Starts the daemon, which guards when this returns.
    pub(crate) fn start(&self) {
        let mut daemon = Command::new("nsenter");
        daemon.args(["-m", "-t", &self.keeper.0.id().to_string(), PROGRAM, "up"]);
        daemon.arg("--config").arg(self.dir.path().join("conf"));
        daemon.arg("--socket").arg(self.dir.path().join("sock"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"));
        daemon.stderr(log.unwrap()).stdin(Stdio::null());
        let running = Running(self.server.run(|| daemon.spawn()).unwrap());
        *self.daemon.borrow_mut() = Some(running);
        assert!(eventually(|| self.ask("status").is_ok()), "{}", self.log());
    }

    /// Kills the daemon.
    pub(crate) fn kill(&self) {
        drop(self.daemon.take());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn ask(&self, line: &str) -> Result<String, String> {
        let mut command = Command::new(PROGRAM);
        command.args(line.split_whitespace());
        command.env("TIDEGATE_SOCKET", self.dir.path().join("sock"));
        let run = command.env_remove("TIDEGATE_STATE").output().unwrap();
        let [out, err] = [run.stdout, run.stderr].map(|b| String::from_utf8(b).unwrap());
        if run.status.success() {
            Ok(out)
        } else {
            Err(err)
        }
    }

    /// What a command says.
    pub(crate) fn out(&self, line: &str) -> String {
        self.ask(line)
            .unwrap_or_else(|e| panic!("{line}: {e}{}", self.log()))
    }

    /// Packets and bytes that a chain's rules have let pass.
    pub(crate) fn passed(&self, chain: &str) -> [u64; 2] {
        let rules = self.out("iptables-save -c -t filter");
        let rules = rules
            .lines()
            .filter(|l| l.contains(&format!("] -A {chain} ")));
        rules.fold([0; 2], |all, line| {
            let counts = line.split(['[', ':', ']']).skip(1).take(2);
            let counts: Vec<u64> = counts.map(|n| n.parse().unwrap()).collect();
            [all[0] + counts[0], all[1] + counts[1]]
        })
    }
}
