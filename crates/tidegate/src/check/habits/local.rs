//! Rules about what this host says to itself, which may not go by any interface.

use tidegate_analysis::TooBig;
use tidegate_engine::interface_number;
use tidegate_ir::{Conds, Field, Hook, Rule, TableKind, Verdict};
use tidegate_wire::{Family, proto};

use super::super::Subject;
use super::super::finding::{Finding, name};
use super::{intervals, rules};

/// Services that listen on a unix socket beside their port, as Debian and their makers set
/// them up.
const SERVICES: [(u128, &str, &str); 6] = [
    (631, "CUPS", "/run/cups/cups.sock"),
    (2375, "Docker", "/run/docker.sock"),
    (3306, "MySQL or MariaDB", "/run/mysqld/mysqld.sock"),
    (3310, "ClamAV", "/run/clamav/clamd.ctl"),
    (5432, "PostgreSQL", "/run/postgresql/.s.PGSQL.5432"),
    (6379, "Redis", "/run/redis/redis-server.sock"),
];
/// A rule about more ports than this is not about a service.
const FEW: u128 = 16;

/// Rules that keep programs of this host from a port while they come by a unix socket.
pub(super) fn sockets(
    subject: &mut Subject<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), TooBig> {
    let family = subject.loaded.source.family;
    for (place, rule) in rules(subject, TableKind::Filter) {
        let refuses = matches!(rule.verdict, Verdict::Drop | Verdict::Reject(_));
        let Some((port, service, socket)) = service(&rule).filter(|_| refuses) else {
            continue;
        };
        if !is_local(&rule.cond, family) || !reached(subject, &rule)? {
            continue;
        }
        let text = format!(
            "{} refuses port {port} over loopback, but programs of this host reach {service} by its unix \
             socket as well, which no rule sees",
            name(&place)
        );
        findings.push(
            Finding::new("TG023", Some(place), text)
                .help(format!(
                    "who may use the socket is for its file's owner and mode: ls -l {socket}"
                ))
                .note("`localhost` means the socket to many clients, 127.0.0.1 the port"),
        );
    }
    Ok(())
}

/// The service that a rule is about by its TCP port.
fn service(rule: &Rule) -> Option<(u128, &'static str, &'static str)> {
    let tcp = (u128::from(proto::TCP), u128::from(proto::TCP));
    let ports = intervals(&rule.cond, Field::Dport)?;
    let few = ports.iter().map(|p| p.1 - p.0 + 1).sum::<u128>() <= FEW;
    let known = SERVICES.iter().find(|s| {
        let mut all = ports.iter();
        all.any(|p| (p.0..=p.1).contains(&s.0))
    });
    let asks_tcp = intervals(&rule.cond, Field::Proto)? == [tcp];
    known.copied().filter(|_| few && asks_tcp)
}

/// Whether only packets from this host to itself match.
fn is_local(cond: &Conds, family: Family) -> bool {
    let lo = interface_number("lo");
    let own = match family {
        Family::V4 => (0x7f00_0000, 0x7fff_ffff),
        Family::V6 => (1, 1),
    };
    let fields = [
        (Field::InName, (lo, lo)),
        (Field::OutName, (lo, lo)),
        (Field::Src, own),
        (Field::Dst, own),
    ];
    fields.into_iter().any(|(field, (from, to))| {
        let asked = intervals(cond, field);
        asked.is_some_and(|all| !all.is_empty() && all.iter().all(|p| from <= p.0 && p.1 <= to))
    })
}

fn reached(subject: &mut Subject<'_>, rule: &Rule) -> Result<bool, TooBig> {
    for hook in [Hook::Input, Hook::Output] {
        if !subject.matches((TableKind::Filter, hook), rule)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
