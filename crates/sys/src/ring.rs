//! Rings: memory that a packet socket shares with the kernel (packet_mmap, `TPACKET_V2`).
//!
//! Slots of one size are filled and emptied in turn. Each begins with a header whose
//! status says to whom it belongs at present.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{sockaddr_ll, tpacket2_hdr};

use crate::vnet;

/// Bytes of a slot: room for a frame of the usual MTU.
const SLOT: usize = 2048;
/// What the kernel gets from its allocator at once.
const BLOCK: usize = 1 << 16;
/// Where the address stands in a received slot, and the frame in one to be sent.
const BEHIND: usize = size_of::<tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// Longest frame that fits into a slot to be sent.
pub(crate) const LONGEST: usize = SLOT - BEHIND - vnet::LEN;

/// Slots of one direction.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    slots: usize,
    at: usize,
}

// SAFETY: nobody else in this process has the memory.
unsafe impl Send for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.slots * SLOT) };
    }
}

/// A slot that the kernel has filled.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// The whole frame is in the socket's queue, for it is longer than a slot.
    pub(crate) queued: bool,
    /// `PACKET_HOST` and so on.
    pub(crate) kind: u8,
    pub(crate) protocol: u16,
    /// Virtio header and frame; `None` when it is not all there.
    pub(crate) whole: Option<(&'a [u8; vnet::LEN], &'a [u8])>,
}

impl Ring {
    /// Gives the socket, which speaks `TPACKET_V2` with virtio headers, a ring of at
    /// least `slots`: `which` is `PACKET_RX_RING` or `PACKET_TX_RING`.
    ///
    /// # Errors
    /// No memory, or no rings here.
    pub(crate) fn new(fd: BorrowedFd<'_>, which: libc::c_int, slots: u32) -> io::Result<Self> {
        let bytes = (slots as usize * SLOT).next_multiple_of(BLOCK);
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: (bytes / BLOCK) as u32,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: (bytes / SLOT) as u32,
        };
        // SAFETY: `request` is readable and as long as said.
        let done = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                which,
                ptr::from_ref(&request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new mapping, of no file that shrinks.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Ring {
            base,
            slots: bytes / SLOT,
            at: 0,
        })
    }

    fn slot(&self, index: usize) -> NonNull<u8> {
        // SAFETY: inside the mapping, for the index is below the number of slots.
        unsafe { self.base.add(index % self.slots * SLOT) }
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: a slot begins with its status, an aligned word of four bytes that
        // lives as long as the mapping and is only used as an atomic.
        unsafe { AtomicU32::from_ptr(self.slot(index).as_ptr().cast()) }
    }

    /// The oldest slot that the kernel has filled.
    pub(crate) fn front(&self) -> Option<Received<'_>> {
        let status = self.status(self.at).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the bytes behind the status, which the kernel leaves alone until `pass`
        // gives it the slot, for which this borrow must have ended.
        let bytes = unsafe {
            let begin = self.slot(self.at).add(size_of::<u32>());
            std::slice::from_raw_parts(begin.as_ptr(), SLOT - size_of::<u32>())
        };
        let queued = status & libc::TP_STATUS_COPY != 0;
        Some(Received {
            queued,
            kind: field::<1>(bytes, BEHIND + offset_of!(sockaddr_ll, sll_pkttype))[0],
            protocol: u16::from_be_bytes(field(
                bytes,
                BEHIND + offset_of!(sockaddr_ll, sll_protocol),
            )),
            whole: whole(bytes),
        })
    }

    /// Gives the oldest filled slot back.
    pub(crate) fn pass(&mut self) {
        let status = self.status(self.at);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.at = (self.at + 1) % self.slots;
    }

    /// Whether there is room for a frame.
    pub(crate) fn has_room(&self) -> bool {
        let status = self.status(self.at).load(Ordering::Acquire);
        status == libc::TP_STATUS_AVAILABLE
    }

    /// Fills a slot for which there is room with a frame not longer than [`LONGEST`].
    pub(crate) fn put(&mut self, head: &[u8], body: &[u8]) {
        // SAFETY: the bytes behind the status of a slot that is not the kernel's; `self`
        // is borrowed by nobody else.
        let bytes = unsafe {
            let begin = self.slot(self.at).add(size_of::<u32>());
            std::slice::from_raw_parts_mut(begin.as_ptr(), SLOT - size_of::<u32>())
        };
        let len = head.len() + body.len();
        let mut write = |at: usize, what: &[u8]| {
            let at = at - size_of::<u32>();
            bytes[at..at + what.len()].copy_from_slice(what);
        };
        let all = (vnet::LEN + len) as u32;
        write(offset_of!(tpacket2_hdr, tp_len), &all.to_ne_bytes());
        write(BEHIND, &vnet::copied(len as u16));
        write(BEHIND + vnet::LEN, head);
        write(BEHIND + vnet::LEN + head.len(), body);
        let status = self.status(self.at);
        status.store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.at = (self.at + 1) % self.slots;
    }

    /// Takes back those of the last `count` slots that the kernel, asked to send, has not
    /// taken; returns how many these are.
    pub(crate) fn take_back(&mut self, count: usize) -> usize {
        let first = self.at + self.slots - count;
        let left = |&i: &usize| {
            let status = self.status(i).load(Ordering::Acquire);
            status & (libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_WRONG_FORMAT) != 0
        };
        let Some(from) = (first..first + count).find(left) else {
            return 0;
        };
        for i in from..first + count {
            let status = self.status(i);
            status.store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
        }
        self.at = from % self.slots;
        first + count - from
    }
}

/// The frame in a received slot without its status word.
fn whole(bytes: &[u8]) -> Option<(&[u8; vnet::LEN], &[u8])> {
    let len = u32::from_ne_bytes(field(bytes, offset_of!(tpacket2_hdr, tp_len)));
    let kept = u32::from_ne_bytes(field(bytes, offset_of!(tpacket2_hdr, tp_snaplen)));
    let mac = usize::from(u16::from_ne_bytes(field(
        bytes,
        offset_of!(tpacket2_hdr, tp_mac),
    )));
    let begin = mac.checked_sub(size_of::<u32>() + vnet::LEN)?;
    let (head, frame) = bytes.get(begin..)?.split_first_chunk()?;
    let frame = frame.get(..kept as usize)?;
    (len == kept).then_some((head, frame))
}

/// Bytes at a place counted from the slot's begin, status word included.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes
        .get(at - size_of::<u32>()..)
        .and_then(|b| b.first_chunk());
    found.copied().unwrap_or([0; N])
}
