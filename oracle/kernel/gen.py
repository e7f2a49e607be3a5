#!/usr/bin/env python3
"""random cases: random rulesets x random packet sequences.  gen.py SEED [N] > cases.jsonl

Everything follows from the seed; what the kernel decides at random is avoided (see
genpackets.py).  A case from here still asks for "the answer to what came out": run it on
the kernel once and flatten() it, and it holds nothing but finished packets."""
import json
import os
import random
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import canon
from genpackets import Packets
from genrules import Rules
from topo import DEFAULT_ROUTE, IFS, POLICY_ROUTING

TRACKING = re.compile(r"conntrack|-m state|connmark|CONNMARK|-j CT|NOTRACK")


class G(Rules, Packets):
    def __init__(self, seed, fam=4):
        self.r = random.Random(seed)
        self.fam = fam
        self.ftp = self.r.random() < .12
        self.default_route = self.r.random() < .3
        self.packets_init()

    def case(self, name, n=None):
        r = self.r
        c = {"name": name, "interfaces": IFS}
        if self.default_route:
            c["routes"] = [DEFAULT_ROUTE[self.fam]]
        if self.fam == 4 and not self.default_route and r.random() < .08:
            c["ip"] = POLICY_ROUTING
        rules = self.ruleset()
        if not self.ftp and r.random() < .1:
            c["conntrack"] = "auto"
            if r.random() < .7:
                rules = untracked(rules)
        c["rules%d" % self.fam] = rules
        c["packets"] = self.packets(n or r.randint(12, 45))
        return c


def untracked(rules):
    """the ruleset without its nat table and without every rule that needs tracking"""
    rules = re.sub(r"\*nat\n.*?COMMIT\n", "", rules, flags=re.S)
    return "".join(ln + "\n" for ln in rules.splitlines() if not TRACKING.search(ln))


def seed_case(i):
    """case number i of the numbered series: every fourth is IPv6"""
    return G(i, 6 if i % 4 == 3 else 4).case("seed%d" % i)


def drawn(case, res):
    """the first step in which the kernel invented a NAT port or ICMP id, or None"""
    rules = case.get("rules4", "") + case.get("rules6", "")
    for i, asked, given, _ in canon.choices(res):
        if asked == "icmp" or not re.search(r"(:|--to-ports )%d\b" % given, rules):
            return i
    return None


def flatten(case, res):
    """the case with every packet as the bytes that were really sent; ends before the first
    packet for which the kernel drew something at random"""
    end = drawn(case, res)
    flat = []
    for spec, step in list(zip(case["packets"], res["steps"]))[:end]:
        if "op" in spec:
            flat.append(spec)
        elif step["verdict"] != "skipped":
            sent = step.get("sent") or spec["hex"]
            flat.append({"t": spec["t"], "in": step["in"], "hex": sent, "as": spec["as"]} if spec.get("as") else [spec["t"], step["in"], sent])
    return dict(case, packets=flat)


def flattened(case, res):
    """what the kernel answered to the case's packets as they are when it is flattened; None if
    it has to be asked again, because the flattened case ends earlier"""
    if drawn(case, res) is not None:
        return None
    steps = [step for step in res["steps"] if step.get("verdict") != "skipped"]
    return dict(res, steps=[dict(step, i=i) for i, step in enumerate(steps)])


if __name__ == "__main__":
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for i in range(first, first + count):
        print(json.dumps(seed_case(i)))
