//! Target extensions, one file each.

pub mod connmark;
pub mod ct;
pub mod dnat;
pub mod dscp;
pub mod hl;
mod hops;
pub mod log;
pub mod mark;
mod mark_forms;
pub mod masquerade;
mod nat_to;
pub mod nflog;
pub mod notrack;
pub mod redirect;
pub mod reject;
pub mod snat;
pub mod standard;
pub mod tcpmss;
pub mod tos;
pub mod ttl;
