//! What the live firewall asks of the system and no safe crate offers: packet sockets,
//! `AF_XDP` sockets, network namespaces, large pages. All unsafe code of the workspace is here.
#![deny(unsafe_op_in_unsafe_fn)]

mod bpf;
mod clock;
mod memory;
mod namespace;
mod packet;
mod port;
mod program;
mod ring;
mod shared;
mod vnet;
mod xdp;

pub use bpf::{Insn, wire_filter};
pub use clock::Clock;
pub use memory::{LargePages, give_back};
pub use namespace::Namespace;
pub use packet::{PacketOptions, PacketSocket};
pub use port::{Frame, FramePort, OutFrame, PacketKind, Sent};
pub use program::{
    FrontKind, FrontProgram, SenderHook, SenderLink, SenderProgram, namespace_cookie,
};
pub use shared::SharedWords;
pub use vnet::{Gso, VnetHeader};
pub use xdp::{XdpSocket, receive_queues};

/// Fills `buffer` with random bytes.
///
/// # Errors
/// The kernel has no entropy (early boot).
pub fn random(buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut buffer[filled..], flags)?;
    }
    Ok(())
}
