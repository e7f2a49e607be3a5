//! `-j CT`: how connection tracking will treat the packet (kernel `xt_ct_target_v1`).
//!
//! Only helpers and timeout policies that exist can be named. When
//! zone options are mixed, the last in the order zone, zone-orig, zone-reply gives
//! the number (the tool takes the last on the command line).

use tidegate_ir::{CtSpec, Effect, Hook, TableKind, Verdict, ZoneDir, ZoneId, ZoneSpec};
use tidegate_wire::{Family, proto};

use crate::{
    Arg, Args, Case, Context, Errno, Error, Extension, Families, Help, Input, Instance, Legal,
    ListCtx, Lower, LowerCtx, Opt, Outcome, Place, Refusal, Value, Words, bad, number, ok, saved,
    text,
};

const NOTRACK: usize = 0;
const HELPER: usize = 1;
const TIMEOUT: usize = 2;
const CT_EVENTS: usize = 3;
const EXP_EVENTS: usize = 4;
const ZONE: usize = 5;
const ZONE_ORIG: usize = 6;
const ZONE_REPLY: usize = 7;

/// Bytes of a timeout policy's name (`XT_CT` gives it 32, the final NUL included).
const TIMEOUT_MAX: usize = 31;

/// Helpers by name, protocol and the families they read.
const HELPERS: &[(&str, u8, &[Family])] = &[
    ("ftp", proto::TCP, &BOTH),
    ("tftp", proto::UDP, &BOTH),
    ("irc", proto::TCP, &[Family::V4]),
    ("netbios-ns", proto::UDP, &[Family::V4]),
    ("snmp", proto::UDP, &[Family::V4]),
    ("snmp_trap", proto::UDP, &[Family::V4]),
    ("amanda", proto::UDP, &BOTH),
    ("sane", proto::TCP, &BOTH),
    ("pptp", proto::TCP, &[Family::V4]),
    ("sip", proto::UDP, &BOTH),
    ("sip", proto::TCP, &BOTH),
    ("RAS", proto::UDP, &BOTH),
    ("Q.931", proto::TCP, &BOTH),
    ("H.245", proto::TCP, &BOTH),
];
const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// Stands for the packet's mark among zone numbers.
const FROM_MARK: u64 = 0x1_0000;

const ZONE_ARG: Arg = Arg::Special {
    arity: 1,
    parse: parse_zone,
    show: |v, _| match v.number() {
        Some(FROM_MARK) | None => "mark".to_owned(),
        Some(n) => n.to_string(),
    },
};

/// Bits in the order of `enum ip_conntrack_events`.
const EVENTS: Words = Words {
    list: &[
        ("new", 1 << 0),
        ("related", 1 << 1),
        ("destroy", 1 << 2),
        ("reply", 1 << 3),
        ("assured", 1 << 4),
        ("protoinfo", 1 << 5),
        ("helper", 1 << 6),
        ("mark", 1 << 7),
        ("natseqinfo", 1 << 8),
        ("secmark", 1 << 9),
    ],
    prefix: false,
    unknown: "Unknown event type \"{}\"",
};

const EXPECT_EVENTS: Words = Words {
    list: &[("new", 1 << 0)],
    prefix: false,
    unknown: "Unknown event type \"{}\"",
};

const OPTIONS: &[Opt] = &[
    Opt::new("notrack", Arg::Flag).help(" --notrack\t\t\tDon't track connection\n"),
    Opt::new(
        "helper",
        Arg::Special {
            arity: 1,
            parse: |input| Ok(Value::Text(input.text().to_owned())),
            show: |v, _| text::quote(v.text().unwrap_or("")),
        },
    )
    .help(" --helper name\t\t\tUse conntrack helper 'name' for connection\n"),
    Opt::new("timeout", Arg::Name { max: TIMEOUT_MAX })
        .help(" --timeout name \t\tUse timeout policy 'name' for connection\n"),
    Opt::new("ctevents", Arg::SetOf(&EVENTS))
        .help(" --ctevents event[,event...]\tGenerate specified conntrack events for connection\n"),
    Opt::new("expevents", Arg::SetOf(&EXPECT_EVENTS)).help(
        " --expevents event[,event...]\tGenerate specified expectation events for connection\n",
    ),
    Opt::new("zone", ZONE_ARG)
        .help(" --zone {ID|mark}\t\tAssign/Lookup connection in zone ID/packet nfmark\n"),
    Opt::new("zone-orig", ZONE_ARG).help(
        " --zone-orig {ID|mark}\t\tSame as 'zone' option, but only applies to ORIGINAL direction\n",
    ),
    Opt::new("zone-reply", ZONE_ARG).help(
        " --zone-reply {ID|mark} \tSame as 'zone' option, but only applies to REPLY direction\n",
    ),
];

/// `-j CT`.
pub static CT: Extension = Extension {
    name: "CT",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal {
        tables: &[TableKind::Raw],
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: &[],
};

fn parse_zone(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    if word.eq_ignore_ascii_case("mark") {
        return Ok(Value::Number(FROM_MARK));
    }
    number::whole(word, 0, 0xffff)
        .map(Value::Number)
        .ok_or_else(|| Error::parameter(format!("Cannot parse {word} as a zone ID")))
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.text(HELPER) == Some("") {
        args.remove(HELPER);
    }
    let take = |args: &mut Args, opt| args.remove(opt).and_then(|g| g.value.number());
    let (both, orig, reply) = (
        take(args, ZONE),
        take(args, ZONE_ORIG),
        take(args, ZONE_REPLY),
    );
    let option = match (orig, reply) {
        (Some(_), None) => ZONE_ORIG,
        (None, Some(_)) => ZONE_REPLY,
        (None, None) | (Some(_), Some(_)) => ZONE,
    };
    if let Some(id @ 1..) = reply.or(orig).or(both) {
        args.set(option, false, Value::Number(id));
    }
    Ok(())
}

/// A helper must exist for the rule's protocol (`xt_ct_set_helper`), a timeout policy
/// must exist (`xt_ct_set_timeout`). Untracked packets have neither.
fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    if args.has(NOTRACK) {
        return Ok(());
    }
    check_timeout(args, place)?;
    let Some(helper) = args.text(HELPER) else {
        return Ok(());
    };
    let (number, inverted) = place.proto;
    let mut helpers = HELPERS.iter();
    let exists = helpers.any(|(name, proto, families)| {
        *name == helper && *proto == number && families.contains(&place.family)
    });
    if inverted || !exists {
        return Err(Refusal {
            errno: Errno::NotFound,
            why: format!("CT: no helper {helper:?} for this protocol"),
        });
    }
    Ok(())
}

/// A policy must be for the rule's family and protocol (`nf_ct_set_timeout`).
fn check_timeout(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let Some(name) = args.text(TIMEOUT) else {
        return Ok(());
    };
    let (number, inverted) = place.proto;
    if inverted || number == 0 {
        return Err(Refusal::invalid("CT: a timeout policy is for one protocol"));
    }
    let Some(policy) = place.timeouts.iter().find(|p| p.name == name) else {
        return Err(Refusal {
            errno: Errno::NotFound,
            why: format!("CT: no timeout policy {name:?}"),
        });
    };
    if policy.family != place.family || !policy.protocols.contains(number) {
        let why = format!("CT: timeout policy {name:?} is for another protocol or family");
        return Err(Refusal::invalid(why));
    }
    Ok(())
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let one = |given: &crate::Given| {
        let row = OPTIONS.get(given.opt);
        let name = row.map_or("", |o| o.name);
        let value = row.map_or(String::new(), |o| o.arg.show(&given.value, ctx.family));
        format!(" {name} {value}").trim_end().to_owned()
    };
    format!(" CT{}", x.args.iter().map(one).collect::<String>())
}

fn zone(args: &Args) -> Option<ZoneSpec> {
    let dirs = [
        (ZONE, ZoneDir::Both),
        (ZONE_ORIG, ZoneDir::Original),
        (ZONE_REPLY, ZoneDir::Reply),
    ];
    let given = |(opt, dir)| {
        let id = match u16::try_from(args.number(opt)?) {
            Ok(n) => ZoneId::Number(n),
            Err(_) => ZoneId::FromMark,
        };
        Some(ZoneSpec { dir, id })
    };
    dirs.into_iter().find_map(given)
}

fn words(args: &Args, opt: usize, words: &Words) -> Vec<String> {
    let names = args.bits(opt).map(|b| words.names(b)).unwrap_or_default();
    let names = names.split(',').filter(|n| !n.is_empty());
    names.map(str::to_owned).collect()
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let spec = if args.has(NOTRACK) {
        CtSpec::Untracked
    } else {
        CtSpec::Template {
            zone: zone(args),
            helper: args.text(HELPER).map(str::to_owned),
            timeout: args.text(TIMEOUT).map(str::to_owned),
            events: words(args, CT_EVENTS, &EVENTS),
            expect_events: words(args, EXP_EVENTS, &EXPECT_EVENTS),
        }
    };
    Outcome::effect(Effect::Ct(spec), Verdict::Continue)
}

const fn raw(case: Case) -> Case {
    case.at(TableKind::Raw, Hook::Prerouting)
}

const CASES: &[Case] = &[
    raw(ok("-j CT --notrack")),
    raw(ok("-p tcp -j CT --helper ftp --zone 5")),
    raw(saved("-j CT --zone 0x10", "-j CT --zone 16")),
    raw(saved("-j CT --zone MARK", "-j CT --zone mark")),
    raw(saved("-j CT --zone 0", "-j CT")),
    raw(ok("-j CT --zone-orig mark")),
    raw(ok("-j CT --zone-reply 2").v6()),
    raw(saved(
        "-j CT --zone-orig 3 --zone-reply 4",
        "-j CT --zone 4",
    )),
    raw(saved(
        "-j CT --zone 5 --notrack",
        "-j CT --notrack --zone 5",
    )),
    raw(saved(
        "-j CT --ctevents new,new,mark --expevents new",
        "-j CT --ctevents new,mark --expevents new",
    )),
    raw(ok("-p tcp -j CT --notrack --timeout foo")),
    raw(bad("-j CT --timeout foo")),
    raw(bad("-p tcp -j CT --timeout foo")),
    raw(ok("-p tcp -j CT --timeout tcp4")),
    raw(ok("-p tcp -j CT --helper ftp --timeout tcp4")),
    raw(ok("-p udp -j CT --timeout udp6").v6()),
    raw(ok("-p 89 -j CT --timeout rest")),
    raw(bad("-p udp -j CT --timeout tcp4")),
    raw(bad("-p tcp -j CT --timeout tcp4").v6()),
    raw(bad("-p tcp -j CT --timeout rest")),
    raw(bad("! -p tcp -j CT --timeout tcp4")),
    raw(bad("-j CT --timeout tcp4")),
    raw(bad("-j CT --zone 65536")),
    raw(bad("-j CT --zone -1")),
    raw(bad("-j CT --zone foo")),
    raw(bad("-j CT --helper ftp")),
    raw(bad("-p udp -j CT --helper ftp")),
    raw(bad("-p tcp -j CT --helper nosuch")),
    raw(ok("-p udp -j CT --helper sip")),
    raw(ok("-p tcp -j CT --helper sip").v6()),
    raw(bad("-p sctp -j CT --helper sip")),
    raw(bad("-j CT --ctevents foo")),
    raw(bad("-j CT --ctevents new,")),
    raw(bad("-j CT ! --notrack")),
    bad("-j CT --notrack"),
];
