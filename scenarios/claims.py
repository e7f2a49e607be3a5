#!/usr/bin/env python3
"""claims.py: do the kernel's answers in expected/ say what the scenarios claim?  Needs neither root nor the kernel.

Exit status 1 and a line for each claim that does not hold."""
import collections
import json
import os
import struct
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import capture
import expect

Seg = collections.namedtuple("Seg", "n where verdict src dst proto sport dport flags")
SYN, ACK = 2, 16
failed = []


def claim(name, text, holds):
    if not holds:
        failed.append(name)
        print("%s: not so: %s" % (name, text))


def pair(name):
    """-> (expected answer, segments that entered the host)"""
    with open(os.path.join(here, "expected", name + ".json"), encoding="utf-8") as f:
        t = json.load(f)
    p = next(x for x in expect.pairs() if x["name"] == name)
    ips = {f.n: capture.ip_packet(f) for f in capture.read(os.path.join(here, "captures", p["capture"]))}
    return t, [segment(n, w, v, ips[n].ip) for n, w, v in t["packets"]]


def segment(n, where, verdict, ip):
    src, dst = map(str, expect.addresses(ip))
    proto, o = (ip[9], (ip[0] & 15) * 4) if ip[0] >> 4 == 4 else (ip[6], 40)
    sp, dp = struct.unpack_from("!HH", ip, o) if proto in (6, 17) else (0, 0)
    return Seg(n, where, verdict, src, dst, proto, sp, dp, ip[o + 13] if proto == 6 else 0)


def packets(t, chain, family="4", table="filter"):
    return [r[0] for r in t["counters"][family][table][chain]["rules"]]


def policy(t, chain, family="4"):
    return t["counters"][family]["filter"][chain]["pc"][0]


def passed(segs, **want):
    return [s for s in segs if s.verdict != "drop" and all(getattr(s, k) == v for k, v in want.items())]


def host_firewall():
    t, s = pair("a1")
    claim("a1", "ports 22 and 80 pass, nothing else",
          all((s1.verdict != "drop") == (s1.sport in (22, 80) or s1.dport in (22, 80)) for s1 in s))
    claim("a1", "the counters are the packets of the capture",
          packets(t, "INPUT") == [sum(x.where == "eth0" and x.dport == p for x in s) for p in (22, 80)])
    claim("a1-auto", "without a rule that needs it nothing is tracked", pair("a1-auto")[0]["conntrack"] == [])
    claim("a2-before", "nothing passes on lo", not [x for x in passed(pair("a2-before")[1]) if ":" not in x.src])
    claim("a2-after", "everything passes on lo", len(passed(pair("a2-after")[1])) == len(pair("a2-after")[1]))
    t, s = pair("a3-before")
    claim("a3-before", "the server's own ping, DNS and web requests are dropped", not [x for x in passed(s, where="local") if x.sport not in (22, 80)])
    t, s = pair("a3-after")
    claim("a3-after", "they pass, and a new connection to another port does not",
          passed(s, proto=1) and passed(s, sport=53) and not passed(s, dport=3306, flags=SYN))
    t, s = pair("a4")
    claim("a4", ".100, .127 and .150 get in, .99 and .151 do not",
          {x.src for x in passed(s, dport=3306)} == {"192.168.114.%d" % n for n in (100, 127, 150)})
    for name, tcp, udp in (("a5-open", True, True), ("a5-flags", False, True), ("a5-syn", False, True), ("a5-state", False, False)):
        t, s = pair(name)
        claim(name, "SYNs from port 80: %s" % tcp, bool(passed(s, where="eth0", sport=80, flags=SYN)) == tcp)
        claim(name, "UDP from port 53 to port 5000: %s" % udp, bool(passed(s, proto=17, sport=53, dport=5000)) == udp)
    t, s = pair("a6")
    claim("a6", "of a scan only ports 22 and 80 are reached", {x.dport for x in passed(s, where="eth0")} == {22, 80})
    t, s = pair("a7")
    claim("a7", "out from unprivileged ports only", {x.sport < 1024 for x in passed(s, where="local") if x.proto != 1} == {False})
    t, s = pair("a8")
    claim("a8", "ssh gets out and not in", passed(s, where="eth0", sport=22) and not passed(s, where="eth0", dport=22, flags=SYN))
    t, s = pair("a9")
    claim("a9", "every state but UNTRACKED is seen", [bool(n) for n in packets(t, "INPUT")] == [True] * 4 + [False])
    t, s = pair("a9-notrack")
    claim("a9-notrack", "everything is UNTRACKED", packets(t, "INPUT") == [0] * 4 + [sum(x.where == "eth0" and ":" not in x.src for x in s)])
    first, last, reject = (pair(n)[0] for n in ("a10-first", "a10-last", "a10-reject"))
    claim("a10", "the first match counts", packets(first, "INPUT")[1:] != packets(last, "INPUT")[:2])
    claim("a10-reject", "the ACCEPT behind the REJECT is never reached", packets(reject, "INPUT")[1] > 0 == packets(reject, "INPUT")[2])


def data_syns(s):
    """SYNs of connections that are not FTP's control connection"""
    return [x for x in s if x.flags == SYN and x.dport not in (21, 2121)]


def ftp():
    t, s = pair("b1")
    stray = [x for x in s if 40020 in (x.sport, x.dport)]
    claim("b1", "all passes but the connection from port 20 that nothing announced",
          [x for x in s if x.verdict == "drop"] == stray and len(stray) > 5)
    t, s = pair("b2")
    claim("b2", "without the helper the data connections are dropped, the control connection is not",
          not passed(s, sport=20) and len(passed(s, dport=21)) == sum(x.dport == 21 for x in s))
    t, s = pair("b3")
    claim("b3", "passive works without a helper", len(passed(s)) == len(s))
    for name, family in (("b4", "4"), ("b4-many", "4"), ("b4-v6", "6"), ("b5", "4")):
        t, s = pair(name)
        new, related, control, established = packets(t, "INPUT", family)
        claim(name, "each data connection's SYN is RELATED, once", related == len(data_syns(s)) > 0)
        claim(name, "every other packet of it is ESTABLISHED", established == sum(
            x.where == "eth0" and x.dport not in (21, 2121) and x.flags != SYN for x in s))
        claim(name, "nothing is dropped", len(passed(s)) == len(s))
    for name, family in (("b6-masq", "4"), ("b6-masq-pcapng", "4"), ("b6-dnat", "4"), ("b6-masq-v6", "6")):
        t, s = pair(name)
        invalid, related = packets(t, "FORWARD", family)[:2]
        claim(name, "every packet is forwarded, the data SYNs are RELATED", len(passed(s)) == len(s) and invalid == 0
              and related == len(data_syns(s)) > 0)
        claim(name, "the announcement changed its length", any("seqadj" in e for e in t["conntrack"]))


if __name__ == "__main__":
    host_firewall()
    ftp()
    print("all claims hold" if not failed else "%d claims do not hold" % len(failed))
    sys.exit(bool(failed))
