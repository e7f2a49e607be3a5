//! Headers: what is in the packet, and whether it is plain enough.

mod tcp;

use tidegate_wire::proto;

use super::frame::{
    CHECK, DOUBT, ETH_P_IP, ETHERNET, Front, IP, IP_LEN, KEY, L4, LEN, LONGEST, PROTO, PSEUDO, TTL,
    helper, skb, xdp,
};
use super::{CONTEXT, stack};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size, Src};
use crate::layout::Fate;

/// The option of the jumbo payload (RFC 2675 section 2).
const JUMBO: i32 = 0xc2;

/// Where packets go that are not plain.
pub(super) struct Exits {
    /// Where the program is.
    pub(super) front: Front,
    /// Nothing can be said about the flow.
    pub(super) unusual: Label,
    /// A later fragment.
    pub(super) fragment: Label,
}

/// R2: a place in the frame, of the first 256 bytes; R3: the end of what programs may read
/// themselves. Uses R1.
pub(super) fn point(a: &mut Asm, front: Front, offset: Src) {
    let (data, end) = match front {
        Front::Tcx => (skb::DATA, skb::DATA_END),
        Front::Xdp => (xdp::DATA, xdp::DATA_END),
    };
    a.load(Size::W, Reg::R2, CONTEXT, data);
    a.load(Size::W, Reg::R3, CONTEXT, end);
    match offset {
        Src::Imm(0) => {}
        Src::Imm(known) => a.alu(Op::Add, Reg::R2, known),
        Src::Reg(offset) => {
            a.mov(Reg::R1, offset);
            // Which tells the verifier that it is small.
            a.alu(Op::And, Reg::R1, 0xff);
            a.alu(Op::Add, Reg::R2, Reg::R1);
        }
    }
}

/// R2: a piece of the frame, or goes to `far` when that is not in the memory that programs
/// may read themselves. Uses R1, R3 and R4.
pub(super) fn reach(a: &mut Asm, front: Front, offset: Src, len: i32, far: Label) {
    point(a, front, offset);
    a.mov(Reg::R4, Reg::R2);
    a.alu(Op::Add, Reg::R4, len);
    a.jump_if(Cond::Gt, Reg::R4, Reg::R3, far);
}

/// Cuts `len` bytes into words as `at`, a place on the stack, is aligned: where each
/// begins, and its width.
pub(crate) fn pieces(at: i16, len: i32) -> impl Iterator<Item = (i16, Size)> {
    const SIZES: [(i16, Size); 4] = [(8, Size::D), (4, Size::W), (2, Size::H), (1, Size::B)];
    let len = len as i16;
    let mut next = 0;
    std::iter::from_fn(move || {
        let fits = |(bytes, _): &(i16, Size)| *bytes <= len - next && (at + next) % bytes == 0;
        let (bytes, size) = SIZES.into_iter().find(fits)?;
        let piece = (next, size);
        next += bytes;
        Some(piece)
    })
}

/// Where a transport header is behind an IPv4 header without options, and bytes of the shortest.
pub(super) const L4_OF_IPV4: i32 = 14 + 20;
const SHORTEST_L4: i32 = 8;
/// Bytes of an Ethernet frame that may be filled up.
const SHORTEST: i32 = 60;

impl Exits {
    pub(super) fn new(a: &mut Asm, front: Front) -> Self {
        Exits {
            front,
            unusual: a.label(),
            fragment: a.label(),
        }
    }

    /// Copies what comes first in all frames that programs answer for to the stack: an Ethernet
    /// header, and what is an IPv4 header and ports unless it is IPv6. Goes to `short` where
    /// there is less.
    pub(super) fn first(&self, a: &mut Asm, short: Label) {
        let (far, done) = (a.label(), a.label());
        let parts = [(0, ETHERNET, L4_OF_IPV4), (L4_OF_IPV4, L4, SHORTEST_L4)];
        reach(a, self.front, 0.into(), L4_OF_IPV4 + SHORTEST_L4, far);
        for (from, to, len) in parts {
            copy(a, from as i16, to, len);
        }
        a.aside(|a| {
            a.bind(far);
            for (from, to, len) in parts {
                self.call(a, from.into(), (to, len), short);
            }
            a.jump(done);
        });
        a.bind(done);
    }

    /// Copies a piece of the frame, from its first 256 bytes, to the stack; where it is not,
    /// the frame is unusual.
    pub(super) fn load(&self, a: &mut Asm, offset: impl Into<Src>, to: i16, len: i32) {
        let (offset, (far, done)) = (offset.into(), (a.label(), a.label()));
        reach(a, self.front, offset, len, far);
        copy(a, 0, to, len);
        a.aside(|a| {
            a.bind(far);
            self.call(a, offset, (to, len), self.unusual);
            a.jump(done);
        });
        a.bind(done);
    }

    /// Has the kernel copy a piece of the frame to the stack.
    fn call(&self, a: &mut Asm, offset: Src, (to, len): (i16, i32), none: Label) {
        a.mov(Reg::R1, CONTEXT);
        a.mov(Reg::R2, offset);
        stack(a, Reg::R3, to);
        a.mov(Reg::R4, len);
        a.call(match self.front {
            Front::Tcx => helper::LOAD_BYTES,
            Front::Xdp => helper::XDP_LOAD_BYTES,
        });
        a.jump_if(Cond::Ne, Reg::R0, 0, none);
    }

    /// R1: bytes of the frame. Uses R2.
    fn frame_len(&self, a: &mut Asm) {
        match self.front {
            Front::Tcx => a.load(Size::W, Reg::R1, CONTEXT, skb::LEN),
            Front::Xdp => {
                a.load(Size::W, Reg::R1, CONTEXT, xdp::DATA_END);
                a.load(Size::W, Reg::R2, CONTEXT, xdp::DATA);
                a.alu(Op::Sub, Reg::R1, Reg::R2);
            }
        }
    }

    /// R1: bytes of payload of each of several segments in one frame, or 0.
    fn segment_len(&self, a: &mut Asm) {
        match self.front {
            Front::Tcx => a.load(Size::W, Reg::R1, CONTEXT, skb::GSO_SIZE),
            Front::Xdp => a.mov(Reg::R1, 0),
        }
    }
}

/// Copies `len` bytes at R2 to the stack, from the frame's byte `from` on. Uses R3.
fn copy(a: &mut Asm, from: i16, to: i16, len: i32) {
    for (at, size) in pieces(to, len) {
        a.load(size, Reg::R3, Reg::R2, from + at);
        a.store(size, Reg::R10, to + at, Reg::R3);
    }
}

/// Reads all headers, the first bytes of which are there ([`Exits::first`]); R8 is the Ethernet
/// type, of IPv4 or IPv6, and becomes the transport header's place in the frame, which of IPv4
/// alone is [`L4_OF_IPV4`]. R7: bytes of transport header and payload. Once the packet's flow is
/// known, `known` has it looked for, while everything else is looked at; it leaves R7 and R8.
pub(super) fn headers(a: &mut Asm, exits: &Exits, known: impl FnOnce(&mut Asm)) {
    let (v6, read) = (a.label(), a.label());
    a.jump_if(Cond::Ne, Reg::R8, ETH_P_IP, v6);
    ipv4(a, exits);
    ports(a, exits, Some(L4_OF_IPV4));
    a.aside(|a| {
        a.bind(v6);
        ipv6(a, exits);
        ports(a, exits, None);
        a.jump(read);
    });
    a.bind(read);
    a.load(Size::W, Reg::R1, Reg::R10, L4);
    a.store(Size::W, Reg::R10, KEY + 40, Reg::R1);
    known(a);
    let (v6, fine) = (a.label(), a.label());
    length(a, exits);
    a.jump_if(Cond::Ne, Reg::R8, L4_OF_IPV4, v6);
    check_ipv4(a, exits);
    a.aside(|a| {
        a.bind(v6);
        check_ipv6(a);
        a.jump(fine);
    });
    a.bind(fine);
    transport(a, exits);
}

/// Reads an IPv4 header: addresses, protocol in R1, and length in R7. Words of the key that only
/// IPv6 has are not written.
fn ipv4(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    const FRAGMENT: i32 = 0x3fff_u16.to_be() as i32;
    const LATER: i32 = 0x1fff_u16.to_be() as i32;
    a.load(Size::B, R::R1, R::R10, IP);
    a.jump_if(Cond::Ne, R::R1, 0x45, exits.unusual);
    // Later fragments have no ports; first ones belong to their flow.
    a.load(Size::H, R::R1, R::R10, IP + 6);
    a.rarely(Cond::Set, R::R1, FRAGMENT, |a| {
        a.jump_if(Cond::Set, R::R1, LATER, exits.fragment);
        doubt(a, Fate::Fragment);
    });
    a.load(Size::H, R::R7, R::R10, IP + 2);
    a.swap(R::R7, 16);
    a.rarely(Cond::Eq, R::R7, 0, |a| too_long_to_tell(a, exits));
    a.jump_if(Cond::Lt, R::R7, 20, exits.unusual);
    a.store(Size::W, R::R10, IP_LEN, 20);
    for (from, to) in [(IP + 12, KEY + 8), (IP + 16, KEY + 24)] {
        a.load(Size::W, R::R1, R::R10, from);
        a.store(Size::W, R::R10, to, R::R1);
    }
    a.load(Size::B, R::R1, R::R10, IP + 9);
    protocol(a, 4);
    a.mov(R::R8, L4_OF_IPV4);
}

/// R1 is the protocol: notes it, and the second word of a key with it. Uses R2.
fn protocol(a: &mut Asm, version: u8) {
    use Reg as R;
    a.store(Size::W, R::R10, PROTO, R::R1);
    a.mov(R::R2, R::R1);
    if cfg!(target_endian = "big") {
        a.alu(Op::Lsh, R::R2, 24);
    }
    a.alu(Op::Or, R::R2, i32::from_ne_bytes([0, version, 0, 0]));
    a.store(Size::W, R::R10, KEY + 4, R::R2);
}

/// The rest of it: its sum, and what may change.
fn check_ipv4(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    a.load(Size::B, R::R1, R::R10, IP + 8);
    a.store(Size::W, R::R10, TTL, R::R1);
    a.alu(Op::Sub, R::R7, L4_OF_IPV4 - 14);
    // The addresses are in both sums.
    add_words(a, R::R4, IP + 12, 2);
    add_words(a, R::R1, IP, 3);
    a.alu(Op::Add, R::R1, R::R4);
    nearly_fold(a, R::R1, R::R2);
    a.jump_if(Cond::Ne, R::R1, 0xffff, exits.unusual);
    pseudo_sum(a);
}

/// R7: the length of several segments in one frame of which the header says none, as it is when
/// they are longer than it could say (BIG TCP, and over loopback, where two already are).
fn too_long_to_tell(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    exits.segment_len(a);
    a.jump_if(Cond::Eq, R::R1, 0, exits.unusual);
    exits.frame_len(a);
    a.mov(R::R7, R::R1);
    a.alu(Op::Sub, R::R7, 14);
}

/// R1: the sum over the IPv4 header on the stack.
pub(super) fn header_sum(a: &mut Asm) {
    add_words(a, Reg::R1, IP, 5);
}

/// `sum` becomes that of so many words of the stack. Uses R2.
fn add_words(a: &mut Asm, sum: Reg, at: i16, words: i16) {
    a.load(Size::W, sum, Reg::R10, at);
    for word in 1..words {
        a.load(Size::W, Reg::R2, Reg::R10, at + word * 4);
        a.alu(Op::Add, sum, Reg::R2);
    }
}

/// Folds a sum of less than 2^40 into 16 bits.
pub(super) fn fold(a: &mut Asm, sum: Reg, spare: Reg) {
    nearly_fold(a, sum, spare);
    fold_once(a, sum, spare);
}

/// Folds a sum of less than 2^40 into less than 2^16 + 2^8, which is 0xffff if the packet is
/// right: no other number there is so modulo 0xffff, but for 0, which a sum is of zeroes alone.
pub(super) fn nearly_fold(a: &mut Asm, sum: Reg, spare: Reg) {
    fold_once(a, sum, spare);
    fold_once(a, sum, spare);
}

fn fold_once(a: &mut Asm, sum: Reg, spare: Reg) {
    a.mov(spare, sum);
    a.alu(Op::Rsh, spare, 16);
    a.alu(Op::And, sum, 0xffff);
    a.alu(Op::Add, sum, spare);
}

/// Reads an IPv6 header: addresses, protocol in R1, and length in R7.
fn ipv6(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    exits.load(a, 14 + 20, IP + 20, 20);
    a.load(Size::B, R::R1, R::R10, IP);
    a.alu(Op::Rsh, R::R1, 4);
    a.jump_if(Cond::Ne, R::R1, 6, exits.unusual);
    a.load(Size::H, R::R7, R::R10, IP + 4);
    a.swap(R::R7, 16);
    a.alu(Op::Add, R::R7, 40);
    a.store(Size::W, R::R10, IP_LEN, 40);
    a.mov(R::R8, 14 + 40);
    for word in 0..8 {
        a.load(Size::W, R::R1, R::R10, IP + 8 + word * 4);
        a.store(Size::W, R::R10, KEY + 8 + word * 4, R::R1);
    }
    a.load(Size::B, R::R1, R::R10, IP + 6);
    let told = a.label();
    a.jump_if(Cond::Ne, R::R7, 40, told);
    jumbo(a, exits);
    a.bind(told);
    protocol(a, 6);
}

/// The rest of it: what may change.
fn check_ipv6(a: &mut Asm) {
    use Reg as R;
    a.load(Size::B, R::R1, R::R10, IP + 7);
    a.store(Size::W, R::R10, TTL, R::R1);
    a.load(Size::W, R::R1, R::R10, IP_LEN);
    a.alu(Op::Sub, R::R7, R::R1);
    add_words(a, R::R4, IP + 8, 8);
    pseudo_sum(a);
}

/// R1: the type of service or traffic class of the header on the stack, which most paths do not ask
/// for.
pub(super) fn service(a: &mut Asm) {
    use Reg as R;
    let (v6, done) = (a.label(), a.label());
    a.load(Size::B, R::R1, R::R10, KEY + 5);
    a.jump_if(Cond::Ne, R::R1, 4, v6);
    a.load(Size::B, R::R1, R::R10, IP + 1);
    a.jump(done);
    a.bind(v6);
    a.load(Size::H, R::R1, R::R10, IP);
    a.swap(R::R1, 16);
    a.alu(Op::Rsh, R::R1, 4);
    a.alu(Op::And, R::R1, 0xff);
    a.bind(done);
}

/// Reads the hop-by-hop options behind an IPv6 header that says no length: the jumbo payload's
/// alone (RFC 2675), as the kernel has them while segments are joined. R1 is the protocol of
/// either header, R7 becomes the length.
fn jumbo(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    a.jump_if(Cond::Ne, R::R1, i32::from(proto::HOPOPTS), exits.unusual);
    too_long_to_tell(a, exits);
    exits.load(a, 14 + 40, L4, 8);
    word(a, L4);
    // No more than these eight bytes, the option and its length; before them the next header.
    a.mov(R::R2, R::R1);
    a.alu(Op::And, R::R2, 0x00ff_ffff);
    a.jump_if(Cond::Ne, R::R2, JUMBO << 8 | 4, exits.unusual);
    a.alu(Op::Rsh, R::R1, 24);
    a.store(Size::W, R::R10, IP_LEN, 48);
    a.mov(R::R8, 14 + 48);
}

/// R7 is the packet's length by its header: it must be there, and nothing behind it but
/// what fills up a short frame.
fn length(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    let exact = a.label();
    a.store(Size::W, R::R10, LEN, R::R7);
    a.store(Size::W, R::R10, LONGEST, R::R7);
    exits.frame_len(a);
    a.mov(R::R2, R::R7);
    a.alu(Op::Add, R::R2, 14);
    a.jump_if(Cond::Eq, R::R1, R::R2, exact);
    a.jump_if(Cond::Lt, R::R1, R::R2, exits.unusual);
    a.jump_if(Cond::Gt, R::R1, SHORTEST, exits.unusual);
    a.bind(exact);
}

/// R4 is the sum over addresses: notes that with protocol and transport length, which is R7.
fn pseudo_sum(a: &mut Asm) {
    use Reg as R;
    a.mov(R::R1, R::R7);
    a.swap(R::R1, 16);
    a.alu(Op::Add, R::R4, R::R1);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.swap(R::R1, 16);
    a.alu(Op::Add, R::R4, R::R1);
    a.store(Size::D, R::R10, PSEUDO, R::R4);
}

fn doubt(a: &mut Asm, fate: Fate) {
    a.store(Size::W, Reg::R10, DOUBT, fate as i32);
}

/// Reads the first bytes of the transport header at R8, of the protocol R1; those of the shortest
/// are on the stack if it is known to be `here`.
fn ports(a: &mut Asm, exits: &Exits, here: Option<i32>) {
    use Reg as R;
    let (other, read) = (a.label(), a.label());
    a.jump_if(Cond::Ne, R::R1, i32::from(proto::UDP), other);
    a.aside(|a| {
        a.bind(other);
        a.jump_if(Cond::Ne, R::R1, i32::from(proto::TCP), exits.unusual);
        match here {
            Some(here) => exits.load(a, here + SHORTEST_L4, L4 + SHORTEST_L4 as i16, 12),
            None => exits.load(a, R::R8, L4, 20),
        }
        a.jump(read);
    });
    if here.is_none() {
        exits.load(a, R::R8, L4, SHORTEST_L4);
    }
    a.bind(read);
}

/// Looks at the transport header; the network header has been looked at.
fn transport(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    let (tcp, udp, done) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::TCP), tcp);
    a.aside(|a| {
        a.bind(tcp);
        a.jump_if(Cond::Slt, R::R7, 20, exits.unusual);
        tcp::read(a, exits);
        a.jump(done);
    });
    a.bind(udp);
    a.jump_if(Cond::Slt, R::R7, 8, exits.unusual);
    read_udp(a, exits);
    a.bind(done);
}

fn read_udp(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    a.load(Size::H, R::R1, R::R10, L4 + 4);
    a.swap(R::R1, 16);
    a.jump_if(Cond::Lt, R::R1, 8, exits.unusual);
    a.jump_if(Cond::Gt, R::R1, R::R7, exits.unusual);
    a.load(Size::H, R::R1, R::R10, L4 + 6);
    a.store(Size::W, R::R10, CHECK, R::R1);
    // Several datagrams in one are decided one by one.
    let single = a.label();
    exits.segment_len(a);
    a.jump_if(Cond::Eq, R::R1, 0, single);
    doubt(a, Fate::Unusual);
    a.bind(single);
}

/// R1: the word at a place of the stack, in this machine's byte order.
fn word(a: &mut Asm, at: i16) {
    a.load(Size::W, Reg::R1, Reg::R10, at);
    a.swap(Reg::R1, 32);
}

/// Goes to `yes` when the Ethernet source on the stack is `mac`.
pub(super) fn source_is(a: &mut Asm, mac: [u8; 6], yes: Label) {
    use Reg as R;
    let no = a.label();
    let [b0, b1, b2, b3, b4, b5] = mac;
    a.load(Size::W, R::R1, R::R10, SOURCE);
    a.jump_if32(Cond::Ne, R::R1, i32::from_ne_bytes([b0, b1, b2, b3]), no);
    a.load(Size::H, R::R1, R::R10, SOURCE + 4);
    let end = u16::from_ne_bytes([b4, b5]);
    a.jump_if(Cond::Eq, R::R1, i32::from(end), yes);
    a.bind(no);
}

/// The Ethernet source, which is aligned.
const SOURCE: i16 = ETHERNET + 6;
const _: () = assert!(SOURCE % 4 == 0);
