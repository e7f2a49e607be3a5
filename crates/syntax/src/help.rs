//! The tools' help and version texts.

use tidegate_wire::Family;
use tidegate_xt::Extension;

use crate::VERSION;

/// What `-V` prints; `! -V` is an old joke of the tools.
pub(crate) fn version(tool: &str, inverted: bool) -> String {
    if inverted {
        return format!("Not {VERSION} (legacy) ;-)\n");
    }
    format!("{tool} v{VERSION} (legacy)\n")
}

/// Usage lines after the program's name.
const USAGE: &[&str] = &[
    "-[ACD] chain rule-specification [options]",
    "-I chain [rulenum] rule-specification [options]",
    "-R chain rulenum rule-specification [options]",
    "-D chain rulenum [options]",
    "-[LS] [chain [rulenum]] [options]",
    "-[FZ] [chain] [options]",
    "-[NX] chain",
    "-E old-chain-name new-chain-name",
    "-P chain target [options]",
    "-h (print this help information)",
];

const COMMANDS: &str = "\
Commands:
Either long or short options are allowed.
  --append  -A chain\t\tAppend to chain
  --check   -C chain\t\tCheck for the existence of a rule
  --delete  -D chain\t\tDelete matching rule from chain
  --delete  -D chain rulenum
\t\t\t\tDelete rule rulenum (1 = first) from chain
  --insert  -I chain [rulenum]
\t\t\t\tInsert in chain as rulenum (default 1=first)
  --replace -R chain rulenum
\t\t\t\tReplace rule rulenum (1 = first) in chain
  --list    -L [chain [rulenum]]
\t\t\t\tList the rules in a chain or all chains
  --list-rules -S [chain [rulenum]]
\t\t\t\tPrint the rules in a chain or all chains
  --flush   -F [chain]\t\tDelete all rules in  chain or all chains
  --zero    -Z [chain [rulenum]]
\t\t\t\tZero counters in chain or all chains
  --new     -N chain\t\tCreate a new user-defined chain
  --delete-chain
            -X [chain]\t\tDelete a user-defined chain
  --policy  -P chain target
\t\t\t\tChange policy on chain to target
  --rename-chain
            -E old-chain new-chain
\t\t\t\tChange chain name, (moving any references)

Options:
    --ipv4\t-4\t\tNOTE4
    --ipv6\t-6\t\tNOTE6
[!] --protocol\t-p proto\tprotocol: by number or name, eg. `tcp'
[!] --source\t-s address[/mask][...]
\t\t\t\tsource specification
[!] --destination -d address[/mask][...]
\t\t\t\tdestination specification
[!] --in-interface -i input name[+]
\t\t\t\tnetwork interface name ([+] for wildcard)
 --jump\t-j target
\t\t\t\ttarget for rule (may load target extension)
  --goto      -g chain
\t\t\t       jump to chain with no return
  --match\t-m match
\t\t\t\textended match (may load extension)
  --numeric\t-n\t\tnumeric output of addresses and ports
[!] --out-interface -o output name[+]
\t\t\t\tnetwork interface name ([+] for wildcard)
  --table\t-t table\ttable to manipulate (default: `filter')
  --verbose\t-v\t\tverbose mode
  --wait\t-w [seconds]\tmaximum wait to acquire xtables lock before give up
  --line-numbers\t\tprint line numbers when listing
  --exact\t-x\t\texpand numbers (display exact values)
";

const FRAGMENT: &str = "[!] --fragment\t-f\t\tmatch second or further fragments only\n";

const LAST: &str = "  --modprobe=<command>\t\ttry to insert modules using this command
  --set-counters -c PKTS BYTES\tset the counter during insert/append
[!] --version\t-V\t\tprint package version.
";

/// What `-h` prints, with the help of the extensions named before it.
pub(crate) fn text(tool: &str, family: Family, extensions: &[&Extension]) -> String {
    let mut out = version(tool, false);
    for (i, line) in USAGE.iter().enumerate() {
        out += if i == 0 { "\nUsage: " } else { "       " };
        out += &format!("{tool} {line}\n");
    }
    let (note4, note6, fragment) = match family {
        Family::V4 => (
            "Nothing (line is ignored by ip6tables-restore)",
            "Error (line is ignored by iptables-restore)",
            FRAGMENT,
        ),
        Family::V6 => (
            "Error (line is ignored by ip6tables-restore)",
            "Nothing (line is ignored by iptables-restore)",
            "",
        ),
    };
    out += "\n";
    out += &COMMANDS.replace("NOTE4", note4).replace("NOTE6", note6);
    out += fragment;
    out += LAST;
    for ext in extensions {
        out += &format!("\n{}", tidegate_xt::help(ext));
    }
    out
}
