//! Packet sockets (packet(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::Insn;
use crate::port::{Frame, FramePort, OutFrame, PacketKind, Sent};
use crate::ring::{self, Ring};
use crate::vnet::{self, VnetHeader};

/// Not in every libc: uapi `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Largest frame: the largest IP packet and its Ethernet header.
const FRAME: usize = 65535 + 14;
/// Frames taken or given per system call.
const BATCH: usize = 64;

/// How a packet socket is made.
#[derive(Clone, Debug, Default)]
pub struct PacketOptions {
    /// Which frames to take; empty takes all.
    pub filter: Vec<Insn>,
    /// Bytes of waiting frames to ask the kernel to keep, and of frames on their way out.
    pub buffer: u32,
    /// Frames of the usual size that may wait in memory shared with the kernel, which
    /// saves a system call for each batch and a copy of each frame. With 0, or where the
    /// kernel has no memory for it, system calls bring all frames.
    pub receive_ring: u32,
    /// Frames of the usual size that are handed over together to be sent.
    pub send_ring: u32,
    /// Frames are sent only; none are taken.
    pub send_only: bool,
    /// The only Ethernet type to take. Such frames are seen behind traffic control, those of
    /// all types before it.
    pub protocol: Option<u16>,
}

/// A packet socket bound to one interface.
pub struct PacketSocket {
    fd: OwnedFd,
    index: i32,
    /// Where the kernel puts frames. Those too long for it wait in the socket's queue.
    received: Option<Ring>,
    /// A socket of its own, for one that sends from a ring sends nothing else.
    sender: Option<(OwnedFd, Ring)>,
    /// Virtio header and frame each: `BATCH` of them, with a ring one.
    buffers: Vec<u8>,
    /// Frames that came but not whole.
    cut: u64,
}

impl std::fmt::Debug for PacketSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketSocket")
            .field("fd", &self.fd)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

const SLOT: usize = (vnet::LEN + FRAME).next_multiple_of(64);

impl PacketSocket {
    /// Opens interface `index` of the calling thread's network namespace.
    ///
    /// # Errors
    /// No permission (`CAP_NET_RAW`), no such interface.
    pub fn open(index: u32, options: &PacketOptions) -> io::Result<Self> {
        let index = i32::try_from(index).map_err(io::Error::other)?;
        let fd = socket()?;
        // From Linux 4.20 on; the filter says the same.
        let _ = set(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32);
        room(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.buffer)?;
        room(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.buffer)?;
        if !options.filter.is_empty() {
            filter(&fd, &options.filter)?;
        }
        let (slots, protocol) = if options.send_only {
            (0, 0)
        } else {
            let all = libc::ETH_P_ALL as u16;
            (options.receive_ring, options.protocol.unwrap_or(all))
        };
        let received = ring(&fd, libc::PACKET_RX_RING, slots);
        if received.is_some() {
            // A frame too long for a slot waits in the queue: any number but 0 says so.
            set(&fd, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &1i32)?;
        }
        bind(&fd, index, protocol)?;
        let sender = socket().and_then(|fd| {
            room(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.buffer)?;
            let ring = ring(&fd, libc::PACKET_TX_RING, options.send_ring);
            // Of protocol 0: it receives nothing.
            bind(&fd, index, 0)?;
            Ok(ring.map(|ring| (fd, ring)))
        })?;
        let buffers = if received.is_some() { 1 } else { BATCH };
        Ok(PacketSocket {
            fd,
            index,
            received,
            sender,
            buffers: vec![0; SLOT * buffers],
            cut: 0,
        })
    }

    /// Whether frames come through memory shared with the kernel.
    #[must_use]
    pub fn has_ring(&self) -> bool {
        self.received.is_some()
    }

    /// Frames from the ring, and the long ones from the queue.
    fn receive_ring(
        &mut self,
        budget: usize,
        take: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<usize> {
        let mut count = 0;
        while count < budget {
            let Some(slot) = self.received.as_ref().and_then(Ring::front) else {
                break;
            };
            let (kind, protocol) = (kind(slot.kind), slot.protocol);
            match slot.whole {
                _ if slot.queued => {
                    let mut whole = |frame: Frame<'_>| {
                        take(Frame {
                            kind,
                            protocol,
                            ..frame
                        });
                    };
                    if self.receive_some(1, &mut whole)? == 0 {
                        self.cut += 1;
                    }
                }
                Some((head, bytes)) => take(Frame {
                    kind,
                    protocol,
                    vnet: VnetHeader::read(head),
                    bytes,
                }),
                None => self.cut += 1,
            }
            if let Some(ring) = self.received.as_mut() {
                ring.pass();
            }
            count += 1;
        }
        if count == 0 {
            return self.trouble().map_or(Ok(0), Err);
        }
        Ok(count)
    }

    /// What has happened to the interface since the last call (`SO_ERROR`).
    fn trouble(&self) -> Option<io::Error> {
        let mut number: libc::c_int = 0;
        let mut len = size_of_val(&number) as libc::socklen_t;
        // SAFETY: `number` has room for `len` bytes.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut number).cast(),
                &raw mut len,
            )
        };
        (done == 0 && number != 0).then(|| io::Error::from_raw_os_error(number))
    }

    /// Sends frames through the ring; returns how many went, or what the first one met.
    fn send_ring(&mut self, frames: &[OutFrame]) -> io::Result<usize> {
        let Some((fd, ring)) = self.sender.as_mut() else {
            return Ok(0);
        };
        let mut put = 0;
        for frame in frames {
            if !ring.has_room() {
                break;
            }
            ring.put(head(frame), &frame.body);
            put += 1;
        }
        // SAFETY: no pointers.
        let done = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::sendto(
                fd.as_raw_fd(),
                std::ptr::null(),
                0,
                flags,
                std::ptr::null(),
                0,
            )
        };
        let error = (done < 0).then(io::Error::last_os_error);
        match (put - ring.take_back(put), error) {
            (0, Some(e)) => Err(e),
            (sent, _) => Ok(sent),
        }
    }

    /// One system call's worth of frames.
    fn receive_some(&mut self, count: usize, take: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        // SAFETY: all three are plain data for which zeroes are a value.
        let (mut headers, mut vectors, mut from): (
            [libc::mmsghdr; BATCH],
            [libc::iovec; BATCH],
            [libc::sockaddr_ll; BATCH],
        ) = unsafe { mem::zeroed() };
        let count = count.min(self.buffers.len() / SLOT);
        for (i, buffer) in self.buffers.chunks_exact_mut(SLOT).take(count).enumerate() {
            vectors[i] = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: vnet::LEN + FRAME,
            };
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut from[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        // SAFETY: `headers[..count]` point to vectors, buffers and addresses that live
        // on and are not used by anyone else until the call returns.
        let got = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        for i in 0..got {
            let len = headers[i].msg_len as usize;
            let whole = headers[i].msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let buffer = &self.buffers[i * SLOT..][..len.min(SLOT)];
            match buffer.split_first_chunk() {
                Some((head, bytes)) if whole => take(Frame {
                    kind: kind(from[i].sll_pkttype),
                    protocol: u16::from_be(from[i].sll_protocol),
                    vnet: VnetHeader::read(head),
                    bytes,
                }),
                _ => self.cut += 1,
            }
        }
        Ok(got)
    }

    /// Sends up to `BATCH` frames; returns how many went, or what the first one met.
    fn send_some(&self, frames: &[OutFrame]) -> io::Result<usize> {
        // SAFETY: all are plain data for which zeroes are a value.
        let (mut headers, mut vectors, mut to): (
            [libc::mmsghdr; BATCH],
            [[libc::iovec; 3]; BATCH],
            [libc::sockaddr_ll; BATCH],
        ) = unsafe { mem::zeroed() };
        let mut vnets = [[0u8; vnet::LEN]; BATCH];
        let count = frames.len().min(BATCH);
        for (i, frame) in frames.iter().take(count).enumerate() {
            vnets[i] = frame.vnet.write();
            to[i] = address(self.index, frame.protocol);
            vectors[i] = [part(&vnets[i]), part(head(frame)), part(&frame.body)];
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = vectors[i].as_mut_ptr();
            header.msg_iovlen = 3;
            header.msg_name = (&raw mut to[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        // SAFETY: `headers[..count]` point to vectors, bytes and addresses that live
        // until the call returns; the kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// A packet socket that is not bound yet.
fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
    set(&fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
    Ok(fd)
}

/// More than `net.core.rmem_max` or `wmem_max` needs privileges; without, that much it is.
fn room(fd: &OwnedFd, force: libc::c_int, ask: libc::c_int, bytes: u32) -> io::Result<()> {
    // The kernel doubles it.
    let bytes = i32::try_from(bytes / 2).unwrap_or(i32::MAX);
    set(fd, libc::SOL_SOCKET, force, &bytes).or_else(|_| set(fd, libc::SOL_SOCKET, ask, &bytes))
}

fn filter(fd: &OwnedFd, program: &[Insn]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// A ring where one is wanted and possible.
fn ring(fd: &OwnedFd, which: libc::c_int, slots: u32) -> Option<Ring> {
    if slots == 0 {
        return None;
    }
    let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
    set(fd, libc::SOL_PACKET, libc::PACKET_VERSION, &version).ok()?;
    Ring::new(fd.as_fd(), which, slots).ok()
}

pub(crate) fn set<T>(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` readable bytes; a `sock_fprog` points to instructions that
    // live as long as the call.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    check(done)
}

fn bind(fd: &OwnedFd, index: i32, protocol: u16) -> io::Result<()> {
    let address = address(index, protocol);
    // SAFETY: `address` is a whole `sockaddr_ll`.
    let done = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(done)
}

fn address(index: i32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

pub(crate) fn head(frame: &OutFrame) -> &[u8] {
    &frame.head[..usize::from(frame.head_len).min(14)]
}

/// Whether a frame is one for the ring: all done, with a link-layer header from which
/// the kernel reads what it is, and short enough.
fn is_plain(frame: &OutFrame) -> bool {
    is_bare(frame) && head(frame).len() + frame.body.len() <= ring::LONGEST
}

/// Whether nothing is left to do on a frame that has a link-layer header.
pub(crate) fn is_bare(frame: &OutFrame) -> bool {
    frame.vnet == VnetHeader::default() && frame.head_len == 14
}

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

pub(crate) fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn kind(number: u8) -> PacketKind {
    match number {
        libc::PACKET_HOST => PacketKind::Host,
        libc::PACKET_BROADCAST => PacketKind::Broadcast,
        libc::PACKET_MULTICAST => PacketKind::Multicast,
        _ => PacketKind::Other,
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FramePort for PacketSocket {
    fn receive(&mut self, budget: usize, take: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        if self.received.is_some() {
            return self.receive_ring(budget, take);
        }
        let mut total = 0;
        while total < budget {
            let want = (budget - total).min(BATCH);
            let got = self.receive_some(want, take)?;
            total += got;
            if got < want {
                break;
            }
        }
        Ok(total)
    }

    fn send(&mut self, frames: &[OutFrame]) -> Sent {
        let mut result = Sent::default();
        while let Some(rest) = frames.get(result.sent..).filter(|rest| !rest.is_empty()) {
            let ring = self.sender.as_ref().map(|(_, ring)| ring);
            // A ring without room has given what it had to the interface.
            let by_ring = match ring {
                Some(ring) if ring.has_room() => rest.iter().take_while(|f| is_plain(f)).count(),
                _ => 0,
            };
            let done = if by_ring > 0 {
                self.send_ring(&rest[..by_ring])
            } else {
                let long = |f: &&OutFrame| self.sender.is_none() || !is_plain(f);
                let count = rest.iter().take_while(long).count().max(1);
                self.send_some(&rest[..count])
            };
            match done {
                Ok(0) => break,
                Ok(sent) => result.sent += sent,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    result.refused = Some(e);
                    break;
                }
            }
        }
        result
    }

    fn lost(&mut self) -> u64 {
        // SAFETY: plain data for which zeroes are a value.
        let mut stats: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: `stats` has room for `len` bytes.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        let full = if done < 0 { 0 } else { stats.tp_drops };
        mem::take(&mut self.cut) + u64::from(full)
    }
}
