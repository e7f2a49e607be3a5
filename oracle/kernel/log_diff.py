#!/usr/bin/env python3
"""log_diff.py FIRST COUNT --b RUNNER: do LOG lines read as the kernel's?

Runs the recorded cases that have a LOG rule through this machine's kernel and through
RUNNER, and compares the text of every line. It switches net.netfilter.nf_log_all_netns on
while it runs (LOG is silent in a namespace otherwise) and reads /dev/kmsg, so nothing else
on the machine should log meanwhile; therefore it is no part of the test run."""
import argparse
import gzip
import json
import os
import re
import shlex
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
from fuzz_diff import run


def lines(step):
    """the lines, without what the kernel draws for the packets it makes itself"""
    drawn = r"FLOWLBL=\d+|ID=\d+(?= PROTO=ICMP TYPE=(?:3|11) )"
    return [re.sub(drawn, "", ln.rstrip()) for ln in step.get("log_lines", [])]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("first", type=int)
    ap.add_argument("count", type=int)
    ap.add_argument("--b", required=True, help="the implementation under test")
    a = ap.parse_args()
    path = os.path.join(here, "..", "recorded", "cases-1-2000.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as f:
        cases = [json.loads(ln) for ln in f][a.first - 1:a.first - 1 + a.count]
    cases = [c for c in cases if "-j LOG" in c.get("rules4", "") + c.get("rules6", "")]
    kernel = run([sys.executable, os.path.join(here, "nforacle.py"), "--ordered", "-j", "1", "--kmsg"], cases)
    total = bad = 0
    for c, x, y in zip(cases, kernel, run(shlex.split(a.b), cases)):
        for p, q in zip(x["steps"], y["steps"]):
            total += len(lines(p))
            if lines(p) != lines(q):
                bad += 1
                print("DIFF %s step %d\n  kernel %s\n  tested %s" % (c["name"], p["i"], lines(p), lines(q)))
    print("cases=%d lines=%d differing=%d" % (len(cases), total, bad))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
