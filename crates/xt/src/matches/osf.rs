//! `-m osf`: the operating system that sent a SYN, by its habits (kernel `xt_osf`).

use tidegate_ir::{Cond, Hook, Step, StepInput, Truth};
use tidegate_wire::proto;

use super::osf_prints::{self, Fingerprint, Syn, Ttl};
use super::ranges::blank_bang;
use crate::{Arg, Args, Case, Extension, Help, Legal, Lower, LowerCtx, Opt, bad, ok, saved, text};

const GENRE: usize = 0;
const TTL: usize = 1;
const LOG: usize = 2;
/// Only the first fingerprint that fits is logged (`NF_OSF_LOGLEVEL_FIRST`).
const FIRST: u64 = 1;
/// Bytes of a name.
const NAME: usize = 31;

const LEVEL: Arg = Arg::Int {
    min: 0,
    max: 2,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "genre",
        Arg::Name { max: NAME },
    )
    .invertible()
    .mandatory()
    .help("[!] --genre string     Match a OS genre by passive fingerprinting.\n"),
    Opt::new("ttl", LEVEL).help("--ttl level            Use some TTL check extensions to determine OS:\n       0                       true ip and fingerprint TTL comparison. Works for LAN.\n       1                       check if ip TTL is less than fingerprint one. Works for global addresses.\n       2                       do not compare TTL at all. This allows NMAP detection, but can produce false results.\n"),
    Opt::new("log", LEVEL).help("--log level            Log determined genres into dmesg even if they do not match desired one:\n       0                       log all matched or unknown signatures.\n       1                       log only first one.\n       2                       log all known matched signatures.\n"),
];

/// `-m osf`.
pub static OSF: Extension = Extension {
    name: "osf",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::TABLE.titled("OS fingerprint match options:"),
    legal: Legal {
        hooks: &[Hook::Prerouting, Hook::Input, Hook::Forward],
        ..Legal::protos(&[proto::TCP])
    },
    list: |x, _| {
        let bang = blank_bang(&x.args, GENRE);
        format!(
            " OS fingerprint match{bang} {}",
            x.args.text(GENRE).unwrap_or("")
        )
    },
    cases: CASES,
    families: crate::Families::Only(tidegate_wire::Family::V4),
    ..Extension::MATCH
};

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let test = Osf {
        genre: args.text(GENRE).unwrap_or("").to_owned(),
        ttl: match args.number(TTL) {
            None | Some(0) => Ttl::Same,
            Some(1) => Ttl::AtMost,
            Some(_) => Ttl::Any,
        },
        log: args.number(LOG),
    };
    // The kernel takes no notice of a `!`.
    ctx.step(test)
}

/// Compares with the fingerprints of one system; where all are logged, of any.
#[derive(Clone, Debug)]
struct Osf {
    genre: String,
    ttl: Ttl,
    log: Option<u64>,
}

impl Step for Osf {
    /// `nf_osf_match`
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let StepInput { facts, shared, .. } = input;
        let Some(prints) = osf_prints::all(shared) else {
            return Truth::False;
        };
        let packet = facts.packet();
        let Some(syn) = Syn::of(packet) else {
            return Truth::False;
        };
        let Some(log) = self.log else {
            let mut own = prints.iter().filter(|print| print.genre == self.genre);
            return own.any(|print| print.fits(&syn, self.ttl)).into();
        };
        let fit = prints.iter().filter(|print| print.fits(&syn, self.ttl));
        let ends = ends(packet);
        let line = |print: &Fingerprint| {
            let (genre, version, subtype) = (&print.genre, &print.version, &print.subtype);
            let hops = print.hops(&syn);
            format!("{genre} [{version}:{subtype}] : {ends} hops={hops}")
        };
        let most = if log == FIRST { 1 } else { usize::MAX };
        let mut lines: Vec<String> = fit.take(most).map(line).collect();
        let fits = !lines.is_empty();
        if !fits {
            lines.push(format!("Remote OS is not known: {ends}"));
        }
        lines.into_iter().for_each(|line| facts.say(line));
        fits.into()
    }

    fn describe(&self, _: u64) -> String {
        format!("fingerprints of {}", self.genre)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut tidegate_ir::Shared) {
        osf_prints::all(shared);
    }
}

/// `SRC:PORT -> DST:PORT` of an IPv4 packet.
fn ends(packet: &[u8]) -> String {
    let word = |at| tidegate_wire::be32(packet, at).unwrap_or(0);
    let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
    let port = |at| tidegate_wire::be16(packet, header + at).unwrap_or(0);
    let addr = |at| text::addr(word(at).into(), tidegate_wire::Family::V4);
    format!("{}:{} -> {}:{}", addr(12), port(0), addr(16), port(2))
}

const CASES: &[Case] = &[
    ok("-p tcp -m osf --genre linux"),
    ok("-p tcp -m osf ! --genre FreeBSD"),
    ok("-p tcp -m osf --genre Linux --ttl 0 --log 2"),
    saved(
        "-p tcp -m osf --genre aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-p tcp -m osf --genre aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    bad("-p tcp -m osf --genre Linux --ttl 3"),
    bad("-p tcp -m osf --genre Linux --log 3"),
    bad("-m osf --genre Linux"),
    bad("-p tcp -m osf"),
    bad("-p tcp -m osf --genre Linux").at(tidegate_ir::TableKind::Filter, Hook::Output),
];
