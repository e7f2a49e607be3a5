#!/usr/bin/env python3
"""coverage.py [COUNT]: for every match and target of iptables' own set, in how many generated sequences a rule has it,
by family and inverted, of those that `live.sh RUNNER 1 COUNT` puts through the kernel (2000 unless said).  Needs no
kernel.  Exit status 1 if one that the kernel has occurs in fewer than 20 of a family that it is for."""
import collections
import glob
import os
import re
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
from fuzz_diff import SERIES

EXTENSIONS = os.path.join(here, "../../crates/xt/src")
ENOUGH = 20
FAMILY = re.compile(r"families: \S*Only\(\S*V([46])\)")
# no kernel here has them, or what they do is no packet's affair
ELSEWHERE = {"ipvs": "not in the kernels tried", "CLUSTERIP": "not in the kernels tried", "ULOG": "not in the kernels tried", "LED": "not in the kernels tried", "SECMARK": "needs a security module"}
# written without -m
PROTOCOLS = {"tcp": "-p tcp", "udp": "-p udp", "icmp": "-p icmp", "icmp6": "-p icmpv6"}


# what part of the cases live.sh takes from each series
SHARES = {"mixed": 1, "matches": 1, "targets": 2, "synproxy": 10, "sets": 10}


def names(kind):
    """as `name: "..."` in the extensions' files, with the families that each is for"""
    out = collections.defaultdict(set)
    for path in glob.glob(os.path.join(EXTENSIONS, kind, "*.rs")):
        with open(path) as f:
            text = f.read()
        everywhere = set(FAMILY.findall(text))
        for body in re.findall(r"Extension = Extension \{\n(.*?)\n\};", text, re.S):
            for name in re.findall(r'^ +name: "(\w+)",', body, re.M):
                own = set(FAMILY.findall(body)) or (everywhere if len(everywhere) == 1 else set())
                out[name] |= {int(v) for v in own} or {4, 6}
    return sorted(out.items())


def cases(count):
    for series, share in SHARES.items():
        yield from (SERIES[series](i) for i in range(1, (count + share - 1) // share + 1))


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
        for name, families in names(kind):
            why = ELSEWHERE.get(name, "")
            if min(seen[fam][name] for fam in families) < ENOUGH and not why:
                few.append(name)
            print("%-8s %-12s ipv4 %4d  ipv6 %4d  inverted %4d  %s" % (kind[:-2] if kind == "matches" else "target", name, seen[4][name], seen[6][name], inverted[name], why))
    if few:
        print("in fewer than %d sequences of a family: %s" % (ENOUGH, " ".join(few)))
    sys.exit(1 if few else 0)


if __name__ == "__main__":
    main()
