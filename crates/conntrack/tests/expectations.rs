//! Behaviour of expectations.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{HOST, Lab, NOW, small};
use tidegate_conntrack::expect::{ExpectError, ExpectPolicy, Expectation, OnMatch, expect_flag};
use tidegate_conntrack::{CtInfo, Dir, EntryId, Family, HelperKind, SECOND, Tuple};
use tidegate_wire::tcp::flags::{ACK, SYN};

fn expected_data(master: EntryId) -> Expectation {
    Expectation {
        tuple: Tuple {
            src: u128::from(u32::from_be_bytes(HOST.dst)),
            dst: u128::from(u32::from_be_bytes(HOST.src)),
            src_id: 0,
            dst_id: 2580,
            family: Family::V4,
            proto: 6,
        },
        mask_src: u128::MAX,
        mask_src_id: 0,
        master,
        zone: 0,
        class: 0,
        flags: 0,
        helper: Some(HelperKind::Ftp),
        assign_helper: None,
        on_match: OnMatch::Plain,
        dir: Dir::Reply,
        saved_addr: 0,
        saved_id: 0,
        timeout: 0,
    }
}

const ONE: ExpectPolicy = ExpectPolicy {
    max: 1,
    timeout: 300,
};

#[test]
fn an_expected_connection_is_related_once() {
    let mut lab = Lab::new(small());
    let master = lab.pass(&HOST.tcp((41000, 21), SYN, 1, 0)).id;
    lab.ct.set_mark(master, 7);
    lab.ct.expect(lab.now, expected_data(master), ONE).unwrap();
    let data = HOST.back().tcp((20, 2580), SYN, 1, 0);
    let at = lab.pass(&data);
    assert_eq!(at.info, CtInfo::Related);
    let child = lab.ct.entry(at.id).unwrap();
    assert_eq!(
        (child.master().map(|m| m.id), child.mark),
        (Some(master), 7)
    );
    assert_eq!(lab.ct.expectations().count(), 0);
    let answer = lab.pass(&HOST.tcp((2580, 20), SYN | ACK, 9, 2));
    assert_eq!(answer.info, CtInfo::EstablishedReply);
    assert_eq!(lab.attach(&data).info, CtInfo::Established);
    let second = HOST.back().tcp((21, 2580), SYN, 1, 0);
    assert_eq!(lab.attach(&second).info, CtInfo::New);
    let stats = lab.ct.stats();
    assert_eq!(
        (stats.expect_new, stats.expect_create, stats.expect_delete),
        (1, 1, 1)
    );
}

#[test]
fn expectations_obey_flags_limits_and_their_master() {
    let mut lab = Lab::new(small());
    let master = lab.pass(&HOST.tcp((41000, 21), SYN, 1, 0)).id;
    let other = lab.pass(&HOST.tcp((41001, 21), SYN, 1, 0)).id;
    let add = |lab: &mut Lab, e| lab.ct.expect(NOW, e, ONE);
    let inactive = Expectation {
        flags: expect_flag::INACTIVE,
        ..expected_data(master)
    };
    add(&mut lab, inactive).unwrap();
    let data = HOST.back().tcp((20, 2580), SYN, 1, 0);
    assert_eq!(lab.attach(&data).info, CtInfo::New);
    // The same from the same master replaces, from another master it overlaps.
    add(&mut lab, expected_data(master)).unwrap();
    assert_eq!(lab.ct.expectations().count(), 1);
    assert_eq!(add(&mut lab, expected_data(other)), Err(ExpectError::Busy));
    let in_other_class = Expectation {
        class: 1,
        ..expected_data(master)
    };
    assert_eq!(add(&mut lab, in_other_class), Err(ExpectError::Already));
    // One of the class is allowed: the next takes its place.
    let mut next = expected_data(master);
    next.tuple.dst_id = 2581;
    add(&mut lab, next).unwrap();
    let ports: Vec<u16> = lab.ct.expectations().map(|e| e.tuple.dst_id).collect();
    assert_eq!(ports, [2581]);
    lab.ct.delete(master);
    assert_eq!(lab.ct.expectations().count(), 0);
}

#[test]
fn permanent_expectations_stay_and_all_run_out() {
    let mut lab = Lab::new(small());
    let master = lab.pass(&HOST.tcp((41000, 21), SYN, 1, 0)).id;
    lab.pass(&HOST.back().tcp((21, 41000), SYN | ACK, 1, 2));
    lab.pass(&HOST.tcp((41000, 21), ACK, 2, 2));
    let permanent = Expectation {
        flags: expect_flag::PERMANENT,
        ..expected_data(master)
    };
    lab.ct.expect(lab.now, permanent, ONE).unwrap();
    lab.pass(&HOST.back().tcp((20, 2580), SYN, 1, 0));
    lab.pass(&HOST.back().tcp((22, 2580), SYN, 1, 0));
    assert_eq!(lab.ct.entry(master).unwrap().children(), 2);
    lab.now += 300 * SECOND - 1;
    lab.ct.handle_timeout(lab.now);
    assert_eq!(lab.ct.expectations().count(), 1);
    lab.now += 1;
    lab.ct.handle_timeout(lab.now);
    assert_eq!(lab.ct.expectations().count(), 0);
    assert_eq!(lab.ct.entry(master).unwrap().children(), 0);
}
