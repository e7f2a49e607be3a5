//! Ports given away by the block: whose they are, how many, what is told, and that they come
//! back.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use std::collections::BTreeSet;

use packets::{Ip, Lab};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::nat::blocks::{Binding, BindingLog, BlockSettings};
use tidegate_conntrack::snapshot::{Snapshot, Writer};
use tidegate_conntrack::{Attached, Conntrack, Dir, DropReason, Family, Manip, NatRange, SECOND};
use tidegate_wire::proto;

const OUTSIDE: u128 = 0xcb00_7101;
const SERVER: [u8; 4] = [198, 51, 100, 7];

fn settings(size: u16, per_host: u16, log: BindingLog) -> Config {
    Config {
        blocks: BlockSettings { size, per_host },
        binding_log: log,
        ..Config::default()
    }
}

/// A translator to so many outside addresses.
struct Translator {
    lab: Lab,
    range: NatRange,
}

impl Translator {
    fn new(config: Config) -> Self {
        Translator {
            lab: Lab::new(config),
            range: NatRange::address(OUTSIDE),
        }
    }

    /// A host of the inside network opens a connection: its outside address and port.
    fn opens(&mut self, host: u8, port: u16) -> Result<(Attached, u128, u16), DropReason> {
        let ip = Ip {
            src: [10, 0, 0, host],
            dst: SERVER,
        };
        let mut at = self.lab.attach(&ip.udp(port, 53));
        let ct = &mut self.lab.ct;
        ct.nat_null_binding(at.id, Manip::Dst)?;
        if let Err(why) = ct.nat_setup(at.id, Manip::Src, &self.range) {
            ct.release(at.id);
            return Err(why);
        }
        ct.confirm(self.lab.now, &mut at)?;
        let reply = *ct.entry(at.id).unwrap().tuple(Dir::Reply);
        Ok((at, reply.dst, reply.dst_id))
    }

    fn told(&mut self) -> Vec<Binding> {
        let (told, lost) = self.lab.ct.bindings();
        assert_eq!(lost, 0);
        told
    }
}

#[test]
fn a_host_stays_in_its_blocks_and_no_other_gets_in() {
    let mut nat = Translator::new(settings(100, 3, BindingLog::Blocks));
    let mut blocks = [BTreeSet::new(), BTreeSet::new()];
    for port in 0..150 {
        for host in [1, 2] {
            let (_, address, outside) = nat.opens(host, 20_000 + port).unwrap();
            assert_eq!(address, OUTSIDE);
            assert!(outside >= 1024);
            blocks[usize::from(host) - 1].insert(outside / 100);
        }
    }
    let [one, two] = blocks;
    assert_eq!((one.len(), two.len()), (2, 2));
    assert!(one.is_disjoint(&two));
    let told = nat.told();
    assert_eq!(told.len(), 4, "a block is told once, not its connections");
    let first = told[0];
    assert_eq!((first.begins, first.proto), (true, None));
    assert_eq!(first.inside, (0x0a00_0001, None));
    assert_eq!(first.ports.1 - first.ports.0, 99);
    assert_eq!(nat.lab.ct.blocks_in_use(), 4);
}

#[test]
fn a_host_has_no_more_than_its_share_and_others_are_not_hurt() {
    let mut nat = Translator::new(settings(16, 2, BindingLog::Nothing));
    for port in 0..32 {
        nat.opens(1, 3000 + port).unwrap();
    }
    let refused = nat.opens(1, 4000).unwrap_err();
    assert!(matches!(refused, DropReason::Nat(_)), "{refused:?}");
    assert_eq!(nat.lab.ct.stats().nat_exhausted, 1);
    assert_eq!(nat.lab.ct.count(), 32, "nothing is left of the refused one");
    nat.opens(2, 3000).unwrap();
}

#[test]
fn when_all_blocks_are_given_away_new_hosts_wait_until_one_comes_back() {
    let mut nat = Translator::new(settings(1000, 1, BindingLog::Blocks));
    nat.range.ports = Some((10_000, 11_999));
    let (first, ..) = nat.opens(1, 5000).unwrap();
    let (again, ..) = nat.opens(1, 5001).unwrap();
    nat.opens(2, 5000).unwrap();
    nat.opens(3, 5000).unwrap_err();
    nat.lab.ct.delete(first.id);
    nat.opens(3, 5000).unwrap_err();
    nat.told();
    nat.lab.ct.delete(again.id);
    let told = nat.told();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].begins, told[0].inside.0), (false, 0x0a00_0001));
    let (_, _, port) = nat.opens(3, 5000).unwrap();
    assert!(told[0].ports.0 <= port && port <= told[0].ports.1);
}

#[test]
fn blocks_come_back_when_connections_run_out() {
    let mut nat = Translator::new(settings(64, 4, BindingLog::Blocks));
    for host in 1..=50 {
        nat.opens(host, 5000).unwrap();
    }
    assert_eq!(nat.lab.ct.blocks_in_use(), 50);
    nat.lab.ct.handle_timeout(nat.lab.now + 31 * SECOND);
    assert_eq!((nat.lab.ct.count(), nat.lab.ct.blocks_in_use()), (0, 0));
    let ended = nat.told().iter().filter(|b| !b.begins).count();
    assert_eq!(ended, 50);
}

#[test]
fn the_outside_address_of_a_host_stays_the_same() {
    let mut nat = Translator::new(settings(64, 4, BindingLog::Nothing));
    nat.range.addresses = Some((OUTSIDE, OUTSIDE + 7));
    let mut used = BTreeSet::new();
    for host in 1..=40 {
        let addresses: BTreeSet<u128> = (0..100)
            .map(|port| nat.opens(host, 6000 + port).unwrap().1)
            .collect();
        assert_eq!(addresses.len(), 1, "{host}");
        used.extend(addresses);
    }
    assert!(used.len() > 4);
}

#[test]
fn connections_are_told_one_by_one_where_that_is_asked_for() {
    let mut nat = Translator::new(settings(0, 4, BindingLog::Connections));
    let (at, _, outside) = nat.opens(9, 7000).unwrap();
    nat.lab.ct.delete(at.id);
    let told = nat.told();
    let wanted = Binding {
        at: nat.lab.now,
        begins: true,
        family: Family::V4,
        proto: Some(proto::UDP),
        inside: (0x0a00_0009, Some(7000)),
        outside: OUTSIDE,
        ports: (outside, outside),
    };
    let ended = Binding {
        begins: false,
        ..wanted
    };
    assert_eq!(told, [wanted, ended]);
}

#[test]
fn blocks_outlive_a_restart_with_their_connections() {
    let mut nat = Translator::new(settings(32, 4, BindingLog::Nothing));
    let (_, _, port) = nat.opens(1, 5000).unwrap();
    let now = nat.lab.now;
    let mut bytes = Vec::new();
    let mut writer = Writer::new(now, now, &mut bytes);
    while !writer.step(&nat.lab.ct, 100, &mut bytes) {}
    let mut after = Translator::new(settings(32, 4, BindingLog::Blocks));
    after.lab.now = now;
    let snapshot = Snapshot::open(&bytes).unwrap();
    after.lab.ct.restore(now, now, &snapshot);
    let told = after.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].ports.0 / 32, port / 32);
    let (_, _, more) = after.opens(1, 5001).unwrap();
    assert_eq!(more / 32, port / 32);
}

/// Somebody who opens connections from everywhere costs as many blocks as there are.
#[test]
fn memory_is_bounded_by_the_ports_there_are() {
    let mut nat = Translator::new(settings(1, 1, BindingLog::Blocks));
    nat.range.ports = Some((2000, 2099));
    let opened = (1..=200)
        .filter(|&host| nat.opens(host, 5000).is_ok())
        .count();
    assert_eq!((opened, nat.lab.ct.blocks_in_use()), (100, 100));
    let _: &Conntrack = &nat.lab.ct;
}
