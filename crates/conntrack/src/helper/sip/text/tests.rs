//! Messages of RFC 3261 (sections 7, 20 and 24) with addresses in the place of names, since
//! only those count.

use super::*;
use alloc::format;

const REGISTER: &str = "REGISTER sip:192.0.2.1 SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.4:5070;branch=z9hG4bKnashds7\r\n\
    Max-Forwards: 70\r\n\
    To: Bob <sip:bob@192.0.2.1>\r\n\
    From: Bob <sip:bob@192.0.2.1>;tag=456248\r\n\
    Call-ID: 843817637684230@998sdasdh09\r\n\
    CSeq: 1826 REGISTER\r\n\
    Contact: <sip:bob@192.0.2.4>;q=0.7, \"Mr. Watson\"\r\n \
    <sip:watson@192.0.2.5:5080> ;expires=3600\r\n\
    Expires: 7200\r\n\
    l: 0\r\n\r\n";

fn text(bytes: &str) -> Text<'_> {
    Text {
        bytes: bytes.as_bytes(),
        family: Family::V4,
    }
}

fn value<'t>(message: &'t str, header: &Header) -> Option<&'t str> {
    match text(message).header(header, 0) {
        Found::At(range) => message.get(range),
        Found::No | Found::Bad(_) => None,
    }
}

fn addr(bytes: [u8; 4]) -> u128 {
    u128::from(u32::from_be_bytes(bytes))
}

#[test]
fn headers_and_their_short_forms() {
    assert_eq!(value(REGISTER, &CSEQ), Some("1826"));
    assert_eq!(value(REGISTER, &EXPIRES), Some("7200"));
    assert_eq!(value(REGISTER, &CONTENT_LENGTH), Some("0"));
    assert_eq!(value(REGISTER, &VIA_UDP), Some("192.0.2.4:5070"));
    assert_eq!(value(REGISTER, &VIA_TCP), None);
    assert_eq!(value(REGISTER, &TO), Some("192.0.2.1"));
    // RFC 3261, 7.3.3: short forms, in any case, blanks before the colon.
    let short = "x\r\nM \t: sip:a@10.0.0.1:1234\r\nlang: 5\r\nL:7\r\n";
    assert_eq!(value(short, &CONTACT), Some("10.0.0.1:1234"));
    assert_eq!(value(short, &CONTENT_LENGTH), Some("7"));
    // A value may begin in the next line; a header does not begin in a continuation.
    let folded = "x\r\nSubject: a\r\n CSeq: 5\r\nCSeq:\r\n  17 ACK\r\n";
    assert_eq!(value(folded, &CSEQ), Some("17"));
}

#[test]
fn all_contacts_one_after_the_other() {
    let message = text(REGISTER);
    let Found::At(first) = message.place(&CONTACT, 0, false) else {
        panic!("no contact");
    };
    assert_eq!((first.addr, first.port), (addr([192, 0, 2, 4]), 5060));
    let Found::At(second) = message.place(&CONTACT, first.end, true) else {
        panic!("no second contact");
    };
    assert_eq!((second.addr, second.port), (addr([192, 0, 2, 5]), 5080));
    assert_eq!(&REGISTER[second.at.clone()], "192.0.2.5:5080");
    assert_eq!(message.place(&CONTACT, second.end, true), Found::No);
    // A parameter belongs to its own contact.
    assert_eq!(message.number_in(first.at.end, "expires="), Found::No);
    let Found::At((_, life)) = message.number_in(second.at.end, "expires=") else {
        panic!("no life");
    };
    assert_eq!(life, 3600);
}

#[test]
fn addresses_that_are_none() {
    for uri in [
        "sip:a@example.org",
        "sip:10.0.0",
        "sip:10.0.0.256",
        "sip:10.0.0.1.",
        "sip:10..0.1",
        "sip:",
    ] {
        let message = format!("x\r\nContact: <{uri}>\r\n");
        assert!(
            matches!(text(&message).header(&CONTACT, 0), Found::Bad(_)),
            "{uri}"
        );
    }
    for port in ["0", "80", "1023", "65536", "99999999999", "", "x"] {
        let message = format!("x\r\nContact: <sip:a@10.0.0.1:{port}>\r\n");
        assert!(
            matches!(text(&message).header(&CONTACT, 0), Found::Bad(_)),
            "{port}"
        );
    }
    let six = Text {
        bytes: b"x\r\nm: sip:a@[2001:db8::9]:1024\r\n",
        family: Family::V6,
    };
    let Found::At(place) = six.place(&CONTACT, 0, false) else {
        panic!("no contact");
    };
    assert_eq!(
        place.addr,
        "2001:db8::9".parse::<Ipv6Addr>().unwrap().to_bits()
    );
    assert_eq!(place.port, 1024);
    let bare = Text {
        bytes: b"x\r\nm: sip:a@2001:db8::9\r\n",
        family: Family::V6,
    };
    assert_eq!(bare.place(&CONTACT, 0, false), Found::No);
}

#[test]
fn what_a_request_is_for() {
    let place = text(REGISTER).request().unwrap();
    assert_eq!((place.addr, place.port), (addr([192, 0, 2, 1]), 5060));
    assert_eq!(
        text("ACK sip:b@10.0.0.1:5062;x SIP/2.0\r\n")
            .request()
            .unwrap()
            .port,
        5062
    );
    assert_eq!(text("ACK tel:5 SIP/2.0\r\n").request(), None);
    assert_eq!(text("OPTIONS").request(), None);
}

/// RFC 4566, section 5.
#[test]
fn a_session_description() {
    let sdp = "\r\n\r\nv=0\r\no=j 289 289 IN IP4 10.47.16.5\r\ns=Seminar\r\n\
        c=IN IP4 10.47.16.9/127\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\n\
        c=IN IP4 10.47.16.10\r\nm=video 51372 RTP/AVP 99\r\n";
    let message = text(sdp);
    let at = |line, until, from| match message.sdp(line, until, from) {
        Found::At(range) => Some((range.start, &sdp[range])),
        Found::No | Found::Bad(_) => None,
    };
    let (start, version) = at(Line::Version, None, 0).unwrap();
    assert_eq!(version, "0");
    assert_eq!(
        at(Line::Owner, Some(Line::Media), start).unwrap().1,
        "10.47.16.5"
    );
    assert_eq!(
        at(Line::Connection, Some(Line::Media), start).unwrap().1,
        "10.47.16.9"
    );
    let (audio, words) = at(Line::Media, None, start).unwrap();
    assert_eq!(words, "audio 49170");
    assert_eq!(message.sdp_address(audio), Some(addr([10, 47, 16, 10])));
    let (video, words) = at(Line::Media, None, audio).unwrap();
    assert_eq!(words, "video 51372");
    assert_eq!(message.sdp_address(video), None);
}

/// As Linux 6.18 read them.
#[test]
fn numbers_are_decimal() {
    for (value, wanted) in [
        ("3600;", 3600),
        ("0x20", 0),
        ("010", 10),
        ("7,expires=9", 7),
    ] {
        let message = format!("sip:a;expires={value}");
        let Found::At((_, number)) = text(&message).number_in(0, "expires=") else {
            panic!("{value}");
        };
        assert_eq!(number, wanted, "{value}");
    }
    for value in ["x", "", ";q"] {
        let message = format!("sip:a;expires={value} ");
        let found = text(&message).number_in(0, "expires=");
        assert!(matches!(found, Found::Bad(_)), "{value}");
    }
}

/// A browser's request, sent so that a segment begins like SIP, is none from its first byte.
#[test]
fn only_sip_begins_as_sip() {
    for yes in [
        REGISTER,
        "SIP/2.0 200 OK\r\n",
        "\r\n\r\n",
        "",
        "OPTIONS sip:10.0.0.1 sip/2.0\r\n",
    ] {
        assert!(text(yes).begins(), "{yes:?}");
    }
    for no in [
        "POST / HTTP/1.1\r\n\r\nREGISTER sip:10.0.0.1 SIP/2.0\r\n",
        "REGISTER\r\n",
        "SIP/2.0",
        "x",
    ] {
        assert!(!text(no).begins(), "{no:?}");
    }
}

/// Nothing in here may panic or stand still, whatever the bytes are.
#[test]
fn cut_anywhere_it_is_read_to_its_end() {
    let whole =
        format!("{REGISTER}v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\nm=audio 5004 x\r\nc=IN IP4 10.0.0.1");
    for end in 0..whole.len() {
        for family in [Family::V4, Family::V6] {
            let cut = Text {
                bytes: &whole.as_bytes()[..end],
                family,
            };
            for header in [
                CSEQ,
                FROM,
                TO,
                CONTACT,
                VIA_UDP,
                VIA_TCP,
                EXPIRES,
                CONTENT_LENGTH,
            ] {
                let (mut from, mut inside) = (0, false);
                while let Found::At(place) = cut.place(&header, from, inside) {
                    assert!(place.end > from && place.end <= end);
                    (from, inside) = (place.end, true);
                }
            }
            let _ = (
                cut.request(),
                cut.begins(),
                cut.sdp_address(0),
                cut.word(0, "q="),
            );
            let _ = (cut.address_in(0, "x=", true), cut.number_in(0, "expires="));
        }
    }
}
