//! What tracking says of a packet, as a lens.

use tidegate_ir::{Field, ctstate};
use tidegate_wire::proto;

use crate::lens::{Bound, Lens};

/// All connection fields that a tracked packet's lens binds.
pub(crate) const CONNECTION: [Field; 18] = [
    Field::CtStatus,
    Field::CtDir,
    Field::CtMark,
    Field::CtProto,
    Field::CtOrigSrc,
    Field::CtOrigDst,
    Field::CtReplSrc,
    Field::CtReplDst,
    Field::CtOrigSport,
    Field::CtOrigDport,
    Field::CtReplSport,
    Field::CtReplDport,
    Field::CtExpire,
    Field::CtOrigPackets,
    Field::CtOrigBytes,
    Field::CtReplPackets,
    Field::CtReplBytes,
    Field::CtLabels,
];

/// An answer to a packet that was seen so in the end.
pub(crate) fn swapped(opener: &Lens) -> Lens {
    let mut lens = Lens::default();
    let early = |translated: bool, own: Field| match translated {
        true => Bound::Unknown,
        false => Bound::same(own),
    };
    let snat = opener.snat.is_some();
    lens.set(Field::Proto, opener.get(Field::Proto));
    lens.set(Field::Src, opener.get(Field::Dst));
    lens.set(Field::Sport, opener.get(Field::Dport));
    lens.set(
        Field::Dst,
        match snat {
            true => opener.get(Field::Src),
            false => Bound::same(Field::Src),
        },
    );
    lens.set(Field::Dport, early(snat, Field::Sport));
    lens.set(Field::SrcType, opener.get(Field::DstType));
    lens.set(Field::DstType, early(snat, Field::SrcType));
    // Nobody knows the link it comes from.
    for field in [
        Field::Tos,
        Field::Ttl,
        Field::Length,
        Field::IcmpTypeCode,
        Field::SrcMac,
        Field::PktType,
        Field::TcpMss,
    ] {
        lens.set(field, Bound::Unknown);
    }
    if let Some(icmp) = opener.value(Field::IcmpTypeCode).and_then(echoed) {
        lens.set(Field::IcmpTypeCode, Bound::Const(icmp));
    }
    lens.set(Field::InName, opener.get(Field::OutName));
    lens.set(Field::OutName, Bound::same(Field::InName));
    lens
}

/// The answer to an echo request.
const fn echoed(kind: u128) -> Option<u128> {
    match kind {
        0x0800 => Some(0),
        0x8000 => Some(0x8100),
        _ => None,
    }
}

/// A packet of no connection.
pub(crate) fn untracked(lens: &mut Lens) {
    lens.set(Field::HasCt, Bound::Const(0));
    for field in CONNECTION {
        lens.set(field, Bound::Absent);
    }
    lens.set(Field::CtMasterSrc, Bound::Absent);
    lens.set(Field::CtMasterHelper, Bound::Absent);
}

/// A further packet of a connection that nobody has answered as far as tracking knows: of TCP
/// an ACK that makes no sense (`tcp_conntracks`), of others one more that opens.
pub(crate) fn unanswered(lens: &mut Lens, opener: &Lens) {
    if lens.value(Field::Proto) == Some(proto::TCP.into()) {
        return;
    }
    opened(lens);
    lens.set(Field::CtMark, opener.get(Field::CtMark));
}

/// A connection that this packet opens.
pub(crate) fn opened(lens: &mut Lens) {
    let (src, dst) = (lens.get(Field::Src), lens.get(Field::Dst));
    let (sport, dport) = (lens.get(Field::Sport), lens.get(Field::Dport));
    for (field, bound) in [
        (Field::HasCt, Bound::Const(1)),
        (Field::CtState, Bound::Const(ctstate::NEW)),
        (Field::CtStatus, Bound::Const(0)),
        (Field::CtDir, Bound::Const(0)),
        (Field::CtMark, Bound::Const(0)),
        (Field::CtProto, Bound::same(Field::Proto)),
        (Field::CtOrigSrc, src),
        (Field::CtMasterSrc, src),
        (Field::CtReplDst, src),
        (Field::CtOrigDst, dst),
        (Field::CtReplSrc, dst),
        (Field::CtOrigSport, sport),
        (Field::CtReplDport, sport),
        (Field::CtOrigDport, dport),
        (Field::CtReplSport, dport),
        (Field::CtExpire, Bound::Unknown),
        (Field::CtOrigPackets, Bound::Unknown),
        (Field::CtOrigBytes, Bound::Unknown),
        (Field::CtReplPackets, Bound::Unknown),
        (Field::CtReplBytes, Bound::Unknown),
        (Field::CtLabels, Bound::Unknown),
    ] {
        lens.set(field, bound);
    }
}
