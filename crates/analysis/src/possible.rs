//! Which packets there are: what the fields of one packet have to do with each other.

use tidegate_ir::{Field, Hook, ctstate};
use tidegate_wire::{Family, proto};

use crate::bdd::{Set, TooBig};
use crate::space::Space;

/// Fields of the transport header and how much of it must be there.
const TRANSPORT: [(Field, u128); 4] = [
    (Field::Sport, 2),
    (Field::Dport, 4),
    (Field::TcpFlags, 14),
    (Field::IcmpTypeCode, 2),
];

/// Fields that every packet has.
const ALWAYS: [Field; 10] = [
    Field::Src,
    Field::Dst,
    Field::Tos,
    Field::Ttl,
    Field::Length,
    Field::FragOff,
    Field::InName,
    Field::OutName,
    Field::Mark,
    Field::CtState,
];

/// Packets that can be at `hook`; a superset of them.
///
/// # Errors
/// The limit is reached.
pub fn possible(space: &mut Space, family: Family, hook: Option<Hook>) -> Result<Set, TooBig> {
    let mut set = Set::ALL;
    let unused = space.unused()?;
    set = space.bdd.minus(set, unused)?;
    for field in ALWAYS.into_iter().chain([Field::HasCt]) {
        keep(space, &mut set, |s| s.present(field))?;
    }
    if family == Family::V4 {
        keep(space, &mut set, |s| s.present(Field::Proto))?;
    }
    transport(space, &mut set)?;
    connection(space, &mut set)?;
    interfaces(space, &mut set, hook)?;
    Ok(set)
}

fn keep(
    space: &mut Space,
    set: &mut Set,
    which: impl FnOnce(&mut Space) -> Result<Set, TooBig>,
) -> Result<(), TooBig> {
    let which = which(space)?;
    *set = space.bdd.and(*set, which)?;
    Ok(())
}

/// `condition` implies `then`.
fn implies(space: &mut Space, set: &mut Set, condition: Set, then: Set) -> Result<(), TooBig> {
    let broken = space.bdd.minus(condition, then)?;
    *set = space.bdd.minus(*set, broken)?;
    Ok(())
}

/// Later fragments have no transport header, and short ones not all of it.
fn transport(space: &mut Space, set: &mut Set) -> Result<(), TooBig> {
    let first = space.within(Field::FragOff, 0, 0)?;
    let there = space.present(Field::L4Len)?;
    implies(space, set, there, first)?;
    implies(space, set, first, there)?;
    for (field, bytes) in TRANSPORT {
        if !space.has(field) {
            continue;
        }
        let present = space.present(field)?;
        let enough = space.within(Field::L4Len, bytes, u128::from(u16::MAX))?;
        implies(space, set, present, enough)?;
        if field == Field::IcmpTypeCode {
            let v4 = space.within(Field::Proto, proto::ICMP.into(), proto::ICMP.into())?;
            let v6 = space.within(Field::Proto, proto::ICMPV6.into(), proto::ICMPV6.into())?;
            let icmp = space.bdd.or(v4, v6)?;
            implies(space, set, present, icmp)?;
        } else {
            implies(space, set, enough, present)?;
        }
    }
    Ok(())
}

/// Only packets of connections have a connection's properties.
fn connection(space: &mut Space, set: &mut Set) -> Result<(), TooBig> {
    let known = space.within(Field::CtState, ctstate::INVALID, ctstate::UNTRACKED)?;
    keep(space, set, |_| Ok(known))?;
    let tracked = space.within(Field::CtState, ctstate::ESTABLISHED, ctstate::NEW)?;
    let has = space.within(Field::HasCt, 1, 1)?;
    implies(space, set, tracked, has)?;
    implies(space, set, has, tracked)?;
    let fields: Vec<Field> = space.fields().filter(|f| f.is_connection()).collect();
    for field in fields {
        if !matches!(field, Field::HasCt | Field::CtState) {
            let present = space.present(field)?;
            implies(space, set, present, has)?;
            // Few masters have helpers, and not all connections are accounted.
            let always = !matches!(
                field,
                Field::CtMasterHelper
                    | Field::CtOrigPackets
                    | Field::CtOrigBytes
                    | Field::CtReplPackets
                    | Field::CtReplBytes
            );
            if always {
                implies(space, set, has, present)?;
            }
        }
    }
    Ok(())
}

/// Interface names that a hook's packets have.
fn interfaces(space: &mut Space, set: &mut Set, hook: Option<Hook>) -> Result<(), TooBig> {
    let (input, output) = match hook {
        Some(Hook::Prerouting | Hook::Input) => (Some(true), Some(false)),
        Some(Hook::Forward) => (Some(true), Some(true)),
        Some(Hook::Output) => (Some(false), Some(true)),
        Some(Hook::Postrouting) => (None, Some(true)),
        None => (None, None),
    };
    for (field, named) in [(Field::InName, input), (Field::OutName, output)] {
        let none = space.within(field, 0, 0)?;
        match named {
            Some(true) => *set = space.bdd.minus(*set, none)?,
            Some(false) => *set = space.bdd.and(*set, none)?,
            None => {}
        }
    }
    Ok(())
}
