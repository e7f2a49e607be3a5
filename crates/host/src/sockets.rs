//! Sockets as a description names them.

use std::sync::Arc;

use anyhow::{Result, bail};
use tidegate_engine::{Listed, Owner, Socket, SocketList};
use tidegate_wire::{Family, proto};

use super::file::{Open, Transport, number};

/// The described sockets; nothing where none is described.
///
/// # Errors
/// An address is of another family than the socket's other end.
pub(crate) fn list(described: &[Open]) -> Result<Option<SocketList>> {
    let all: Result<Vec<Listed>> = described.iter().map(listed).collect();
    let all = all?;
    Ok((!all.is_empty()).then(|| SocketList::new(all)))
}

fn listed(open: &Open) -> Result<Listed> {
    let local = open.local.map(number);
    let remote = open.remote.map(|r| (number(r.ip()), r.port()));
    let families = (local.map(|l| l.0), remote.map(|r| r.0.0));
    let family = match (open.proto, families) {
        (_, (Some(own), Some(far))) if own != far => {
            bail!("[[socket]]: `remote` is of another family than `local`")
        }
        (_, (own, far)) if own.or(far).is_some() => own.or(far),
        (Transport::Icmp, _) => Some(Family::V4),
        (Transport::Icmp6, _) => Some(Family::V6),
        _ => None,
    };
    let bound = local.map(|l| l.1).filter(|&a| a != 0);
    Ok(Listed {
        family,
        proto: match open.proto {
            Transport::Tcp => proto::TCP,
            Transport::Udp => proto::UDP,
            Transport::Icmp => proto::ICMP,
            Transport::Icmp6 => proto::ICMPV6,
        },
        local: (bound, open.port),
        remote: remote.map(|((_, addr), port)| (addr, port)),
        socket: Arc::new(Socket {
            class: open.class,
            cgroup: open.cgroup.clone().unwrap_or_else(|| "/".to_owned()),
            transparent: open.transparent,
            wildcard: bound.is_none(),
            connected: remote.is_some(),
            mark: open.mark,
            ..Socket::of(Some(Owner {
                uid: open.uid,
                gid: open.gid,
                groups: open.groups.clone(),
            }))
        }),
    })
}
