//! The datapath's side: hand over or count, never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use tidegate_engine::conntrack::{self, Time};
use tidegate_engine::{DropReason, Nflog, Output};

use crate::config::{Config, Queue};
use crate::limit::{Gate, NetRatelimit};
use crate::line::Line;
use crate::status::{LogStatus, Meter};

/// What is handed over.
#[derive(Debug)]
pub(crate) enum Item {
    Line(Line),
    Packet(Packet),
    /// Nothing: look whether it is time to stop.
    Wake,
}

/// A packet for a capture.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) at: Time,
    pub(crate) copy: Box<Nflog>,
}

impl Item {
    fn bytes(&self) -> usize {
        const OWN: usize = size_of::<Item>();
        match self {
            Item::Line(line) => OWN + line.text.len(),
            Item::Packet(packet) => OWN + size_of::<Nflog>() + packet.copy.bytes.len(),
            Item::Wake => 0,
        }
    }
}

/// Reasons for which something is not written, as they are told in the log itself.
pub(crate) const GAPS: [&str; 4] = [
    "messages suppressed",
    "messages lost, queue full",
    "NFLOG packets suppressed",
    "NFLOG packets lost, queue full",
];

/// What both sides see.
#[derive(Debug)]
pub(crate) struct Shared {
    lines: Gate,
    packets: Gate,
    full: NetRatelimit,
    queue: Queue,
    /// Bytes queued.
    queued: AtomicUsize,
    lost_lines: AtomicU64,
    lost_packets: AtomicU64,
    stopping: AtomicBool,
    /// One per line target.
    pub(crate) targets: Vec<Meter>,
    pub(crate) captures: Meter,
}

impl Shared {
    pub(crate) fn new(config: &Config, targets: Vec<Meter>) -> Self {
        Shared {
            lines: Gate::new(config.limit),
            packets: Gate::new(config.nflog.limit),
            full: NetRatelimit::default(),
            queue: config.queue,
            queued: AtomicUsize::new(0),
            lost_lines: AtomicU64::new(0),
            lost_packets: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            targets,
            captures: Meter::new(config.nflog.directory.display().to_string()),
        }
    }

    /// How often each of [`GAPS`] happened.
    pub(crate) fn gaps(&self) -> [u64; 4] {
        [
            self.lines.suppressed(),
            self.lost_lines.load(Ordering::Relaxed),
            self.packets.suppressed(),
            self.lost_packets.load(Ordering::Relaxed),
        ]
    }

    pub(crate) fn status(&self) -> LogStatus {
        let [
            lines_suppressed,
            lines_lost,
            packets_suppressed,
            packets_lost,
        ] = self.gaps();
        LogStatus {
            lines_suppressed,
            lines_lost,
            packets_suppressed,
            packets_lost,
            targets: self.targets.iter().map(Meter::status).collect(),
            captures: self.captures.status(),
        }
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// An item has left the queue.
    pub(crate) fn taken(&self, item: &Item) {
        self.queued.fetch_sub(item.bytes(), Ordering::Relaxed);
    }
}

/// Takes what the engine puts out; cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct LogHandle {
    pub(crate) sender: SyncSender<Item>,
    pub(crate) shared: Arc<Shared>,
}

impl LogHandle {
    /// Takes an output of the engine; those that are not for a log are left alone. `now`
    /// is in nanoseconds since 1970.
    pub fn log(&self, now: Time, output: &Output) {
        match output {
            Output::Log { level, line, .. } => {
                if self.shared.lines.pass(now) {
                    self.line(now, *level, line.clone());
                }
            }
            Output::Nflog(copy) => {
                if self.shared.packets.pass(now) {
                    let copy = copy.clone();
                    self.queue(Item::Packet(Packet { at: now, copy }));
                }
            }
            Output::Transmit { .. } | Output::Deliver { .. } => {}
        }
    }

    /// Takes a line that is wanted whole: it meets no limit but the queue's.
    pub fn say(&self, now: Time, text: String) {
        const INFO: u8 = 6;
        self.line(now, INFO, text);
    }

    /// Takes note of a dropped packet: some drops the kernel announces, as often as
    /// `net_ratelimit` lets it.
    pub fn dropped(&self, now: Time, reason: &DropReason) {
        const WARNING: u8 = 4;
        if *reason != DropReason::Conntrack(conntrack::DropReason::TableFull) {
            return;
        }
        let Some(missed) = self.shared.full.pass(now) else {
            return;
        };
        if missed > 0 {
            let text = format!("net_ratelimit: {missed} callbacks suppressed");
            self.line(now, WARNING, text);
        }
        let text = "nf_conntrack: nf_conntrack: table full, dropping packet";
        self.line(now, WARNING, text.to_owned());
    }

    fn line(&self, at: Time, level: u8, text: String) {
        self.queue(Item::Line(Line { at, level, text }));
    }

    fn queue(&self, item: Item) {
        let shared = &*self.shared;
        let lost = match item {
            Item::Packet(_) => &shared.lost_packets,
            Item::Line(_) | Item::Wake => &shared.lost_lines,
        };
        let bytes = item.bytes();
        let before = shared.queued.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > shared.queue.bytes || self.sender.try_send(item).is_err() {
            shared.queued.fetch_sub(bytes, Ordering::Relaxed);
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
