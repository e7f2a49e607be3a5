//! All extensions, and lookups by name.

use std::sync::LazyLock;

use hashbrown::HashMap;
use tidegate_wire::{Family, proto};

use crate::{Extension, Lower, matches, targets};

/// Every extension.
pub static ALL: &[&Extension] = &[
    &matches::addrtype::ADDRTYPE,
    &matches::ah::AH,
    &matches::ah::AH6,
    &matches::bpf::BPF,
    &matches::cgroup::CGROUP,
    &matches::cluster::CLUSTER,
    &matches::comment::COMMENT,
    &matches::connbytes::CONNBYTES,
    &matches::connlabel::CONNLABEL,
    &matches::connlimit::CONNLIMIT,
    &matches::connmark::CONNMARK,
    &matches::conntrack::CONNTRACK,
    &matches::cpu::CPU,
    &matches::dccp::DCCP,
    &matches::devgroup::DEVGROUP,
    &matches::dscp::DSCP,
    &matches::dst::DST,
    &matches::ecn::ECN,
    &matches::esp::ESP,
    &matches::eui64::EUI64,
    &matches::frag::FRAG,
    &matches::hashlimit::HASHLIMIT,
    &matches::hbh::HBH,
    &matches::helper::HELPER,
    &matches::hl::HL,
    &matches::icmp::ICMP,
    &matches::icmp6::ICMP6,
    &matches::ipcomp::IPCOMP,
    &matches::iprange::IPRANGE,
    &matches::ipv6header::IPV6HEADER,
    &matches::ipvs::IPVS,
    &matches::length::LENGTH,
    &matches::limit::LIMIT,
    &matches::mac::MAC,
    &matches::mark::MARK,
    &matches::mh::MH,
    &matches::multiport::MULTIPORT,
    &matches::nfacct::NFACCT,
    &matches::osf::OSF,
    &matches::owner::OWNER,
    &matches::physdev::PHYSDEV,
    &matches::pkttype::PKTTYPE,
    &matches::policy::POLICY,
    &matches::quota::QUOTA,
    &matches::rateest::RATEEST,
    &matches::realm::REALM,
    &matches::recent::RECENT,
    &matches::rpfilter::RPFILTER,
    &matches::rt::RT,
    &matches::sctp::SCTP,
    &matches::set::SET,
    &matches::socket::SOCKET,
    &matches::srh::SRH,
    &matches::state::STATE,
    &matches::statistic::STATISTIC,
    &matches::string::STRING,
    &matches::tcp::TCP,
    &matches::tcpmss::TCPMSS,
    &matches::time::TIME_MATCH,
    &matches::tos::TOS,
    &matches::ttl::TTL,
    &matches::u32::U32,
    &matches::udp::UDP,
    &targets::audit::AUDIT,
    &targets::checksum::CHECKSUM,
    &targets::classify::CLASSIFY,
    &targets::clusterip::CLUSTERIP,
    &targets::connmark::CONNMARK,
    &targets::ct::CT,
    &targets::dnat::DNAT,
    &targets::dscp::DSCP,
    &targets::ecn::ECN,
    &targets::hl::HL,
    &targets::hmark::HMARK,
    &targets::idletimer::IDLETIMER,
    &targets::led::LED,
    &targets::log::LOG,
    &targets::mark::MARK,
    &targets::masquerade::MASQUERADE,
    &targets::netmap::NETMAP,
    &targets::nflog::NFLOG,
    &targets::nfqueue::NFQUEUE,
    &targets::notrack::NOTRACK,
    &targets::npt::DNPT,
    &targets::npt::SNPT,
    &targets::rateest::RATEEST,
    &targets::redirect::REDIRECT,
    &targets::reject::REJECT,
    &targets::reject::REJECT6,
    &targets::secmark::CONNSECMARK,
    &targets::secmark::SECMARK,
    &targets::set::SET,
    &targets::snat::SNAT,
    &targets::standard::ACCEPT,
    &targets::standard::DROP,
    &targets::standard::QUEUE,
    &targets::standard::RETURN,
    &targets::synproxy::SYNPROXY,
    &targets::tcpmss::TCPMSS,
    &targets::tcpmss::TCPMSS6,
    &targets::tcpoptstrip::TCPOPTSTRIP,
    &targets::tee::TEE,
    &targets::tos::TOS,
    &targets::tproxy::TPROXY,
    &targets::trace::TRACE,
    &targets::ttl::TTL,
    &targets::ulog::ULOG,
];

/// By name and whether they are targets: a rules file asks twice or more per line.
type Index = HashMap<(&'static str, bool), Vec<&'static Extension>>;

fn find(name: &str, family: Family, target: bool) -> Option<&'static Extension> {
    static INDEX: LazyLock<Index> = LazyLock::new(|| {
        let mut index = Index::new();
        for ext in ALL {
            let target = matches!(ext.lower, Lower::Target(_));
            index.entry((ext.name, target)).or_default().push(ext);
        }
        index
    });
    let named = INDEX.get(&(name, target))?;
    named.iter().copied().find(|e| e.families.contains(family))
}

/// The match of that name.
#[must_use]
pub fn find_match(name: &str, family: Family) -> Option<&'static Extension> {
    find(name, family, false)
}

/// The target of that name.
#[must_use]
pub fn find_target(name: &str, family: Family) -> Option<&'static Extension> {
    find(name, family, true)
}

/// The match whose options `-p PROTO` makes available without `-m`.
#[must_use]
pub fn protocol_match(number: u8, family: Family) -> Option<&'static Extension> {
    let name = match (number, family) {
        (proto::TCP, _) => "tcp",
        (proto::UDP, _) => "udp",
        (proto::SCTP, _) => "sctp",
        (proto::DCCP, _) => "dccp",
        (proto::ESP, _) => "esp",
        (proto::AH, _) => "ah",
        (proto::IPCOMP, _) => "ipcomp",
        (proto::MH, Family::V6) => "mh",
        (proto::ICMP, Family::V4) => "icmp",
        (proto::ICMPV6, Family::V6) => "icmp6",
        _ => return None,
    };
    find_match(name, family)
}
