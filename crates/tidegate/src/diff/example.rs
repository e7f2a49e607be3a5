//! Packets that two rulesets treat differently, tried on the engine.

use std::fmt::Write as _;

use tidegate_analysis::{Bound, Example, Set, TooBig};
use tidegate_engine::interface_number;
use tidegate_host::Host;
use tidegate_ir::{Field, ctstate};
use tidegate_wire::proto;

use super::compare::{Compared, Path};
use crate::course::{Runner, alone};
use crate::packets::Described;
use crate::query::confirm::{Shape, Stage, wanted, words};
use crate::replay::rules::Rules;
use crate::replay::values::value;

/// Examples that are tried.
const TRIES: usize = 4;

/// A packet out of a set, in words, and whether the engine treats it differently by the two
/// rulesets; by its fields where it opens no connection.
pub(super) fn example(
    compared: &mut Compared<'_>,
    path: Path,
    set: Set,
) -> Result<(String, bool), TooBig> {
    let family = compared.family();
    let mut near = vec![
        (Field::CtState, ctstate::NEW),
        (Field::HasCt, 1),
        (Field::CtDir, 0),
        (Field::FragOff, 0),
        (Field::Proto, proto::TCP.into()),
        (Field::Proto, proto::UDP.into()),
        (Field::Proto, crate::query::ask::icmp(family).into()),
    ];
    near.extend(
        compared
            .links
            .iter()
            .map(|n| (Field::InName, interface_number(n))),
    );
    near.extend(
        compared
            .links
            .iter()
            .rev()
            .map(|n| (Field::OutName, interface_number(n))),
    );
    let mut left = set;
    let mut first = None;
    for _ in 0..TRIES {
        let Some(mut example) = compared.space.example_near(left, &near)? else {
            break;
        };
        let protocol = example
            .values
            .get(&Field::Proto)
            .map_or(proto::TCP, |p| *p as u8);
        let mut nearer = near.clone();
        nearer.extend(wanted(family, protocol));
        if let Some(better) = compared.space.example_near(left, &nearer)? {
            example = better;
        }
        if let Some(text) = tried(compared, path, protocol, &example) {
            return Ok((text, true));
        }
        first.get_or_insert_with(|| example.clone());
        let of = [
            Field::Src,
            Field::Dst,
            Field::Sport,
            Field::Dport,
            Field::InName,
            Field::OutName,
        ];
        let like = compared.space.like(&example, &of)?;
        left = compared.space.bdd.minus(left, like)?;
    }
    let mut text = String::new();
    for (field, v) in first.iter().flat_map(|e| &e.values) {
        let name = field.row().name.replace(' ', "-");
        let _ = write!(text, " {name}={}", value(*field, family, *v));
    }
    Ok((text.trim_start().to_owned(), false))
}

/// The packet in words, if the engine decides otherwise on it by the second ruleset.
fn tried(
    compared: &mut Compared<'_>,
    path: Path,
    protocol: u8,
    example: &Example,
) -> Option<String> {
    if example.values.get(&Field::CtState) != Some(&ctstate::NEW) {
        return None;
    }
    let stage = Stage {
        family: compared.family(),
        names: &compared.links,
        host: compared.host,
    };
    let shape = Shape {
        sent: path == Path::Out,
        leaves: path != Path::Here,
        translated: false,
        to: Bound::same(Field::Dst),
    };
    let mut packet = stage.described(protocol, shape, example)?;
    packet.flags = example.values.get(&Field::TcpFlags).map(|f| *f as u8);
    let made;
    let host = match compared.host {
        Some(host) => host,
        None => {
            made = stage.made(shape, example, &packet);
            &made
        }
    };
    let differ = {
        let [was, is] = [0, 1].map(|side| outcome(known(compared, side, host), &packet));
        // What is drawn may differ in engines that have seen others before.
        let drawn = || {
            let [was, is] = [0, 1].map(|side| outcome(&mut fresh(compared, side, host), &packet));
            was != is
        };
        was.0 != is.0 || was.1 != is.1 && drawn()
    };
    differ.then(|| words(&packet))
}

fn fresh(compared: &Compared<'_>, side: usize, host: &Host) -> Runner {
    let rules = Rules(vec![compared.sides[side].loaded.copy()]);
    Runner::new(host, &rules)
}

/// The engine of a side on a host, without memory of what it has seen.
fn known<'c>(compared: &'c mut Compared<'_>, side: usize, host: &Host) -> &'c mut Runner {
    let runner = match compared.runners[side].take() {
        Some(mut runner) => {
            runner.move_to(host);
            runner
        }
        None => fresh(compared, side, host),
    };
    compared.runners[side].insert(runner)
}

/// What becomes of a packet, and what comes out.
fn outcome(runner: &mut Runner, packet: &Described) -> (&'static str, String) {
    let from = runner.place(packet);
    let passed = runner.pass(from, alone(packet), packet.mark, &mut ());
    (passed.fate.word(), format!("{:?}", passed.outputs))
}
