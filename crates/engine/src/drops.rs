//! Packets that went no further, and INVALID ones, counted by reason.

use tidegate_conntrack::{DropReason as CtDrop, InvalidReason};
use tidegate_wire::Malformed;

use crate::outcome::{DropReason, FragmentError};

/// An enumeration whose members have a stable name and an explanation.
macro_rules! kinds {
    ($(#[$doc:meta])* $kind:ident { $($member:ident $name:literal $what:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $kind {
            $(#[doc = $what] $member,)*
        }

        impl $kind {
            /// All of them, in the order of listings.
            pub const ALL: &[$kind] = &[$($kind::$member,)*];

            /// The name under which it is counted; names do not change.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($kind::$member => $name,)* }
            }

            /// What it means.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $($kind::$member => $what,)* }
            }
        }
    };
}

kinds! {
    /// Why packets went no further: [`DropReason`] without its details.
    DropKind {
        Rule "rule" "a rule says DROP",
        Policy "policy" "a chain's policy is DROP",
        Reject "reject" "a rule says REJECT",
        Hotdrop "hotdrop" "a match cannot read the packet",
        Queue "queue" "the queue it was for has no reader, or no room",
        QueueReader "queue_reader" "who reads its queue drops it, or went away",
        Target "target" "a target cannot do its work (MASQUERADE without address, TCPMSS on a damaged header)",
        SynProxy "synproxy" "the SYN proxy has taken it and answered or opened the connection itself",
        BadCookie "synproxy_cookie" "an ACK without a valid cookie of the SYN proxy",
        JumpDepth "jump_depth" "chains call each other too deeply",
        TableFull "conntrack_full" "the connection table is full",
        Clash "conntrack_clash" "another connection has its addresses and ports",
        ChainTooLong "conntrack_chain" "too many connections with one hash",
        Dying "conntrack_dying" "its connection was removed before it was confirmed",
        Killed "conntrack_killed" "its masqueraded connection was removed, the way out has changed",
        Helper "helper" "a helper cannot follow it, or not make room for what it announces",
        Nat "nat" "it cannot be translated",
        SeqAdjust "seqadj" "its TCP options cannot be adjusted",
        Truncated "malformed_short" "it ends inside the IP header",
        Version "malformed_version" "its IP version is not the link's, or unknown",
        HeaderLength "malformed_header" "the IPv4 header length is impossible",
        TotalLength "malformed_length" "the IP length is impossible",
        HeaderChecksum "malformed_checksum" "the IPv4 header checksum is wrong",
        Options "options" "IPv4 or hop-by-hop options are broken or refused",
        OtherHost "other_host" "the link addressed it to another host",
        Martian "martian" "its addresses cannot be, or not there",
        NoRoute "no_route" "no route leads to its destination",
        NotForwarding "not_forwarding" "this host does not forward",
        TtlExceeded "ttl" "its time to live or hop limit ran out",
        TooBig "too_big" "it is larger than the link takes and may not be cut",
        Overlap "fragment_overlap" "a fragment contradicts another",
        Duplicate "fragment_duplicate" "a fragment came twice",
        Shape "fragment_shape" "a fragment of impossible length or place",
        Memory "fragment_memory" "too many fragments wait already",
        Depth "answer_depth" "an answer to an answer to an answer was not made",
    }
}

kinds! {
    /// Why packets are INVALID: [`InvalidReason`] without its details.
    InvalidKind {
        NoL4Header "no_transport" "a later fragment, or no transport header to be found",
        NoTuple "no_tuple" "the transport header is too short for ports or ids",
        ShortHeader "short_header" "it ends inside the transport header",
        Truncated "truncated" "a length in the transport header does not fit",
        BadChecksum "checksum" "the transport checksum is wrong",
        NoChecksum "no_checksum" "the transport checksum is missing",
        BadFlags "tcp_flags" "TCP flags that no host sends together",
        NewNotSyn "tcp_new" "the first TCP segment seen cannot open a connection",
        NotLoose "tcp_midstream" "a TCP connection begun elsewhere, and tcp_loose is off",
        BadState "tcp_state" "a TCP segment that its connection's state does not allow",
        SeqOverUpper "tcp_seq_high" "a TCP segment beyond the receiver's window",
        AckOverUpper "tcp_ack_high" "TCP acknowledges what was never sent",
        RstBelowAck "tcp_rst_old" "a TCP reset for what is acknowledged already",
        NoChunks "sctp_empty" "SCTP without chunks",
        BadChunks "sctp_chunks" "SCTP chunks that may not stand together",
        ChunkCannotOpen "sctp_new" "the first SCTP chunk seen cannot open an association",
        BadChunkInState "sctp_state" "an SCTP chunk that its association's state does not allow",
        BadTag "sctp_tag" "a wrong SCTP verification tag",
        ChunkTag "sctp_chunk_tag" "an SCTP verification tag that does not go with a chunk",
        WrongFamily "icmp_family" "ICMP in IPv6 or ICMPv6 in IPv4",
        UnknownIcmpType "icmp_type" "an ICMP type that is not known",
        IcmpNoRequest "icmp_unasked" "an ICMP message that is no request and answers none",
        IcmpErrorInnerBad "icmp_error_inner" "an ICMP error about an unreadable packet",
        IcmpErrorInnerUnknown "icmp_error_unknown" "an ICMP error about no known connection",
        IcmpErrorOuterDaddr "icmp_error_address" "an ICMP error to somebody else than the sender",
        ShortRedirect "nd_redirect_short" "a neighbour discovery redirect that is cut short",
        ForeignRedirect "nd_redirect_foreign" "a neighbour discovery redirect from no router on the link",
        BareRedirect "nd_redirect_bare" "a neighbour discovery redirect without options",
    }
}

impl From<&DropReason> for DropKind {
    fn from(reason: &DropReason) -> Self {
        match reason {
            DropReason::Malformed(Malformed::Truncated) => DropKind::Truncated,
            DropReason::Malformed(Malformed::Version) => DropKind::Version,
            DropReason::Malformed(Malformed::HeaderLength) => DropKind::HeaderLength,
            DropReason::Malformed(Malformed::TotalLength) => DropKind::TotalLength,
            DropReason::Malformed(Malformed::HeaderChecksum) => DropKind::HeaderChecksum,
            DropReason::Options => DropKind::Options,
            DropReason::OtherHost => DropKind::OtherHost,
            DropReason::Rule(_) => DropKind::Rule,
            DropReason::Reject(_) => DropKind::Reject,
            DropReason::Policy(_) => DropKind::Policy,
            DropReason::Hotdrop(_) => DropKind::Hotdrop,
            DropReason::JumpDepth => DropKind::JumpDepth,
            DropReason::Conntrack(CtDrop::TableFull) => DropKind::TableFull,
            DropReason::Conntrack(CtDrop::Clash) => DropKind::Clash,
            DropReason::Conntrack(CtDrop::ChainTooLong) => DropKind::ChainTooLong,
            DropReason::Conntrack(CtDrop::Dying) => DropKind::Dying,
            DropReason::Conntrack(CtDrop::Killed) => DropKind::Killed,
            DropReason::Conntrack(
                CtDrop::Helper(_) | CtDrop::HelperPort(_) | CtDrop::HelperSilent,
            ) => DropKind::Helper,
            DropReason::Conntrack(CtDrop::Nat(_)) => DropKind::Nat,
            DropReason::Conntrack(CtDrop::SeqAdjust) => DropKind::SeqAdjust,
            DropReason::Queue(_) => DropKind::Queue,
            DropReason::QueueReader(_) => DropKind::QueueReader,
            DropReason::Target(_) => DropKind::Target,
            DropReason::SynProxy => DropKind::SynProxy,
            DropReason::BadCookie(_) => DropKind::BadCookie,
            DropReason::Martian => DropKind::Martian,
            DropReason::NoRoute => DropKind::NoRoute,
            DropReason::NotForwarding => DropKind::NotForwarding,
            DropReason::TtlExceeded => DropKind::TtlExceeded,
            DropReason::TooBig => DropKind::TooBig,
            DropReason::Fragment(FragmentError::Overlap) => DropKind::Overlap,
            DropReason::Fragment(FragmentError::Duplicate) => DropKind::Duplicate,
            DropReason::Fragment(FragmentError::Shape) => DropKind::Shape,
            DropReason::Fragment(FragmentError::Memory) => DropKind::Memory,
            DropReason::Depth => DropKind::Depth,
        }
    }
}

impl From<&InvalidReason> for InvalidKind {
    fn from(reason: &InvalidReason) -> Self {
        use InvalidReason as R;
        match reason {
            R::NoL4Header => InvalidKind::NoL4Header,
            R::NoTuple => InvalidKind::NoTuple,
            R::ShortHeader => InvalidKind::ShortHeader,
            R::Truncated => InvalidKind::Truncated,
            R::BadChecksum => InvalidKind::BadChecksum,
            R::NoChecksum => InvalidKind::NoChecksum,
            R::BadFlags(_) => InvalidKind::BadFlags,
            R::NewNotSyn(_) => InvalidKind::NewNotSyn,
            R::NotLoose => InvalidKind::NotLoose,
            R::BadState { .. } => InvalidKind::BadState,
            R::SeqOverUpper { .. } => InvalidKind::SeqOverUpper,
            R::AckOverUpper { .. } => InvalidKind::AckOverUpper,
            R::RstBelowAck { .. } => InvalidKind::RstBelowAck,
            R::NoChunks => InvalidKind::NoChunks,
            R::BadChunks { .. } => InvalidKind::BadChunks,
            R::ChunkCannotOpen(_) => InvalidKind::ChunkCannotOpen,
            R::BadChunkInState { .. } => InvalidKind::BadChunkInState,
            R::BadTag { .. } => InvalidKind::BadTag,
            R::ChunkTag(_) => InvalidKind::ChunkTag,
            R::WrongFamily => InvalidKind::WrongFamily,
            R::UnknownIcmpType(_) => InvalidKind::UnknownIcmpType,
            R::IcmpNoRequest(_) => InvalidKind::IcmpNoRequest,
            R::IcmpErrorInnerBad => InvalidKind::IcmpErrorInnerBad,
            R::IcmpErrorInnerUnknown => InvalidKind::IcmpErrorInnerUnknown,
            R::IcmpErrorOuterDaddr { .. } => InvalidKind::IcmpErrorOuterDaddr,
            R::ShortRedirect => InvalidKind::ShortRedirect,
            R::ForeignRedirect => InvalidKind::ForeignRedirect,
            R::BareRedirect => InvalidKind::BareRedirect,
        }
    }
}

/// How many packets went no further and how many were INVALID, by reason. Packets that
/// the firewall made count as well; an INVALID packet that a rule dropped counts twice,
/// once here and once there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounters {
    dropped: [u64; DropKind::ALL.len()],
    invalid: [u64; InvalidKind::ALL.len()],
}

impl Default for DropCounters {
    fn default() -> Self {
        DropCounters {
            dropped: [0; DropKind::ALL.len()],
            invalid: [0; InvalidKind::ALL.len()],
        }
    }
}

impl DropCounters {
    /// Counts a packet that went no further.
    #[inline]
    pub fn count_drop(&mut self, reason: &DropReason) {
        self.count(DropKind::from(reason), 1);
    }

    /// Counts packets that went no further for this reason.
    #[inline]
    pub(crate) fn count(&mut self, kind: DropKind, packets: u64) {
        if let Some(n) = self.dropped.get_mut(kind as usize) {
            *n += packets;
        }
    }

    /// Counts an INVALID packet.
    #[inline]
    pub fn count_invalid(&mut self, reason: &InvalidReason) {
        let kind = InvalidKind::from(reason);
        if let Some(n) = self.invalid.get_mut(kind as usize) {
            *n += 1;
        }
    }

    /// Packets that went no further for this reason.
    #[must_use]
    pub fn dropped(&self, kind: DropKind) -> u64 {
        self.dropped.get(kind as usize).copied().unwrap_or(0)
    }

    /// Packets that were INVALID for this reason.
    #[must_use]
    pub fn invalid(&self, kind: InvalidKind) -> u64 {
        self.invalid.get(kind as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_and_differ() {
        let drops = DropKind::ALL.iter().map(|k| (k.name(), k.what()));
        let invalid = InvalidKind::ALL.iter().map(|k| (k.name(), k.what()));
        let all: Vec<_> = drops.chain(invalid).collect();
        let word = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
        assert!(all.iter().all(|(name, _)| name.chars().all(word)));
        for field in [|x: &(&'static str, _)| x.0, |x: &(_, &'static str)| x.1] {
            let different: BTreeSet<_> = all.iter().map(field).collect();
            assert_eq!(different.len(), all.len());
        }
    }
}
