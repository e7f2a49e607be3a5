//! Listings: `-L`, `-S`, and the echo of `-v`.

use std::collections::BTreeMap;
use std::fmt::Write;

use tidegate_wire::Family;
use tidegate_xt::{ListCtx, Names, text};

use crate::{Chain, Counters, Iface, Net, Rule, Spec, Table, Target, View, save};

/// Prints rules for people.
pub struct Printer<'a> {
    /// Family of the rules.
    pub family: Family,
    /// Name databases, for listings without `-n`.
    pub names: &'a dyn Names,
}

impl std::fmt::Debug for Printer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer")
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// What a listing leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Only<'a> {
    /// Other chains than this.
    pub(crate) chain: Option<&'a str>,
    /// Other rules than that at this index, and all headers.
    pub(crate) rule: Option<usize>,
}

impl Only<'_> {
    fn chains<'t>(&self, table: &'t Table) -> impl Iterator<Item = &'t Chain> {
        table
            .chains()
            .filter(|c| self.chain.is_none_or(|only| only == c.name))
    }

    fn rules<'c>(&self, chain: &'c Chain) -> impl Iterator<Item = (usize, &'c Rule)> {
        chain
            .rules
            .iter()
            .enumerate()
            .filter(|(i, _)| self.rule.is_none_or(|only| only == *i))
    }
}

impl Printer<'_> {
    /// What `-S` prints.
    pub(crate) fn rules(&self, table: &Table, only: Only<'_>, verbose: bool) -> String {
        let mut out = String::new();
        if only.rule.is_none() {
            let (base, user): (Vec<_>, Vec<_>) = only.chains(table).partition(|c| c.base.is_some());
            for chain in base.iter().chain(&user) {
                let _ = writeln!(out, "{}", save::chain_line(chain, verbose));
            }
        }
        for chain in only.chains(table) {
            for (_, rule) in only.rules(chain) {
                let counters = verbose.then_some(rule.counters);
                out += &save::rule(&chain.name, &rule.spec, self.family, counters);
                out.push('\n');
            }
        }
        out
    }

    /// What `-L` prints.
    pub(crate) fn list(&self, table: &Table, only: Only<'_>, view: View) -> String {
        let mut out = String::new();
        let references = if only.rule.is_none() {
            table.references()
        } else {
            BTreeMap::new()
        };
        for (i, chain) in only.chains(table).enumerate() {
            if only.rule.is_none() {
                if i > 0 {
                    out.push('\n');
                }
                let count = references.get(chain.name.as_str()).copied();
                push_headers(&mut out, chain, count.unwrap_or(0), view);
            }
            for (n, rule) in only.rules(chain) {
                self.push_row(&mut out, n, rule, view);
            }
        }
        out
    }

    fn push_row(&self, out: &mut String, index: usize, rule: &Rule, view: View) {
        let spec = &rule.spec;
        if view.line_numbers {
            let _ = write!(out, "{:<4} ", index + 1);
        }
        if view.verbose {
            push_counters(out, rule.counters, view.exact);
        }
        let proto = spec.proto;
        let bang = if proto.is_some_and(|p| p.invert) {
            '!'
        } else {
            ' '
        };
        let name = self.proto(spec, view.numeric);
        let _ = write!(
            out,
            "{:<9} {bang}{name:<4} {} ",
            spec.target.name(),
            fragment(spec)
        );
        if view.verbose {
            let any = if view.numeric { "*" } else { "any" };
            let (input, output) = (
                iface(spec.input.as_ref(), any),
                iface(spec.output.as_ref(), any),
            );
            let _ = write!(out, " {input:<6} {output:<6} ");
        }
        for net in [spec.src.as_ref(), spec.dst.as_ref()] {
            let (bang, addr) = self.net(net, view.numeric);
            let _ = write!(out, "{bang}{addr:<19} ");
        }
        self.push_details(out, spec, view.numeric);
        out.push('\n');
    }

    /// Goto, matches and target options.
    fn push_details(&self, out: &mut String, spec: &Spec, numeric: bool) {
        if matches!(spec.target, Target::Chain { goto: true, .. }) {
            out.push_str("[goto] ");
        }
        let ctx = ListCtx {
            family: self.family,
            numeric,
            proto: spec.proto.map_or(0, |p| p.number),
            names: self.names,
        };
        out.extend(spec.matches.iter().map(|m| m.list(&ctx)));
        if let Target::Extension(x) = &spec.target {
            out.push_str(&x.list(&ctx));
        }
    }

    fn proto(&self, spec: &Spec, numeric: bool) -> String {
        let Some(p) = spec.proto else {
            return "all".to_owned();
        };
        let known = tidegate_xt::names::known_protocol_name(p.number).map(str::to_owned);
        known
            .or_else(|| self.names.protocol_name(p.number).filter(|_| !numeric))
            .unwrap_or_else(|| p.number.to_string())
    }

    fn net(&self, net: Option<&Net>, numeric: bool) -> (char, String) {
        let bang = if net.is_some_and(|n| n.invert) {
            '!'
        } else {
            ' '
        };
        let (addr, mask) = net.map_or((0, 0), |n| (n.addr, n.mask));
        if mask == 0 && !numeric {
            return (bang, "anywhere".to_owned());
        }
        let name = (!numeric)
            .then(|| self.names.host_name(addr, self.family))
            .flatten();
        let name = name.unwrap_or_else(|| text::addr(addr, self.family));
        (bang, name + &text::mask_suffix(mask, self.family))
    }

    /// The line that `-v` prints for a rule that is added, deleted or checked.
    pub(crate) fn echo(&self, spec: &Spec) -> String {
        let bang = if spec.proto.is_some_and(|p| p.invert) {
            '!'
        } else {
            ' '
        };
        let proto = self.proto(spec, true);
        let (s, src) = self.net(spec.src.as_ref(), true);
        let (d, dst) = self.net(spec.dst.as_ref(), true);
        let mut out = format!(
            "{} {bang}{proto} opt {} in {} out {} {s}{src} {d}-> {dst}  ",
            spec.target.name(),
            fragment(spec),
            iface(spec.input.as_ref(), "*"),
            iface(spec.output.as_ref(), "*"),
        );
        self.push_details(&mut out, spec, true);
        out.push('\n');
        out
    }
}

fn fragment(spec: &Spec) -> &'static str {
    match spec.fragment {
        None => "--",
        Some(false) => "-f",
        Some(true) => "!f",
    }
}

fn iface(iface: Option<&Iface>, any: &str) -> String {
    match iface {
        None => any.to_owned(),
        Some(i) => format!("{}{}", if i.invert { "!" } else { "" }, i.name),
    }
}

fn push_headers(out: &mut String, chain: &Chain, references: u32, view: View) {
    let _ = write!(out, "Chain {} (", chain.name);
    match &chain.base {
        None => {
            let _ = write!(out, "{references} references");
        }
        Some(base) => {
            let _ = write!(out, "policy {}", save::policy_name(base.policy));
            if view.verbose {
                let (p, b) = (base.counters.packets, base.counters.bytes);
                let _ = write!(
                    out,
                    " {} packets, {} bytes",
                    count(p, view.exact),
                    count(b, view.exact)
                );
            }
        }
    }
    out.push_str(")\n");
    if view.line_numbers {
        out.push_str("num  ");
    }
    match (view.verbose, view.exact) {
        (false, _) => {}
        (true, false) => out.push_str(" pkts bytes "),
        (true, true) => out.push_str("    pkts      bytes "),
    }
    out.push_str("target     prot opt");
    if view.verbose {
        out.push_str(" in     out    ");
    }
    out.push_str(" source               destination         \n");
}

fn push_counters(out: &mut String, c: Counters, exact: bool) {
    let width = if exact { 8 } else { 5 };
    for n in [c.packets, c.bytes] {
        let _ = write!(out, "{:>width$} ", count(n, exact));
    }
}

/// A count, rounded to at most five characters: from 100,000 on in thousands, and each
/// unit up to 9999.
fn count(n: u64, exact: bool) -> String {
    if exact || n <= 99_999 {
        return n.to_string();
    }
    let mut n = n;
    for unit in ['K', 'M', 'G'] {
        n = n.saturating_add(500) / 1000;
        if n <= 9999 {
            return format!("{n}{unit}");
        }
    }
    format!("{}T", n.saturating_add(500) / 1000)
}

#[cfg(test)]
mod tests {
    use super::count;

    /// Values that iptables 1.8.13 printed.
    #[test]
    fn counts_are_rounded() {
        assert_eq!(count(99_999, false), "99999");
        assert_eq!(count(100_000, false), "100K");
        assert_eq!(count(123_456_789_012_345, false), "123T");
        assert_eq!(count(9_999_999_999_999_999, false), "10000T");
        assert_eq!(count(100_000, true), "100000");
    }
}
