//! The sysctls that count here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tidegate_engine::conntrack::Config as CtConfig;
use tidegate_engine::conntrack::sysctl::{PREFIX, SYSCTLS};
use tidegate_engine::env::{RpFilter, Settings};

/// Where the kernel shows them, dots being slashes.
const PROC: &str = "/proc/sys";
const DEFAULT_TTL: &str = "net.ipv4.ip_default_ttl";
const RP_FILTER: &str = "net.ipv4.conf.all.rp_filter";
/// Another name of the first of [`FLAGS`].
const FORWARDING: &str = "net.ipv4.conf.all.forwarding";

type Flag = fn(&mut Settings) -> &mut bool;

/// Sysctls that are on or off.
const FLAGS: [(&str, Flag); 5] = [
    ("net.ipv4.ip_forward", |s| &mut s.forward4),
    ("net.ipv6.conf.all.forwarding", |s| &mut s.forward6),
    ("net.ipv4.conf.all.route_localnet", |s| {
        &mut s.route_localnet
    }),
    ("net.ipv4.icmp_errors_use_inbound_ifaddr", |s| {
        &mut s.icmp_errors_use_inbound_ifaddr
    }),
    ("net.ipv4.fwmark_reflect", |s| &mut s.fwmark_reflect),
];

/// Sets a sysctl by its full name; `false` when it is not one that counts here.
pub(crate) fn set(
    name: &str,
    value: u32,
    settings: &mut Settings,
    conntrack: &mut CtConfig,
) -> bool {
    if name.starts_with(PREFIX) {
        return conntrack.set_sysctl(name, value);
    }
    if name == DEFAULT_TTL {
        settings.default_ttl = u8::try_from(value).unwrap_or(u8::MAX);
        return true;
    }
    if name == RP_FILTER {
        let filter = RpFilter::from_number(value);
        settings.rp_filter = filter.unwrap_or_default();
        return filter.is_some();
    }
    let name = if name == FORWARDING { FLAGS[0].0 } else { name };
    let Some((_, flag)) = FLAGS.iter().find(|f| f.0 == name) else {
        return false;
    };
    *flag(settings) = value != 0;
    true
}

/// Those of the running kernel; what it does not have, is not there.
pub(crate) fn live() -> BTreeMap<String, u32> {
    let own = FLAGS.iter().map(|f| f.0).chain([DEFAULT_TTL, RP_FILTER]);
    let mut names: Vec<String> = own.map(str::to_owned).collect();
    let kept = SYSCTLS.iter().filter(|s| !s.read_only());
    names.extend(kept.map(|s| format!("{PREFIX}{}", s.name)));
    let with_value = |name: String| {
        let text = fs::read_to_string(path(&name)).ok()?;
        Some((name, text.trim().parse().ok()?))
    };
    names.into_iter().filter_map(with_value).collect()
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(PROC).join(name.replace('.', "/"))
}
