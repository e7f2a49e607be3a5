//! Programs that go on when the daemon is killed, and who takes over from them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::busy::Busy;
use crate::fast::{STATEFUL, at, masquerading, may, stream, talk};
use crate::net::{Host, client_and_server, eventually, example_path, filter};
use crate::router::{Net, net};
use crate::talk::{reaches, udp};

/// Known connections only, and whoever calls ports 7 and 80.
const OWN: [&str; 5] = [
    "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-A INPUT -p udp --dport 7 -j ACCEPT",
    "-A INPUT -p tcp --dport 80 -j ACCEPT",
    "-A INPUT -j DROP",
    "-A OUTPUT -m conntrack --ctstate NEW -j DROP",
];

/// A shell on a host with a BPF file system of its own, which starts the example program
/// for each line of options that it reads, one after the other.
pub(crate) struct Starter {
    shell: Child,
    said: BufReader<ChildStdout>,
    running: Option<Pid>,
}

impl Starter {
    pub(crate) fn new(host: &Host, rules: &str) -> Self {
        let script = r#"mount -t bpf bpf /sys/fs/bpf
            while read -r line; do "$0" $line "$1" "$1" & echo $!; wait $! || true; done"#;
        let mut shell = Command::new("unshare");
        shell.args(["-m", "sh", "-ec", script]);
        shell.arg(example_path("guard")).arg(rules);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = host.run(|| shell.spawn()).unwrap();
        let said = BufReader::new(shell.stdout.take().unwrap());
        Starter {
            shell,
            said,
            running: None,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Starts the program; returns its process when it guards.
    pub(crate) fn start(&mut self, options: &str) -> Pid {
        let mut orders = self.shell.stdin.as_ref().unwrap();
        orders.write_all(format!("{options}\n").as_bytes()).unwrap();
        let pid = Pid::from_raw(self.line().parse().unwrap());
        self.running = Some(pid);
        assert_eq!(self.line(), "guarding");
        pid
    }
}

impl Starter {
    /// Ends the program in order: nothing is left of it, nor of those before it.
    pub(crate) fn ends_cleanly(&self, net: &Net, pid: Pid) {
        let pins = format!("ls -A /proc/{}/root/sys/fs/bpf", self.shell.id());
        assert!(!net.router.sh(&pins).is_empty());
        kill(pid, Signal::SIGTERM).unwrap();
        let clean = || {
            let left = net.router.sh(&format!("ip -d link show; {pins}"));
            !left.contains("tg-") && !left.contains("tcx") && !left.contains("tidegate")
        };
        assert!(eventually(clean), "{}", net.router.sh(&pins));
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.running.map(|pid| kill(pid, Signal::SIGKILL));
        let _ = self.shell.wait();
    }
}

#[test]
fn killed_it_leaves_known_connections_and_nothing_else() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    rules.write_all(filter(&STATEFUL).as_bytes()).unwrap();
    let mut starter = Starter::new(&net.router, rules.path().to_str().unwrap());
    let pid = starter.start("--fast");
    let (from, to) = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    let there = at("10.1.0.2:7");
    talk(&from, &to, there, 20);
    // A silence in which nothing is on its way through the daemon.
    std::thread::sleep(Duration::from_millis(200));
    kill(pid, Signal::SIGKILL).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    talk(&from, &to, there, 20);
    let other = udp(&net.inside, at("10.0.0.2:40001"));
    let probe = udp(&net.outside, at("10.1.0.2:8"));
    assert!(!reaches(&other, &probe, at("10.1.0.2:8")));
    assert!(net.inside.silent("10.0.0.1"));
    // One without programs takes away those of its predecessor, which would not know its
    // own sockets' packets.
    let pid_plain = starter.start("");
    assert!(eventually(|| !net.inside.silent("10.0.0.1")));
    kill(pid_plain, Signal::SIGKILL).unwrap();
    // The next one begins with what it decides itself.
    let pid = starter.start("--fast");
    assert!(eventually(|| reaches(&other, &probe, at("10.1.0.2:8"))));
    talk(&from, &to, there, 3);
    // An orderly end opens everything.
    kill(pid, Signal::SIGTERM).unwrap();
    let third = udp(&net.outside, at("10.1.0.2:40002"));
    let inner = udp(&net.inside, at("10.0.0.2:9"));
    assert!(eventually(|| reaches(&third, &inner, at("10.0.0.2:9"))));
    let clean = || {
        let left = net.router.sh("ip -d link show");
        !left.contains("tg-") && !left.contains("tcx")
    };
    assert!(eventually(clean));
}

/// As [`killed_it_leaves_known_connections_and_nothing_else`], where the guarded host's own
/// sockets are the one end; and the next daemon takes their connections over.
#[test]
fn killed_it_leaves_the_hosts_own_connections() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    rules.write_all(filter(&OWN).as_bytes()).unwrap();
    let mut starter = Starter::new(&server, rules.path().to_str().unwrap());
    let mut pid = starter.start("--fast");
    let there = at("10.0.0.1:7");
    let (from, to) = (udp(&client, at("10.0.0.2:40000")), udp(&server, there));
    talk(&from, &to, there, 1);
    std::thread::sleep(Duration::from_millis(2100));
    talk(&from, &to, there, 20);
    let mut tcp = connected(&client, &server, at("10.0.0.1:80"));
    let closed = udp(&server, at("10.0.0.1:8"));
    for _ in 0..2 {
        exchange(&mut tcp, 20);
        talk(&from, &to, there, 3);
        std::thread::sleep(Duration::from_millis(300));
        kill(pid, Signal::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        talk(&from, &to, there, 20);
        exchange(&mut tcp, 20);
        assert!(!reaches(&from, &closed, at("10.0.0.1:8")));
        assert!(!reaches(&closed, &from, at("10.0.0.2:40000")));
        pid = starter.start("--fast");
        // Nobody may open a connection from here.
        assert!(reaches(&to, &from, at("10.0.0.2:40000")));
        talk(&from, &to, there, 20);
        exchange(&mut tcp, 20);
    }
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(eventually(|| reaches(&closed, &from, at("10.0.0.2:40000"))));
}

/// The same for what a host says to itself.
#[test]
fn killed_it_leaves_what_the_host_says_to_itself() {
    const RULES: [&str; 3] = [
        "-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-A OUTPUT -p udp --dport 7 -j ACCEPT",
        "-A OUTPUT -j DROP",
    ];
    if !may() {
        return;
    }
    let host = Host::new();
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    rules.write_all(filter(&RULES).as_bytes()).unwrap();
    let mut starter = Starter::new(&host, rules.path().to_str().unwrap());
    let mut pid = starter.start("--fast");
    let there = at("127.0.0.1:7");
    let [from, other] = ["127.0.0.1:40000", "127.0.0.1:40001"].map(|here| udp(&host, at(here)));
    let (to, closed) = (udp(&host, there), udp(&host, at("127.0.0.1:8")));
    talk(&from, &to, there, 1);
    std::thread::sleep(Duration::from_millis(2100));
    for _ in 0..2 {
        talk(&from, &to, there, 20);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!reaches(&other, &closed, at("127.0.0.1:8")));
        kill(pid, Signal::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        talk(&from, &to, there, 20);
        assert!(!reaches(&other, &to, there));
        pid = starter.start("--fast");
        talk(&from, &to, there, 20);
        assert!(!reaches(&closed, &from, at("127.0.0.1:40000")));
    }
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(eventually(|| reaches(&other, &closed, at("127.0.0.1:8"))));
}

/// A daemon that was killed while it pinned its tables leaves what another before it has:
/// the next one takes over what that one's programs forward.
#[test]
fn connections_survive_a_predecessor_that_was_killed_while_starting() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    rules.write_all(filter(&STATEFUL).as_bytes()).unwrap();
    let mut starter = Starter::new(&net.router, rules.path().to_str().unwrap());
    let pid = starter.start("--fast");
    let (from, to) = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    let there = at("10.1.0.2:7");
    talk(&from, &to, there, 20);
    std::thread::sleep(Duration::from_millis(300));
    kill(pid, Signal::SIGKILL).unwrap();
    let pins = format!("/proc/{}/root/sys/fs/bpf/tidegate-*", starter.shell.id());
    let half = format!("cd {pins} && ln gates-* gates-00000000");
    net.router.sh(&half);
    starter.start("--fast");
    // Its first packet comes from where nobody may open a connection.
    for _ in 0..3 {
        assert!(reaches(&to, &from, at("10.0.0.2:40000")));
    }
    let all = net.router.sh(&format!("ls {pins}"));
    assert!(!all.contains("00000000"), "{all}");
}

/// Asks a question every other millisecond and hears the answers to those before: numbers from
/// `from` to `there`, where `to` answers them. How many were asked, and answered.
pub(crate) fn ask(from: UdpSocket, to: UdpSocket, there: SocketAddr) -> Busy<(u32, u32)> {
    to.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let answering = Busy::start(move |ends| {
        let mut buffer = [0; 8];
        while !ends.load(Ordering::Relaxed) {
            if let Ok((len, peer)) = to.recv_from(&mut buffer) {
                let _ = to.send_to(&buffer[..len], peer);
            }
        }
    });
    Busy::start(move |ends| {
        from.set_nonblocking(true).unwrap();
        let (mut sent, mut answers, mut buffer) = (0_u32, 0, [0; 8]);
        let mut hear = |answers: &mut u32| {
            while from.recv(&mut buffer).is_ok() {
                *answers += 1;
            }
        };
        while !ends.load(Ordering::Relaxed) {
            from.send_to(&sent.to_be_bytes(), there).unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_millis(2));
            hear(&mut answers);
        }
        std::thread::sleep(Duration::from_millis(200));
        hear(&mut answers);
        answering.end();
        (sent, answers)
    })
}

/// Both ends of a TCP connection.
pub(crate) fn connected(client: &Host, server: &Host, there: SocketAddr) -> [TcpStream; 2] {
    let listener = server.run(|| TcpListener::bind(there)).unwrap();
    let client = client.run(|| TcpStream::connect(there)).unwrap();
    let ends = [client, listener.accept().unwrap().0];
    for end in &ends {
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    ends
}

/// Says something there and back, `times`.
fn exchange([client, server]: &mut [TcpStream; 2], times: usize) {
    let mut buffer = [0; 5];
    for _ in 0..times {
        client.write_all(b"there").unwrap();
        server.read_exact(&mut buffer).unwrap();
        server.write_all(b"again").unwrap();
        client.read_exact(&mut buffer).unwrap();
    }
}

/// Killed and started again three times, with packets on their way all the time: those of a
/// translated connection that the kernel had all arrive, whoever knows it.
#[test]
fn a_successor_takes_connections_over_without_losing_a_packet() {
    if !may() {
        return;
    }
    let net = net();
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    rules.write_all(masquerading().as_bytes()).unwrap();
    for options in ["--fast", "--fast --xdp"] {
        let mut starter = Starter::new(&net.router, rules.path().to_str().unwrap());
        let mut pid = starter.start(options);
        let (from, to) = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
        let there = at("10.1.0.2:7");
        talk(&from, &to, there, 20);
        let mut tcp = connected(&net.inside, &net.outside, at("10.1.0.2:80"));
        let other = udp(&net.inside, at("10.0.0.2:40001"));
        let probe = udp(&net.outside, at("10.1.0.2:8"));
        for _ in 0..3 {
            exchange(&mut tcp, 20);
            // A silence in which nothing is on its way through the daemon.
            std::thread::sleep(Duration::from_millis(300));
            talk(&from, &to, there, 20);
            let asker = ask(from.try_clone().unwrap(), to.try_clone().unwrap(), there);
            std::thread::sleep(Duration::from_millis(200));
            kill(pid, Signal::SIGKILL).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            assert!(!reaches(&other, &probe, at("10.1.0.2:8")));
            pid = starter.start(options);
            std::thread::sleep(Duration::from_millis(300));
            let (asked, answered) = asker.end();
            assert_eq!(asked, answered, "{options}");
            assert!(asked > 200);
            exchange(&mut tcp, 20);
            from.set_nonblocking(false).unwrap();
        }
        starter.ends_cleanly(&net, pid);
    }
}
