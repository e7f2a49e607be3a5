//! Match extensions, one file each.

pub mod addrtype;
pub mod comment;
pub mod connmark;
pub mod conntrack;
mod ct_states;
pub mod dscp;
pub mod hl;
mod hops;
pub mod icmp;
pub mod icmp6;
mod icmp_types;
pub mod iprange;
pub mod length;
pub mod limit;
pub mod mark;
pub mod multiport;
pub mod state;
pub mod statistic;
pub mod tcp;
pub mod tos;
mod transport;
pub mod ttl;
pub mod udp;
