//! Any traffic, written and put back: the same table.

use proptest::prelude::*;
use tidegate_conntrack::snapshot::Restored;
use tidegate_conntrack::{Dir, HelperState, SECOND, Status};

use crate::world::{ACK, FIN, FLOWS, NOW, PSH, RST, SYN, Say, World, flow, restored, small};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Send(usize, Dir, Say),
    /// An FTP client announces a port, from the right sequence number on.
    Port(usize, u8),
    /// Somebody connects to what was announced last.
    Data,
    Mark(usize, u32),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let dir = prop_oneof![Just(Dir::Original), Just(Dir::Reply)];
    let flags = prop::sample::select(vec![
        SYN,
        SYN | ACK,
        ACK,
        PSH | ACK,
        FIN | ACK,
        RST,
        RST | ACK,
    ]);
    let say = (flags, 990u32..1020, 990u32..1020).prop_map(|(f, s, a)| Say::tcp(f, s, a));
    prop_oneof![
        8 => (0..FLOWS, dir, say).prop_map(|(n, d, s)| Step::Send(n, d, s)),
        2 => (0..FLOWS, any::<u8>()).prop_map(|(n, p)| Step::Port(n, p)),
        1 => Just(Step::Data),
        1 => (0..FLOWS, any::<u32>()).prop_map(|(n, m)| Step::Mark(n, m)),
        2 => (0u64..150).prop_map(Step::Wait),
    ]
}

impl World {
    fn run(&mut self, steps: &[Step]) {
        for n in 0..FLOWS {
            if flow(n).proto == 6 {
                self.connect(n);
            } else {
                let say = Say::tcp(0, 0, 0);
                self.send(n, Dir::Original, &say);
                if n % 2 == 0 {
                    self.send(n, Dir::Reply, &Say { seq: 7, ..say });
                }
            }
        }
        for step in steps {
            self.step(step);
        }
        self.ct.handle_timeout(self.now);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(n, dir, say) => {
                self.send(*n, *dir, say);
            }
            Step::Port(n, port) => self.announce(*n, *port),
            Step::Data => self.open_expected(),
            Step::Mark(n, mark) => {
                let tuple = flow(*n);
                let found = self
                    .ct
                    .iter()
                    .find(|(_, e)| *e.tuple(Dir::Original) == tuple);
                if let Some(id) = found.map(|f| f.0) {
                    self.ct.set_mark(id, *mark);
                }
            }
            Step::Wait(seconds) => {
                // Not whole seconds, so that rounding would show.
                self.now += seconds * SECOND + 123_456_789;
                self.ct.handle_timeout(self.now);
            }
        }
    }

    pub(crate) fn announce(&mut self, n: usize, port: u8) {
        if flow(n).dst_id != 21 || flow(n).proto != 6 {
            return;
        }
        let host = { flow(n).src } & 0xff;
        let say = |seq, text: String| Say {
            flags: PSH | ACK,
            seq,
            ack: 1000,
            data: text.into_bytes(),
        };
        self.send(n, Dir::Original, &say(1000, "USER x\r\n".to_owned()));
        let port = format!("PORT 10,0,0,{host},200,{port}\r\n");
        self.send(n, Dir::Original, &say(1008, port));
    }

    pub(crate) fn open_expected(&mut self) {
        let Some(tuple) = self.ct.expectations().last().map(|e| e.tuple) else {
            return;
        };
        let tuple = tidegate_conntrack::Tuple {
            src_id: 20,
            ..tuple
        };
        // In the zone of the connection that announced it.
        for n in (0..FLOWS).filter(|&n| flow(n).dst_id == 21) {
            self.open(n, &tuple);
        }
    }
}

fn counts(report: &Restored) -> [u32; 6] {
    [
        report.connections,
        report.expectations,
        report.expired,
        report.full,
        report.taken,
        report.orphaned,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// At the same moment by the wall clock, whatever this process's own clock shows.
    #[test]
    fn a_restored_table_is_the_table(
        steps in prop::collection::vec(step(), 0..80),
        places in 1u32..300,
        clock in prop_oneof![Just(NOW), Just(NOW / 2), Just(3 * NOW)],
    ) {
        let mut world = World::new(small());
        world.run(&steps);
        let bytes = world.snapshot(places);
        let (again, report) = restored(&bytes, clock + (world.now - NOW), 0, small());
        prop_assert_eq!(again.lists(), world.lists());
        prop_assert_eq!(again.details(), world.details());
        let entries = world.ct.iter().count() as u32;
        let expected = world.ct.expectations().count() as u32;
        prop_assert_eq!(counts(&report), [entries, expected, 0, 0, 0, 0]);
        prop_assert_eq!(again.ct.count(), entries);
        // What was restored can be written and restored as well as the original.
        let (third, _) = restored(&again.snapshot(places), again.now, 0, small());
        prop_assert_eq!(third.details(), again.details());
    }

    /// Some time later: as if the table had gone on without packets.
    #[test]
    fn time_passes_between_writing_and_restoring(
        steps in prop::collection::vec(step(), 0..80),
        gap in 0u64..700,
    ) {
        let mut world = World::new(small());
        world.run(&steps);
        let bytes = world.snapshot(64);
        let before = world.ct.iter().count() + world.ct.expectations().count();
        let gap = gap * SECOND + 5;
        world.now += gap;
        world.ct.handle_timeout(world.now);
        let (again, report) = restored(&bytes, world.now, gap, small());
        prop_assert_eq!(again.lists(), world.lists());
        prop_assert_eq!(again.details(), world.details());
        let after = world.ct.iter().count() + world.ct.expectations().count();
        let gone = report.expired + report.orphaned;
        prop_assert_eq!(gone as usize, before - after);
    }

    /// Everything that was put back runs out in its time.
    #[test]
    fn what_is_restored_runs_out(steps in prop::collection::vec(step(), 0..40)) {
        let mut world = World::new(small());
        world.run(&steps);
        let bytes = world.snapshot(64);
        let (mut again, _) = restored(&bytes, world.now, 0, small());
        again.ct.handle_timeout(again.now + 20 * 86_400 * SECOND);
        prop_assert_eq!(again.ct.count(), 0);
        prop_assert_eq!(again.ct.expectations().count(), 0);
        prop_assert_eq!(again.ct.poll_timeout(), None);
    }
}

/// The traffic above has everything in it that a snapshot holds.
#[test]
fn the_traffic_is_of_all_kinds() {
    let mut world = World::new(small());
    let announced: Vec<Step> = (0..FLOWS).map(|n| Step::Port(n, n as u8)).collect();
    world.run(&announced);
    world.step(&Step::Data);
    world.step(&Step::Port(1, 77));
    let entries: Vec<_> = world.ct.iter().map(|(_, e)| e.clone()).collect();
    let some = |what: &dyn Fn(&tidegate_conntrack::Entry) -> bool| entries.iter().any(what);
    assert!(some(&|e| e.status.has(Status::ASSURED)));
    assert!(some(&|e| e.status.has(Status::SRC_NAT)));
    assert!(some(
        &|e| e.seqadj().is_some() && matches!(e.helper_state(), Some(HelperState::Ftp(_)))
    ));
    assert!(some(&|e| e.master().is_some()));
    assert!(some(&|e| e.children() > 0));
    assert!(some(&|e| e.zone.id == 5) && some(&|e| e.zone.dirs == 1));
    for proto in [6, 17, 1, 58, 132, 47, 99] {
        assert!(some(&|e| e.tuples[0].proto == proto), "protocol {proto}");
    }
    assert!(world.ct.expectations().count() > 1);
    let (again, _) = restored(&world.snapshot(7), world.now, 0, small());
    assert_eq!(again.lists(), world.lists());
}
