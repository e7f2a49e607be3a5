//! Queues of packets and their readers: what Linux 6.18 does with the same rules.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};

use tidegate_engine::env::{Env, IfIndex, Settings};
use tidegate_engine::{
    Answer, Disposition, DropReason, Engine, Incoming, Outcome, Output, QueueCounts, QueueError,
    QueueReader, QueueSettings, QueueVerdict, Queued, Taken,
};
use tidegate_ir::{Hook, TableKind};
use tidegate_wire::{Family, checksum};

use common::router_of_two;

/// UDP from 10.0.0.2 to 10.0.1.2, without checksum.
fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2, 0x10, 0, 0, 0, 0, 0, 0,
        0,
    ];
    packet.extend_from_slice(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[24..26].copy_from_slice(&(len - 20).to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    checksum::fix_ipv4(&mut packet);
    packet
}

fn receive(engine: &mut Engine, packet: Vec<u8>) -> Outcome {
    engine.receive(0, Incoming::on(IfIndex(2)), packet, &mut ())
}

/// What a reader has been shown.
type Seen = Arc<Mutex<Vec<(u16, u32, Hook, u32, Vec<u8>)>>>;

/// Shows what it is shown, and answers at once if it has an answer.
#[derive(Clone, Debug, Default)]
struct Program {
    seen: Seen,
    at_once: Option<Answer>,
    deaf: bool,
}

impl QueueReader for Program {
    fn take(&mut self, p: &Queued<'_>) -> Taken {
        let seen = (p.queue, p.id, p.hook, p.mark, p.bytes.to_vec());
        self.seen.lock().unwrap().push(seen);
        match &self.at_once {
            _ if self.deaf => Taken::NoRoom,
            Some(answer) => Taken::Answered(answer.clone()),
            None => Taken::Waits,
        }
    }
}

fn bind(engine: &mut Engine, queue: u16, program: &Program) {
    let reader = Box::new(program.clone());
    let settings = QueueSettings::default();
    engine.bind_queue(queue, settings, reader).unwrap();
}

/// An engine with these rules whose queue 5 has a reader, and that.
fn with_reader(rules: &str) -> (Engine, Program) {
    let mut engine = router_of_two(rules);
    let program = Program::default();
    bind(&mut engine, 5, &program);
    (engine, program)
}

/// What becomes of a packet when it is answered about.
fn answer(engine: &mut Engine, id: u32, answer: impl Into<Answer>) -> Outcome {
    engine.answer(0, 5, id, answer.into(), &mut ()).unwrap();
    let mut answered = engine.take_answered();
    assert_eq!(answered.len(), 1);
    answered.remove(0).outcome
}

fn marked(verdict: QueueVerdict, mark: u32) -> Answer {
    Answer {
        mark: Some(mark),
        ..verdict.into()
    }
}

/// Packets and marks that left.
fn sent(outcome: &Outcome) -> Vec<(&[u8], u32)> {
    let sent = outcome.outputs.iter().filter_map(|o| match o {
        Output::Transmit { bytes, mark, .. } => Some((bytes.as_slice(), *mark)),
        _ => None,
    });
    sent.collect()
}

fn counted(engine: &Engine) -> Vec<u64> {
    let counters = engine.counters(Family::V4).iter();
    counters.map(|c| c.packets).collect()
}

fn counts(engine: &Engine) -> QueueCounts {
    engine.queue_counts().find(|c| c.queue == 5).unwrap()
}

const UDP: &str = "*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -j NFQUEUE --queue-num 5
-A FORWARD -j DROP
COMMIT
";

#[test]
fn a_packet_waits_and_goes_on_behind_its_table() {
    let (mut engine, program) = with_reader(
        "*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -j NFQUEUE --queue-num 5
-A PREROUTING -p udp -j DROP
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -m mark --mark 9
COMMIT
",
    );
    let waits = receive(&mut engine, udp(7000, b"one"));
    assert_eq!(waits.disposition, Disposition::Queued);
    assert!(waits.outputs.is_empty());
    let seen = program.seen.lock().unwrap().clone();
    let wanted = (5, 1, Hook::Prerouting, 0, udp(7000, b"one"));
    assert_eq!(seen, [wanted]);
    assert_eq!(
        (engine.take_parked().len(), counts(&engine).waiting),
        (1, 1)
    );
    assert!(engine.queue_bytes() >= 31);
    let done = answer(&mut engine, 1, marked(QueueVerdict::Accept, 9));
    assert_eq!(done.disposition, Disposition::Sent);
    assert_eq!(sent(&done)[0].1, 9);
    assert_eq!((engine.queue_bytes(), counts(&engine).waiting), (0, 0));
    // The rule that drops was not met, nor the chain's policy: the first rule counted, the
    // policies of mangle's FORWARD and POSTROUTING, the next table's rule and policy.
    let counters = counted(&engine);
    assert_eq!(counters.iter().sum::<u64>(), 5, "{counters:?}");
}

#[test]
fn repeat_begins_the_table_again() {
    let (mut engine, program) = with_reader(
        "*filter
:FORWARD DROP [0:0]
-A FORWARD -m mark --mark 9 -j ACCEPT
-A FORWARD -p udp -j NFQUEUE --queue-num 5
COMMIT
",
    );
    receive(&mut engine, udp(7000, b"rep"));
    let again = answer(&mut engine, 1, QueueVerdict::Repeat);
    assert_eq!(again.disposition, Disposition::Queued);
    let done = answer(&mut engine, 2, marked(QueueVerdict::Repeat, 9));
    assert_eq!(done.disposition, Disposition::Sent);
    assert_eq!(program.seen.lock().unwrap().len(), 2);
    let filter = engine.rules(Family::V4).table(TableKind::Filter).unwrap();
    let forward = filter.chains.iter().find(|c| c.name == "FORWARD").unwrap();
    let ids = forward.rules.iter().map(|r| r.id);
    let packets = ids.map(|id| engine.counter(Family::V4, id).packets);
    assert_eq!(packets.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn bytes_may_change_and_must_be_a_packet() {
    let (mut engine, _) = with_reader(UDP);
    for (id, payload) in [
        (1, &b"a much longer payload than before"[..]),
        (2, b"s"),
        (3, b""),
    ] {
        receive(&mut engine, udp(7000, b"middle"));
        let new = Answer {
            bytes: Some(udp(7000, payload)),
            ..QueueVerdict::Accept.into()
        };
        let done = answer(&mut engine, id, new);
        let [(bytes, _)] = sent(&done)[..] else {
            panic!("{done:?}");
        };
        assert_eq!(&bytes[28..], payload);
    }
    let mut six = vec![0x60; 40];
    six[4..6].copy_from_slice(&[0, 0]);
    for (id, bytes) in [(4, vec![0x45, 0, 0]), (5, Vec::new()), (6, six)] {
        receive(&mut engine, udp(7000, b"junk"));
        let new = Answer {
            bytes: Some(bytes),
            ..QueueVerdict::Accept.into()
        };
        let done = answer(&mut engine, id, new);
        let dropped = Disposition::Dropped(DropReason::QueueReader(5));
        assert_eq!(done.disposition, dropped);
    }
}

#[test]
fn an_answer_counts_once_and_only_for_what_waits() {
    let (mut engine, _) = with_reader(UDP);
    receive(&mut engine, udp(7000, b"x"));
    let done = answer(&mut engine, 1, QueueVerdict::Drop);
    let dropped = Disposition::Dropped(DropReason::QueueReader(5));
    assert_eq!(done.disposition, dropped);
    let mut say = |queue, id| engine.answer(0, queue, id, QueueVerdict::Accept.into(), &mut ());
    assert_eq!(say(5, 1), Err(QueueError::NoPacket));
    assert_eq!(say(5, 77_777), Err(QueueError::NoPacket));
    assert_eq!(say(5, 0), Err(QueueError::NoPacket));
    assert_eq!(say(9, 1), Err(QueueError::NoQueue));
    let program = Box::new(Program::default());
    let second = engine.bind_queue(5, QueueSettings::default(), program);
    assert_eq!(second, Err(QueueError::Bound));
    assert!(engine.take_answered().is_empty());
}

#[test]
fn one_answer_may_be_about_several() {
    let (mut engine, _) = with_reader(UDP);
    for i in 0..4 {
        receive(&mut engine, udp(7000, &[i]));
    }
    let mut up_to = |id| engine.answer_up_to(0, (5, id), QueueVerdict::Accept, Some(3), &mut ());
    assert_eq!(up_to(3), Ok(3));
    assert_eq!(up_to(3), Err(QueueError::NoPacket));
    let done = engine.take_answered();
    let marks: Vec<u32> = done
        .iter()
        .flat_map(|a| sent(&a.outcome))
        .map(|s| s.1)
        .collect();
    assert_eq!(marks, [3, 3, 3]);
    assert_eq!(counts(&engine).waiting, 1);
}

#[test]
fn a_packet_may_go_from_queue_to_queue() {
    let (mut engine, _) = with_reader(UDP);
    let other = Program::default();
    bind(&mut engine, 6, &other);
    receive(&mut engine, udp(7000, b"hop"));
    let again = answer(&mut engine, 1, QueueVerdict::Queue(6));
    assert_eq!(again.disposition, Disposition::Queued);
    assert_eq!(other.seen.lock().unwrap()[0].1, 1);
    engine
        .answer(0, 6, 1, QueueVerdict::Accept.into(), &mut ())
        .unwrap();
    assert_eq!(
        engine.take_answered()[0].outcome.disposition,
        Disposition::Sent
    );
    receive(&mut engine, udp(7000, b"hop"));
    let nobody = answer(&mut engine, 2, QueueVerdict::Queue(99));
    let dropped = Disposition::Dropped(DropReason::QueueReader(99));
    assert_eq!(nobody.disposition, dropped);
}

/// A reader that sends everything around at once would keep the packet for ever.
#[test]
fn answers_at_once_come_to_an_end() {
    for verdict in [QueueVerdict::Repeat, QueueVerdict::Queue(5)] {
        let mut engine = router_of_two(UDP);
        let program = Program {
            at_once: Some(verdict.into()),
            ..Program::default()
        };
        bind(&mut engine, 5, &program);
        let done = receive(&mut engine, udp(7000, b"x"));
        assert!(matches!(done.disposition, Disposition::Dropped(_)));
        assert!(program.seen.lock().unwrap().len() < 100);
    }
}

#[test]
fn what_waits_goes_with_its_reader() {
    let (mut engine, _) = with_reader(UDP);
    for _ in 0..3 {
        receive(&mut engine, udp(7000, b"gone"));
    }
    engine.unbind_queue(5).unwrap();
    let gone = engine.take_answered();
    let dropped = Disposition::Dropped(DropReason::QueueReader(5));
    assert_eq!(gone.len(), 3);
    assert!(gone.iter().all(|a| a.outcome.disposition == dropped));
    assert_eq!(engine.queue_bytes(), 0);
    let nobody = receive(&mut engine, udp(7000, b"x")).disposition;
    assert!(matches!(nobody, Disposition::Dropped(DropReason::Queue(_))));
    assert_eq!(engine.unbind_queue(5), Err(QueueError::NoQueue));
}

#[test]
fn a_full_queue_drops_or_lets_pass() {
    let (mut engine, _) = with_reader(UDP);
    let mut settings = QueueSettings {
        max_len: 2,
        fail_open: false,
    };
    engine.set_queue(5, settings).unwrap();
    let mut fates = |n: u8| -> Vec<bool> {
        let mut fate = |i| receive(&mut engine, udp(7000, &[i])).disposition;
        (0..n).map(|i| fate(i) == Disposition::Queued).collect()
    };
    assert_eq!(fates(4), [true, true, false, false]);
    assert_eq!((counts(&engine).full, counts(&engine).id), (2, 2));
    settings.fail_open = true;
    engine.set_queue(5, settings).unwrap();
    let open = receive(&mut engine, udp(7000, b"o"));
    assert_eq!(
        (open.disposition, counts(&engine).full),
        (Disposition::Sent, 2)
    );
}

#[test]
fn a_reader_without_room_loses_packets() {
    for fail_open in [false, true] {
        let mut engine = router_of_two(UDP);
        let program = Program {
            deaf: true,
            ..Program::default()
        };
        let settings = QueueSettings {
            fail_open,
            ..QueueSettings::default()
        };
        engine.bind_queue(5, settings, Box::new(program)).unwrap();
        let fate = receive(&mut engine, udp(7000, b"x")).disposition;
        assert_eq!(fate == Disposition::Sent, fail_open);
        assert_eq!(counts(&engine).no_room, u64::from(!fail_open));
    }
}

/// The limit is one of bytes, too, whatever readers ask for.
#[test]
fn all_queues_together_are_bounded() {
    let (mut engine, _) = with_reader(UDP);
    let settings = QueueSettings {
        max_len: u32::MAX,
        fail_open: false,
    };
    engine.set_queue(5, settings).unwrap();
    let long = udp(7000, &[0; 60_000]);
    let mut taken = 0;
    while receive(&mut engine, long.clone()).disposition == Disposition::Queued {
        taken += 1;
        assert!(taken < 2000);
    }
    assert!(engine.queue_bytes() <= tidegate_engine::QUEUE_BYTES);
    assert!(taken > 1000);
}

#[test]
fn rules_may_change_meanwhile() {
    let swap = "*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -j DROP
COMMIT
";
    for (verdict, passes) in [(QueueVerdict::Accept, true), (QueueVerdict::Repeat, false)] {
        let (mut engine, _) = with_reader(UDP);
        receive(&mut engine, udp(7000, b"swap"));
        engine.load(common::lowered(swap, Family::V4));
        let done = answer(&mut engine, 1, verdict);
        assert_eq!(done.disposition == Disposition::Sent, passes);
    }
}

#[test]
fn what_waits_goes_with_its_interface() {
    let (mut engine, _) = with_reader(UDP);
    receive(&mut engine, udp(7000, b"x"));
    let left = vec![common::interface(3, "eth1", 0x0a00_0101, 24)];
    let env = Env::new(left, &[], &[], Settings::default());
    engine.set_env(Arc::new(env));
    let gone = engine.take_answered();
    assert_eq!(gone.len(), 1);
    assert!(
        engine
            .answer(0, 5, 1, QueueVerdict::Accept.into(), &mut ())
            .is_err()
    );
}

const SNAT: &str = "*nat
:PREROUTING ACCEPT [0:0]
-A POSTROUTING -o eth1 -j SNAT --to-source 10.0.1.77
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -j NFQUEUE --queue-num 5
COMMIT
";

fn source(done: &Outcome) -> [u8; 4] {
    sent(done)[0].0[12..16].try_into().unwrap()
}

/// A packet keeps its connection, and is translated, though that has been removed meanwhile:
/// by hand, or because it has run out.
#[test]
fn a_connection_may_be_removed_meanwhile() {
    const MINUTES: u64 = 60_000_000_000;
    for by_hand in [true, false] {
        let (mut engine, _) = with_reader(SNAT);
        receive(&mut engine, udp(7000, b"n1"));
        assert_eq!(
            source(&answer(&mut engine, 1, QueueVerdict::Accept)),
            [10, 0, 1, 77]
        );
        assert_eq!(engine.conntrack().count(), 1);
        receive(&mut engine, udp(7000, b"n2"));
        match by_hand {
            true => engine.conntrack_mut().flush(),
            false => engine.handle_timeout(60 * MINUTES),
        }
        // What comes meanwhile is another connection's.
        receive(&mut engine, udp(7001, b"n3"));
        let done = answer(&mut engine, 2, QueueVerdict::Accept);
        assert_eq!(source(&done), [10, 0, 1, 77]);
        assert_eq!(answer(&mut engine, 3, QueueVerdict::Drop).outputs, []);
        assert_eq!(engine.conntrack().count(), 0);
    }
}

/// Of two packets that would both open the connection, the second joins the first.
#[test]
fn two_first_packets_are_one_connection() {
    let (mut engine, _) = with_reader(SNAT);
    for payload in [b"u1", b"u2"] {
        receive(&mut engine, udp(7000, payload));
    }
    assert_eq!(engine.conntrack().count(), 2);
    for id in [1, 2] {
        assert_eq!(
            source(&answer(&mut engine, id, QueueVerdict::Accept)),
            [10, 0, 1, 77]
        );
    }
    assert_eq!(engine.conntrack().count(), 1);
}

#[test]
fn nobody_knows_connections_of_what_waits_or_is_dropped() {
    let (mut engine, _) = with_reader(SNAT);
    for port in 0..10 {
        receive(&mut engine, udp(port, b"x"));
    }
    engine.unbind_queue(5).unwrap();
    assert_eq!(engine.conntrack().count(), 0);
}

fn from_port(port: u16) -> Vec<u8> {
    let mut packet = udp(7000, b"b");
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet
}

/// Flows keep to a queue in both directions, whatever their ports; with `--queue-cpu-fanout`
/// processors do.
#[test]
fn flows_are_spread_over_queues() {
    let rules = |fanout| {
        format!(
            "*filter\n:FORWARD ACCEPT\n-A FORWARD -p udp -j NFQUEUE --queue-balance 20:23{fanout}\nCOMMIT\n"
        )
    };
    let queues = |engine: &Engine| -> Vec<usize> {
        let counts = engine.queue_counts();
        counts.map(|c| c.waiting).collect()
    };
    let bound = |fanout| {
        let mut engine = router_of_two(&rules(fanout));
        for queue in 20..24 {
            bind(&mut engine, queue, &Program::default());
        }
        engine
    };
    let mut engine = bound("");
    for port in 0..100 {
        receive(&mut engine, from_port(port));
    }
    let mut answers = udp(7000, b"b");
    answers[12..20].rotate_left(4);
    engine.receive(0, Incoming::on(IfIndex(3)), answers, &mut ());
    assert!(queues(&engine).contains(&101), "{:?}", queues(&engine));
    for host in 3..253 {
        let mut packet = udp(7000, b"b");
        packet[19] = host;
        checksum::fix_ipv4(&mut packet);
        receive(&mut engine, packet);
    }
    assert!(
        queues(&engine).iter().all(|&n| n > 30),
        "{:?}",
        queues(&engine)
    );
    let mut engine = bound(" --queue-cpu-fanout");
    for (cpu, wanted) in [(1, [0, 1, 0, 0]), (0, [1, 1, 0, 0]), (6, [1, 1, 1, 0])] {
        engine.set_cpu(cpu);
        receive(&mut engine, udp(7000, b"b"));
        assert_eq!(queues(&engine), wanted);
    }
}

/// A flow whose packets go to a queue follows no plan.
#[test]
fn queued_flows_are_not_remembered() {
    let (mut engine, program) = with_reader(SNAT);
    for id in 1..=10 {
        receive(&mut engine, udp(7000, b"q"));
        answer(&mut engine, id, QueueVerdict::Accept);
        let mut back = udp(7000, b"r");
        back[12..20].copy_from_slice(&[10, 0, 1, 2, 10, 0, 1, 77]);
        back[20..24].rotate_left(2);
        checksum::fix_ipv4(&mut back);
        engine.receive(0, Incoming::on(IfIndex(3)), back, &mut ());
        engine
            .answer_up_to(0, (5, u32::MAX), QueueVerdict::Accept, None, &mut ())
            .ok();
        engine.take_answered();
    }
    assert_eq!(engine.followed(), 0);
    assert!(program.seen.lock().unwrap().len() >= 10);
}

const EVERYWHERE: &str = "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m mark --mark 0x10/0x10 -j ACCEPT
-A PREROUTING -p udp -m udp --dport 1 -j NFQUEUE --queue-num 5
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A FORWARD -m mark --mark 0x10/0x10 -j ACCEPT
-A FORWARD -p udp -m udp --dport 2 -j NFQUEUE --queue-num 5
-A OUTPUT -p udp -m udp --dport 2 -j NFQUEUE --queue-num 6
-A POSTROUTING -p udp -m udp --dport 3 -j NFQUEUE --queue-balance 5:6 --queue-bypass
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 4 -j NFQUEUE --queue-num 6
-A PREROUTING -p udp -m udp --dport 5 -j DNAT --to-destination 10.0.1.9:7
-A POSTROUTING -o eth1 -j MASQUERADE
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -m udp --dport 5 -j NFQUEUE --queue-num 5
-A FORWARD -p udp -m udp --dport 6 -j TEE --gateway 10.0.1.5
-A FORWARD -p udp -m udp --dport 7 -j REJECT
-A OUTPUT -p icmp -j NFQUEUE --queue-num 6
-A INPUT -p udp -j NFQUEUE --queue-num 6
COMMIT
";

/// Numbers that only look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % sides
    }
}

/// Does something that can happen at any time.
fn stir(engine: &mut Engine, program: &Program, now: u64, dice: &mut Dice) {
    let queue = 5 + dice.roll(2) as u16;
    let id = dice.roll(40) as u32;
    match dice.roll(16) {
        0 => engine.conntrack_mut().flush(),
        1 => engine.handle_timeout(now),
        2 => engine.load(common::lowered(EVERYWHERE, Family::V4)),
        3 => drop(engine.unbind_queue(queue)),
        4 | 5 => {
            let settings = QueueSettings {
                max_len: dice.roll(12) as u32,
                fail_open: dice.roll(2) == 0,
            };
            let _ = engine.bind_queue(queue, settings, Box::new(program.clone()));
        }
        6 => drop(engine.answer_up_to(now, (queue, id), QueueVerdict::Accept, None, &mut ())),
        7..12 => {
            let verdicts = [
                QueueVerdict::Drop,
                QueueVerdict::Accept,
                QueueVerdict::Repeat,
                QueueVerdict::Queue(5),
                QueueVerdict::Queue(6),
            ];
            let answer = Answer {
                verdict: verdicts[dice.roll(5) as usize],
                mark: Some(dice.roll(2) as u32 * 0x10).filter(|&m| m > 0),
                bytes: (dice.roll(4) == 0).then(|| udp(dice.roll(9) as u16, b"other")),
            };
            let _ = engine.answer(now, queue, id, answer, &mut ());
        }
        _ => {
            let mut packet = udp(dice.roll(9) as u16, b"some");
            packet[20] = dice.roll(3) as u8;
            packet[19] = [2, 2, 1, 9][dice.roll(4) as usize];
            packet[18] = dice.roll(2) as u8;
            checksum::fix_ipv4(&mut packet);
            if dice.roll(5) == 0 {
                engine.send(now, packet, 0, &mut ());
            } else {
                engine.receive(now, Incoming::on(IfIndex(2)), packet, &mut ());
            }
        }
    }
}

/// Whatever happens in whatever order: every packet that has been parked comes out once, and
/// nothing is left behind.
#[test]
fn nothing_is_lost_and_nothing_stays() {
    const SECOND: u64 = 1_000_000_000;
    let mut parked_in_all = 0;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut engine = router_of_two(EVERYWHERE);
        let program = Program::default();
        let (mut parked, mut answered) = (Vec::new(), Vec::new());
        let mut now = SECOND;
        for _ in 0..300 {
            now += dice.roll(SECOND);
            stir(&mut engine, &program, now, &mut dice);
            parked.extend(engine.take_parked());
            for done in engine.take_answered() {
                answered.push(done.ticket);
                parked.extend(done.parked);
            }
            let waiting: usize = engine.queue_counts().map(|c| c.waiting).sum();
            assert_eq!(waiting, parked.len() - answered.len(), "seed {seed}");
        }
        for queue in [5, 6] {
            let _ = engine.unbind_queue(queue);
        }
        answered.extend(engine.take_answered().iter().map(|a| a.ticket));
        parked.sort();
        answered.sort();
        assert_eq!(parked, answered, "seed {seed}");
        parked_in_all += parked.len();
        assert_eq!(engine.queue_bytes(), 0);
        engine.handle_timeout(now + 86_400 * SECOND);
        assert_eq!(engine.conntrack().count(), 0, "seed {seed}");
        assert_eq!(engine.poll_timeout(), None, "seed {seed}");
    }
    assert!(parked_in_all > 2000, "{parked_in_all}");
}
