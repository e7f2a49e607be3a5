//! Packet sockets (packet(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::Insn;
use crate::port::{Frame, FramePort, OutFrame, PacketKind, Sent};
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
    /// Bytes of waiting frames to ask the kernel to keep.
    pub receive_buffer: u32,
}

/// A packet socket bound to one interface.
pub struct PacketSocket {
    fd: OwnedFd,
    index: i32,
    /// `BATCH` buffers of vnet header and frame.
    buffers: Vec<u8>,
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
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = PacketSocket {
            fd,
            index,
            buffers: vec![0; SLOT * BATCH],
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
        // From Linux 4.20 on; the filter says the same.
        let _ = socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32);
        socket.receive_buffer(options.receive_buffer)?;
        if !options.filter.is_empty() {
            socket.filter(&options.filter)?;
        }
        socket.bind()?;
        Ok(socket)
    }

    /// More than `net.core.rmem_max` needs privileges; without, that much it is.
    fn receive_buffer(&self, bytes: u32) -> io::Result<()> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes))
    }

    fn filter(&self, program: &[Insn]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_ptr().cast_mut(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` is `len` readable bytes; a `sock_fprog` points to
        // instructions that live as long as the call.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        check(done)
    }

    fn bind(&self) -> io::Result<()> {
        let address = self.address(libc::ETH_P_ALL as u16);
        // SAFETY: `address` is a whole `sockaddr_ll`.
        let done = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        check(done)
    }

    fn address(&self, protocol: u16) -> libc::sockaddr_ll {
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
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
        let count = count.min(BATCH);
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
            if let (true, Some((head, bytes))) = (whole, buffer.split_first_chunk()) {
                take(Frame {
                    kind: kind(from[i].sll_pkttype),
                    protocol: u16::from_be(from[i].sll_protocol),
                    vnet: VnetHeader::read(head),
                    bytes,
                });
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
            to[i] = self.address(frame.protocol);
            let head = &frame.head[..usize::from(frame.head_len).min(14)];
            vectors[i] = [part(&vnets[i]), part(head), part(&frame.body)];
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

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

fn check(done: libc::c_int) -> io::Result<()> {
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
            match self.send_some(rest) {
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
        if done < 0 {
            0
        } else {
            u64::from(stats.tp_drops)
        }
    }
}
