//! Queries to everybody in a network, and who may answer.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{Ip, Lab, layout, small};
use tidegate_conntrack::{CtInfo, HelperKind, InHook, SECOND, Template, Tracked};

const NETMASK: u128 = 0xffff_ff00;
const EVERYBODY: Ip = Ip {
    src: [10, 0, 0, 1],
    dst: [10, 0, 0, 255],
};

fn neighbour(last: [u8; 4]) -> Ip {
    Ip {
        src: last,
        dst: EVERYBODY.src,
    }
}

/// A name query by broadcast, as it leaves this host.
fn ask(lab: &mut Lab) {
    let pkt = EVERYBODY.udp(40000, 137);
    let template = Template {
        helper: Some(HelperKind::NetbiosNs),
        ..Template::default()
    };
    let layout = layout(&pkt);
    let tracked = lab
        .ct
        .handle_packet(lab.now, &pkt, &layout, InHook::Output, Some(&template));
    let Tracked::Ct(mut at) = tracked else {
        panic!("{tracked:?}");
    };
    lab.ct.help_broadcast(lab.now, &at, &layout, NETMASK);
    lab.ct.confirm(lab.now, &mut at).unwrap();
}

#[test]
fn everybody_in_the_network_may_answer_for_three_seconds() {
    let mut lab = Lab::new(small());
    ask(&mut lab);
    for last in [[10, 0, 0, 7], [10, 0, 0, 8]] {
        let answer = lab.pass(&neighbour(last).udp(137, 40000));
        assert_eq!(answer.info, CtInfo::Related, "{last:?}");
    }
    // Asked once more, it counts from then on.
    lab.now += 2 * SECOND;
    ask(&mut lab);
    lab.now += 2 * SECOND;
    let answer = lab.pass(&neighbour([10, 0, 0, 9]).udp(137, 40000));
    assert_eq!(answer.info, CtInfo::Related);
    lab.now += SECOND;
    let late = lab.pass(&neighbour([10, 0, 0, 10]).udp(137, 40000));
    assert_eq!(late.info, CtInfo::New);
}

#[test]
fn nobody_else_and_from_no_other_port() {
    let mut lab = Lab::new(small());
    ask(&mut lab);
    for (from, sport, dport) in [
        ([10, 0, 1, 7], 137, 40000),
        ([10, 0, 0, 7], 138, 40000),
        ([10, 0, 0, 7], 137, 40001),
    ] {
        let stray = lab.pass(&neighbour(from).udp(sport, dport));
        assert_eq!(stray.info, CtInfo::New, "{from:?} {sport} {dport}");
    }
}
