//! A source of packets that is not the bottleneck, and a sink: XDP programs.
//!
//! The source writes each frame anew, with its flow's address and port and with right
//! checksums, and redirects it to the host's `eth0` (`BPF_PROG_TEST_RUN` with live frames).

use std::time::Duration;

use aya::maps::{Array, Map as AyaMap, MapData, PerCpuArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::programs::{TestRun, Xdp, XdpMode};
use aya::programs::{TestRunAttrs, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use rustix::time::{ClockId, clock_gettime};
use tidegate_ebpf::{Asm, Cond, Kind, Map, Op, Program, Reg, Size, object};
use tidegate_wire::checksum;

use crate::net::Host;

/// Bytes of a UDP packet in a frame of 60 bytes, and of the frame.
const PACKET: usize = 46;
const FRAME: usize = 14 + PACKET;
/// Flows of one address; their ports begin here.
pub(crate) const PORTS: u32 = 1 << 12;
pub(crate) const FIRST_PORT: u16 = 0x4000;
/// Frames of one turn of the source.
const BATCH: u32 = 64;

static COUNT: Map = Map {
    name: "count",
    kind: Kind::PerCpuArray,
    key: 4,
    value: 8,
    entries: 1,
    locked: false,
    shared: false,
};
static NEXT: Map = Map {
    name: "next",
    kind: Kind::Array,
    key: 4,
    value: 8,
    entries: 1,
    locked: false,
    shared: false,
};

/// `XDP_DROP`, and numbers of helpers.
const DROP: i32 = 1;
const LOOK_UP: i32 = 1;
const REDIRECT: i32 = 23;
const RANDOM: i32 = 7;

/// What the source sends.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    /// Ethernet addresses: the router's, and one of nobody.
    pub(crate) to: [u8; 6],
    /// Addresses of the first flow.
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    /// The other port.
    pub(crate) port: u16,
    /// Whether address and port of the flow are the destination's.
    pub(crate) back: bool,
    /// Whether all flows have one address, and only ports differ.
    pub(crate) one_address: bool,
    /// Whether all have the other address in common too; else that is as many as ports.
    pub(crate) one_server: bool,
    pub(crate) flows: u32,
    /// Whether each packet is of a flow drawn at random, instead of one after the other.
    pub(crate) random: bool,
}

impl Stream {
    /// The first flow's frame.
    fn frame(&self) -> Vec<u8> {
        let mut frame = self.to.to_vec();
        frame.extend([2, 0, 0, 0, 9, 9, 8, 0]);
        frame.extend(self.packet_with(FIRST_PORT));
        frame
    }

    /// A packet whose flow has this port.
    fn packet_with(&self, port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, PACKET as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend(self.src);
        packet.extend(self.dst);
        let ports = if self.back {
            [self.port, port]
        } else {
            [port, self.port]
        };
        packet.extend(ports.iter().flat_map(|p| p.to_be_bytes()));
        packet.extend([0, (PACKET - 20) as u8, 0, 0]);
        packet.resize(PACKET, 0x55);
        checksum::fix_ipv4(&mut packet);
        let address = |b: [u8; 4]| u128::from(u32::from_be_bytes(b));
        let len = (PACKET - 20) as u32;
        let family = tidegate_wire::Family::V4;
        let pseudo = checksum::pseudo(family, address(self.src), address(self.dst), 17, len);
        let sum = checksum::finish(pseudo, &packet[20..]);
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// What comes back where nothing is translated.
    pub(crate) fn answers(&self) -> Stream {
        Stream {
            src: self.dst,
            dst: self.src,
            back: true,
            ..*self
        }
    }

    /// The packet of a flow, as the source makes it.
    pub(crate) fn packet(&self, flow: u32) -> Vec<u8> {
        let (host, port) = match self.one_address {
            true => (0, flow),
            false => (flow / PORTS, flow % PORTS),
        };
        let mut own = *self;
        let (end, other) = match self.back {
            true => (&mut own.dst, &mut own.src),
            false => (&mut own.src, &mut own.dst),
        };
        *end = (u32::from_be_bytes(*end) + host).to_be_bytes();
        if !self.one_server {
            *other = (u32::from_be_bytes(*other) + port).to_be_bytes();
        }
        own.packet_with(FIRST_PORT + port as u16)
    }

    /// R8: the frame. Writes the first flow's headers, then R6, which is added to the low
    /// half of the flow's address, and R7, to its port and the other address.
    fn code(&self, device: u32) -> Asm {
        use Reg as R;
        let mut a = Asm::new();
        let (drop, first) = (a.label(), a.label());
        a.load(Size::W, R::R8, R::R1, 0);
        a.load(Size::W, R::R2, R::R1, 4);
        a.mov(R::R3, R::R8);
        a.alu(Op::Add, R::R3, FRAME as i32);
        a.jump_if(Cond::Gt, R::R3, R::R2, drop);
        a.store(Size::W, R::R10, -4, 0);
        a.load_map(R::R1, &NEXT);
        a.mov(R::R2, R::R10);
        a.alu(Op::Add, R::R2, -4);
        a.call(LOOK_UP);
        a.jump_if(Cond::Eq, R::R0, 0, drop);
        a.load(Size::D, R::R6, R::R0, 0);
        a.mov(R::R1, R::R6);
        a.alu(Op::Add, R::R1, 1);
        a.jump_if(Cond::Lt, R::R1, self.flows as i32, first);
        a.mov(R::R1, 0);
        a.bind(first);
        a.store(Size::D, R::R0, 0, R::R1);
        if self.random {
            // A number of 32 bits, as a fraction of all flows.
            a.call(RANDOM);
            a.alu32(Op::Mov, R::R6, R::R0);
            a.alu(Op::Mul, R::R6, self.flows as i32);
            a.alu(Op::Rsh, R::R6, 32);
        }
        a.mov(R::R7, R::R6);
        if self.one_address {
            a.mov(R::R6, 0);
        } else {
            a.alu(Op::And, R::R7, PORTS as i32 - 1);
            a.alu(Op::Rsh, R::R6, PORTS.ilog2() as i32);
        }
        let frame = self.frame();
        for (at, word) in frame[..42].chunks(2).enumerate() {
            let word = i32::from(u16::from_ne_bytes([word[0], word[1]]));
            a.store(Size::H, R::R8, at as i16 * 2, word);
        }
        let (low, other, port) = match self.back {
            true => (32, 28, 36),
            false => (28, 32, 34),
        };
        let half = |at: usize| i32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let servers = (!self.one_server).then_some((other, R::R7));
        let places = [(low, R::R6), (port, R::R7)].into_iter().chain(servers);
        for (at, more) in places {
            a.mov(R::R1, more);
            a.alu(Op::Add, R::R1, half(at));
            a.swap(R::R1, 16);
            a.store(Size::H, R::R8, at as i16, R::R1);
        }
        // Both sums change by what is added (RFC 1624).
        let server = usize::from(!self.one_server);
        for (at, times) in [(24, server), (40, server + 1)] {
            a.mov(R::R1, 0xffff - half(at));
            a.alu(Op::Add, R::R1, R::R6);
            for _ in 0..times {
                a.alu(Op::Add, R::R1, R::R7);
            }
            for _ in 0..2 {
                a.mov(R::R2, R::R1);
                a.alu(Op::Rsh, R::R2, 16);
                a.alu(Op::And, R::R1, 0xffff);
                a.alu(Op::Add, R::R1, R::R2);
            }
            a.alu(Op::Xor, R::R1, 0xffff);
            a.swap(R::R1, 16);
            a.store(Size::H, R::R8, at as i16, R::R1);
        }
        a.mov(R::R1, device as i32);
        a.mov(R::R2, 0);
        a.call(REDIRECT);
        a.exit();
        a.bind(drop);
        a.mov(R::R0, DROP);
        a.exit();
        a
    }
}

fn load(name: &'static str, code: Asm, map: &'static Map) -> Ebpf {
    let program = Program {
        name,
        section: "xdp",
        code,
    };
    let mut loaded = EbpfLoader::new()
        .load(&object(vec![program], &[map]).unwrap())
        .unwrap();
    xdp(&mut loaded, name).load().unwrap();
    loaded
}

fn xdp<'a>(loaded: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    loaded.program_mut(name).unwrap().try_into().unwrap()
}

/// Sends from a host's `eth0`.
pub(crate) struct Source {
    loaded: Ebpf,
    frame: Vec<u8>,
}

impl Source {
    pub(crate) fn new(host: &Host, stream: &Stream) -> Self {
        let device = host.run(|| if_nametoindex("eth0").unwrap());
        Source {
            loaded: load("source", stream.code(device), &NEXT),
            frame: stream.frame(),
        }
    }

    /// Sends that many frames, of one flow after the other; returns how long the sending
    /// thread has run, which on one core does most of the work on the way as well.
    pub(crate) fn send(&mut self, host: &Host, count: u32) -> Duration {
        let program = xdp(&mut self.loaded, "source");
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.repeat = count;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let timed = host.run(|| {
            let before = clock_gettime(ClockId::ThreadCPUTime);
            let sent = program.test_run(options);
            let took = clock_gettime(ClockId::ThreadCPUTime) - before;
            sent.map(|_| Duration::new(took.tv_sec as u64, took.tv_nsec as u32))
        });
        timed.unwrap()
    }

    /// Begins with the first flow again.
    pub(crate) fn rewind(&mut self) {
        let map: &mut AyaMap = self.loaded.map_mut("next").unwrap();
        let mut map: Array<&mut MapData, u64> = map.try_into().unwrap();
        map.set(0, 0, 0).unwrap();
    }
}

/// Sends on what a host's `eth0` receives by its `eth1`, and does nothing else: what cannot be
/// saved.
pub(crate) struct Floor(#[allow(dead_code, reason = "ends with its holder")] Ebpf);

impl Floor {
    pub(crate) fn new(host: &Host, early: bool) -> Self {
        let device = |name| host.run(|| if_nametoindex(name).unwrap());
        let (from, to) = (device("eth0"), device("eth1"));
        let mut code = Asm::new();
        code.mov(Reg::R1, to as i32);
        code.mov(Reg::R2, 0);
        code.call(REDIRECT);
        code.exit();
        let name = "floor";
        if early {
            let mut loaded = load(name, code, &COUNT);
            let program = xdp(&mut loaded, name);
            host.run(|| program.attach_to_if_index(from, XdpMode::Driver).unwrap());
            return Floor(loaded);
        }
        let program = Program {
            name,
            section: "classifier",
            code,
        };
        let object = object(vec![program], &[&COUNT]).unwrap();
        let mut loaded = EbpfLoader::new().load(&object).unwrap();
        let program = loaded.program_mut(name).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().unwrap();
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        host.run(|| {
            let at = TcAttachType::Ingress;
            program.attach_with_options("eth0", at, first).unwrap();
        });
        Floor(loaded)
    }
}

/// Counts and drops what a host's `eth0` receives.
pub(crate) struct Sink(Ebpf);

impl Sink {
    pub(crate) fn new(host: &Host) -> Self {
        use Reg as R;
        let mut a = Asm::new();
        let (other, done) = (a.label(), a.label());
        a.load(Size::W, R::R6, R::R1, 0);
        a.load(Size::W, R::R2, R::R1, 4);
        a.mov(R::R3, R::R6);
        a.alu(Op::Add, R::R3, FRAME as i32);
        a.jump_if(Cond::Gt, R::R3, R::R2, other);
        a.load(Size::H, R::R1, R::R6, 12);
        a.jump_if(Cond::Ne, R::R1, i32::from(0x0800_u16.to_be()), other);
        a.load(Size::B, R::R1, R::R6, 23);
        a.jump_if(Cond::Ne, R::R1, 17, other);
        a.store(Size::W, R::R10, -4, 0);
        a.load_map(R::R1, &COUNT);
        a.mov(R::R2, R::R10);
        a.alu(Op::Add, R::R2, -4);
        a.call(LOOK_UP);
        a.jump_if(Cond::Eq, R::R0, 0, done);
        a.load(Size::D, R::R1, R::R0, 0);
        a.alu(Op::Add, R::R1, 1);
        a.store(Size::D, R::R0, 0, R::R1);
        a.bind(done);
        a.mov(R::R0, DROP);
        a.exit();
        a.bind(other);
        a.mov(R::R0, 2);
        a.exit();
        let mut loaded = load("sink", a, &COUNT);
        let program = xdp(&mut loaded, "sink");
        host.run(|| {
            let device = if_nametoindex("eth0").unwrap();
            program.attach_to_if_index(device, XdpMode::Driver).unwrap();
        });
        Sink(loaded)
    }

    pub(crate) fn count(&self) -> u64 {
        let map: PerCpuArray<_, u64> = self.0.map("count").unwrap().try_into().unwrap();
        map.get(&0, 0).unwrap().iter().sum()
    }
}
