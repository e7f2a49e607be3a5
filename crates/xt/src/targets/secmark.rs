//! `-j SECMARK` and `-j CONNSECMARK`: labels for a security module (kernel `secmark_tg`,
//! `connsecmark_tg`). No rule reads them and no module decides here, so they change
//! nothing about a packet's fate.

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

/// `-j CONNSECMARK`.
pub static CONNSECMARK: Extension = Extension {
    name: "CONNSECMARK",
    lower: Lower::Target(|_, _| Outcome::effect(Effect::ConnSecMark, Verdict::Continue)),
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
