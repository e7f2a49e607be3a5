//! `-j SECMARK` and `-j CONNSECMARK`: labels for a security module (kernel `secmark_tg`,
//! `connsecmark_tg`), kept as numbers. No rule reads them and no module decides here, so they
//! change nothing about a packet's fate.

use tidegate_ir::{Effect, Hook, TableKind, Verdict};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Legal, Lower, Opt, Outcome, bad, ok,
};

const SAVE: usize = 0;
const RESTORE: usize = 1;

/// Bytes of a context (`SECMARK_SECCTX_MAX` less the final NUL).
const CONTEXT_MAX: usize = 255;

const TABLES: &[TableKind] = &[TableKind::Mangle, TableKind::Security];

/// `-j SECMARK`.
pub static SECMARK: Extension = Extension {
    name: "SECMARK",
    lower: Lower::Target(|args, _| {
        let label = number(args.text(0).unwrap_or(""));
        Outcome::effect(Effect::SecMark(label), Verdict::Continue)
    }),
    families: Families::Both,
    options: &[Opt::new("selctx", Arg::Name { max: CONTEXT_MAX })
        .mandatory()
        .help("  --selctx value                     Set the SELinux security context\n")],
    legal: Legal::tables(TABLES),
    list: |x, _| format!(" SECMARK selctx {}", x.args.text(0).unwrap_or("")),
    cases: &[
        security(ok(
            "-j SECMARK --selctx system_u:object_r:firewalld_exec_t:s0",
        )),
        security(bad("-j SECMARK")),
        bad("-j SECMARK --selctx system_u:object_r:firewalld_exec_t:s0"),
    ],
    ..Extension::TARGET
};

/// The number that stands for a context, which a security module would choose: the same for the
/// same text, on every machine, and never 0 (FNV-1a).
fn number(context: &str) -> u32 {
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    context.bytes().fold(0x811c_9dc5, mix).max(1)
}

/// `-j CONNSECMARK`.
pub static CONNSECMARK: Extension = Extension {
    name: "CONNSECMARK",
    lower: Lower::Target(|args, _| {
        let save = args.has(SAVE);
        Outcome::effect(Effect::ConnSecMark { save }, Verdict::Continue)
    }),
    families: Families::Both,
    options: &[
        Opt::new("save", Arg::Flag)
            .excludes(&[RESTORE])
            .help("  --save                   Copy security mark from packet to conntrack\n"),
        Opt::new("restore", Arg::Flag)
            .excludes(&[SAVE])
            .help("  --restore                Copy security mark from connection to packet\n"),
    ],
    legal: Legal::tables(TABLES),
    finish,
    list: |x, _| {
        let word = if x.args.has(SAVE) { "save" } else { "restore" };
        format!(" CONNSECMARK {word}")
    },
    cases: &[
        security(ok("-j CONNSECMARK --save")),
        security(ok("-j CONNSECMARK --restore")),
        ok("-j CONNSECMARK --restore")
            .at(TableKind::Mangle, Hook::Prerouting)
            .v6(),
        security(bad("-j CONNSECMARK")),
        security(bad("-j CONNSECMARK --restore --save")),
        bad("-j CONNSECMARK --restore"),
    ],
    ..Extension::TARGET
};

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.is_empty() {
        return Err(Error::parameter("CONNSECMARK target: parameter required"));
    }
    Ok(())
}

const fn security(case: Case) -> Case {
    case.at(TableKind::Security, Hook::Input)
}
