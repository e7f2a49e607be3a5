#!/usr/bin/env python3
"""selftest.py          run every example, twice, and compare with expected/
   selftest.py --write  write expected/ anew"""
import glob
import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import canon
import nforacle


def counter_faults(res):
    """the fast counter reader must agree with iptables-save -c"""
    out = []
    for fam in ("4", "6"):
        if not res.get("ok") or not res.get("save" + fam):
            continue
        saved = nforacle.parse_save(res["save" + fam])
        for t, chains in res["counters"][fam].items():
            for n, v in chains.items():
                w = saved[t][n]
                if w["rules"] != v["rules"] or (v["pc"] and w["pc"] != v["pc"]):
                    out.append(["counters of %s %s" % (t, n), v, w])
    return out


def check(eng, case, wanted, res):
    return canon.compare(wanted, res) + canon.compare(res, eng.run_case(case)) + counter_faults(res)


def main():
    eng, bad = nforacle.Engine(), 0
    for p in sorted(glob.glob(os.path.join(here, "cases", "*.json"))):
        name = os.path.basename(p)
        expected = os.path.join(here, "expected", name)
        with open(p) as f:
            case = json.load(f)
        res = eng.run_case(case)
        if "--write" in sys.argv:
            with open(expected, "w") as f:
                json.dump(res, f, indent=1)
            continue
        with open(expected) as f:
            wanted = json.load(f)
        faults = check(eng, case, wanted, res)
        if faults:  # timeouts run on real time: a machine that paused may have missed one
            print("%-32s different, once more" % name)
            faults = check(eng, case, wanted, eng.run_case(case))
        print("%-32s %s" % (name, "DIFFERENT" if faults else "ok"))
        for x in faults[:6]:
            print("    ", json.dumps(x)[:300])
        bad += bool(faults)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
