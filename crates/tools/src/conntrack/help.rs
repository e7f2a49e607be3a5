//! `--help`.

use super::VERSION;
use super::protocols::Protocol;

const TEXT: &str = "\
Usage: conntrack [commands] [options]

Commands:
  -L [table] [options]\t\tList connections or expectations
  -G [table] parameters\t\tShow one
  -D [table] parameters\t\tRemove those that fit
  -I [table] parameters\t\tMake one
  -A parameters\t\t\tMake one unless it is there
  -U parameters\t\t\tChange mark, timeout, status or state of those that fit
  -E [table] [options]\t\tShow what happens as it happens
  -F [table]\t\t\tRemove all
  -C [table]\t\t\tCount them
  -S [table]\t\t\tShow statistics
  -R file\t\t\tCarry out commands from a file, `-' for standard input

Tables: conntrack, expect, dying, unconfirmed

Which connections:
  -s, --src, --orig-src ip[/len]\tSource of the original direction
  -d, --dst, --orig-dst ip[/len]\tDestination of the original direction
  -r, --reply-src ip\t\tSource of the reply direction
  -q, --reply-dst ip\t\tDestination of the reply direction
  --mask-src ip, --mask-dst ip\tBits of -s and -d that count
  -p, --protonum proto\t\tTransport protocol; `-h -p proto' shows its options
  -f, --family ipv4|ipv6\tNetwork protocol
  -u, --status word[,...]\tASSURED, SEEN_REPLY, UNREPLIED, FIXED_TIMEOUT, EXPECTED
  -m, --mark mark[/mask]\tMark
  -w, --zone number\t\tZone of both directions
  --orig-zone number, --reply-zone number\tZone of one direction
  -n, --src-nat [ip[:port]]\tTranslated source
  -g, --dst-nat [ip[:port]]\tTranslated destination
  -j, --any-nat [ip[:port]]\tEither
  -i, --id number\t\tIdentifier, as -o id shows it

What to set (-I, -A, -U):
  -t, --timeout seconds\t\tLife from now on
  -u, -m, -w, -n, -g\t\tas above

Expectations:
  --tuple-src ip, --tuple-dst ip\tWhat is expected
  --mask-src ip, --mask-dst ip\tBits of it that count

Output:
  -o, --output word[,...]\textended, id, timestamp, ktimestamp, xml, save, labels
  -z, --zero\t\t\tSet counters to nought while listing
  -e, --event-mask word[,...]\tALL, NEW, UPDATES, DESTROY
  -b, --buffer-size bytes\tRoom for events that wait

";

/// The help, with the options of a protocol.
pub(super) fn text(proto: Option<u8>) -> String {
    let head = format!("Connection tracking on the command line, version {VERSION}\n{TEXT}");
    let Some(number) = proto else {
        return head;
    };
    let Some(protocol) = Protocol::by_number(number) else {
        return head + "Proto `unknown' help:\n  no options (unsupported)\n";
    };
    let options = protocol.options.iter().map(|o| {
        let names: Vec<String> = o.names.iter().map(|n| format!("--{n}")).collect();
        format!("  {} value\n", names.join(", "))
    });
    let options: String = options.collect();
    format!("{head}Proto `{}' help:\n{options}", protocol.name)
}
