//! `AF_XDP` sockets (Linux `af_xdp.rst`): frames of one queue of an interface, in memory
//! shared with the kernel, as an XDP program hands them over.
//!
//! The memory is cut into chunks. Four rings say whose a chunk is: *fill* gives empty ones
//! to the kernel, *received* brings them back with frames, *send* gives it frames to
//! send, *completion* brings those chunks back.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{xdp_desc, xdp_mmap_offsets, xdp_ring_offset, xdp_statistics};

use crate::packet::{check, head, is_bare, set};
use crate::port::{Frame, FramePort, OutFrame, PacketKind, Sent};
use crate::vnet::VnetHeader;

/// Bytes of a chunk.
const CHUNK: usize = 2048;
/// What the kernel keeps free in front of a received frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// Frames that the kernel sends per system call, unless told otherwise (`TX_BATCH_SIZE`).
const BATCH: u32 = 32;
/// `XDP_MAX_TX_SKB_BUDGET`: tells it otherwise, from Linux 6.17 on.
const BUDGET: libc::c_int = 9;

/// A memory mapping.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Of a socket's ring, or memory of our own.
    fn new(len: usize, of: Option<(BorrowedFd<'_>, libc::off_t)>) -> io::Result<Self> {
        let (flags, fd, offset) = match of {
            Some((fd, offset)) => (libc::MAP_SHARED, fd.as_raw_fd(), offset),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        };
        // SAFETY: a new mapping, of no file that shrinks.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_POPULATE,
                fd,
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len })
    }

    /// Where `count` values of a type begin `at` bytes into the mapping.
    fn part<T>(&self, at: u64, count: usize) -> io::Result<NonNull<T>> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let end = count
            .checked_mul(size_of::<T>())
            .and_then(|l| l.checked_add(at));
        if end.is_none_or(|end| end > self.len) || !at.is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other("the kernel's ring is not where it says"));
        }
        // SAFETY: inside the mapping.
        Ok(unsafe { self.base.add(at) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// One of the rings. Which end is ours depends on the ring: we advance `own`, the kernel
/// `other`.
#[derive(Debug)]
struct Ring<T> {
    /// Keeps the memory.
    _mapping: Mapping,
    own: NonNull<AtomicU32>,
    other: NonNull<AtomicU32>,
    slots: NonNull<T>,
    /// Number of slots, a power of two.
    count: u32,
    /// Our end as it will be.
    at: u32,
}

/// Which end of a ring is ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Producer,
    Consumer,
}

impl<T: Copy> Ring<T> {
    /// Makes a ring of `count` slots, a power of two, and maps it.
    fn new(
        fd: &OwnedFd,
        (option, page): (libc::c_int, libc::off_t),
        end: End,
        count: u32,
        place: impl FnOnce(&xdp_mmap_offsets) -> xdp_ring_offset,
    ) -> io::Result<Self> {
        set(fd, libc::SOL_XDP, option, &count)?;
        let place = place(&get(fd, libc::XDP_MMAP_OFFSETS)?);
        let slots = count as usize;
        let len = usize::try_from(place.desc).map_err(io::Error::other)? + slots * size_of::<T>();
        let mapping = Mapping::new(len, Some((fd.as_fd(), page)))?;
        let (producer, consumer) = (
            mapping.part(place.producer, 1)?,
            mapping.part(place.consumer, 1)?,
        );
        let (own, other) = match end {
            End::Producer => (producer, consumer),
            End::Consumer => (consumer, producer),
        };
        Ok(Ring {
            own,
            other,
            slots: mapping.part(place.desc, slots)?,
            count,
            at: 0,
            _mapping: mapping,
        })
    }

    /// The kernel's end.
    fn other(&self) -> u32 {
        // SAFETY: in the mapping, aligned, and reached through atomic operations only.
        unsafe { self.other.as_ref() }.load(Ordering::Acquire)
    }

    /// Slots that we have filled and the kernel has not emptied; ours is the producer.
    fn waiting(&self) -> u32 {
        self.at.wrapping_sub(self.other())
    }

    /// Slots that the kernel has filled and we have not passed; ours is the consumer.
    fn filled(&self) -> u32 {
        self.other().wrapping_sub(self.at).min(self.count)
    }

    fn slot(&self) -> NonNull<T> {
        let index = self.at & (self.count - 1);
        // SAFETY: below the number of slots.
        unsafe { self.slots.add(index as usize) }
    }

    /// The next slot that the kernel has filled; there must be one.
    fn take(&mut self) -> T {
        // SAFETY: the slot is ours until `publish` passes it; any bytes are a value.
        let value = unsafe { self.slot().read() };
        self.at = self.at.wrapping_add(1);
        value
    }

    /// Fills the next slot; there must be an empty one.
    fn put(&mut self, value: T) {
        // SAFETY: the slot is ours until `publish` passes it.
        unsafe { self.slot().write(value) };
        self.at = self.at.wrapping_add(1);
    }

    /// Lets the kernel see how far we are.
    fn publish(&self) {
        // SAFETY: as in `other`.
        unsafe { self.own.as_ref() }.store(self.at, Ordering::Release);
    }
}

/// A socket on one queue of an interface.
#[derive(Debug)]
pub struct XdpSocket {
    fd: OwnedFd,
    memory: Mapping,
    fill: Ring<u64>,
    received: Ring<xdp_desc>,
    send: Ring<xdp_desc>,
    completion: Ring<u64>,
    /// Chunks to send from that are empty.
    empty: Vec<u64>,
    /// Lost frames that have been reported.
    reported: u64,
}

// SAFETY: nobody else in this process has the mappings.
unsafe impl Send for XdpSocket {}

impl XdpSocket {
    /// The longest frame, link-layer header included, that one can receive.
    pub const LONGEST: usize = CHUNK - HEADROOM;

    /// Opens queue `queue` of interface `index` of the calling thread's network namespace,
    /// with room for `receive` frames that wait and `send` on their way, both powers of
    /// two. Frames come once an XDP program sends them here. The kernel copies them:
    /// every driver can have that.
    ///
    /// # Errors
    /// No permission (`CAP_NET_RAW`, and `CAP_IPC_LOCK` for the memory), no such
    /// interface or queue (`EINVAL`), the queue has a socket already, a kernel without
    /// `AF_XDP`.
    pub fn open(index: u32, queue: u32, receive: u32, send: u32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, kind, 0) };
        check(fd)?;
        // SAFETY: `fd` is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let memory = Mapping::new((receive + send) as usize * CHUNK, None)?;
        let region = libc::xdp_umem_reg {
            addr: memory.base.as_ptr() as u64,
            len: memory.len as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)?;
        let fill = (
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
        );
        let completion = (
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
        );
        let received = (libc::XDP_RX_RING, libc::XDP_PGOFF_RX_RING);
        let sent = (libc::XDP_TX_RING, libc::XDP_PGOFF_TX_RING);
        let mut fill = Ring::new(&fd, fill, End::Producer, receive, |o| o.fr)?;
        let completion = Ring::new(&fd, completion, End::Consumer, send, |o| o.cr)?;
        let received = Ring::new(&fd, received, End::Consumer, receive, |o| o.rx)?;
        let sent = Ring::new(&fd, sent, End::Producer, send, |o| o.tx)?;
        // More than this at once needs a newer kernel; less only costs time.
        let _ = set(&fd, libc::SOL_XDP, BUDGET, &send);
        let chunk = |n: u32| u64::from(n) * CHUNK as u64;
        (0..receive).for_each(|n| fill.put(chunk(n)));
        fill.publish();
        bind(&fd, index, queue)?;
        Ok(XdpSocket {
            fd,
            memory,
            fill,
            received,
            send: sent,
            completion,
            empty: (receive..receive + send).map(chunk).collect(),
            reported: 0,
        })
    }

    /// A received frame. `None` is not what the kernel does.
    fn frame(&self, desc: &xdp_desc) -> Option<&[u8]> {
        let end = desc.addr.checked_add(u64::from(desc.len))?;
        if end > self.memory.len as u64 {
            return None;
        }
        // SAFETY: in the mapping; the chunk is ours until it is given back to the kernel,
        // which takes `self` for writing.
        Some(unsafe {
            let begin = self.memory.base.add(desc.addr as usize);
            std::slice::from_raw_parts(begin.as_ptr(), desc.len as usize)
        })
    }

    /// Writes a frame to an empty chunk and puts it on the ring; the ring has a slot for
    /// each of these chunks.
    fn put(&mut self, frame: &OutFrame, chunk: u64) {
        // SAFETY: `chunk` is one of ours in the mapping, and in no ring.
        let bytes = unsafe {
            let begin = self.memory.base.add(chunk as usize);
            std::slice::from_raw_parts_mut(begin.as_ptr(), CHUNK)
        };
        let (head, body) = (head(frame), frame.body.as_slice());
        let len = head.len() + body.len();
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..len].copy_from_slice(body);
        self.send.put(xdp_desc {
            addr: chunk,
            len: len as u32,
            options: 0,
        });
    }

    /// Takes chunks back from which frames have been sent.
    fn collect(&mut self) {
        let done = self.completion.filled();
        for _ in 0..done {
            let chunk = self.completion.take();
            self.empty.push(chunk & !(CHUNK as u64 - 1));
        }
        if done > 0 {
            self.completion.publish();
        }
    }

    /// Has the kernel send what is on the ring. What it refuses for now stays there.
    fn kick(&mut self) -> io::Result<()> {
        loop {
            let before = self.send.waiting();
            if before == 0 {
                return Ok(());
            }
            // SAFETY: no pointers.
            let done = unsafe {
                let flags = libc::MSG_DONTWAIT;
                libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, flags, ptr::null(), 0)
            };
            let error = (done < 0).then(io::Error::last_os_error);
            let left = self.send.waiting();
            self.collect();
            if left == before {
                return Err(error.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()));
            }
        }
    }

    /// Whether a frame can be sent here: nothing left to do on it, and short enough.
    #[must_use]
    pub fn is_plain(frame: &OutFrame) -> bool {
        is_bare(frame) && head(frame).len() + frame.body.len() <= CHUNK
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FramePort for XdpSocket {
    fn receive(&mut self, budget: usize, take: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        // What the interface had no room for is tried again.
        let _ = self.kick();
        let count = budget.min(self.received.filled() as usize);
        for _ in 0..count {
            let desc = self.received.take();
            if let Some(bytes) = self.frame(&desc) {
                let protocol = bytes.get(12..).and_then(|b| b.first_chunk());
                take(Frame {
                    kind: PacketKind::Unknown,
                    protocol: protocol.map_or(0, |p| u16::from_be_bytes(*p)),
                    vnet: VnetHeader::default(),
                    bytes,
                });
            }
            // There is a slot for every chunk of the receiving part.
            self.fill.put(desc.addr & !(CHUNK as u64 - 1));
        }
        if count > 0 {
            self.received.publish();
            self.fill.publish();
        }
        Ok(count)
    }

    /// Sends frames that are plain ([`XdpSocket::is_plain`]), until one is not. One that
    /// has been taken goes later at the latest, before all others, if the interface has
    /// no room for it now.
    fn send(&mut self, frames: &[OutFrame]) -> Sent {
        // What is left from before goes first.
        let mut result = Sent {
            sent: 0,
            refused: self.kick().err(),
        };
        while result.refused.is_none() {
            self.collect();
            let rest = frames[result.sent..]
                .iter()
                .take_while(|f| Self::is_plain(f));
            let mut put = 0;
            for frame in rest.take(BATCH as usize) {
                let Some(chunk) = self.empty.pop() else {
                    break;
                };
                self.put(frame, chunk);
                put += 1;
            }
            if put == 0 {
                break;
            }
            self.send.publish();
            result.sent += put;
            result.refused = self.kick().err();
        }
        result
    }

    fn lost(&mut self) -> u64 {
        let _ = self.kick();
        let Ok(stats) = get::<xdp_statistics>(&self.fd, libc::XDP_STATISTICS) else {
            return 0;
        };
        let all = stats.rx_dropped + stats.rx_ring_full;
        all - mem::replace(&mut self.reported, all).min(all)
    }
}

fn bind(fd: &OwnedFd, index: u32, queue: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: `address` is a whole `sockaddr_xdp`.
    let done = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    check(done)
}

/// Reads one of the options whose values are numbers only.
fn get<T>(fd: &OwnedFd, name: libc::c_int) -> io::Result<T> {
    // SAFETY: used with structures of plain numbers, for which zeroes are a value.
    let mut value: T = unsafe { mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `len` bytes.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    check(done)?;
    Ok(value)
}

/// `struct ethtool_channels` (uapi `linux/ethtool.h`).
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    send: u32,
    other: u32,
    combined: u32,
}

/// `ETHTOOL_GCHANNELS`
const GET_CHANNELS: u32 = 0x3c;
/// `SIOCETHTOOL`
const ETHTOOL: libc::Ioctl = 0x8946;

/// Receive queues of the interface `name` of the calling thread's network namespace; a
/// driver that does not tell has one.
#[must_use]
pub fn receive_queues(name: &str) -> u32 {
    let mut channels = Channels {
        command: GET_CHANNELS,
        ..Channels::default()
    };
    // SAFETY: plain data for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if fd < 0 {
        return 1;
    }
    // SAFETY: `fd` is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` points to `channels`, which is what this command writes to.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), ETHTOOL, &raw mut request) };
    match done {
        0.. => (channels.receive + channels.combined).max(1),
        _ => 1,
    }
}
