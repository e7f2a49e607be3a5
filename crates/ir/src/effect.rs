//! What targets do besides giving a verdict.

use alloc::{string::String, vec::Vec};

use crate::{Field, StepId};

/// Source or destination rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Manip {
    /// Source (SNAT, MASQUERADE).
    Src,
    /// Destination (DNAT, REDIRECT).
    Dst,
}

/// An effect, run in order after the rule's condition held and its counter rose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Writes a field; nothing happens when the packet does not have it.
    Assign(Field, Expr),
    /// Rewrites the MSS option of a TCP SYN (`tcpmss_mangle_packet`).
    TcpMss(Mss),
    /// Writes a log line.
    Log(LogSpec),
    /// Gives a copy of the packet to who listens.
    Nflog(NflogSpec),
    /// Sets up a translation of the packet's connection. Its outcome is the verdict.
    Nat(NatSpec),
    /// Decides how connection tracking will treat the packet.
    Ct(CtSpec),
    /// Hands the packet to who reads a queue. Its outcome is the verdict.
    Queue(QueueSpec),
    /// Hands the packet to a transparent socket of this host. Its outcome is the verdict:
    /// accepted where there is one, else dropped.
    Tproxy(TproxySpec),
    /// Sends a copy to a gateway.
    Tee(TeeSpec),
    /// From here on every rule the packet meets is logged.
    Trace,
    /// A record for the audit log.
    Audit,
    /// Labels the packet, by number.
    SecMark(u32),
    /// Hands the label of the packet to its connection, or that of the connection to it, where
    /// there is none yet.
    ConnSecMark {
        /// From the packet to the connection.
        save: bool,
    },
    /// Overwrites TCP options with no-operations.
    StripTcpOptions(TcpOptions),
    /// Sets congestion bits of the TCP header.
    TcpEcn(TcpEcn),
    /// Sets the mark to a hash of the packet's addresses and ports.
    HashMark(HashMark),
    /// Answers what would open a connection, or does open it, in the name of the other end;
    /// such packets go no further.
    SynProxy(SynProxySpec),
    /// Gives an IPv6 address another prefix, and takes the difference up in another word.
    Npt(NptSpec),
    /// Runs a step for what it does; whether it matches is nobody's affair.
    Call {
        /// The step.
        step: StepId,
        /// Whether it may write the packet's mark or priority.
        writes: bool,
    },
}

impl Effect {
    /// Whether the kernel tracks connections for the sake of this effect.
    pub(crate) fn needs_conntrack(&self) -> bool {
        match self {
            Effect::Nat(_) => true,
            Effect::Ct(spec) => !matches!(spec, CtSpec::Untracked),
            Effect::Assign(field, expr) => {
                let from = |f: &Field| f.is_connection();
                field.is_connection() || matches!(expr, Expr::Mix { from: f, .. } if from(f))
            }
            Effect::ConnSecMark { .. } | Effect::SynProxy(_) => true,
            _ => false,
        }
    }

    /// Whether the effect may change what a later rule finds in `field`, directly or
    /// because the field is read from what it writes.
    #[must_use]
    pub fn changes(&self, field: Field) -> bool {
        let by_mark = matches!(field, Field::Mark | Field::ReversePath(_));
        match self {
            Effect::Assign(Field::Mark, _) | Effect::HashMark(_) | Effect::Tproxy(_) => by_mark,
            Effect::Assign(written, _) => *written == field,
            Effect::TcpMss(_) => matches!(
                field,
                Field::TcpMss
                    | Field::TcpOption(_)
                    | Field::L4 { .. }
                    | Field::L4Len
                    | Field::Length
            ),
            Effect::StripTcpOptions(_) => {
                matches!(
                    field,
                    Field::TcpMss | Field::TcpOption(_) | Field::L4 { .. }
                )
            }
            Effect::TcpEcn(_) => matches!(field, Field::TcpFlags | Field::L4 { .. }),
            Effect::Npt(spec) => match spec.manip {
                Manip::Src => matches!(
                    field,
                    Field::Src
                        | Field::SrcType
                        | Field::SrcTypeIn
                        | Field::SrcTypeOut
                        | Field::ReversePath(_)
                ),
                Manip::Dst => matches!(
                    field,
                    Field::Dst
                        | Field::DstType
                        | Field::DstTypeIn
                        | Field::DstTypeOut
                        | Field::ReversePath(_)
                ),
            },
            Effect::Call { writes, .. } => *writes && (by_mark || field == Field::Priority),
            Effect::Ct(CtSpec::Untracked) => field == Field::CtState,
            Effect::Ct(CtSpec::Template { .. })
            | Effect::Log(_)
            | Effect::Nflog(_)
            | Effect::Nat(_)
            | Effect::Queue(_)
            | Effect::SynProxy(_)
            | Effect::Tee(_)
            | Effect::Trace
            | Effect::Audit
            | Effect::SecMark(_)
            | Effect::ConnSecMark { .. } => false,
        }
    }
}

/// A new value computed from the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// `(old & keep) ^ xor`.
    Masked {
        /// Bits of the old value that stay.
        keep: u128,
        /// Bits flipped afterwards.
        xor: u128,
    },
    /// `old + n`, clamped to 0..=255 (TTL, hop limit).
    AddClamped(i16),
    /// `(old & keep) ^ ((other & mask) << shift)`, 32 bits wide, with the value of
    /// another field.
    Mix {
        /// The other field.
        from: Field,
        /// Bits taken from it.
        mask: u128,
        /// Bits they move to the left; to the right when negative.
        shift: i8,
        /// Bits of the old value that stay.
        keep: u128,
    },
}

impl Expr {
    /// Applies the expression to `old`; `other` is the value of the field named by
    /// [`Expr::Mix`].
    #[must_use]
    pub fn apply(self, old: u128, other: u128) -> u128 {
        match self {
            Expr::Masked { keep, xor } => (old & keep) ^ xor,
            Expr::AddClamped(n) => {
                let v = i64::try_from(old).unwrap_or(255) + i64::from(n);
                v.clamp(0, 255) as u128
            }
            Expr::Mix {
                mask, keep, shift, ..
            } => (old & keep) ^ shifted(other & mask, shift),
        }
    }
}

/// `value` moved left (right when `shift` is negative) within 32 bits.
fn shifted(value: u128, shift: i8) -> u128 {
    let bits = u32::from(shift.unsigned_abs());
    let moved = if shift < 0 {
        value.checked_shr(bits)
    } else {
        value.checked_shl(bits)
    };
    moved.unwrap_or(0) & u128::from(u32::MAX)
}

/// The MSS that TCPMSS writes; it never raises an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mss {
    /// `--set-mss`.
    Set(u16),
    /// `--clamp-mss-to-pmtu`.
    ClampToPathMtu,
}

/// A LOG line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogSpec {
    /// Syslog level, 0 to 7.
    pub level: u8,
    /// At most 29 bytes put before the line as they are.
    pub prefix: String,
    /// `--log-tcp-sequence`.
    pub tcp_sequence: bool,
    /// `--log-tcp-options`.
    pub tcp_options: bool,
    /// `--log-ip-options`.
    pub ip_options: bool,
    /// `--log-uid`.
    pub uid: bool,
    /// `--log-macdecode`.
    pub mac_decode: bool,
}

/// A copy of the packet (`struct nf_loginfo`, type ULOG).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NflogSpec {
    /// Which listeners.
    pub group: u16,
    /// At most 63 bytes that go with the packet.
    pub prefix: String,
    /// Bytes of the packet to copy; `None` for all of it.
    pub size: Option<u32>,
}

/// Where a translated address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatSource {
    /// The address stays (only ports are given).
    Keep,
    /// A range of addresses, both ends included; IPv4 in the low 32 bits.
    Range(u128, u128),
    /// The address of the output interface (MASQUERADE).
    OutInterface,
    /// The address of the input interface, or loopback for local output (REDIRECT).
    InInterface,
    /// Another network part for the packet's own address (NETMAP), at PREROUTING and
    /// OUTPUT the destination's, elsewhere the source's.
    Network {
        /// The network.
        addr: u128,
        /// Bits of the network part.
        mask: u128,
    },
}

/// SNAT, DNAT, MASQUERADE and REDIRECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatSpec {
    /// Which side is rewritten.
    pub manip: Manip,
    /// The new address.
    pub addr: NatSource,
    /// The new port range, both ends included.
    pub ports: Option<(u16, u16)>,
    /// Base of a shifted port range (`first-last/base`).
    pub base_port: Option<u16>,
    /// `--random` or `--random-fully`.
    pub random: bool,
    /// `--persistent`.
    pub persistent: bool,
}

/// Which directions a zone applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneDir {
    /// `--zone`.
    Both,
    /// `--zone-orig`.
    Original,
    /// `--zone-reply`.
    Reply,
}

/// Number of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneId {
    /// A fixed number.
    Number(u16),
    /// The packet mark's low 16 bits.
    FromMark,
}

/// A connection-tracking zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ZoneSpec {
    /// Directions.
    pub dir: ZoneDir,
    /// Number.
    pub id: ZoneId,
}

/// The raw table's say in connection tracking. A packet that already carries a
/// connection or a template is left alone (`xt_ct_target`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CtSpec {
    /// NOTRACK.
    Untracked,
    /// Properties of the connection this packet may open.
    Template {
        /// Zone of lookup and creation.
        zone: Option<ZoneSpec>,
        /// Helper by name.
        helper: Option<String>,
        /// Timeout policy by name.
        timeout: Option<String>,
        /// `--ctevents` names.
        events: Vec<String>,
        /// `--expevents` names.
        expect_events: Vec<String>,
    },
}

/// Queues of packets that programs decide (`struct xt_NFQ_info_v3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueSpec {
    /// First queue.
    pub first: u16,
    /// Last queue; a flow keeps to one of them.
    pub last: u16,
    /// Packets of a queue without a reader leave the table as accepted; else they are dropped.
    pub bypass: bool,
    /// Among several queues it is the processor's, not the flow's.
    pub by_cpu: bool,
}

/// The socket that a packet is handed to (`struct xt_tproxy_target_info_v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TproxySpec {
    /// Address that it listens on; 0 for the input interface's first.
    pub addr: u128,
    /// Its port; 0 for the packet's.
    pub port: u16,
    /// Bits of the mark that are set anew.
    pub mask: u32,
    /// Bits of the mark flipped afterwards.
    pub mark: u32,
}

/// What a SYN proxy offers in the name of the hosts behind it (`struct xt_synproxy_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SynProxySpec {
    /// Largest segment that the hosts take; `None` leaves the option out.
    pub mss: Option<u16>,
    /// Window scale of the hosts; `None` where they have none.
    pub wscale: Option<u8>,
    /// They understand selective acknowledgements.
    pub sack: bool,
    /// They understand time stamps, without which nothing but the segment size can be
    /// remembered in a cookie.
    pub timestamp: bool,
    /// They understand congestion notification.
    pub ecn: bool,
}

/// Where a copy goes (`struct xt_tee_tginfo`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TeeSpec {
    /// Next hop.
    pub gateway: u128,
    /// Interface that the route must have.
    pub dev: Option<String>,
}

/// A set of TCP option kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpOptions([u128; 2]);

impl TcpOptions {
    /// Whether the kind is in the set.
    #[must_use]
    pub const fn has(&self, kind: u8) -> bool {
        self.0[(kind >> 7) as usize] >> (kind & 127) & 1 == 1
    }
}

impl Extend<u8> for TcpOptions {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, kinds: I) {
        for kind in kinds {
            self.0[usize::from(kind >> 7)] |= 1 << (kind & 127);
        }
    }
}

impl FromIterator<u8> for TcpOptions {
    fn from_iter<I: IntoIterator<Item = u8>>(kinds: I) -> Self {
        let mut set = TcpOptions::default();
        set.extend(kinds);
        set
    }
}

/// Congestion bits of the TCP header; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpEcn {
    /// ECN-Echo.
    pub ece: Option<bool>,
    /// Congestion window reduced.
    pub cwr: Option<bool>,
}

/// What a mark is computed from (`struct xt_hmark_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashMark {
    /// Addresses and ports are those of the connection, as its first packet and the answer
    /// to it have them.
    pub of_connection: bool,
    /// Bits of the source address that count.
    pub src_mask: u128,
    /// Bits of the destination address that count.
    pub dst_mask: u128,
    /// Bits of the ports (source port in the upper half) or of the security index that count.
    pub port_mask: u32,
    /// Bits of them that are set.
    pub port_set: u32,
    /// Bits of the protocol that count.
    pub proto_mask: u16,
    /// Seed of the hash.
    pub seed: u32,
    /// Number of different marks, not 0.
    pub modulus: u32,
    /// The smallest of them.
    pub offset: u32,
}

/// A prefix for another (RFC 6296, `struct ip6t_npt_tginfo`); lengths are at most 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NptSpec {
    /// Which address.
    pub manip: Manip,
    /// Prefix and length before.
    pub from: (u128, u8),
    /// Prefix and length after.
    pub to: (u128, u8),
}

/// How REJECT answers. The packet is dropped whether or not an answer can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectKind {
    /// A TCP reset.
    TcpReset,
    /// ICMP destination unreachable (IPv4 type 3, IPv6 type 1) with this code.
    Unreachable(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_follow_the_kernel_formulas() {
        // xt_mark: (mark & ~mask) ^ value
        let set = Expr::Masked {
            keep: !0xff,
            xor: 0x0f,
        };
        assert_eq!(set.apply(0x1ff, 0) & 0xffff, 0x10f);
        // xt_TTL clamps at both ends
        assert_eq!(Expr::AddClamped(-5).apply(2, 0), 0);
        assert_eq!(Expr::AddClamped(5).apply(254, 0), 255);
        // CONNMARK --restore-mark: (mark & ~nfmask) ^ (ctmark & ctmask)
        let restore = Expr::Mix {
            from: Field::CtMark,
            mask: 0xf0,
            shift: 0,
            keep: !0xff,
        };
        assert_eq!(restore.apply(0x1234, 0xabcd) & 0xffff, 0x12c0);
        // xt_connmark with shifts: 32 bits, what falls out is lost
        let shift = |shift| Expr::Mix {
            from: Field::Mark,
            mask: 0xffff_ffff,
            shift,
            keep: 0,
        };
        assert_eq!(shift(8).apply(0, 0xab00_00cd), 0x0000_cd00);
        assert_eq!(shift(-8).apply(0, 0xab00_00cd), 0x00ab_0000);
    }
}
