//! The daemon's side: a reader's thread brings it packets, another one takes its orders.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tidegate_engine::conntrack::CtInfo;
use tidegate_engine::{Engine, QueueError, QueueReader, Queued, Taken};
use tidegate_tools::{Printed, Sink};
use tidegate_wire::Family;

use super::{About, Binding, Connection, MAX_FRAME, Order, Packet};
use crate::control::{Frame, Reply};
use crate::locked;
use crate::plane::Plane;

/// Bytes on their way to a reader that does not take them, beyond which it has no room. What
/// it has taken waits in the engine.
const ROOM: usize = 8 << 20;
/// Places for what a reader is told beside packets.
const WORDS: usize = 64;
/// Most readers at a time: others want to be served, too.
const MAX_READERS: usize = 32;
/// Orders that are carried out without waiting for the first of them.
const AHEAD: u32 = 256;
/// How often a reader is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Who reads which queue.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<BTreeMap<u16, Peer>>);

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Process, where the kernel names it.
    pid: u32,
    range: u32,
}

/// One row of a listing, as in `/proc/net/netfilter/nfnetlink_queue`.
#[derive(Debug, Serialize)]
struct Row {
    queue: u16,
    peer: u32,
    waiting: usize,
    /// `NFQNL_COPY_META`, `NFQNL_COPY_PACKET`
    copy_mode: u8,
    copy_range: u32,
    dropped_full: u64,
    dropped_by_reader: u64,
    id: u32,
    max_len: u32,
    fail_open: bool,
}

impl Readers {
    /// `queue list`
    pub(crate) fn list(&self, plane: &dyn Plane, json: bool) -> Result<Printed> {
        let counts = plane.with(|engine, _| engine.queue_counts().collect::<Vec<_>>())?;
        let peers = locked(&self.0);
        let rows = counts.into_iter().map(|c| {
            let peer = peers.get(&c.queue);
            let copy_range = peer.map_or(0, |p| p.range);
            Row {
                queue: c.queue,
                peer: peer.map_or(0, |p| p.pid),
                waiting: c.waiting,
                copy_mode: if copy_range == 0 { 1 } else { 2 },
                copy_range,
                dropped_full: c.full,
                dropped_by_reader: c.no_room,
                id: c.id,
                max_len: c.settings.max_len,
                fail_open: c.settings.fail_open,
            }
        });
        let rows: Vec<Row> = rows.collect();
        let out = match json {
            true => serde_json::to_string_pretty(&rows)? + "\n",
            false => text(&rows),
        };
        Ok(Printed {
            out,
            ..Printed::default()
        })
    }
}

fn text(rows: &[Row]) -> String {
    let mut out = "queue   peer  waiting mode      range     full   reader        id\n".to_owned();
    for r in rows {
        out += &format!(
            "{:5} {:6} {:8} {:4} {:10} {:8} {:8} {:9}\n",
            r.queue,
            r.peer,
            r.waiting,
            r.copy_mode,
            r.copy_range,
            r.dropped_full,
            r.dropped_by_reader,
            r.id
        );
    }
    out
}

/// What is on its way to a reader.
enum Item {
    Packet(Box<Packet>),
    Refused(String),
}

/// The reader as the engine knows it.
#[derive(Debug)]
struct Remote {
    to: SyncSender<Item>,
    range: usize,
    on_the_way: Arc<AtomicUsize>,
}

impl QueueReader for Remote {
    fn take(&mut self, packet: &Queued<'_>) -> Taken {
        let bytes = packet.bytes.len().min(self.range);
        if self.on_the_way.load(Ordering::Relaxed) + bytes > ROOM {
            return Taken::NoRoom;
        }
        let shown = Packet {
            about: about(packet),
            bytes: packet.bytes[..bytes].to_vec(),
        };
        match self.to.try_send(Item::Packet(Box::new(shown))) {
            Ok(()) => {
                self.on_the_way.fetch_add(bytes, Ordering::Relaxed);
                Taken::Waits
            }
            Err(_) => Taken::NoRoom,
        }
    }
}

fn about(packet: &Queued<'_>) -> About {
    let name = |i: Option<&tidegate_engine::env::Interface>| i.map(|i| i.name.clone());
    let hex = |mac: &[u8]| {
        let bytes: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
        bytes.join(":")
    };
    About {
        queue: packet.queue,
        id: packet.id,
        hook: packet.hook.chain_name().to_owned(),
        family: match packet.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
        .to_owned(),
        mark: packet.mark,
        len: packet.bytes.len() as u32,
        input: name(packet.input),
        output: name(packet.output),
        mac: packet.link.bytes().get(6..12).map(hex),
        uid: packet.sender.map(|s| s.0),
        gid: packet.sender.map(|s| s.1),
        connection: packet.connection.map(|(id, info, mark)| Connection {
            id: id.number(),
            state: match info {
                CtInfo::New => "NEW",
                CtInfo::Established | CtInfo::EstablishedReply => "ESTABLISHED",
                CtInfo::Related | CtInfo::RelatedReply => "RELATED",
            }
            .to_owned(),
            reply: matches!(info, CtInfo::EstablishedReply | CtInfo::RelatedReply),
            mark,
        }),
        segment: packet.segment.filter(|&s| s > 0),
    }
}

/// Serves the reader of a queue until it goes.
///
/// # Errors
/// The queue has a reader, or there are too many.
pub(crate) fn serve(
    plane: &Arc<dyn Plane>,
    readers: &Readers,
    words: &[String],
    reply: &mut Reply<'_>,
) -> Result<()> {
    let binding = Binding::read(words).map_err(anyhow::Error::msg)?;
    let (to, items) = sync_channel(binding.settings.max_len as usize + WORDS);
    let on_the_way = Arc::new(AtomicUsize::new(0));
    let remote = Remote {
        to: to.clone(),
        range: binding.range as usize,
        on_the_way: Arc::clone(&on_the_way),
    };
    let _bound = Bound::new(plane, readers, &binding, remote, reply.caller())?;
    let input = reply.input(LOOK)?;
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let orders = || {
            let mut orders = Orders {
                from: Patient {
                    from: input,
                    gone: &gone,
                },
                plane,
                queue: binding.queue,
                to,
            };
            orders.take_all();
            gone.store(true, Ordering::Release);
        };
        let thread = std::thread::Builder::new().name("queue".to_owned());
        thread.spawn_scoped(scope, orders)?;
        // A reader that has gone needs no word about it.
        let _ = bring(&items, &on_the_way, reply, &gone);
        gone.store(true, Ordering::Release);
        Ok(())
    })
}

/// A queue with its reader, until dropped.
struct Bound<'b> {
    plane: &'b Arc<dyn Plane>,
    readers: &'b Readers,
    queue: u16,
}

impl<'b> Bound<'b> {
    fn new(
        plane: &'b Arc<dyn Plane>,
        readers: &'b Readers,
        binding: &Binding,
        remote: Remote,
        pid: Option<u32>,
    ) -> Result<Self> {
        let Binding {
            queue,
            settings,
            range,
        } = *binding;
        let mut all = locked(&readers.0);
        if all.len() >= MAX_READERS {
            bail!("{MAX_READERS} queues have readers already, more cannot have one");
        }
        let bound = plane
            .with(move |engine, _| engine.bind_queue(queue, settings, Box::new(remote)))?
            .map_err(|e| anyhow::anyhow!("queue {queue}: {e}"));
        bound?;
        let pid = pid.unwrap_or(0);
        all.insert(queue, Peer { pid, range });
        Ok(Bound {
            plane,
            readers,
            queue,
        })
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        let queue = self.queue;
        let mut all = locked(&self.readers.0);
        all.remove(&queue);
        // A plane that has stopped has no queues any more.
        let _ = self.plane.with(move |engine, _| engine.unbind_queue(queue));
    }
}

/// Brings a reader what comes for it, until it or the daemon goes.
fn bring(
    items: &Receiver<Item>,
    on_the_way: &AtomicUsize,
    reply: &mut Reply<'_>,
    gone: &AtomicBool,
) -> io::Result<()> {
    reply.out("bound\n")?;
    loop {
        let item = match items.recv_timeout(LOOK) {
            Ok(item) => item,
            Err(RecvTimeoutError::Timeout) => {
                if gone.load(Ordering::Acquire) || reply.is_stopped() {
                    return Ok(());
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        match item {
            Item::Packet(packet) => {
                on_the_way.fetch_sub(packet.bytes.len(), Ordering::Relaxed);
                Frame::Packet(packet.encode()?).write(reply)?;
            }
            Item::Refused(why) => reply.err(&format!("{why}\n"))?,
        }
    }
}

/// A stream that is asked again until something comes or all is over.
struct Patient<'s, R> {
    from: R,
    gone: &'s AtomicBool,
}

impl<R: Read> Read for Patient<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.from.read(into) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.gone.load(Ordering::Acquire) {
                        return Ok(0);
                    }
                }
                read => return read,
            }
        }
    }
}

/// What a reader orders.
struct Orders<'o, R> {
    from: Patient<'o, R>,
    plane: &'o Arc<dyn Plane>,
    queue: u16,
    to: SyncSender<Item>,
}

impl<R: Read> Orders<'_, R> {
    /// Carries out orders until none come any more, or what is none.
    fn take_all(&mut self) {
        for count in 1u32.. {
            let order = match Frame::read(&mut self.from, MAX_FRAME) {
                Ok(Frame::Verdict(payload)) => Order::decode(&payload),
                Ok(_) => Err(super::invalid("not an order for a queue")),
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return,
                Err(e) => Err(e),
            };
            let done = order.map(|order| self.carry_out(order, count.is_multiple_of(AHEAD)));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(e) => {
                    let _ = self.to.try_send(Item::Refused(format!("tidegate: {e}")));
                    return;
                }
            }
        }
    }

    fn carry_out(&self, order: Order, wait: bool) -> Result<()> {
        let (queue, to) = (self.queue, self.to.clone());
        let work = move |engine: &mut Engine, now| {
            let id = order.id;
            let done = match order.up_to {
                false => engine.answer(now, queue, id, order.answer, &mut ()),
                true => {
                    let Order { answer, .. } = order;
                    let (verdict, mark) = (answer.verdict, answer.mark);
                    let up_to = (queue, id);
                    engine
                        .answer_up_to(now, up_to, verdict, mark, &mut ())
                        .map(|_| ())
                }
            };
            if let Err(why) = done {
                refuse(&to, queue, id, why);
            }
        };
        match wait {
            // Nobody sends orders faster than they can be carried out.
            true => self.plane.with(work),
            false => self.plane.submit(Box::new(work)),
        }
    }
}

/// Tells a reader, unless it does not listen.
fn refuse(to: &SyncSender<Item>, queue: u16, id: u32, why: QueueError) {
    let text = format!("tidegate: queue {queue}, packet {id}: {why}");
    let _ = to.try_send(Item::Refused(text));
}
