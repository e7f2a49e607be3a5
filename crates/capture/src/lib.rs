//! Packet captures: a streaming reader for pcap and pcapng, a pcapng writer.
//!
//! The reader borrows every packet from one buffer that is used again for the next
//! one: reading a packet allocates nothing, and memory stays bounded whatever a
//! capture claims ([`MAX_PACKET`], [`MAX_BLOCK`]). A damaged capture yields all
//! packets before the damage and then one [`CaptureError`].
//!
//! Formats: pcap in both byte orders, with micro- and nanoseconds, and pcapng with
//! any `if_tsresol` and any number of sections (IETF drafts
//! draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng).

mod error;
mod input;
mod legacy;
mod link;
mod ng;
mod reader;
mod writer;

pub use error::{CaptureError, Damage};
pub use link::{LinkType, NetworkPacket, PacketType, Payload, network_packet};
pub use reader::{Direction, Frame, Interface, Reader};
pub use writer::{WriteError, Writer};

/// Most captured bytes of one packet; more is taken for damage. libpcap's own limit
/// is 256 KiB, the largest packet of Linux (`BIG TCP`) is 512 KiB.
pub const MAX_PACKET: u32 = 1 << 20;

/// Most bytes of one pcapng block that has to be held in memory (a packet with its
/// options, an interface description). Blocks of other kinds are skipped unread.
pub const MAX_BLOCK: u32 = MAX_PACKET + (1 << 18);

/// Most interfaces of one pcapng section.
pub const MAX_INTERFACES: usize = 4096;
