#!/usr/bin/env python3
"""coverage.py [CASES]: for every match and target of iptables' own set, in how many generated sequences a rule has it,
by family and inverted.  Needs no kernel.  Exit status 1 if one that the kernel has occurs in fewer than 20 of a family
that has it at all."""
import collections
import glob
import os
import re
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import gen
import genmatches
import gensets
import gensynproxy
import gentargets

EXTENSIONS = os.path.join(here, "../../crates/xt/src")
ENOUGH = 20
# no kernel here has them, or what they do is no packet's affair
ELSEWHERE = {"ipvs": "not in the kernels tried", "LED": "not in the kernels tried", "SECMARK": "needs a security module"}
# written without -m
PROTOCOLS = {"tcp": "-p tcp", "udp": "-p udp", "icmp": "-p icmp", "icmp6": "-p icmpv6"}


def names(kind):
    """as `name: "..."` in the extensions' files"""
    out = set()
    for path in glob.glob(os.path.join(EXTENSIONS, kind, "*.rs")):
        with open(path) as f:
            out |= set(re.findall(r'^    name: "(\w+)",', f.read(), re.M))
    return sorted(out)


def cases(count):
    yield from (gen.seed_case(i) for i in range(1, count + 1))
    yield from (genmatches.match_case(i, k) for k in genmatches.KINDS for i in range(1, 41))
    # every fourth is of IPv6
    yield from (gentargets.target_case(i, k) for k in gentargets.KINDS for i in range(1, 201))
    yield from (gensynproxy.synproxy_case(i) for i in range(1, 41))
    yield from (gensets.set_case(i) for i in range(1, 121))


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seen = {4: collections.Counter(), 6: collections.Counter()}
    inverted = collections.Counter()
    for case in cases(count):
        for fam in (4, 6):
            rules = case.get("rules%d" % fam, "").splitlines()
            here = set()
            for rule in rules:
                for m in re.finditer(r"-m (\w+)((?: (?!-[mjg] |-p ).\S*)*)", rule):
                    here.add(m[1])
                    if "! --" in m[2]:
                        inverted[m[1]] += 1
                here |= set(re.findall(r"-j (\w+)", rule))
                here |= {n for n, p in PROTOCOLS.items() if p + " " in rule + " "}
            seen[fam].update(here)
    few = []
    for kind in ("matches", "targets"):
        for name in names(kind):
            counts = [seen[fam][name] for fam in (4, 6) if seen[fam][name]]
            why = ELSEWHERE.get(name, "")
            if min(counts, default=0) < ENOUGH and not why:
                few.append(name)
            print("%-8s %-12s ipv4 %4d  ipv6 %4d  inverted %4d  %s" % (kind[:-2] if kind == "matches" else "target", name, seen[4][name], seen[6][name], inverted[name], why))
    if few:
        print("in fewer than %d sequences: %s" % (ENOUGH, " ".join(few)))
    sys.exit(1 if few else 0)


if __name__ == "__main__":
    main()
