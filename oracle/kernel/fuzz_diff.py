#!/usr/bin/env python3
"""fuzz_diff.py FIRST COUNT [--series NAME] [--b 'COMMAND'] [-j N] [--fields verdict,counters,...]

Runs the numbered random cases on the kernel (iptables-legacy) and on a second
implementation, compares, and prints the first differences; exit status 1 if there are any.
The second one is any program that reads JSON cases, one a line, and writes JSON results,
one a line, in the same order (see ../README.md).  Without --b it is the same kernel
through iptables-nft, which checks the oracle; with --same, the same kernel again.
The cases the second one gets are flattened: finished packets only."""
import argparse
import collections
import json
import os
import shlex
import subprocess
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import canon
import gen
import genfast
import genh323
import genhelpers
import genmatches
import gensets
import gensip
import gensynproxy
import gentargets
import gentrackers

# where numbered cases come from: everything at once, trackers, helpers, matches or targets in turn, or one of them
SERIES = {"mixed": gen.seed_case, "trackers": gentrackers.tracker_case, "helpers": genhelpers.helper_case, "matches": genmatches.match_case,
          "targets": gentargets.target_case, "sets": gensets.set_case, "sip": gensip.sip_case, "synproxy": gensynproxy.synproxy_case,
          "h323": genh323.h323_case, "fast": genfast.fast_case}
for kind in gentrackers.KINDS:
    SERIES[kind] = lambda i, kind=kind: gentrackers.tracker_case(i, kind)
for kind in genhelpers.KINDS:
    SERIES[kind] = lambda i, kind=kind: genhelpers.helper_case(i, kind)
for kind in genmatches.KINDS:
    SERIES["m-" + kind] = lambda i, kind=kind: genmatches.match_case(i, kind)
for kind in gensets.KINDS:
    SERIES["s-" + kind] = lambda i, kind=kind: gensets.set_case(i, kind)
for kind in gentargets.KINDS:
    SERIES["t-" + kind] = lambda i, kind=kind: gentargets.target_case(i, kind)


KERNEL = [sys.executable, os.path.join(here, "nforacle.py"), "--ordered"]


def lines(objs):
    return "".join(json.dumps(o) + "\n" for o in objs)


def run(cmd, cases):
    r = subprocess.run(cmd, input=lines(cases), stdout=subprocess.PIPE, text=True)
    return [json.loads(ln) for ln in r.stdout.splitlines()]


def kernel(cases, jobs, twice=False):
    """(flattened cases, the kernel's results for them); twice: it is asked for all of them
    again, and not only for those that end earlier when they are flattened"""
    cmd = KERNEL + ["-j", str(jobs)]
    flat, results = [], []
    for c, r in zip(cases, run(cmd, cases)):
        if not r["ok"]:
            print("left out %s, the oracle cannot run it: %s" % (c["name"], r.get("error")), file=sys.stderr)
        elif any("subst" in p for p in c["packets"]):
            # what copies from earlier answers cannot be flattened
            flat.append(c)
            results.append(r)
        else:
            flat.append(gen.flatten(c, r))
            results.append(gen.flattened(c, r))
    again = [i for i, r in enumerate(results) if r is None or twice]
    for i, r in zip(again, run(cmd, [flat[i] for i in again])):
        results[i] = r
    return flat, results


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("first", type=int)
    ap.add_argument("count", type=int)
    ap.add_argument("--series", default="mixed", choices=SERIES)
    ap.add_argument("--b", help="the implementation under test")
    ap.add_argument("-j", type=int, default=2)
    ap.add_argument("--chunk", type=int, default=200)
    ap.add_argument("--show", type=int, default=5)
    ap.add_argument("--fields", default=",".join(canon.FIELDS), help="what to compare: " + ",".join(canon.FIELDS))
    ap.add_argument("--same", action="store_true", help="second run = the kernel again, and nothing drawn may differ")
    ap.add_argument("--datapath", action="store_true", help="the second one are interfaces and sockets: see canon.py")
    a = ap.parse_args()
    fields = a.fields.split(",")
    b = shlex.split(a.b) if a.b else KERNEL + ["-j", str(a.j)]
    tot = bad = again = left = packets = 0
    verdicts = collections.Counter()
    t0 = time.time()
    for s in range(a.first, a.first + a.count, a.chunk):
        cases, ra = kernel([SERIES[a.series](i) for i in range(s, min(s + a.chunk, a.first + a.count))], a.j)
        rb = run(b, cases if a.b or a.same else [dict(c, backend="nft") for c in cases])
        if len(rb) != len(cases):
            sys.exit("%d results for %d cases" % (len(rb), len(cases)))
        for c, x, y in zip(cases, ra, rb):
            if a.datapath and canon.left_out(y):
                left += 1
                continue
            tot += 1
            packets += len(x.get("steps", []))
            verdicts.update(st.get("verdict", "op") for st in x.get("steps", []))
            d = canon.compare(x, y, fields, drawn=not a.same, datapath=a.datapath)
            if d and not a.same:  # the kernel's timeouts run on real time: a pause of the machine is no difference
                print("different, the kernel once more:", c["name"], json.dumps(d[0])[:200])
                again += 1
                d = canon.compare(run(KERNEL, [c])[0], y, fields, datapath=a.datapath)
            if d:
                bad += 1
                if bad <= a.show:
                    print("DIFF", c["name"])
                    for e in d[:4]:
                        print("    ", json.dumps(e)[:400])
    print("cases=%d packets=%d differing=%d asked_twice=%d left_out=%d seconds=%.0f verdicts=%s"
          % (tot, packets, bad, again, left, time.time() - t0, dict(verdicts)))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
