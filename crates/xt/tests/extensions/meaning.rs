//! What targets do, on values: the kernel's formulas applied by hand.

use tidegate_ir::{
    CtSpec, Effect, Expr, Field, Hook, Manip, Mss, NatSource, NatSpec, NflogSpec, RejectKind,
    TableKind, Verdict, ZoneDir, ZoneId, ZoneSpec,
};
use tidegate_wire::Family;
use tidegate_xt::{LowerCtx, Outcome};

use crate::common;

fn outcome(family: Family, place: (TableKind, Hook), rule: &str) -> Outcome {
    let rule = common::parse(family, place, rule).unwrap_or_else(|e| panic!("{rule}: {e:?}"));
    let mut steps = Vec::new();
    let mut ctx = LowerCtx::new(family, &mut steps, tidegate_xt::Sockets::All);
    let target = rule.target.expect("a target");
    target.outcome(&mut ctx).expect("an outcome")
}

const MANGLE: (TableKind, Hook) = (TableKind::Mangle, Hook::Prerouting);
const PRE: (TableKind, Hook) = (TableKind::Nat, Hook::Prerouting);
const POST: (TableKind, Hook) = (TableKind::Nat, Hook::Postrouting);

/// The field a mangle rule writes and its new value.
fn assigned(family: Family, rule: &str, old: u128, other: u128) -> (Field, u128) {
    let outcome = outcome(family, MANGLE, rule);
    assert_eq!(outcome.verdict, Verdict::Continue, "{rule}");
    match outcome.effects.as_slice() {
        [Effect::Assign(field, expr)] => (*field, expr.apply(old, other)),
        other => panic!("{rule}: {other:?}"),
    }
}

#[test]
fn writing_targets_compute_as_the_kernel() {
    let v4 = |rule, old, other| assigned(Family::V4, rule, old, other);
    // (mark & ~mask) ^ value
    assert_eq!(v4("-j MARK --set-mark 5", 0xff, 0), (Field::Mark, 5));
    assert_eq!(
        v4("-j MARK --set-mark 0x10/0x3", 0xff, 0),
        (Field::Mark, 0xfc)
    );
    assert_eq!(
        v4("-j MARK --set-xmark 0x10/0x3", 0xff, 0),
        (Field::Mark, 0xec)
    );
    assert_eq!(v4("-j MARK --and-mark 0xf0", 0xff, 0), (Field::Mark, 0xf0));
    assert_eq!(v4("-j MARK --or-mark 0x100", 0xff, 0), (Field::Mark, 0x1ff));
    assert_eq!(
        v4("-j MARK --xor-mark 0x101", 0xff, 0),
        (Field::Mark, 0x1fe)
    );
    assert_eq!(
        v4("-j CONNMARK --set-mark 1/3", 0xfe, 0),
        (Field::CtMark, 0xfd)
    );
    // save: (ctmark & ~ctmask) ^ (mark & nfmask); restore the other way round
    let save = "-j CONNMARK --save-mark --nfmask 0xf0 --ctmask 0xf";
    assert_eq!(v4(save, 0xaaff, 0x1234), (Field::CtMark, 0xaaf0 ^ 0x30));
    let shifted = "-j CONNMARK --save-mark --mask 0xff --left-shift-mark 8";
    assert_eq!(
        v4(shifted, 0xaaff, 0x1234),
        (Field::CtMark, 0xaa00 ^ 0x3400)
    );
    let restore = "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf0";
    assert_eq!(v4(restore, 0x1234, 0xabcd), (Field::Mark, 0x1200 ^ 0xc0));
    assert_eq!(
        v4("-j TOS --set-tos 0x10/0x3f", 0xff, 0),
        (Field::Tos, 0xd0)
    );
    assert_eq!(v4("-j TOS --and-tos 0x0f", 0xb9, 0), (Field::Tos, 0x09));
    assert_eq!(v4("-j TOS --xor-tos 0x0f", 0xb9, 0), (Field::Tos, 0xb6));
    assert_eq!(
        v4("-j DSCP --set-dscp-class EF", 0x03, 0),
        (Field::Tos, 0xbb)
    );
    assert_eq!(v4("-j TTL --ttl-set 7", 64, 0), (Field::Ttl, 7));
    assert_eq!(v4("-j TTL --ttl-dec 65", 64, 0), (Field::Ttl, 0));
    assert_eq!(v4("-j TTL --ttl-inc 255", 64, 0), (Field::Ttl, 255));
    let v6 = assigned(Family::V6, "-j HL --hl-inc 1", 64, 0);
    assert_eq!(v6, (Field::Ttl, 65));
}

#[test]
fn connection_marks_come_from_the_named_field() {
    let save = outcome(Family::V4, MANGLE, "-j CONNMARK --save-mark");
    let restore = outcome(Family::V4, MANGLE, "-j CONNMARK --restore-mark");
    let mix = |from| Expr::Mix {
        from,
        mask: 0xffff_ffff,
        shift: 0,
        keep: 0,
    };
    assert_eq!(
        save.effects,
        [Effect::Assign(Field::CtMark, mix(Field::Mark))]
    );
    assert_eq!(
        restore.effects,
        [Effect::Assign(Field::Mark, mix(Field::CtMark))]
    );
}

#[test]
fn translations_carry_addresses_ports_and_flags() {
    let plain = NatSpec {
        manip: Manip::Dst,
        addr: NatSource::Range(0x0a00_0002, 0x0a00_0005),
        ports: Some((1000, 1010)),
        base_port: None,
        random: true,
        persistent: true,
    };
    let rules = [
        (
            PRE,
            "-p tcp -j DNAT --to-destination 10.0.0.2-10.0.0.5:1000-1010 --random --persistent",
            plain,
        ),
        (
            PRE,
            "-p tcp -j DNAT --to-destination :1000-1010/2000",
            NatSpec {
                addr: NatSource::Keep,
                base_port: Some(2000),
                random: false,
                persistent: false,
                ..plain
            },
        ),
        (
            PRE,
            "-p tcp -j REDIRECT --to-ports 80",
            NatSpec {
                addr: NatSource::InInterface,
                ports: Some((80, 80)),
                random: false,
                persistent: false,
                ..plain
            },
        ),
        (
            POST,
            "-j MASQUERADE --random-fully",
            NatSpec {
                manip: Manip::Src,
                addr: NatSource::OutInterface,
                ports: None,
                persistent: false,
                ..plain
            },
        ),
        (
            POST,
            "-j SNAT --to-source 10.0.0.2",
            NatSpec {
                manip: Manip::Src,
                addr: NatSource::Range(0x0a00_0002, 0x0a00_0002),
                ports: None,
                random: false,
                persistent: false,
                ..plain
            },
        ),
    ];
    for (place, rule, spec) in rules {
        let out = outcome(Family::V4, place, rule);
        assert_eq!(out.effects, [Effect::Nat(spec)], "{rule}");
    }
}

#[test]
fn the_raw_table_says_how_to_track() {
    let raw = (TableKind::Raw, Hook::Prerouting);
    for rule in ["-j NOTRACK", "-j CT --notrack", "-j CT --notrack --zone 5"] {
        let out = outcome(Family::V4, raw, rule);
        assert_eq!(
            out,
            Outcome::effect(Effect::Ct(CtSpec::Untracked), Verdict::Continue)
        );
    }
    let zones = [
        ("--zone 5", ZoneDir::Both, ZoneId::Number(5)),
        ("--zone-orig mark", ZoneDir::Original, ZoneId::FromMark),
        ("--zone-reply 65535", ZoneDir::Reply, ZoneId::Number(65535)),
    ];
    for (option, dir, id) in zones {
        let out = outcome(Family::V6, raw, &format!("-j CT {option}"));
        let spec = CtSpec::Template {
            zone: Some(ZoneSpec { dir, id }),
            helper: None,
            timeout: None,
            events: Vec::new(),
            expect_events: Vec::new(),
        };
        assert_eq!(out.effects, [Effect::Ct(spec)], "{option}");
    }
    let rule = "-p tcp -j CT --helper ftp --ctevents destroy,new --expevents new";
    let spec = CtSpec::Template {
        zone: None,
        helper: Some("ftp".to_owned()),
        timeout: None,
        events: vec!["new".to_owned(), "destroy".to_owned()],
        expect_events: vec!["new".to_owned()],
    };
    assert_eq!(outcome(Family::V4, raw, rule).effects, [Effect::Ct(spec)]);
}

#[test]
fn verdicts_and_the_rest() {
    let input = (TableKind::Filter, Hook::Input);
    let forward = (TableKind::Filter, Hook::Forward);
    let verdict = |family, rule| outcome(family, input, rule).verdict;
    let code = |n| Verdict::Reject(RejectKind::Unreachable(n));
    assert_eq!(verdict(Family::V4, "-j ACCEPT"), Verdict::Accept);
    assert_eq!(verdict(Family::V4, "-j DROP"), Verdict::Drop);
    assert_eq!(verdict(Family::V4, "-j RETURN"), Verdict::Return);
    assert_eq!(verdict(Family::V4, "-j REJECT"), code(3));
    assert_eq!(verdict(Family::V6, "-j REJECT"), code(4));
    assert_eq!(
        verdict(Family::V4, "-j REJECT --reject-with icmp-admin-prohibited"),
        code(13)
    );
    assert_eq!(
        verdict(Family::V6, "-j REJECT --reject-with icmp6-reject-route"),
        code(6)
    );
    let reset = "-p tcp -j REJECT --reject-with tcp-reset";
    assert_eq!(
        verdict(Family::V6, reset),
        Verdict::Reject(RejectKind::TcpReset)
    );
    let mss = |option| {
        let rule = format!("-p tcp -m tcp --syn -j TCPMSS {option}");
        outcome(Family::V4, forward, &rule).effects
    };
    assert_eq!(mss("--set-mss 1400"), [Effect::TcpMss(Mss::Set(1400))]);
    assert_eq!(
        mss("--clamp-mss-to-pmtu"),
        [Effect::TcpMss(Mss::ClampToPathMtu)]
    );
    let log = outcome(
        Family::V4,
        input,
        "-j LOG --log-prefix \"in: \" --log-level debug --log-uid",
    );
    match log.effects.as_slice() {
        [Effect::Log(spec)] => {
            assert_eq!((spec.level, spec.prefix.as_str()), (7, "in: "));
            assert!(spec.uid && !spec.tcp_sequence && !spec.mac_decode);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(log.verdict, Verdict::Continue);
    let rule = "-j NFLOG --nflog-group 5 --nflog-prefix seen --nflog-size 0 --nflog-threshold 9";
    let nflog = outcome(Family::V6, input, rule);
    let spec = NflogSpec {
        group: 5,
        prefix: "seen".to_owned(),
        size: Some(0),
    };
    assert_eq!(nflog.effects, [Effect::Nflog(spec)]);
    assert_eq!(nflog.verdict, Verdict::Continue);
}
