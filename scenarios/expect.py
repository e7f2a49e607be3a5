#!/usr/bin/env python3
"""expect.py [NAME...]           write expected/NAME.json: what this kernel makes of each pair
   expect.py --check [NAME...]   compare with what is there; exit status 1 if anything differs
   expect.py --case NAME         print the pair as a case for the oracle (no root needed)

A pair (pairs.toml) is a capture and a ruleset. The packets of the capture pass the kernel once
more, this time with the ruleset (oracle/kernel/nforacle.py). Which packets enter, and where,
is explained in README.md."""
import collections
import ipaddress
import json
import os
import sys
import tomllib

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
sys.path.insert(0, os.path.join(here, "..", "oracle", "kernel"))
import canon
import capture
import nforacle

RECENT = 64     # how many incoming packets back the original of a forwarded copy may be


def load(kind, name):
    with open(os.path.join(here, kind, name), "rb") as f:
        return tomllib.load(f) if name.endswith(".toml") else f.read().decode()


def pairs():
    with open(os.path.join(here, "pairs.toml"), "rb") as f:
        return tomllib.load(f)["pair"]


class Host:
    def __init__(self, d):
        self.forward = d.get("host", {}).get("forward", False)
        self.conntrack = d.get("host", {}).get("conntrack", "auto")
        self.interfaces = d["interface"]
        self.routes, self.policy, self.sysctl = d.get("route", []), d.get("rule", []), d.get("sysctl", {})
        self.by_index = {i["index"]: i["name"] for i in self.interfaces if "index" in i}
        self.by_index.setdefault(1, "lo")
        self.mac = {i["name"]: i["mac"].lower() for i in self.interfaces if "mac" in i}
        self.own = {ipaddress.ip_interface(a).ip for i in self.interfaces for a in i["addresses"]}

    def owns(self, a):
        return a in self.own or a.is_loopback

    def case(self):
        """the host as a case of the oracle knows it"""
        sysctls = {k: str(v) for k, v in self.sysctl.items()}
        if not self.forward:
            sysctls.update({"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0"})
        return {"interfaces": [{"name": i["name"], "addrs": i["addresses"], "mtu": i.get("mtu", 1500)} for i in self.interfaces],
                "routes": [self.route(r) for r in self.routes],
                "ip": ["rule add fwmark %d table %d priority %d" % (r["fwmark"], r["table"], r["priority"]) for r in self.policy],
                "sysctls": sysctls, "conntrack": self.conntrack}

    @staticmethod
    def route(r):
        return " ".join([r["to"]] + ["%s %s" % (k, r[k]) for k in ("via", "dev", "table", "src") if k in r])


def addresses(ip):
    a, b = (ip[12:16], ip[16:20]) if ip[0] >> 4 == 4 else (ip[8:24], ip[24:40])
    return ipaddress.ip_address(a), ipaddress.ip_address(b)


def likeness(ip):
    """what forwarding and translation leave alone: (protocol, id or flow label, TCP flags), TTL"""
    if ip[0] >> 4 == 4:
        proto, mark, ttl, o = ip[9], ip[4:6], ip[8], (ip[0] & 15) * 4
    else:
        proto, mark, ttl, o = ip[6], ip[1:4], ip[7], 40
    return (proto, bytes(mark), ip[o + 13] if proto == 6 and len(ip) > o + 13 else None), ttl


class Direct:
    """decides for each packet of a capture where, if at all, it enters the guarded host"""

    def __init__(self, host, interface):
        self.host = host
        self.default = interface or host.interfaces[0]["name"]
        self.recent = collections.deque(maxlen=RECENT)

    def device(self, p):
        if p.dev is None:
            return self.default
        return self.host.by_index[p.dev] if isinstance(p.dev, int) else p.dev

    def direction(self, p, dev):
        own = self.host.mac.get(dev)
        if p.direction:
            return p.direction
        if p.src_mac and own:
            if p.src_mac == own:
                return "out"
            return "in" if p.dst_mac == own or int(p.dst_mac[:2], 16) & 1 else "other"
        return "out" if self.host.owns(addresses(p.ip)[0]) else "in"

    def where(self, p):
        """an interface, "local", or why the packet does not enter: "copy", "other" """
        dev = self.device(p)
        if dev == "lo":
            return "local"      # a capture shows each packet on lo once
        d = self.direction(p, dev)
        if d == "other":
            return "other"
        if d == "in":
            self.recent.append((likeness(p.ip), dev))
            return dev
        if not self.host.owns(addresses(p.ip)[0]):
            return "copy"
        return "copy" if self.host.forward and self.forwarded(p, dev) else "local"

    def forwarded(self, p, dev):
        """is this the copy of a packet that came in a moment ago elsewhere? (It has one of the
        host's own addresses if it was translated.)"""
        key, ttl = likeness(p.ip)
        for x in self.recent:
            if x == ((key, ttl + 1), x[1]) and x[1] != dev:
                self.recent.remove(x)
                return True
        return False


def build(pair):
    """-> (case for the oracle, packet numbers, {why: numbers of packets that do not enter}, copies)"""
    host = Host(load("hosts", pair["host"]))
    case = dict(host.case(), name=pair["name"], local="sink", clock="warp", options={"events": False}, packets=[])
    for k in ("rules4", "rules6"):
        if k in pair:
            case[k] = load("rules", pair[k])
    direct, numbers, left_out, copies, t0 = Direct(host, pair.get("interface")), [], {}, collections.Counter(), None
    for f in capture.read(os.path.join(here, "captures", pair["capture"])):
        t0 = f.t if t0 is None else t0
        p = capture.ip_packet(f)
        where = "not ip" if p is None else direct.where(p)
        if where in ("not ip", "other", "copy"):
            left_out.setdefault(where, []).append(f.n)
            if where == "copy":
                copies[p.ip.hex()] += 1
            continue
        numbers.append(f.n)
        case["packets"].append([round(f.t - t0, 6), where, p.ip.hex()])
    return case, numbers, left_out, copies


def streams(case):
    """UDP flows with traffic after two seconds: the kernel's stream clock cannot be warped"""
    first, late = {}, set()
    for t, _, h in case["packets"]:
        p = bytes.fromhex(h)
        o = (p[0] & 15) * 4 if p[0] >> 4 == 4 else 40
        if (p[9] if p[0] >> 4 == 4 else p[6]) == 17:
            key = frozenset(zip(addresses(p), (p[o:o + 2], p[o + 2:o + 4])))
            if t - first.setdefault(key, t) >= 2:
                late.add(key)
    return len(late)


def truth(engine, pair):
    case, numbers, left_out, copies = build(pair)
    res = engine.run_case(case)
    if not res["ok"]:
        sys.exit("%s: %s" % (pair["name"], res["error"]))
    if streams(case):
        print("%s: %d UDP flows last over 2 s: their ASSURED bit is not comparable" % (pair["name"], streams(case)))
    sent = collections.Counter(o["hex"] for s in res["steps"] for o in s.get("out", []) if o["role"] == "fwd")
    if copies and sent != copies:
        print("%s: %d forwarded packets are not as captured" % (pair["name"], sum(((copies - sent) + (sent - copies)).values())))
    c = canon.canon(res, ("counters", "conntrack", "expect"))
    return {"name": pair["name"], "kernel": res["kernel"], "left_out": left_out,
            "packets": [[n, p[1], s["verdict"]] for n, p, s in zip(numbers, case["packets"], res["steps"])],
            "counters": c["counters"], "conntrack": c["conntrack"], "expect": c["expect"],
            "timeouts": [e.get("timeout") for e in sorted(res["conntrack"], key=lambda e: canon.sort_key(canon.canon_ct(e)))]}


def dump(v, depth=0):
    """JSON with one chain, packet or connection a line"""
    flat = json.dumps(v, ensure_ascii=False)
    if len(flat) < 100 or depth > 3 or not isinstance(v, (dict, list)) or depth and isinstance(v, list) and not isinstance(v[0], (dict, list)):
        return flat
    pad = " " * (depth + 1)
    if isinstance(v, dict):
        if "orig" in v or "policy" in v:
            return flat
        body = ["%s%s: %s" % (pad, json.dumps(k), dump(x, depth + 1)) for k, x in v.items()]
        return "{\n%s\n%s}" % (",\n".join(body), " " * depth)
    return "[\n%s\n%s]" % (",\n".join(pad + dump(x, depth + 1) for x in v), " " * depth)


def differences(old, new):
    keys = ("packets", "left_out", "counters", "conntrack", "expect")
    d = canon.diff({k: old.get(k) for k in keys}, {k: new.get(k) for k in keys})
    if not d:
        d = [["timeout", a, b] for a, b in zip(old["timeouts"], new["timeouts"]) if a is not None and abs(a - b) > 5]
    return d


def main():
    args = sys.argv[1:]
    check = "--check" in args
    wanted = [a for a in args if not a.startswith("--")]
    chosen = [p for p in pairs() if not wanted or p["name"] in wanted]
    if "--case" in args:
        for p in chosen:
            print(json.dumps(build(p)[0]))
        return
    engine, bad = nforacle.Engine(), 0
    for p in chosen:
        t = truth(engine, p)
        path = os.path.join(here, "expected", p["name"] + ".json")
        if check:
            with open(path, encoding="utf-8") as f:
                d = differences(json.load(f), t)
            print("%-22s %s" % (p["name"], "DIFFERENT" if d else "ok"))
            for x in d[:6]:
                print("    ", json.dumps(x, ensure_ascii=False)[:300])
            bad += bool(d)
            continue
        with open(path, "w", encoding="utf-8") as f:
            f.write(dump(t) + "\n")
        v = collections.Counter(x[2] for x in t["packets"])
        print("%-22s %5d packets %s" % (p["name"], len(t["packets"]), dict(v)))
    engine.close()
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
