//! The same command lines with the kernel's table and with the daemon's, program start
//! and output included.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// Connections: kernels with little memory have room for 262,144.
const CONNECTIONS: u32 = 250_000;

const ONE: &str = "-p udp -s 10.0.0.77 -d 192.0.2.9 --sport 1 --dport 2";

/// What is typed, and standard output's lines where they count.
const LINES: [(&str, Option<usize>); 7] = [
    ("-R FILE", None),
    ("-C", Some(1)),
    ("-L", Some(CONNECTIONS as usize)),
    ("-G ONE", Some(1)),
    ("-D ONE", Some(1)),
    ("-D -s 10.0.0.0/24", Some(255)),
    ("-F", None),
];

/// Measures, or says why not.
///
/// # Errors
/// A command does not do what it should.
pub(crate) fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("lines");
    write_lines(&file)?;
    let ours = Daemon::start(directory.path())?;
    let kernel = Namespace::start()?;
    println!("\nCommand lines with {CONNECTIONS} connections, seconds");
    println!(
        "{:<46} {:>9} {:>9} {:>7}",
        "", "kernel", "tidegate", "ratio"
    );
    for (line, lines) in LINES {
        let text = line.replace("FILE", &file.display().to_string());
        let text = text.replace("ONE", ONE);
        let words: Vec<&str> = text.split(' ').collect();
        let ours = timed(ours.conntrack(&words), lines)?;
        let ours = ours.as_secs_f64();
        let Some(kernel) = &kernel else {
            println!("conntrack {line:<36} {:>9} {ours:>9.3}", "");
            continue;
        };
        let theirs = timed(kernel.conntrack(&words), lines)?.as_secs_f64();
        let ratio = ours / theirs;
        println!("conntrack {line:<36} {theirs:>9.3} {ours:>9.3} {ratio:>7.2}");
    }
    Ok(())
}

/// Every source once, from 10.0.0.0 on.
fn write_lines(file: &Path) -> Result<()> {
    let mut out = std::io::BufWriter::new(fs::File::create(file)?);
    for n in 0..CONNECTIONS {
        let [_, a, b, c] = n.to_be_bytes();
        writeln!(
            out,
            "-I -p udp -s 10.{a}.{b}.{c} -d 192.0.2.9 --sport 1 --dport 2 -t 4000"
        )?;
    }
    Ok(out.flush()?)
}

fn timed(mut command: Command, lines: Option<usize>) -> Result<Duration> {
    let start = Instant::now();
    let run = command.output().context("conntrack")?;
    let took = start.elapsed();
    let err = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "{command:?}: {err}");
    let printed = run.stdout.iter().filter(|&&b| b == b'\n').count();
    ensure!(
        lines.is_none_or(|l| l == printed),
        "{command:?}: {printed} lines, {err}"
    );
    Ok(took)
}

/// A network namespace: the kernel's table is one of each.
struct Namespace(Child);

impl Namespace {
    /// `None`, loudly, without root or conntrack.
    fn start() -> Result<Option<Self>> {
        let works = Command::new("unshare")
            .args(["-n", "conntrack", "-C"])
            .stdout(Stdio::null())
            .status();
        if !works.is_ok_and(|s| s.success()) {
            println!("SKIPPED: the kernel's conntrack needs root and the program conntrack");
            return Ok(None);
        }
        // Ends with its standard input.
        let mut holder = Command::new("unshare")
            .args(["-n", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // What it says shows that it is in there.
        if let Some(stdin) = holder.stdin.as_mut() {
            stdin.write_all(b"\n")?;
        }
        if let Some(stdout) = holder.stdout.as_mut() {
            std::io::Read::read_exact(stdout, &mut [0])?;
        }
        Ok(Some(Namespace(holder)))
    }

    fn conntrack(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.0.id().to_string();
        command.args(["-t", &pid, "-n", "conntrack"]).args(words);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A daemon without a datapath.
struct Daemon {
    process: Child,
    socket: std::path::PathBuf,
}

impl Daemon {
    fn start(directory: &Path) -> Result<Self> {
        let (socket, config) = (directory.join("sock"), directory.join("conf"));
        let none = directory.join("none");
        fs::write(
            &config,
            format!(
                "[rules]\nv4 = {none:?}\nv6 = {none:?}\n[sysctl]\n\
                 net.netfilter.nf_conntrack_max = 262144\n\
                 net.netfilter.nf_conntrack_buckets = 262144\n"
            ),
        )?;
        let process = Command::new(PROGRAM)
            .args(["up", "--datapath", "none", "--config"])
            .arg(&config)
            .arg("--socket")
            .arg(&socket)
            .stderr(Stdio::null())
            .spawn()?;
        let daemon = Daemon { process, socket };
        let ends = Instant::now() + Duration::from_secs(20);
        while !daemon.conntrack(&["-C"]).output()?.status.success() {
            ensure!(Instant::now() < ends, "the daemon does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn conntrack(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("conntrack")
            .args(words)
            .env("TIDEGATE_SOCKET", &self.socket)
            .env_remove("TIDEGATE_STATE");
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
