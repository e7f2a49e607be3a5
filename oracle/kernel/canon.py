#!/usr/bin/env python3
"""canonical form of an oracle result, and comparison of two results.

What is masked, and why:
  * IPv4 id (and header checksum) / IPv6 flow label of packets the router EMITS itself
    (REJECT, ICMP errors): the kernel draws them at random
  * the checksum of a TCP packet delivered to the router itself, copied by NFLOG or quoted
    in an ICMP error (a reset that REJECT sends and another REJECT stops), if it is half computed
  * the times that IPv4 timestamp options record (and the checksums over them)
  * conntrack id, use; timeouts compare with a tolerance (seconds pass; each warp may
    lose under one second); expectation timeouts likewise
  * NAT ports the kernel chose by itself (reply.dport differs from what was asked) are
    renamed in order of appearance, unless drawn=False
"""
import ipaddress
import json
import os
import re
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nforacle import csum, fix_csums
from topo import ROUTER


def mask_emit(h):
    b = bytearray.fromhex(h)
    if len(b) >= 20 and b[0] >> 4 == 4:
        b[4:6] = b"\0\0"
        b[10:12] = b"\0\0"
    elif len(b) >= 40 and b[0] >> 4 == 6:
        b[1] &= 0xF0
        b[2:4] = b"\0\0"
    return bytes(b).hex()


def own_error(h):
    """an ICMP error from this router, whose IPv4 id is drawn and whose IPv6 flow label is a secret hash: TEE copies them"""
    b = bytes.fromhex(h)
    if len(b) > 48 and b[0] >> 4 == 6:
        return b[6] == 58 and b[8:10] == b"\xfd\0" and b[12:24] == b"\0" * 11 + b"\1" and b[40] in (1, 2, 3, 4)
    return len(b) > 28 and b[0] >> 4 == 4 and b[9] == 1 and b[12:14] == b"\x0a\0" and b[15] == 1 and b[20] in (3, 11, 12)


def stamps(b, o):
    """blanks the times in the timestamp options of the IPv4 header at b[o]; was there one?"""
    at, end, found = o + 20, min(o + (b[o] & 15) * 4, len(b)), False
    while at + 1 < end and b[at]:
        n = 1 if b[at] == 1 else b[at + 1]
        if b[at] == 0x44 and n >= 4:
            found = True
            step, first = (4, 0) if b[at + 3] & 15 == 0 else (8, 4)
            for t in range(at + 4 + first, min(at + n, end) - 3, step):
                b[t:t + 4] = b"\0\0\0\0"
        at += max(n, 1)
    if found:
        b[o + 10:o + 12] = b"\0\0"
    return found


def mask_stamps(h):
    """what a router's clock said is in timestamp options, also of quoted packets"""
    b = bytearray.fromhex(h)
    if len(b) < 20 or b[0] >> 4 != 4:
        return h
    stamps(b, 0)
    o = (b[0] & 15) * 4
    if b[9] == 1 and len(b) >= o + 28 and b[o] in (3, 11, 12) and stamps(b, o + 8):
        b[o + 2:o + 4] = b"\0\0"
    return bytes(b).hex()


def mask_frag6(h):
    """IPv6 fragment ids of what the router re-fragments are drawn anew by the kernel"""
    b = bytearray.fromhex(h)
    if len(b) >= 48 and b[0] >> 4 == 6:
        nh, o = b[6], 40
        while nh in (0, 43, 60) and o + 8 <= len(b):
            nh, o = b[o], o + 8 + b[o + 1] * 8
        if nh == 44 and o + 8 <= len(b):
            b[o + 4:o + 8] = b"\0\0\0\0"
    return bytes(b).hex()


def choices(res):
    """NAT ports the kernel chose by itself: [[step, "asked -> given", event text]].  A port
    counts as chosen when a NEW connection's reply.dport is not orig.sport.  (A port the
    ruleset fixes, --to-source a:p, is in the list too: harmless, it is renamed alike.)"""
    out = []
    for s in res.get("steps", []):
        for e in s.get("events", []):
            if e["ev"] == "NEW":
                m = re.search(r"sport=(\d+) dport=(\d+) (?:\[UNREPLIED\] )?src=\S+ dst=\S+ sport=(\d+) dport=(\d+)", e["text"])
                if m and m[1] != m[4]:
                    out.append([s["i"], int(m[1]), int(m[4]), e["text"]])
                m = re.search(r"id=(\d+) .*id=(\d+)", e["text"])
                if m and m[1] != m[2]:
                    out.append([s["i"], "icmp", int(m[2]), e["text"]])
    return out


def rename_ports(h, mp, ids):
    """rewrite chosen ports / ICMP ids inside a packet to their symbolic numbers"""
    b = bytearray.fromhex(h)
    o = ((b[0] & 15) * 4, 40)[b[0] >> 4 == 6] if b else 0
    if len(b) >= o + 8 and (b[9] if b[0] >> 4 == 4 else b[6]) in (1, 58) and b[o] in (0, 8, 13, 14, 128, 129):
        v = struct.unpack_from("!H", b, o + 4)[0]
        if v in ids:
            struct.pack_into("!H", b, o + 4, ids[v])
            return fix_csums(bytes(b)).hex()
        return h
    o = None
    if len(b) >= 24 and b[0] >> 4 == 4 and not struct.unpack("!H", b[6:8])[0] & 0x1FFF:
        o, p = (b[0] & 15) * 4, b[9]
    elif len(b) >= 44 and b[0] >> 4 == 6:
        o, p = 40, b[6]
    if o is None:
        return h
    if p in (1, 58) and len(b) > o + 32 and b[o] in (3, 11, 12, 1, 2, 4):
        q = o + 8
        p2, o2 = (b[q + 9], q + (b[q] & 15) * 4) if b[q] >> 4 == 4 else (b[q + 6], q + 40)
        if p2 in (6, 17) and len(b) >= o2 + 4:
            hit = False
            for k in (o2, o2 + 2):
                v = struct.unpack_from("!H", b, k)[0]
                if v in mp:
                    struct.pack_into("!H", b, k, mp[v])
                    hit = True
            if hit:
                for k, w in ((o + 2, 2), (o2 + (16 if p2 == 6 else 6), 2)):
                    if len(b) >= k + w:
                        b[k:k + w] = b"\0\0"
        return bytes(b).hex()
    if p not in (6, 17) or len(b) < o + 8:
        return h
    hit = False
    for k in (o, o + 2):
        v = struct.unpack_from("!H", b, k)[0]
        if v in mp:
            struct.pack_into("!H", b, k, mp[v])
            hit = True
    return fix_csums(bytes(b)).hex() if hit else h


def mask_quoted(b, at, csum_at):
    """masks a half computed TCP checksum in the packet quoted at b[at], and the ICMP checksum over it"""
    quoted = mask_partial(bytes(b[at:]).hex())
    if quoted != bytes(b[at:]).hex():
        b[at:] = bytes.fromhex(quoted)
        b[csum_at:csum_at + 2] = b"\0\0"


def mask_inner(res):
    """a copy in which the IPv4 id inside quoted packets (ICMP errors) is masked, and their checksum
    if it is half computed: the quoted packet may be one the router itself made, with a random id"""
    res = json.loads(json.dumps(res))
    for s in res.get("steps", []):
        for k in ("out", "local"):
            for x in s.get(k, []):
                b = bytearray.fromhex(x["hex"])
                if len(b) >= 20 and b[0] >> 4 == 4 and b[9] == 1:
                    o = (b[0] & 15) * 4
                    if len(b) >= o + 28 and b[o] in (3, 4, 5, 11, 12):
                        b[o + 2:o + 4] = b"\0\0"
                        b[o + 12:o + 14] = b"\0\0"
                        b[o + 18:o + 20] = b"\0\0"
                        mask_quoted(b, o + 8, o + 2)
                        x["hex"] = bytes(b).hex()
                if len(b) >= 88 and b[0] >> 4 == 6 and b[6] == 58 and b[40] in (1, 2, 3, 4):
                    mask_quoted(b, 48, 42)
                    x["hex"] = bytes(b).hex()
    return res


def mask_choices(res):
    """a copy of the result in which chosen NAT ports are numbered in order of appearance"""
    ch = choices(res)
    if not ch:
        return res
    mp, ids = {}, {}
    for _, what, p, _ in ch:
        x = ids if what == "icmp" else mp
        x.setdefault(p, 0xFE00 + len(x))
    t = json.dumps(res)
    # tuples in conntrack / expectations / events
    for p, q in mp.items():
        t = re.sub(r'("[sd]port": )%d\b' % p, r"\g<1>%d" % q, t)
        t = re.sub(r"([sd]port=)%d\b" % p, r"\g<1>%d" % q, t)
    for p, q in ids.items():
        t = re.sub(r'("id": )%d\b' % p, r"\g<1>%d" % q, t)
        t = re.sub(r"(\bid=)%d\b" % p, r"\g<1>%d" % q, t)
    res = json.loads(t)
    for s in res.get("steps", []):
        for k in ("out", "local"):
            for x in s.get(k, []):
                x["hex"] = rename_ports(x["hex"], mp, ids)
    return res


def tcp_at(b):
    """where a plain packet's TCP header begins"""
    if len(b) >= 40 and b[0] == 0x45 and b[9] == 6:
        return 20
    return 40 if len(b) >= 60 and b[0] >> 4 == 6 and b[6] == 6 else None


def tcp_options(b, o):
    """(kind, offset of its data, length of its data)"""
    at, end = o + 20, o + (b[o + 12] >> 4) * 4
    while at < end and b[at]:
        n = 1 if b[at] == 1 else b[at + 1] if at + 1 < end else 0
        if n > 1:
            yield b[at], at + 2, n - 2
        at += max(n, 1)


def cookies(res):
    """what a SYN proxy drew: by port of the client its sequence numbers and time stamps"""
    drawn = {}
    for s in res.get("steps", []):
        for x in s.get("out", []):
            b = bytes.fromhex(x["hex"])
            o = tcp_at(b)
            if o and x["role"] == "emit" and b[o + 13] & 0x3f == 0x12:
                isn, stamps = drawn.setdefault(struct.unpack_from("!H", b, o + 2)[0], ([], []))
                isn.append(struct.unpack_from("!I", b, o + 4)[0])
                stamps += [struct.unpack_from("!I", b, at)[0] & ~63 for kind, at, n in tcp_options(b, o) if kind == 8 and n == 8]
    return drawn


def align_packet(ha, hb, da, db):
    """hb with what differs from ha by nothing but what was drawn written as in ha"""
    a, b = bytes.fromhex(ha), bytearray.fromhex(hb)
    o = tcp_at(a)
    if ha == hb or not o or len(a) != len(b) or tcp_at(b) != o or a[o + 12] != b[o + 12]:
        return hb
    port = next((p for p in struct.unpack_from("!HH", a, o) if p in da and p in db), None)
    if port is None:
        return hb
    places, clocks = [o + 4, o + 8], []
    for kind, at, n in tcp_options(a, o):
        if kind == 5:
            places += range(at, at + n - 3, 4)
        if kind == 8 and n == 8:
            clocks += [at, at + 4]
    for at in places:
        align_number(a, b, at, zip(da[port][0], db[port][0]))
    for at in clocks:  # by the clock: only the lower bits tell something
        x, y = struct.unpack_from("!I", a, at)[0], struct.unpack_from("!I", b, at)[0]
        # the echo in the proxy's own first ACK is adjusted like any other, hence the other sign
        if any((d - w) % 64 == 0 and (d - w + 2**12) % 2**32 < 2**13 for t, u in zip(da[port][1], db[port][1]) for d, w in ((x - y, t - u), (x - y, u - t))):
            struct.pack_into("!I", b, at, x)
    return fix_csums(bytes(b)).hex()


def align_number(a, b, at, pairs):
    x, y = struct.unpack_from("!I", a, at)[0], struct.unpack_from("!I", b, at)[0]
    if any((x - t) % 2**32 == (y - u) % 2**32 for t, u in pairs):
        struct.pack_into("!I", b, at, x)


def align_cookies(ra, rb):
    """a copy of rb in which numbers that a SYN proxy drew, or that are as far from one as
    they are in ra, are those of ra"""
    da, db = cookies(ra), cookies(rb)
    if not da or not db:
        return rb
    rb = json.loads(json.dumps(rb))
    for s, t in zip(ra.get("steps", []), rb.get("steps", [])):
        for k in ("out", "local"):
            for x, y in zip(s.get(k, []), t.get(k, [])):
                y["hex"] = align_packet(x["hex"], y["hex"], da, db)
    by = {sort_key([e.get("orig"), e.get("state")]): e for e in ra.get("conntrack", [])}
    for e in rb.get("conntrack", []):
        port, other = e.get("orig", {}).get("sport"), by.get(sort_key([e.get("orig"), e.get("state")]), {})
        x, y = other.get("seqadj", {}).get("reply"), e.get("seqadj", {}).get("reply")
        if x and y and port in da and port in db:
            for t, u in zip(da[port][0], db[port][0]):
                for k in ("before", "after"):
                    if (x[k] - t) % 2**32 == (y[k] - u) % 2**32:
                        y[k] = x[k]
    return rb


def mask_partial(h):
    """a TCP packet that the router changed or made and delivers to itself never meets a
    link, so the kernel leaves its checksum half computed: valid and half computed count
    as the same"""
    b = bytearray.fromhex(h)
    if b[:1] == b"\x45" and b[9:10] == b"\x06":
        at, ph = 20, bytes(b[12:20]) + struct.pack("!HH", 6, len(b) - 20)
    elif b[:1] == b"\x60" and b[6:7] == b"\x06":
        at, ph = 40, bytes(b[8:40]) + struct.pack("!II", len(b) - 40, 6)
    else:
        return h
    if len(b) >= at + 20:
        half = csum(ph) ^ 0xFFFF
        if struct.unpack_from("!H", b, at + 16)[0] == half or csum(ph + bytes(b[at:])) == 0:
            b[at + 16:at + 18] = b"\0\0"
    return bytes(b).hex()


def canon_ct(e):
    return {k: v for k, v in e.items() if k not in ("id", "use", "timeout")}


def sort_key(x):
    return json.dumps(x, sort_keys=True)


def canon_step(s, fields):
    o = {k: s[k] for k in ("i", "in", "op", "rc") if k in s}
    o.update({k: s[k] for k in ("verdict", "errno") if k in s and k in fields})
    if s.get("out") and "out" in fields:
        o["out"] = [[x["dev"], x["role"], mask_stamps(mask_frag6(x["hex"]) if x["role"] in ("fwd", "self") and not own_error(x["hex"]) else mask_emit(x["hex"]))]
                    for x in s["out"]]
    if s.get("local") and "local" in fields:
        o["local"] = [[x["dev"], mask_stamps(mask_partial(mask_emit(x["hex"]) if x["dev"] == "lo" or s.get("in") == "local" else x["hex"])), x.get("mark", 0)] for x in s["local"]]
    if s.get("events") and "events" in fields:
        o["events"] = sorted([e["ev"], e.get("text") or sort_key([e.get("tuple"), e.get("mask")])] for e in s["events"])
    if s.get("log") and "log" in fields:
        # messages of some helpers end with a newline of their own
        o["log"] = [[(x.get("prefix") or "").replace("\n", "")] + [x.get(k) for k in ("hook", "in", "out")] +
                    ([x["group"], x["mark"], mask_partial(x["hex"])] if "hex" in x else []) for x in s["log"]]
    return o


FIELDS = ("verdict", "errno", "out", "local", "events", "log", "counters", "conntrack", "expect", "timeouts")


def canon(res, fields=FIELDS):
    if not res.get("ok"):
        return {"ok": False, "error": res.get("error")}
    o = {"ok": True, "steps": [canon_step(s, fields) for s in res["steps"]]}
    if "counters" in fields:
        o["counters"] = res.get("counters")
    if "conntrack" in fields:
        o["conntrack"] = sorted((canon_ct(e) for e in res.get("conntrack", [])), key=sort_key)
    if "expect" in fields:
        # in no order: the kernel lists them by hash
        o["expect"] = sorted(({k: v for k, v in e.items() if k != "timeout"} for e in res.get("expect", [])), key=sort_key)
    return o


def diff(a, b, path="", out=None, limit=40):
    """list of [path, left, right]"""
    if out is None:
        out = []
    if len(out) >= limit:
        return out
    if isinstance(a, dict) and isinstance(b, dict):
        for k in sorted(set(a) | set(b), key=str):
            if k not in a or k not in b:
                out.append([path + "/" + str(k), a.get(k), b.get(k)])
            else:
                diff(a[k], b[k], path + "/" + str(k), out, limit)
    elif isinstance(a, list) and isinstance(b, list):
        for i in range(max(len(a), len(b))):
            if i >= len(a) or i >= len(b):
                out.append(["%s[%d]" % (path, i), a[i] if i < len(a) else None, b[i] if i < len(b) else None])
            else:
                diff(a[i], b[i], "%s[%d]" % (path, i), out, limit)
    elif a != b:
        out.append([path, a, b])
    return out


def timeouts(res):
    return sorted([sort_key(e.get("orig")), e.get("timeout")] for e in res.get("conntrack", []))


def timeout_diff(ra, rb):
    """seconds pass while a case runs, and every warp may lose just under one"""
    tol = 3 + sum("warp" in s for s in ra["steps"])
    return [["timeout " + ka, ta, tb] for (ka, ta), (_, tb) in zip(timeouts(ra), timeouts(rb))
            if ta is not None and tb is not None and abs(ta - tb) > tol]


def forgive_errno(ra, rb):
    """a copy of rb, which a datapath in front of the sockets has done: a sender of whom the
    kernel says why its packet went no further may see silence there, or EPERM"""
    rb = json.loads(json.dumps(rb))
    for s, t in zip(ra.get("steps", []), rb.get("steps", [])):
        if "errno" in s and t.get("errno", "EPERM") == "EPERM":
            t["errno"] = s["errno"]
    return rb


def astray(h):
    """whether a packet is for none of the router's own addresses"""
    b = bytes.fromhex(h)
    to = ipaddress.ip_address(b[24:40] if b[0] >> 4 == 6 else b[16:20])
    return not to.is_loopback and str(to) not in [a for own in ROUTER.values() for a in own.values()]


def forgive_astray(ra, rb):
    """a copy of rb, as above: looped packets that rules (NPT) have given an address of another host
    reach the kernel's sockets, and go nowhere with a datapath in front of them"""
    rb = json.loads(json.dumps(rb))
    for s, t in zip(ra.get("steps", []), rb.get("steps", [])):
        got = s.get("local", [])
        if s.get("in") == "local" and got and not t.get("local") and all(x["dev"] == "lo" and astray(x["hex"]) for x in got):
            t["local"], t["verdict"] = got, s["verdict"]
    return rb


def left_out(res):
    """why a runner cannot do the case, or None"""
    return res["error"] if str(res.get("error")).startswith("skipped: ") else None


def compare(ra, rb, fields=FIELDS, drawn=True, datapath=False):
    """list of [path, left, right]; drawn=False: NAT ports that the kernel drew must be equal
    too; datapath: rb is what came out of interfaces and sockets"""
    def d(x, y):
        return diff(canon(x, fields), canon(y, fields))
    if not rb.get("ok"):
        return [["error", ra.get("error"), rb.get("error")]] if ra.get("ok") else []
    if datapath:
        rb = forgive_astray(ra, forgive_errno(ra, rb))
    if ra.get("ok") and rb.get("ok"):
        rb = align_cookies(ra, rb)
    out = d(ra, rb)
    if not (ra.get("ok") and rb.get("ok")):
        return out
    if out and drawn and (choices(ra) or choices(rb)):
        ra, rb = mask_choices(ra), mask_choices(rb)
        out = d(ra, rb)
    if out:
        ra, rb = mask_inner(ra), mask_inner(rb)
        out = d(ra, rb)
    if not out and "timeouts" in fields:
        out = timeout_diff(ra, rb)
    return out
