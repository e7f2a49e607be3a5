//! What became of a captured packet, in words.

use tidegate_engine::{Disposition, DropReason, FragmentError};
use tidegate_ir::RuleId;
use tidegate_wire::Malformed;

use super::feed::Skip;
use super::paint::Tone;

/// What became of a captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Delivered, sent or forwarded.
    Accept,
    /// Discarded.
    Drop(DropReason),
    /// Discarded and answered.
    Reject(RuleId),
    /// A fragment kept until its packet is whole.
    Held,
    /// Not decided.
    Skipped(Skip),
}

impl Fate {
    /// From what the engine says.
    pub(crate) const fn of(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Sent | Disposition::Delivered => Fate::Accept,
            Disposition::Dropped(DropReason::Reject(id)) => Fate::Reject(id),
            Disposition::Dropped(reason) => Fate::Drop(reason),
            // Nobody reads queues here.
            Disposition::Held | Disposition::Queued => Fate::Held,
        }
    }

    /// One word.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Fate::Accept => "ACCEPT",
            Fate::Drop(_) => "DROP",
            Fate::Reject(_) => "REJECT",
            Fate::Held => "HELD",
            Fate::Skipped(_) => "-",
        }
    }

    /// The colour of the word.
    pub(crate) const fn tone(&self) -> Tone {
        match self {
            Fate::Accept => Tone::Good,
            Fate::Drop(_) | Fate::Reject(_) => Tone::Bad,
            Fate::Held => Tone::Doubtful,
            Fate::Skipped(_) => Tone::Faint,
        }
    }

    /// The rule or policy that stopped the packet.
    pub(crate) const fn rule(&self) -> Option<RuleId> {
        match self {
            Fate::Drop(
                DropReason::Rule(id)
                | DropReason::Reject(id)
                | DropReason::Policy(id)
                | DropReason::Hotdrop(id)
                | DropReason::Queue(id)
                | DropReason::BadCookie(id)
                | DropReason::Target(id),
            )
            | Fate::Reject(id) => Some(*id),
            Fate::Accept | Fate::Drop(_) | Fate::Held | Fate::Skipped(_) => None,
        }
    }

    /// Why, where the deciding rule does not say it all.
    pub(crate) fn why(&self) -> Option<String> {
        match self {
            Fate::Drop(DropReason::Conntrack(reason)) => Some(reason.to_string()),
            Fate::Drop(DropReason::Rule(_) | DropReason::Policy(_) | DropReason::Reject(_)) => None,
            Fate::Drop(reason) => Some(reason_text(reason).to_owned()),
            Fate::Accept | Fate::Reject(_) => None,
            Fate::Held => Some("fragment kept until its packet is whole".to_owned()),
            Fate::Skipped(skip) => Some(skip.text()),
        }
    }

    /// Under which heading a summary counts the packet.
    pub(crate) const fn heading(&self) -> &'static str {
        match self {
            Fate::Accept => "accepted",
            Fate::Reject(_) => "rejected by a rule",
            Fate::Drop(reason) => match reason {
                DropReason::Rule(_) => "dropped by a rule",
                DropReason::Policy(_) => "dropped by a policy",
                DropReason::Conntrack(_) => "dropped by connection tracking",
                other => reason_text(other),
            },
            Fate::Held => "fragments held",
            Fate::Skipped(skip) => skip.heading(),
        }
    }
}

const fn reason_text(reason: &DropReason) -> &'static str {
    match reason {
        DropReason::Malformed(Malformed::Truncated) => "shorter than an IP header",
        DropReason::Malformed(Malformed::Version) => "neither IPv4 nor IPv6",
        DropReason::Malformed(Malformed::HeaderLength) => "IP header length impossible",
        DropReason::Malformed(Malformed::TotalLength) => "IP total length wrong",
        DropReason::Malformed(Malformed::HeaderChecksum) => "IP header checksum wrong",
        DropReason::Options => "IP options broken or refused",
        DropReason::OtherHost => "addressed to another host's network card",
        DropReason::Rule(_) => "a rule",
        DropReason::Reject(_) => "a rule that rejects",
        DropReason::Policy(_) => "a policy",
        DropReason::Hotdrop(_) => "a match drops what it cannot read",
        DropReason::JumpDepth => "jumps nested too deeply",
        DropReason::Conntrack(_) => "connection tracking",
        DropReason::Queue(_) => "a queue without a reader or room",
        DropReason::QueueReader(_) => "a queue's reader",
        DropReason::SynProxy => "taken by the SYN proxy, which goes on in its place",
        DropReason::BadCookie(_) => "no cookie of the SYN proxy",
        DropReason::Target(_) => "the target could not do its work",
        DropReason::Martian => "an address that routing refuses",
        DropReason::NoRoute => "no route",
        DropReason::NotForwarding => "not for this host, which does not forward",
        DropReason::TtlExceeded => "TTL ran out",
        DropReason::TooBig => "too big for the next link",
        DropReason::Fragment(FragmentError::Overlap) => "fragments overlap",
        DropReason::Fragment(FragmentError::Duplicate) => "fragment already there",
        DropReason::Fragment(FragmentError::Shape) => "fragment of impossible shape",
        DropReason::Fragment(FragmentError::Memory) => "fragment memory is full",
        DropReason::Depth => "answers to answers",
    }
}

impl Skip {
    fn text(&self) -> String {
        match self {
            Skip::NotIp(0x0806) => "ARP".to_owned(),
            Skip::NotIp(0) => "not IP".to_owned(),
            Skip::NotIp(kind) => format!("not IP: type {kind:#06x}"),
            Skip::Short => "cut off within the link-layer header".to_owned(),
            Skip::UnknownLink => "link type not known".to_owned(),
            Skip::UnknownInterface(name) => format!("this host has no interface {name}"),
            Skip::LoopbackCopy(of) => format!("second copy of {of}"),
            Skip::Leaving { of, differs } if differs.is_empty() => {
                format!("seen leaving, as decided in {of}")
            }
            Skip::Leaving { of, differs } => {
                format!("seen leaving ({of}), but differs in {}", differs.join(", "))
            }
            Skip::ArrivalUnseen => {
                "leaves in the capture, but nothing decided here leaves so".to_owned()
            }
        }
    }

    const fn heading(&self) -> &'static str {
        match self {
            Skip::NotIp(0x0806) => "ARP",
            Skip::NotIp(_) => "not IP",
            Skip::Short => "cut off within the link-layer header",
            Skip::UnknownLink => "of unknown link type",
            Skip::UnknownInterface(_) => "on an interface that is not described",
            Skip::LoopbackCopy(_) => "second copies on loopback",
            Skip::Leaving { differs, .. } if differs.is_empty() => "seen leaving as decided",
            Skip::Leaving { .. } => "seen leaving with differences",
            Skip::ArrivalUnseen => "leaving without being sent here",
        }
    }
}
