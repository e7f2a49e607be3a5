#!/usr/bin/env python3
"""record.py FIRST COUNT DIR [SERIES]: the kernel's results for the numbered random cases

Writes DIR/cases-FIRST-LAST.jsonl.gz and DIR/kernel-FIRST-LAST.jsonl.gz, one JSON object a
line; of a series of its own, DIR/cases-SERIES.jsonl.gz and so on.  Every flattened case runs on the kernel twice, the second time in fresh namespaces;
a case whose two results differ is named, and the exit status is 1."""
import gzip
import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import canon
import fuzz_diff

# what differs from run to run, and says nothing about the packets
VOLATILE = ("elapsed_us", "fresh_ns")
CHUNK = 200


def write(path, objs):
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as f:
        for o in objs:
            f.write(json.dumps(o, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode() + b"\n")


def record(first, count, jobs, make):
    cases, results, unsteady = [], [], []
    again = [sys.executable, os.path.join(here, "nforacle.py"), "--ordered", "--fresh", "-j", str(jobs)]
    for s in range(first, first + count, CHUNK):
        flat, ra = fuzz_diff.kernel([make(i) for i in range(s, min(s + CHUNK, first + count))], jobs, twice=True)
        for c, x, y in zip(flat, ra, fuzz_diff.run(again, flat)):
            d = canon.compare(x, y, drawn=False)
            if d:
                unsteady.append(c["name"])
                print("NOT REPEATABLE", c["name"], json.dumps(d[0])[:300])
        cases += flat
        results += [{k: v for k, v in r.items() if k not in VOLATILE} for r in ra]
        print("%d cases" % len(cases), flush=True)
    return cases, results, unsteady


def main():
    first, count, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    series = sys.argv[4] if len(sys.argv) > 4 else None
    cases, results, unsteady = record(first, count, os.cpu_count() or 1, fuzz_diff.SERIES[series or "mixed"])
    span = "%s.jsonl.gz" % (series or "%d-%d" % (first, first + count - 1))
    os.makedirs(out, exist_ok=True)
    write(os.path.join(out, "cases-" + span), cases)
    write(os.path.join(out, "kernel-" + span), results)
    print("%d cases, %d packets, not repeatable: %s" % (len(cases), sum(len(c["packets"]) for c in cases), unsteady or "none"))
    sys.exit(1 if unsteady else 0)


if __name__ == "__main__":
    main()
