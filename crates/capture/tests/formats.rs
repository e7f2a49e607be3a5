//! Bytes laid out by hand after the pcap and pcapng drafts.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::IpAddr;

use tidegate_capture::{CaptureError, Damage, Direction, LinkType, MAX_PACKET, Reader};

#[derive(Debug, PartialEq)]
struct Seen {
    number: u64,
    time_ns: u64,
    name: Option<String>,
    link: LinkType,
    flagged: Direction,
    data: Vec<u8>,
    original_len: u32,
}

fn read(bytes: &[u8]) -> (Vec<Seen>, Option<CaptureError>) {
    let mut reader = Reader::new("test.pcap", bytes);
    let mut seen = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(f)) => seen.push(Seen {
                number: f.number,
                time_ns: f.time_ns,
                name: f.interface.name.clone(),
                link: f.interface.link,
                flagged: f.flagged,
                data: f.data.to_vec(),
                original_len: f.original_len,
            }),
            Ok(None) => return (seen, None),
            Err(e) => {
                assert!(matches!(reader.next_frame(), Ok(None)));
                return (seen, Some(e));
            }
        }
    }
}

/// Writes numbers in one of the two byte orders.
#[derive(Clone, Copy)]
struct Order(bool);

impl Order {
    fn u16(self, v: u16) -> Vec<u8> {
        if self.0 {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        }
        .to_vec()
    }
    fn u32(self, v: u32) -> Vec<u8> {
        if self.0 {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        }
        .to_vec()
    }
    fn words(self, list: &[u32]) -> Vec<u8> {
        list.iter().flat_map(|&v| self.u32(v)).collect()
    }
    fn pcap(self, magic: u32, link: u32) -> Vec<u8> {
        let version = [self.u16(2), self.u16(4)].concat();
        [self.u32(magic), version, self.words(&[0, 0, 65535, link])].concat()
    }
    fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [
            self.u16(code),
            self.u16(value.len() as u16),
            value.to_vec(),
            padding,
        ]
        .concat()
    }
    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let len = body.len() as u32 + 12;
        [self.words(&[kind, len]), body.to_vec(), self.u32(len)].concat()
    }
    fn section(self) -> Vec<u8> {
        let body = [
            self.u32(0x1a2b_3c4d),
            self.u16(1),
            self.u16(0),
            vec![0xff; 8],
        ]
        .concat();
        self.block(0x0a0d_0d0a, &body)
    }
    fn interface(self, link: u16, snaplen: u32, options: &[u8]) -> Vec<u8> {
        let body = [
            self.u16(link),
            self.u16(0),
            self.u32(snaplen),
            options.to_vec(),
        ]
        .concat();
        self.block(1, &body)
    }
    fn enhanced(self, interface: u32, stamp: u64, data: &[u8], options: &[u8]) -> Vec<u8> {
        let len = data.len() as u32;
        let mut body = self.words(&[interface, (stamp >> 32) as u32, stamp as u32, len, len]);
        body.extend_from_slice(data);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(options);
        self.block(6, &body)
    }
}

const LITTLE: Order = Order(false);
const BIG: Order = Order(true);

#[test]
fn pcap_in_both_orders_and_resolutions() {
    for order in [LITTLE, BIG] {
        for (magic, fraction_ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let file = [
                order.pcap(magic, 1),
                order.words(&[1_700_000_000, 123_456, 3, 60]),
                vec![1, 2, 3],
                order.words(&[1_700_000_001, 0, 0, 0]),
            ]
            .concat();
            let (seen, error) = read(&file);
            assert!(error.is_none());
            assert_eq!(seen.len(), 2);
            assert_eq!(
                seen[0],
                Seen {
                    number: 1,
                    time_ns: 1_700_000_000_000_000_000 + 123_456 * fraction_ns,
                    name: None,
                    link: LinkType::Ethernet,
                    flagged: Direction::Unknown,
                    data: vec![1, 2, 3],
                    original_len: 60,
                }
            );
            assert_eq!((seen[1].number, seen[1].data.len()), (2, 0));
        }
    }
}

#[test]
fn the_link_type_is_the_lower_half_of_its_field() {
    // FCS length 4 (units of 16 bits in the top four bits), "FCS present" bit set.
    let (_, error) = read(&LITTLE.pcap(0xa1b2_c3d4, 0x2400_0001));
    assert!(error.is_none());
    let file = [LITTLE.pcap(0xa1b2_c3d4, 0x2400_0001), LITTLE.words(&[0; 4])].concat();
    assert_eq!(read(&file).0[0].link, LinkType::Ethernet);
}

#[test]
fn pcapng_with_names_resolutions_flags_and_two_sections() {
    for (first, second) in [(LITTLE, BIG), (BIG, LITTLE)] {
        let nano = [first.option(2, b"eth0"), first.option(9, &[9]), vec![0; 4]].concat();
        let file = [
            first.section(),
            first.interface(1, 0, &nano),
            first.interface(101, 0, &first.option(2, b"wg0")),
            // A name resolution block and a private one are passed over.
            first.block(4, &[0; 8]),
            first.block(0x8000_0001, &[9; 20]),
            first.enhanced(0, 1_700_000_000_000_000_001, &[1, 2, 3], &[]),
            first.enhanced(1, 5, &[4], &first.option(2, &first.u32(2))),
            second.section(),
            second.interface(276, 0, &[]),
            second.enhanced(0, 7, &[5; 4], &second.option(2, &second.u32(1))),
        ]
        .concat();
        let (seen, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        let brief: Vec<_> = seen
            .iter()
            .map(|s| (s.time_ns, s.name.as_deref(), s.link, s.flagged))
            .collect();
        assert_eq!(
            brief,
            [
                (
                    1_700_000_000_000_000_001,
                    Some("eth0"),
                    LinkType::Ethernet,
                    Direction::Unknown
                ),
                (5000, Some("wg0"), LinkType::Raw, Direction::Out),
                (7000, None, LinkType::LinuxSll2, Direction::In),
            ]
        );
        assert_eq!(seen[0].data, [1, 2, 3]);
    }
}

#[test]
fn interfaces_tell_their_addresses() {
    let options = [
        LITTLE.option(4, &[10, 0, 0, 1, 255, 255, 255, 0]),
        LITTLE.option(5, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 64]),
        LITTLE.option(6, &[2, 0, 0, 0, 0, 1]),
    ]
    .concat();
    let file = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &options),
        LITTLE.enhanced(0, 0, &[], &[]),
    ]
    .concat();
    let mut reader = Reader::new("x", &file[..]);
    let interface = reader.next_frame().unwrap().unwrap().interface.clone();
    let wanted: [(IpAddr, u8); 2] = [
        ("10.0.0.1".parse().unwrap(), 24),
        ("fd00::1".parse().unwrap(), 64),
    ];
    assert_eq!(interface.addresses, wanted);
    assert_eq!(interface.mac, Some([2, 0, 0, 0, 0, 1]));
}

#[test]
fn simple_and_obsolete_packet_blocks() {
    let simple = [LITTLE.u32(100), vec![1, 2, 3, 4]].concat();
    // interface and drop count, stamp, captured and original length, data, padding
    let old = [
        LITTLE.u16(0),
        LITTLE.u16(0xffff),
        LITTLE.words(&[0, 9, 2, 2]),
        vec![7, 8, 0, 0],
    ]
    .concat();
    let file = [
        LITTLE.section(),
        LITTLE.interface(1, 3, &[]),
        LITTLE.block(3, &simple),
        LITTLE.block(2, &old),
    ]
    .concat();
    let (seen, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(seen[0].data, [1, 2, 3], "cut to the snap length");
    assert_eq!(seen[0].original_len, 100);
    assert_eq!((seen[1].time_ns, &seen[1].data[..]), (9000, &[7, 8][..]));
}

#[test]
fn what_was_whole_comes_before_the_error() {
    let good = [
        LITTLE.pcap(0xa1b2_c3d4, 1),
        LITTLE.words(&[1, 0, 4, 4]),
        vec![9; 4],
    ]
    .concat();
    let file = [good.clone(), LITTLE.words(&[2, 0, 10, 10]), vec![0; 3]].concat();
    let (seen, error) = read(&file);
    assert_eq!(seen.len(), 1);
    assert_eq!(
        error.unwrap().to_string(),
        "test.pcap: packet 2, byte 44: the file ends inside a packet (19 of 26 bytes)"
    );

    let file = [good, LITTLE.words(&[2, 0, 0xffff_fff0, 10])].concat();
    let (seen, error) = read(&file);
    let error = error.unwrap();
    assert_eq!((seen.len(), error.offset), (1, 44));
    assert!(matches!(error.damage, Damage::TooLarge { limit, .. } if limit == MAX_PACKET));
}

#[test]
fn damaged_pcapng_blocks() {
    let start = [LITTLE.section(), LITTLE.interface(1, 0, &[])].concat();
    let good = LITTLE.enhanced(0, 0, &[1; 8], &[]);
    let with = |block: Vec<u8>| {
        let (seen, error) = read(&[start.clone(), good.clone(), block].concat());
        assert_eq!(seen.len(), 1);
        let error = error.unwrap();
        assert_eq!(
            (error.packet, error.offset),
            (2, (start.len() + good.len()) as u64)
        );
        error.damage
    };
    let unknown_interface = LITTLE.enhanced(3, 0, &[], &[]);
    assert!(matches!(with(unknown_interface), Damage::NoInterface(3)));

    let mut trailer = good.clone();
    *trailer.last_mut().unwrap() = 1;
    assert!(matches!(
        with(trailer),
        Damage::BlockTrailer { first: 40, .. }
    ));

    let odd = LITTLE.words(&[6, 33, 0, 0]);
    assert!(matches!(with(odd), Damage::BlockLength(33)));

    let tiny = LITTLE.words(&[5, 8, 0, 0]);
    assert!(matches!(with(tiny), Damage::BlockLength(8)));

    let mut overlong = good.clone();
    overlong[20] = 40;
    assert!(matches!(with(overlong), Damage::BlockContent("a packet")));

    let huge = LITTLE.words(&[6, 0x7fff_fff0, 0, 0]);
    assert!(matches!(with(huge), Damage::TooLarge { .. }));

    let skipped = LITTLE.words(&[5, 0x7fff_fff0, 0, 0]);
    assert!(matches!(with(skipped), Damage::CutShort { left: 16, .. }));

    let order = LITTLE.words(&[0x0a0d_0d0a, 28, 0x1234_5678]);
    assert!(matches!(with(order), Damage::ByteOrder(_)));
}

#[test]
fn no_capture_at_all() {
    let damage = |bytes: &[u8]| read(bytes).1.unwrap();
    assert!(matches!(damage(b"").damage, Damage::Empty));
    assert!(matches!(damage(b"ab").damage, Damage::CutShort { .. }));
    assert_eq!(
        damage(b"hello world, this is text").to_string(),
        "test.pcap: packet 1, byte 0: neither pcap nor pcapng (starts with 68 65 6c 6c)"
    );
    let header_only = LITTLE.pcap(0xa1b2_c3d4, 1);
    assert!(matches!(
        damage(&header_only[..20]).damage,
        Damage::CutShort {
            needed: 24,
            left: 20,
            ..
        }
    ));
    assert!(read(&header_only).1.is_none());
}

/// Gives out one byte at a time, to show that no record depends on how it arrives.
struct Drip<'a>(&'a [u8]);

impl std::io::Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(buf.len()).min(1);
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

#[test]
fn packets_larger_than_the_window_and_bytes_that_trickle_in() {
    let big = vec![7u8; 700_000];
    let file = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        LITTLE.enhanced(0, 0, &[1], &[]),
        LITTLE.enhanced(0, 0, &big, &[]),
        LITTLE.enhanced(0, 0, &[2], &[]),
    ]
    .concat();
    let (seen, error) = read(&file);
    assert!(error.is_none());
    assert_eq!((seen[1].data.len(), &seen[2].data[..]), (700_000, &[2][..]));

    let small = [
        LITTLE.pcap(0xa1b2_c3d4, 1),
        LITTLE.words(&[1, 0, 2, 2]),
        vec![5, 6],
    ]
    .concat();
    let mut reader = Reader::new("x", Drip(&small));
    assert_eq!(reader.next_frame().unwrap().unwrap().data, [5, 6]);
    assert!(reader.next_frame().unwrap().is_none());
}
