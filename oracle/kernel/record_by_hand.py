#!/usr/bin/env python3
"""record_by_hand.py DIR NAME...: the kernel's results for the cases in ../NAME

Writes DIR/cases-NAME.jsonl.gz and DIR/kernel-NAME.jsonl.gz, one JSON object a line,
cases in the order of their file names.  Every case runs twice, the second time in fresh
namespaces; a case whose two results differ is named, and the exit status is 1."""
import glob
import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import canon
import fuzz_diff
from record import VOLATILE, write


def record(out, name):
    cases = []
    for path in sorted(glob.glob(os.path.join(here, "..", name, "*.json"))):
        with open(path, encoding="utf-8") as f:
            cases.append(json.load(f))
    kernel = [sys.executable, os.path.join(here, "nforacle.py"), "--ordered", "-j", "2"]
    once, again = fuzz_diff.run(kernel, cases), fuzz_diff.run(kernel + ["--fresh"], cases)
    unsteady = [c["name"] for c, x, y in zip(cases, once, again) if not x.get("ok") or canon.compare(x, y)]
    write(os.path.join(out, "cases-%s.jsonl.gz" % name), cases)
    write(os.path.join(out, "kernel-%s.jsonl.gz" % name),
          [{k: v for k, v in r.items() if k not in VOLATILE} for r in once])
    print("%s: cases=%d" % (name, len(cases)), *("NOT REPEATABLE " + n for n in unsteady))
    return unsteady


def main():
    unsteady = [record(sys.argv[1], name) for name in sys.argv[2:]]
    sys.exit(1 if any(unsteady) else 0)


if __name__ == "__main__":
    main()
