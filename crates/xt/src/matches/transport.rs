//! What the transport matches share: presence guards and port ranges.

use tidegate_ir::{Cond, Field};

use crate::{Arg, Args, Error, Input, ListCtx, Opt, Value, parse_port};

/// True when the packet has the first `len` bytes of its transport header; false for
/// later fragments; a packet that is too short is dropped (`skb_header_pointer`
/// fails and the kernel's match sets `hotdrop`).
pub(super) fn header(len: u16) -> Cond {
    let enough = Cond::range(Field::L4Len, u128::from(len), u128::from(u16::MAX));
    let guard = Cond::drop_when(enough.inverted_if(true));
    Cond::all(vec![Cond::eq(Field::FragOff, 0), guard])
}

/// `--source-port`, saved as `--sport`.
pub(super) const fn source_port(arg: Arg, help: &'static str) -> Opt {
    port("source-port", "sport", &["sport"], arg, help)
}

/// `--destination-port`, saved as `--dport`.
pub(super) const fn destination_port(arg: Arg, help: &'static str) -> Opt {
    port("destination-port", "dport", &["dport"], arg, help)
}

const fn port(
    name: &'static str,
    saved: &'static str,
    aliases: &'static [&'static str],
    arg: Arg,
    help: &'static str,
) -> Opt {
    let opt = Opt::new(name, arg).saved(saved).aliases(aliases);
    opt.invertible().help(help)
}

/// The test of one port option; nothing when it is not given.
pub(super) fn port_test(args: &Args, opt: usize, field: Field) -> Option<Cond> {
    let (lo, hi) = args.range(opt)?;
    let test = Cond::range(field, u128::from(lo), u128::from(hi));
    Some(test.inverted_if(args.inverted(opt)))
}

/// Takes out port options that say nothing: all ports, not inverted.
pub(super) fn forget_all_ports(args: &mut Args, opts: &[usize]) {
    for &opt in opts {
        let all = args.range(opt) == Some((0, u64::from(u16::MAX)));
        if all && !args.inverted(opt) {
            args.remove(opt);
        }
    }
}

/// ` dpt:80`, ` spts:!1:1023`; empty when the option is not given.
pub(super) fn list_ports(
    args: &Args,
    opt: usize,
    word: &str,
    ctx: &ListCtx<'_>,
    proto: &str,
) -> String {
    let Some((lo, hi)) = args.range(opt) else {
        return String::new();
    };
    let bang = if args.inverted(opt) { "!" } else { "" };
    let lo_text = ctx.port(lo, Some(proto));
    if lo == hi {
        return format!(" {word}:{bang}{lo_text}");
    }
    let hi_text = ctx.port(hi, Some(proto));
    format!(" {word}s:{bang}{lo_text}:{hi_text}")
}

/// Reads a port as the tcp and multiport matches do.
pub(super) fn strict_port(
    word: &str,
    input: &Input<'_>,
    proto: Option<&str>,
) -> Result<u16, Error> {
    parse_port(word, input.ctx.names, proto)
        .ok_or_else(|| Error::parameter(format!("invalid port/service `{word}' specified")))
}

/// Reads `a`, `a:b`, `a:` or `:b` as the tcp match does.
pub(super) fn strict_ports(input: &Input<'_>, proto: &str) -> Result<Value, Error> {
    let port = |s: &str, empty: u16| match s {
        "" => Ok(empty),
        s => strict_port(s, input, Some(proto)),
    };
    let Some((lo, hi)) = input.text().split_once(':') else {
        let p = u64::from(strict_port(input.text(), input, Some(proto))?);
        return Ok(Value::Range(p, p));
    };
    let (lo, hi) = (port(lo, 0)?, port(hi, u16::MAX)?);
    if lo > hi {
        return Err(Error::parameter("invalid portrange (min > max)"));
    }
    Ok(Value::Range(u64::from(lo), u64::from(hi)))
}

/// Saves a port range.
pub(super) fn show_range(value: &Value, _: tidegate_wire::Family) -> String {
    let (lo, hi) = value.range().unwrap_or_default();
    if lo == hi {
        lo.to_string()
    } else {
        format!("{lo}:{hi}")
    }
}
