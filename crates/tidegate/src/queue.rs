//! `tidegate queue`: reads the queues that `-j NFQUEUE` sends packets to.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command as Program, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tidegate_daemon::control::socket_path;
use tidegate_daemon::queue::{Binding, Order, Packet, Reader, Verdict, number};

use crate::replay::brief::Brief;

/// What `tidegate queue --help` ends with.
const HELP: &str = "\
A program reads one JSON object a line for each packet and writes a line for each verdict:
`accept`, `drop` or `repeat`, perhaps with a mark, about the packet that has waited longest;
or an object with `id`, `verdict` and, as wanted, `mark`, `queue`, `up_to` and `packet`, the
new bytes as hexadecimal digits. What waits when it ends is dropped. docs/queue.md has more.

Examples:
  tidegate queue read 3 --accept
  tidegate queue run 3 -- python3 verdicts.py
  tidegate queue run 3 -- sh -c 'while read packet; do echo accept 7; done'

Exit status: 0 done; 1 the queue has a reader already, or the program failed.";

/// Arguments of `tidegate queue`.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show queues and their readers, as /proc/net/netfilter/nfnetlink_queue.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a queue's packets and give all of them the same verdict.
    Read {
        #[command(flatten)]
        queue: Queue,
        #[command(flatten)]
        say: Say,
        /// Mark for the packets.
        #[arg(long, value_parser = mark)]
        mark: Option<u32>,
        /// End after so many packets.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Let a program decide a queue's packets.
    Run {
        #[command(flatten)]
        queue: Queue,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
}

/// Which queue, and how it is kept.
#[derive(Debug, clap::Args)]
struct Queue {
    /// Number of the queue.
    queue: u16,
    /// Most packets that wait.
    #[arg(long, value_name = "PACKETS")]
    max_len: Option<u32>,
    /// Bytes of each packet to read.
    #[arg(long, value_name = "BYTES")]
    range: Option<u32>,
    /// Let packets pass for which there is no room.
    #[arg(long)]
    fail_open: bool,
}

/// The verdict.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Say {
    /// Let them go on behind the table (the default).
    #[arg(long)]
    accept: bool,
    /// Discard them.
    #[arg(long)]
    drop: bool,
    /// Let them meet the table again.
    #[arg(long)]
    repeat: bool,
    /// Send them on to another queue.
    #[arg(long, value_name = "QUEUE")]
    to: Option<u16>,
}

fn mark(text: &str) -> Result<u32, String> {
    number(text).ok_or_else(|| format!("`{text}` is no mark"))
}

impl Queue {
    fn bind(&self) -> Result<Reader> {
        let mut binding = Binding::new(self.queue);
        binding.settings.max_len = self.max_len.unwrap_or(binding.settings.max_len);
        binding.settings.fail_open = self.fail_open;
        binding.range = self.range.unwrap_or(binding.range);
        Reader::bind(&socket_path(), &binding)
    }
}

impl Say {
    const fn verdict(&self) -> Verdict {
        match self.to {
            Some(queue) => Verdict::Queue(queue),
            None if self.drop => Verdict::Drop,
            None if self.repeat => Verdict::Repeat,
            None => Verdict::Accept,
        }
    }
}

/// Does what is asked.
///
/// # Errors
/// No daemon, no right, the queue has a reader, or the program failed.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    match args.what {
        What::List { json } => {
            let words = ["list"].into_iter().chain(json.then_some("--json"));
            let words = words.map(str::to_owned).collect();
            return Ok(crate::orders::send("queue", words));
        }
        What::Read {
            queue,
            say,
            mark,
            count,
        } => read(&queue, say.verdict(), mark, count)?,
        What::Run { queue, program } => decide(queue.bind()?, &program)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(queue: &Queue, verdict: Verdict, mark: Option<u32>, count: Option<u64>) -> Result<()> {
    let mut reader = queue.bind()?;
    let mut left = count.unwrap_or(u64::MAX);
    let mut out = io::stdout();
    while left > 0
        && let Some(packet) = reader.next()?
    {
        left -= 1;
        writeln!(out, "{}", told(&packet))?;
        reader.order(&Order::about(packet.about.id, verdict, mark))?;
        complain(&mut reader);
    }
    match left {
        0 => finish(reader),
        _ if count.is_some() => bail!("the firewall has ended"),
        _ => Ok(()),
    }
}

/// Leaves once everything that was ordered has been done: orders come before the end.
fn finish(mut reader: Reader) -> Result<()> {
    reader.done()?;
    while reader.next()?.is_some() {}
    complain(&mut reader);
    Ok(())
}

fn complain(reader: &mut Reader) {
    for why in reader.take_refused() {
        eprintln!("{why}");
    }
}

/// A packet in one line.
fn told(packet: &Packet) -> String {
    let about = &packet.about;
    let mut line = format!("{} {}", about.id, about.hook);
    for (word, name) in [("in", &about.input), ("out", &about.output)] {
        if let Some(name) = name {
            line += &format!(" {word}={name}");
        }
    }
    if about.mark != 0 {
        line += &format!(" mark={:#x}", about.mark);
    }
    if let Some(connection) = &about.connection {
        line += &format!(" {}", connection.state);
    }
    match tidegate_wire::parse(&packet.bytes) {
        Ok(layout) => line += &format!(" {}", Brief::new(&packet.bytes, &layout)),
        Err(_) => line += &format!(" {} bytes", about.len),
    }
    line
}

/// Packets whose verdict a program has not said yet.
type Open = Arc<Mutex<VecDeque<u32>>>;

/// Lets a program decide.
fn decide(mut reader: Reader, words: &[String]) -> Result<()> {
    let Some((name, arguments)) = words.split_first() else {
        bail!("which program?");
    };
    let mut child = Program::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("{name}: no pipe to it");
    };
    let open = Open::default();
    let (orders, waiting) = (reader.try_clone()?, Arc::clone(&open));
    let listener = std::thread::spawn(move || listen(orders, from, &waiting));
    while let Some(packet) = reader.next()? {
        complain(&mut reader);
        lock(&open).push_back(packet.about.id);
        if writeln!(to, "{}", packet.line()?).is_err() {
            break;
        }
    }
    drop(to);
    let heard = listener.join();
    reader.leave();
    end(&mut child, name, heard.unwrap_or(Ok(())))
}

fn lock(open: &Open) -> std::sync::MutexGuard<'_, VecDeque<u32>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longest line of a program: a packet as digits, and what is said about it.
const MAX_LINE: u64 = 256 << 10;

/// Takes a program's verdicts, until it says no more or what is none.
fn listen(mut orders: Reader, from: ChildStdout, open: &Open) -> Result<()> {
    let mut from = BufReader::new(from);
    let done = loop {
        let mut line = String::new();
        let read = (&mut from).take(MAX_LINE).read_line(&mut line);
        match read {
            Ok(0) => break Ok(()),
            Ok(_) if line.trim().is_empty() => continue,
            Ok(_) => {}
            Err(e) => break Err(e.into()),
        }
        let oldest = lock(open).front().copied();
        let order = match Order::from_line(line.trim_end(), oldest) {
            Ok(order) => order,
            Err(why) => break Err(anyhow::anyhow!("{why}")),
        };
        lock(open).retain(|&id| id != order.id && !(order.up_to && is_before(id, order.id)));
        if let Err(e) = orders.order(&order) {
            break Err(e.into());
        }
    };
    orders.leave();
    done
}

/// Numbers go round.
const fn is_before(id: u32, other: u32) -> bool {
    (id.wrapping_sub(other) as i32) < 0
}

fn end(child: &mut Child, name: &str, heard: Result<()>) -> Result<()> {
    if heard.is_err() {
        // It has said what nobody understands; it may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    heard.with_context(|| name.to_owned())?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}
