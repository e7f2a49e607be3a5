#!/usr/bin/env python3
"""compare.py A.jsonl[.gz] B.jsonl[.gz]: do two result files say the same?

Both hold one result (see README.md) a line, for the same cases in the same order.  Prints
the differences and exits 1 if there are any.  Needs neither root nor the kernel."""
import argparse
import gzip
import itertools
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel"))
import canon


def read(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as f:
        for ln in f:
            yield json.loads(ln)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("a", help="usually the kernel's results")
    ap.add_argument("b")
    ap.add_argument("--fields", default=",".join(canon.FIELDS), help="what to compare: " + ",".join(canon.FIELDS))
    ap.add_argument("--show", type=int, default=10, metavar="N", help="print the first N differing cases (default 10)")
    ap.add_argument("--lines", type=int, default=4, metavar="N", help="and N differences of each (default 4)")
    ap.add_argument("--names", action="store_true", help="print only the names of all differing cases")
    ap.add_argument("--datapath", action="store_true", help="B are interfaces and sockets: see canon.py; cases that it cannot do are counted")
    a = ap.parse_args()
    unknown = set(a.fields.split(",")) - set(canon.FIELDS)
    if unknown:
        ap.error("unknown field: %s" % ", ".join(sorted(unknown)))
    tot = bad = left = 0
    for x, y in itertools.zip_longest(read(a.a), read(a.b)):
        tot += 1
        if x is None or y is None or x.get("name") != y.get("name"):
            sys.exit("line %d: not the same cases: %s | %s" % (tot, x and x.get("name"), y and y.get("name")))
        if a.datapath and canon.left_out(y):
            left += 1
            continue
        d = canon.compare(x, y, a.fields.split(","), datapath=a.datapath)
        if not d:
            continue
        bad += 1
        if a.names:
            print(x["name"])
        elif bad <= a.show:
            print("DIFF", x["name"])
            for e in d[:a.lines]:
                print("    ", json.dumps(e, ensure_ascii=False)[:400])
    print("cases=%d differing=%d" % (tot - left, bad) + (" left_out=%d" % left if left else ""))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
