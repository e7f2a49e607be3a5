#!/usr/bin/env python3
"""nforacle - the Linux kernel's netfilter as a packet-in / packet-out oracle.

Takes JSON cases {ruleset in iptables-save format, interfaces/addresses/routes of
the router, list of packets [time, in-interface | "local", hex bytes]} and returns
JSON: for every packet what came out (interface, bytes, forwarded / emitted by the
router itself / delivered locally / dropped), the per-rule counters, the conntrack
table and the expectations.

How it works (why it needs no sleeps and no timeouts):
  * every worker is an anonymous network namespace (unshare) that vanishes with the
    process, with a private mount namespace (own /run, so own /run/xtables.lock);
  * interfaces are TUN devices.  write(2) on a TUN fd runs the whole receive path
    (PREROUTING .. POSTROUTING .. transmit) before it returns, so when write()
    returns, what has come out can be read from the TUN fds: "nothing to read" IS
    the verdict "dropped";
  * local delivery is seen by an NFLOG rule at priority INT_MAX of the INPUT hook,
    in a table of its own (nft "oracle"), which then drops the packet ("sink"), so
    that the machine's own sockets cannot answer; local sending is a raw socket
    (IP_HDRINCL), so a case scripts both sides of a local connection;
  * conntrack, expectations and events are read over ctnetlink; counters with one
    getsockopt (legacy backend) or iptables-save -c (either backend);
  * long times are "warped": every conntrack / expectation timeout is lowered over
    ctnetlink by the wanted number of seconds (entries that reach 0 are deleted).

Standard library only.  Needs root, /dev/net/tun, ip, nft, iptables-{legacy,nft}-*.
"""
import argparse
import contextlib
import ctypes
import errno
import fcntl
import functools
import ipaddress
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

VERSION = 1
TOOLS = {"ip": "iproute2", "nft": "nftables", "iptables-legacy-restore": "iptables", "mount": "mount"}

# --------------------------------------------------------------------------- libc
_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
TUNSETIFF, IFF_TUN, IFF_TAP = 0x400454CA, 1, 2
IFF_NO_PI = 0x1000
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1


def _chk(rc, what):
    if rc != 0:
        e = ctypes.get_errno()
        raise OSError(e, "%s: %s" % (what, os.strerror(e)))


# ------------------------------------------------------------------------ netlink
NLM_REQUEST, NLM_ACK, NLM_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
SUB_CT, SUB_EXP, SUB_ULOG = 1, 2, 4


def nla(t, data):
    ln = 4 + len(data)
    return struct.pack("=HH", ln, t) + data + b"\0" * (-ln & 3)


_hh = struct.Struct("=HH").unpack_from


def nlas(buf):
    """-> list of (type, nested?, payload)"""
    out, o, n = [], 0, len(buf)
    while o + 4 <= n:
        ln, t = _hh(buf, o)
        if ln < 4 or o + ln > n:
            break
        out.append((t & 0x3FFF, t > 0x7FFF, buf[o + 4:o + ln]))
        o += (ln + 3) & ~3
    return out


def nlad(buf):
    return {t: v for t, _, v in nlas(buf)}


class Nl:
    def __init__(self, groups=()):
        self.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.s.bind((0, 0))
        try:
            self.s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        except OSError:
            pass
        for g in groups:
            self.s.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, g)
        self.seq = 1

    def send(self, sub, msg, flags, family=0, res=0, body=b""):
        self.seq += 1
        p = struct.pack("=BBH", family, 0, socket.htons(res)) + body
        self.s.send(struct.pack("=IHHII", 16 + len(p), (sub << 8) | msg, flags, self.seq, 0) + p)

    @staticmethod
    def split(buf):
        o = 0
        while o + 16 <= len(buf):
            ln, t, fl, seq, pid = struct.unpack_from("=IHHII", buf, o)
            if ln < 16:
                break
            yield t, fl, seq, buf[o + 16:o + ln]
            o += (ln + 3) & ~3

    def ack(self, *a, **k):
        """send with ACK; returns 0 or errno"""
        self.send(*a, **k)
        while True:
            for t, _, seq, p in self.split(self.s.recv(1 << 20)):
                if t == NLMSG_ERROR and seq == self.seq:
                    return -struct.unpack_from("=i", p)[0]

    def get(self, sub, msg, family=0, body=b""):
        """one object, or None"""
        self.send(sub, msg, NLM_REQUEST, family, 0, body)
        while True:
            for t, _, seq, p in self.split(self.s.recv(1 << 20)):
                if seq != self.seq:
                    continue
                if t == NLMSG_ERROR:
                    return None
                return p

    def dump(self, sub, msg, family=0, body=b""):
        self.send(sub, msg, NLM_REQUEST | NLM_DUMP, family, 0, body)
        out = []
        while True:
            for t, _, seq, p in self.split(self.s.recv(1 << 20)):
                if seq != self.seq:
                    continue
                if t == NLMSG_DONE:
                    return out
                if t == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", p)[0], "netlink dump")
                out.append(p)

    def drain(self):
        out = []
        while True:
            try:
                out.append(self.s.recv(1 << 20, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return out
            except OSError as e:  # ENOBUFS: events lost
                if e.errno == errno.ENOBUFS:
                    out.append(None)
                    continue
                raise

    def close(self):
        self.s.close()


# ---------------------------------------------------------------- ctnetlink parse
PROTO = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp",
         58: "icmpv6", 132: "sctp", 136: "udplite"}
TCPST = ["NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK",
         "TIME_WAIT", "CLOSE", "SYN_SENT2"]
SCTPST = ["NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
          "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"]
STATUS = ["EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT", "SEQ_ADJUST",
          "SRC_NAT_DONE", "DST_NAT_DONE", "DYING", "FIXED_TIMEOUT", "TEMPLATE", "UNTRACKED",
          "HELPER", "OFFLOAD", "HW_OFFLOAD"]


def be(v):
    return int.from_bytes(v, "big")


@functools.lru_cache(maxsize=1 << 16)
def parse_tuple(buf):
    # the same tuples come again and again; the result is never changed
    r = {}
    for t, _, v in nlas(buf):
        if t == 1:
            for a, _, x in nlas(v):
                if a in (1, 3):
                    r["src"] = str(ipaddress.ip_address(x))
                elif a in (2, 4):
                    r["dst"] = str(ipaddress.ip_address(x))
        elif t == 2:
            d = nlad(v)
            if 1 in d:
                r["proto"] = PROTO.get(d[1][0], str(d[1][0]))
            if 2 in d:
                r["sport"] = be(d[2])
            if 3 in d:
                r["dport"] = be(d[3])
            if 4 in d or 7 in d:
                r["id"] = be(d.get(4, d.get(7)))
            if 5 in d or 8 in d:
                r["type"] = be(d.get(5, d.get(8)))
            if 6 in d or 9 in d:
                r["code"] = be(d.get(6, d.get(9)))
        elif t == 3:
            r["zone"] = be(v)
    return r


def parse_ct(p):
    """p: nfgenmsg + attributes"""
    e = {"family": {2: "ipv4", 10: "ipv6"}.get(p[0], p[0])}
    raw = {}
    for t, _, v in nlas(p[4:]):
        raw[t] = v
        if t == 1:
            e["orig"] = parse_tuple(v)
        elif t == 2:
            e["reply"] = parse_tuple(v)
        elif t == 3:
            b = be(v)
            e["status"] = [n for i, n in enumerate(STATUS) if b >> i & 1]
        elif t == 4:
            for a, _, x in nlas(v):
                d = nlad(x)
                if a == 1:
                    if 1 in d:
                        e["state"] = TCPST[d[1][0]] if d[1][0] < len(TCPST) else str(d[1][0])
                    e["tcp"] = {}
                    if 2 in d:
                        e["tcp"]["wscale"] = [d[2][0], d.get(3, b"\0")[0]]
                    if 4 in d:
                        e["tcp"]["flags"] = [d[4][0], d.get(5, b"\0")[0]]
                elif a == 3:
                    if 1 in d:
                        e["state"] = SCTPST[d[1][0]] if d[1][0] < len(SCTPST) else str(d[1][0])
                elif a == 2 and 1 in d:
                    e["state"] = "dccp%d" % d[1][0]
        elif t == 5:
            d = nlad(v)
            if 1 in d:
                e["helper"] = d[1].rstrip(b"\0").decode()
        elif t == 7:
            e["timeout"] = be(v)
        elif t == 8 and be(v):
            e["mark"] = be(v)
        elif t in (9, 10):
            d = nlad(v)
            e.setdefault("counters", {})["orig" if t == 9 else "reply"] = [be(d.get(1, b"")), be(d.get(2, b""))]
        elif t == 12:
            e["id"] = be(v)
        elif t == 14:
            e["master"] = parse_tuple(v)
        elif t in (15, 16):
            d = nlad(v)
            e.setdefault("seqadj", {})["orig" if t == 15 else "reply"] = {
                "pos": be(d.get(1, b"")), "before": struct.unpack("!i", d.get(2, b"\0" * 4))[0],
                "after": struct.unpack("!i", d.get(3, b"\0" * 4))[0]}
        elif t == 18 and be(v):
            e["zone"] = be(v)
        elif t == 22 and any(v):
            e["labels"] = v.hex()
        elif t == 24:
            e["synproxy"] = True
    return e, raw


def ct_text(e):
    """the line conntrack -L -o extended would print (near enough to grep)"""
    o, r = e.get("orig", {}), e.get("reply", {})

    def tup(t):
        s = "src=%s dst=%s" % (t.get("src"), t.get("dst"))
        if "sport" in t:
            s += " sport=%d dport=%d" % (t["sport"], t["dport"])
        if "type" in t:
            s += " type=%d code=%d id=%d" % (t["type"], t["code"], t["id"])
        return s
    st = e.get("status", [])
    s = "%s %s" % (o.get("proto"), e.get("state", ""))
    s += " " + tup(o)
    if "SEEN_REPLY" not in st:
        s += " [UNREPLIED]"
    s += " " + tup(r)
    if "ASSURED" in st:
        s += " [ASSURED]"
    for k in ("mark", "helper", "zone"):
        if k in e:
            s += " %s=%s" % (k, e[k])
    return re.sub(" +", " ", s)


# ------------------------------------------------------------ packet small parts
def csum(b):
    if len(b) & 1:
        b += b"\0"
    s = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s >> 16) + (s & 0xFFFF)
    return ~s & 0xFFFF


def fix_csums(p):
    """recompute IPv4 header and TCP/UDP/ICMP/ICMPv6 checksums of an IP packet"""
    p = bytearray(p)
    if len(p) < 20:
        return bytes(p)
    if p[0] >> 4 == 4:
        ihl = (p[0] & 15) * 4
        p[10:12] = b"\0\0"
        p[10:12] = struct.pack("!H", csum(bytes(p[:ihl])))
        if struct.unpack("!H", p[6:8])[0] & 0x3FFF:
            return bytes(p)
        proto, off = p[9], ihl
        end = min(len(p), struct.unpack("!H", p[2:4])[0])
        ph = bytes(p[12:20]) + struct.pack("!BBH", 0, proto, end - off)
    elif p[0] >> 4 == 6 and len(p) >= 40:
        proto, off, end = p[6], 40, min(len(p), 40 + struct.unpack("!H", p[4:6])[0])
        while proto in (0, 43, 60) and off + 8 <= end:
            proto, off = p[off], off + 8 + p[off + 1] * 8
        ph = bytes(p[8:40]) + struct.pack("!I3xB", end - off, proto)
    else:
        return bytes(p)
    co = {6: 16, 17: 6, 1: 2, 58: 2, 136: 6}.get(proto)
    if co is None or off + co + 2 > end:
        return bytes(p)
    p[off + co:off + co + 2] = b"\0\0"
    c = csum((b"" if proto == 1 else ph) + bytes(p[off:end]))
    if proto == 17 and c == 0:
        c = 0xFFFF
    p[off + co:off + co + 2] = struct.pack("!H", c)
    return bytes(p)


TF = dict(F=1, S=2, R=4, P=8, A=16, U=32, E=64, C=128)


def make_reply(p, sp):
    """an answer to the IP packet p (as it left the router), described by sp:
    kind: "auto" (tcp/udp/echo answer), "error" (ICMP unreachable quoting p, from "src")
    flags/seq/ack/win/data(hex)/opts(hex) for TCP; ack "auto" = what p asks for"""
    v = p[0] >> 4
    if v == 4:
        o, proto, a, b = (p[0] & 15) * 4, p[9], p[12:16], p[16:20]
        end = struct.unpack("!H", p[2:4])[0]
    else:
        o, proto, a, b = 40, p[6], p[8:24], p[24:40]
        end = 40 + struct.unpack("!H", p[4:6])[0]
        while proto in (0, 43, 60, 44):
            proto, o = p[o], o + (8 if proto == 44 else 8 + p[o + 1] * 8)
    src = ipaddress.ip_address(sp["src"]).packed if sp.get("src") else b
    data = bytes.fromhex(sp.get("data", ""))
    if sp.get("kind") == "ftpdata":
        return ftp_data_segment(p, o, a, b, sp, data)
    if sp.get("kind") == "error":
        q = p[:sp.get("quote", o + 8)]
        t = sp.get("type", 3 if v == 4 else 1)
        l4, proto = struct.pack("!BBHI", t, sp.get("code", 1), 0, sp.get("mtu", 0)) + q, 1 if v == 4 else 58
    elif proto == 6:
        fl = sum(TF[c] for c in sp.get("flags", "A"))
        s, k, off = struct.unpack("!II", p[o + 4:o + 12]) + ((p[o + 12] >> 4) * 4,)
        ln = end - o - off + bool(p[o + 13] & 2) + bool(p[o + 13] & 1)
        ack = sp.get("ack", "auto")
        ack = (s + ln) & 0xFFFFFFFF if ack == "auto" else (s + ln + int(ack[1:])) & 0xFFFFFFFF if str(ack)[:1] == "+" else ack
        seq = sp.get("seq", "auto")
        seq = k if seq == "auto" else (k + int(seq[1:])) & 0xFFFFFFFF if str(seq)[:1] == "+" else seq
        opts = bytes.fromhex(sp.get("opts", ""))
        l4 = p[o + 2:o + 4] + p[o:o + 2] + struct.pack("!IIBBHHH", seq, ack if fl & 16 else 0, (5 + len(opts) // 4) << 4, fl,
                                                       sp.get("win", 65535), 0, 0) + opts + data
    elif proto in (17, 136):
        l4 = p[o + 2:o + 4] + p[o:o + 2] + struct.pack("!HH", 8 + len(data), 0) + data
    elif proto in (1, 58):
        t = {8: 0, 13: 14, 128: 129}.get(p[o], p[o])
        l4 = bytes([t]) + p[o + 1:o + 2] + b"\0\0" + p[o + 4:end]
    else:
        l4 = data or p[o:end]
    if v == 4:
        h = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), sp.get("id", 1), 0, sp.get("ttl", 64), proto, 0) + src + a
    else:
        h = struct.pack("!IHBB", 0x60000000, len(l4), proto, sp.get("ttl", 64)) + src + a
    return fix_csums(h + l4)


FTP_ANNOUNCE = [re.compile(rb"(?i)(?:^PORT |^227 .*?)(\d+,\d+,\d+,\d+),(\d+),(\d+)"),
                re.compile(rb"(?i)^EPRT \|[12]\|([0-9a-f.:]+)\|(\d+)\|"), re.compile(rb"^229 .*\(\|\|(\|)(\d+)\|\)")]


def ftp_data_segment(p, o, src, dst, sp, data):
    """a segment of the FTP data connection announced by the control packet p (whose TCP
    header is at o), sent by the one who received the announcement"""
    text = p[o + (p[o + 12] >> 4) * 4:]
    to, port = src, sp.get("dport", 9)      # nothing announced: some other port of the same host
    for rx in FTP_ANNOUNCE:
        m = rx.search(text)
        if m:
            g = m.groups()
            port = int(g[1]) * 256 + int(g[2]) if len(g) == 3 else int(g[1])
            if g[0] != b"|":
                to = ipaddress.ip_address(g[0].decode().replace(",", ".")).packed
    fl = sum(TF[c] for c in sp["flags"])
    opts = bytes.fromhex(sp.get("opts", ""))
    l4 = struct.pack("!HHIIBBHHH", sp["sport"], port & 0xFFFF, sp["seq"], sp["ack"], (5 + len(opts) // 4) << 4, fl, 65535, 0, 0) + opts + data
    if len(src) == 4:
        h = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0, 64, 6, 0) + dst + to
    else:
        h = struct.pack("!IHBB", 0x60000000, len(l4), 6, 64) + dst + to
    return fix_csums(h + l4)


def reply_target(step, ro):
    """the packets of an earlier step that a `reply_of` chooses from: "out", "local", or
    "any" = what went on its way (not what the router made), else what arrived locally"""
    which = ro.get("list", "out")
    if which != "any":
        return step.get(which, [])
    return [x for x in step.get("out", []) if x["role"] in ("fwd", "self")] or step.get("local", [])


def answerable(p):
    """is enough of the transport header there to make a reply from?"""
    need = {6: 20, 17: 8, 136: 8, 1: 8, 58: 8}
    if p[0] >> 4 == 4:
        return len(p) >= (p[0] & 15) * 4 + need.get(p[9], 0)
    return len(p) >= 40 + need.get(p[6], 0)


def flow_key(p):
    if len(p) >= 20 and p[0] >> 4 == 4:
        return (4, bytes(p[12:20]), p[9], bytes(p[4:6]))
    if len(p) >= 40 and p[0] >> 4 == 6:
        nh = p[6]
        if nh == 44 and len(p) >= 48:  # fragment made by the router: key of the whole
            nh = p[40]
        return (6, bytes(p[8:40]), nh)
    return None


def is_noise(p):
    """IPv6 housekeeping the router sends by itself: MLD, RS, RA, NS, NA"""
    if len(p) >= 48 and p[0] >> 4 == 6:
        if p[6] == 58 and p[40] in (130, 131, 132, 133, 134, 135, 136, 143) and p[7] in (1, 255):
            return p[40] in (131, 132, 133, 143)
        if p[6] == 0 and p[40] == 58 and len(p) > 48 and p[48] in (131, 132, 143):
            return True
    return False


def leaves_state(p):
    """0: no; 1: IPv4 fragment (state only while a queue is incomplete, which
    /proc/net/sockstat shows); 2: leaves state that cannot be flushed (IPv6 fragment
    queues, path-MTU exceptions, redirects): the namespace is not used again"""
    if len(p) < 20:
        return 0
    if p[0] >> 4 == 4:
        fo = struct.unpack("!H", p[6:8])[0]
        if fo & 0x3FFF:
            return 1
        o = (p[0] & 15) * 4
        if p[9] == 1 and len(p) > o + 1 and (p[o] == 5 or (p[o] == 3 and p[o + 1] == 4)):
            return 2
        return 0
    if p[0] >> 4 == 6 and len(p) >= 41:
        nh, o = p[6], 40
        while nh in (0, 43, 60) and o + 8 <= len(p):
            nh, o = p[o], o + 8 + p[o + 1] * 8
        if nh == 44:
            return 2
        return 2 if nh == 58 and o < len(p) and p[o] in (2, 134, 137) else 0
    return 0


def frag_queues():
    try:
        with open("/proc/net/sockstat") as f:
            m = re.search(r"FRAG: inuse (\d+)", f.read())
        return int(m[1]) if m else 1
    except OSError:
        return 1


# ----------------------------------------------------------------- xt raw counters
class XtGet:
    """per-rule counters with getsockopt (legacy tables), no process started"""
    HOOKS = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]

    def __init__(self, fam):
        self.fam = fam
        self.s = socket.socket(socket.AF_INET if fam == 4 else socket.AF_INET6, socket.SOCK_RAW, 255)
        self.level = 0 if fam == 4 else 41
        self.off = (88, 96, 112) if fam == 4 else (140, 152, 168)

    def _get(self, opt, buf):
        ln = ctypes.c_uint32(len(buf))
        rc = _libc.getsockopt(self.s.fileno(), self.level, opt, buf, ctypes.byref(ln))
        _chk(rc, "getsockopt")
        return buf.raw

    def table(self, name):
        b = ctypes.create_string_buffer(84)
        b[:len(name)] = name.encode()
        i = self._get(64, b)
        valid, = struct.unpack_from("=I", i, 32)
        hook = struct.unpack_from("=5I", i, 36)
        under = struct.unpack_from("=5I", i, 56)
        num, size = struct.unpack_from("=II", i, 76)
        b = ctypes.create_string_buffer(40 + size)
        b[:len(name)] = name.encode()
        struct.pack_into("=I", b, 32, size)
        d = self._get(65, b)[40:40 + size]
        to, co, eo = self.off
        starts = {hook[h]: h for h in range(5) if valid >> h & 1}
        unders = {under[h]: h for h in range(5) if valid >> h & 1}
        chains, cur, o, pend = {}, None, 0, None
        while o < size:
            toff, noff = struct.unpack_from("=HH", d, o + to)
            c = list(struct.unpack_from("=QQ", d, o + co))
            tname = d[o + toff + 2:o + toff + 31].split(b"\0")[0]
            if o in starts:
                cur = chains[self.HOOKS[starts[o]]] = {"policy": None, "pc": None, "rules": []}
            if tname == b"ERROR":
                if cur is not None and cur["policy"] is None and cur["rules"]:
                    cur["rules"].pop()  # RETURN at the end of a user chain
                    cur["policy"] = "-"
                nm = d[o + toff + 32:o + toff + 62].split(b"\0")[0].decode()
                if o + noff < size:
                    cur = chains[nm] = {"policy": None, "pc": None, "rules": []}
            elif o in unders:
                v, = struct.unpack_from("=i", d, o + toff + 32)
                cur["policy"], cur["pc"] = ("ACCEPT" if v == -2 else "DROP"), c
            else:
                cur["rules"].append(c)
            o += noff
        return chains

    def close(self):
        self.s.close()


_chain_re = re.compile(r"^:(\S+) (\S+) \[(\d+):(\d+)\]")
_rule_re = re.compile(r"^\[(\d+):(\d+)\] -A (\S+)")


def parse_save(text):
    out, t = {}, None
    for ln in text.splitlines():
        if ln.startswith("*"):
            t = out[ln[1:].strip()] = {}
        elif ln.startswith(":"):
            m = _chain_re.match(ln)
            t[m[1]] = {"policy": m[2], "pc": [int(m[3]), int(m[4])] if m[2] != "-" else None, "rules": []}
        else:
            m = _rule_re.match(ln)
            if m:
                t[m[3]]["rules"].append([int(m[1]), int(m[2])])
    return out


def rules_tables(text):
    return tuple(sorted(ln[1:].strip() for ln in (text or "").splitlines() if ln.startswith("*")))


STATEFUL = re.compile(r"-m (recent|hashlimit|rateest)|-j (RATEEST|IDLETIMER)")

ORACLE_ON = """table inet oracle_ct {
 chain c { type filter hook prerouting priority 2147483600; policy accept; ct state invalid counter; }
}
"""
ORACLE = """table inet oracle {
 chain pre { type filter hook prerouting priority -2147483648; policy accept; %(trace)s %(logpre)s }
 chain out { type filter hook output priority -2147483648; policy accept; %(trace)s log group 7 snaplen 65535 queue-threshold 1; }
 chain post { type filter hook postrouting priority 2147483647; policy accept; log group 7 snaplen 65535 queue-threshold 1; }
 chain lin { type filter hook input priority 2147483647; policy accept; log group 7 snaplen 65535 queue-threshold 1; %(sink)s }
}
"""
DEFAULT_SYSCTL = {
    "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_msgs_per_sec": "1000000",
    "net.ipv4.icmp_msgs_burst": "100000", "net.ipv6.icmp.ratelimit": "0",
    "net.ipv6.conf.all.accept_dad": "0", "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.addr_gen_mode": "1", "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.netfilter.nf_conntrack_acct": "1", "net.netfilter.nf_conntrack_events": "1",
    "net.netfilter.nf_log.2": "nfnetlink_log", "net.netfilter.nf_log.10": "nfnetlink_log",
}
DEFAULT_IFS = [{"name": "eth0", "addrs": ["10.0.0.1/24", "fd00:0::1/64"]},
               {"name": "eth1", "addrs": ["10.0.1.1/24", "fd00:1::1/64"]}]


class CaseError(Exception):
    pass


def run(argv, inp=None, what=None, check=True):
    r = subprocess.run(argv, input=inp, text=True, capture_output=True)
    if check and r.returncode:
        raise CaseError("%s: rc=%d %s" % (what or " ".join(argv), r.returncode, (r.stderr or r.stdout).strip()[:2000]))
    return r


CGROUPS = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
NOBODY_ELSE = {"uid": 0, "gid": 0, "groups": [0]}


@contextlib.contextmanager
def being(who):
    """sockets opened meanwhile are those of that user, group and control group"""
    who = dict(NOBODY_ELSE, **who)
    groups = os.getgroups()
    at = os.path.join(CGROUPS, who["cgroup"].strip("/"), "cgroup.procs") if who.get("cgroup") else None
    try:
        os.setgroups(who["groups"])
        _libc.setfsgid(who["gid"])
        _libc.setfsuid(who["uid"])
        if at:
            _libc.setfsuid(0)
            with open(at, "w") as f:
                f.write("0")
            _libc.setfsuid(who["uid"])
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)
        os.setgroups(groups)
        if at:
            with open(os.path.join(CGROUPS, "cgroup.procs"), "w") as f:
                f.write("0")


def raw_sockets():
    out = (socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
           socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW))
    for s in out:
        s.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.setblocking(False)
    return out


def open_socket(x):
    """a socket of a case: proto, addr, port and perhaps peer, transparent, mark, as"""
    fam = socket.AF_INET6 if ":" in x["addr"] else socket.AF_INET
    with being(x.get("as", {})):
        s = socket.socket(fam, socket.SOCK_STREAM if x["proto"] == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if fam == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(x.get("only", True)))
    if x.get("transparent"):
        s.setsockopt(*((socket.IPPROTO_IPV6, 75, 1) if fam == socket.AF_INET6 else (socket.IPPROTO_IP, 19, 1)))
    s.setsockopt(socket.SOL_SOCKET, 36, x.get("mark", 0))
    s.bind((x["addr"], x["port"]))
    if x["proto"] == "tcp":
        s.listen(1)
    elif x.get("peer"):
        s.connect(tuple(x["peer"]))
    return s


class Router:
    """one network namespace with its TUN interfaces"""

    def __init__(self, case, dropmon=None):
        self.ifs = case.get("interfaces") or DEFAULT_IFS
        self.local = case.get("local", "sink")
        self.ctmode = case.get("conntrack", "on")
        self.backend = case.get("backend", "legacy")
        self.trace = bool(case.get("trace"))
        self.logpre = bool(case.get("log_prerouting"))
        self.fds, self.idx, self.tap = {}, {}, {}
        self.dirty = False
        self.loaded = {4: "", 6: ""}
        self.xt = {}
        self.groups = set()
        self.live, self.ev_buf, self.full_dump = {}, [], False
        self.frag4 = False
        _chk(_libc.unshare(CLONE_NEWNET), "unshare")
        self.nsfd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        sysctl = dict(DEFAULT_SYSCTL)
        # defaults first, so that interfaces inherit them; but IPv6 forwarding only once the
        # interfaces are "multicast off": else they join all-routers and send MLD reports,
        # at random times, through the rules
        fwd6 = sysctl.pop("net.ipv6.conf.all.forwarding")
        self.sysctl(sysctl, ignore=True)
        sysctl["net.ipv6.conf.all.forwarding"] = fwd6
        b = ["link set lo up"]
        for i in self.ifs:
            n = i["name"]
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            tap = i.get("type", "tun") == "tap"
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", n.encode(), (IFF_TAP | IFF_NO_PI) if tap else IFF_TUN))
            self.fds[n], self.tap[n] = fd, tap
            if i.get("mac"):
                b.append("link set %s address %s" % (n, i["mac"]))
            b.append("link set %s multicast off" % n)
            if i.get("group"):
                b.append("link set %s group %d" % (n, i["group"]))
            b.append("link set %s mtu %d up" % (n, i.get("mtu", 1500)))
            for a in i.get("addrs", []):
                b.append("addr add %s dev %s%s" % (a, n, " nodad" if ":" in a else ""))
        for x in case.get("neighs", []):
            b.append("neigh replace %s lladdr %s dev %s nud permanent" % tuple(x))
        for r in case.get("routes", []):
            b.append("route replace " + r)
        # any other ip(8) line; -batch cannot switch families by line
        six = []
        for r in case.get("ip", []):
            (six if r.startswith("-6 ") else b).append(r.removeprefix("-6 "))
        run(["ip", "-batch", "-"], "\n".join(b) + "\n", "ip -batch")
        if six:
            run(["ip", "-6", "-batch", "-"], "\n".join(six) + "\n", "ip -6 -batch")
        self.sysctl(sysctl, ignore=True)
        self.wait_addr6([a.split("/")[0] for i in self.ifs for a in i.get("addrs", []) if ":" in a])
        for i in self.ifs:
            self.idx[socket.if_nametoindex(i["name"])] = i["name"]
        self.idx[socket.if_nametoindex("lo")] = "lo"
        self.sysctl(case.get("sysctls", {}))
        self.nl = Nl()
        self.ev = Nl(groups=(1, 2, 3, 4, 5, 6))
        self.log = Nl()
        for pf in (2, 10):
            self.log.ack(SUB_ULOG, 1, NLM_REQUEST | NLM_ACK, pf, 0, nla(1, b"\x03"))
        for g in (0, 7):
            self.bind_group(g)
        self.sockets = []
        with being({}):
            self.raw4, self.raw6 = raw_sockets()
        self.raw_of = {}
        # Order matters: of two hooks with the same priority the one registered LAST runs
        # FIRST.  The oracle's hooks must come after conntrack's confirm hook (INT_MAX),
        # so they are registered before conntrack is switched on.
        run(["nft", "-f", "-"], ORACLE % {
            "sink": "drop;" if self.local == "sink" else "",
            "trace": "meta nftrace set 1;" if self.trace else "",
            "logpre": "log group 7 snaplen 65535 queue-threshold 1;" if self.logpre else "",
        }, "nft oracle")
        if self.ctmode == "on":
            run(["nft", "-f", "-"], ORACLE_ON, "nft oracle_ct")
        self.tr = dropmon
        self.drain_all()

    def wait_addr6(self, addrs):
        """the kernel puts IPv6 addresses into the local table from a work queue, later
        than ip(8) returns: until then the router forwards its own packets"""
        want = {ipaddress.IPv6Address(a).packed.hex() for a in addrs}
        end = time.monotonic() + 5
        while want:
            have = set()
            with open("/proc/net/ipv6_route") as f:
                for ln in f:
                    w = ln.split()
                    if w[1] == "80" and int(w[8], 16) & 0x80000000:
                        have.add(w[0])
            want -= have
            if want:
                if time.monotonic() > end:
                    raise CaseError("IPv6 addresses not ready")
                time.sleep(0.001)

    def bind_group(self, g):
        if g in self.groups:
            return
        self.groups.add(g)
        for body in (nla(1, b"\x01"), nla(2, struct.pack("!IBx", 0xFFFF, 2)), nla(5, struct.pack("!I", 1)),
                     nla(3, struct.pack("!I", 131072))):
            e = self.log.ack(SUB_ULOG, 1, NLM_REQUEST | NLM_ACK, 0, g, body)
            if e:
                raise CaseError("nflog group %d: %s" % (g, os.strerror(e)))

    def enter(self):
        _chk(_libc.setns(self.nsfd, CLONE_NEWNET), "setns")

    def close(self):
        for fd in self.fds.values():
            os.close(fd)
        os.close(self.nsfd)
        for s in (self.nl, self.ev, self.log, self.raw4, self.raw6, *self.sockets, *sum(self.raw_of.values(), ())):
            s.close()
        for x in self.xt.values():
            x.close()

    def sysctl(self, d, ignore=False):
        for k, v in d.items():
            # dots separate; a dot inside an interface name may be written with '/'
            p = "/proc/sys/" + (k if "/" in k else k.replace(".", "/"))
            try:
                with open(p, "w") as f:
                    f.write(str(v))
            except OSError as e:
                if not ignore:
                    raise CaseError("sysctl %s=%s: %s" % (k, v, e))

    # -------------------------------------------------------------- ruleset
    def restore(self, fam, text, noflush=False, counters=True):
        if not text:
            return
        argv = ["ip%stables-%s-restore" % ("6" if fam == 6 else "", self.backend)]
        if counters:
            argv.append("-c")
        if noflush:
            argv.append("-n")
        run(argv, text if text.endswith("\n") else text + "\n", "rules%d" % fam)
        for g in re.findall(r"--nflog-group (\d+)", text):
            self.bind_group(int(g))
        if "ctevents" in text:
            self.full_dump = True

    def raw(self, who):
        """raw sockets of somebody"""
        key = json.dumps(who, sort_keys=True)
        if key not in self.raw_of:
            with being(who):
                self.raw_of[key] = raw_sockets()
        return self.raw_of[key]

    def load(self, case):
        for s in self.sockets:
            s.close()
        for path in case.get("cgroups", []):
            os.makedirs(os.path.join(CGROUPS, path.strip("/")), exist_ok=True)
        self.sockets = [open_socket(x) for x in case.get("sockets", [])]
        for x in case.get("nfacct", []):
            run(["nfacct", "add", x[0]] + x[1:], check=False)
            self.dirty = True
        if case.get("osf"):     # one list for the whole machine
            with tempfile.NamedTemporaryFile("w", suffix=".os") as f:
                f.write(case["osf"])
                f.flush()
                run(["nfnl_osf", "-f", f.name], what="nfnl_osf")
        if "cpu" in case:
            os.sched_setaffinity(0, {case["cpu"]})
        if case.get("ipset"):
            run(["ipset", "restore", "-exist"], case["ipset"], "ipset")
            self.dirty = True
        for fam in (4, 6):
            t = case.get("rules%d" % fam, "")
            if self.loaded[fam] and STATEFUL.search(self.loaded[fam]):
                self.restore(fam, "".join("*%s\nCOMMIT\n" % x for x in rules_tables(self.loaded[fam])))
            self.restore(fam, t)
            self.loaded[fam] = t
        if case.get("nft"):
            run(["nft", "-f", "-"], case["nft"], "nft")
            self.dirty = True
        self.drain_all()

    def counters(self, fam, text):
        """{table: {chain: {policy, pc, rules}}}"""
        tabs = rules_tables(text)
        if not tabs:
            return {}
        if self.backend == "legacy":
            if fam not in self.xt:
                self.xt[fam] = XtGet(fam)
            return {t: self.xt[fam].table(t) for t in tabs}
        d = parse_save(self.save(fam))
        return {t: d.get(t, {}) for t in tabs}

    def save(self, fam):
        return run(["ip%stables-%s-save" % ("6" if fam == 6 else "", self.backend), "-c"]).stdout

    # ------------------------------------------------------------ conntrack
    # A full dump walks every bucket of the kernel's one global hash (262,144 on this
    # machine: about a millisecond).  So the set of live entries is kept from the NEW /
    # DESTROY events, and entries are read / deleted one by one by their tuple; the
    # namespace's own nf_conntrack_count says whether the mirror is complete.
    def _mirror(self, msg, flags, p):
        d = nlad(p[4:])
        if 1 not in d:
            return
        k = (p[0], d[1], d.get(18, b""))
        if msg == 2:
            self.live.pop(k, None)
        else:
            self.live[k] = True

    def ct_raw(self):
        """-> list of raw ctnetlink messages, one for each live entry"""
        self.pump_events()
        out = []
        if not self.full_dump:
            for (fam, tup, zone) in list(self.live):
                m = self.nl.get(SUB_CT, 1, fam, nla(0x8000 | 1, tup) + (nla(18, zone) if zone else b""))
                if m is not None:
                    out.append(m)
            with open("/proc/sys/net/netfilter/nf_conntrack_count") as f:
                if int(f.read()) == len(out):
                    return out
        return self.nl.dump(SUB_CT, 1)

    def ct(self):
        out = [parse_ct(p)[0] for p in self.ct_raw()]
        out.sort(key=lambda e: json.dumps([e.get("orig", {}), e.get("zone", 0)], sort_keys=True))
        return out

    def expects(self):
        out = []
        for p in self.nl.dump(SUB_EXP, 1):
            e = {}
            for t, _, v in nlas(p[4:]):
                if t in (1, 2, 3):
                    e[{1: "master", 2: "tuple", 3: "mask"}[t]] = parse_tuple(v)
                elif t == 4:
                    e["timeout"] = be(v)
                elif t == 6:
                    e["helper"] = v.rstrip(b"\0").decode()
                elif t == 8:
                    e["flags"] = be(v)
                elif t == 9:
                    e["class"] = be(v)
                elif t == 10:
                    d = nlad(v)
                    e["nat"] = {"dir": be(d.get(1, b"")), "tuple": parse_tuple(d.get(2, b""))}
            out.append(e)
        out.sort(key=lambda e: json.dumps(e, sort_keys=True))
        return out

    def flush_ct(self):
        self.nl.ack(SUB_EXP, 2, NLM_REQUEST | NLM_ACK)
        self.pump_events()
        if not self.full_dump:
            for (fam, tup, zone) in list(self.live):
                self.nl.ack(SUB_CT, 2, NLM_REQUEST | NLM_ACK, fam, 0,
                            nla(0x8000 | 1, tup) + (nla(18, zone) if zone else b""))
            self.ev_buf = []
            self.pump_events()
            self.ev_buf = []
            self.live.clear()
            with open("/proc/sys/net/netfilter/nf_conntrack_count") as f:
                if int(f.read()) == 0:
                    return
        self.nl.ack(SUB_CT, 2, NLM_REQUEST | NLM_ACK)
        self.live.clear()

    def warp(self, sec):
        """let `sec` seconds pass for every conntrack entry and expectation"""
        n = dead = 0
        for p in self.nl.dump(SUB_EXP, 1):
            d = nlad(p[4:])
            left = be(d.get(4, b"")) - sec
            body = nla(0x8000 | 2, d[2]) + nla(0x8000 | 3, d[3]) + nla(0x8000 | 1, d[1])
            if left <= 0:
                self.nl.ack(SUB_EXP, 2, NLM_REQUEST | NLM_ACK, p[0], 0, body)
                dead += 1
            else:
                self.nl.ack(SUB_EXP, 0, NLM_REQUEST | NLM_ACK, p[0], 0, body + nla(4, struct.pack("!I", left)))
        for p in self.ct_raw():
            d = nlad(p[4:])
            if 7 not in d:
                continue
            left = be(d[7]) - sec
            body = nla(0x8000 | 1, d[1])
            if 18 in d:
                body += nla(18, d[18])
            if left <= 0:
                self.nl.ack(SUB_CT, 2, NLM_REQUEST | NLM_ACK, p[0], 0, body + nla(12, d[12]))
                dead += 1
            else:
                e = self.nl.ack(SUB_CT, 0, NLM_REQUEST | NLM_ACK, p[0], 0, body + nla(7, struct.pack("!I", left)))
                if e:
                    raise CaseError("warp: " + os.strerror(e))
            n += 1
        return {"entries": n, "expired": dead}

    # ------------------------------------------------------------- packets
    def drain_all(self):
        for fd in self.fds.values():
            while True:
                try:
                    if not os.read(fd, 70000):
                        break
                except BlockingIOError:
                    break
                except OSError:
                    break
        self.log.drain()
        self.read_events(False)
        if self.tr:
            read_dropmon(self.tr)

    def read_out(self):
        out = []
        for n, fd in self.fds.items():
            while True:
                try:
                    b = os.read(fd, 70000)
                except BlockingIOError:
                    break
                except OSError as e:
                    if e.errno in (errno.EIO, errno.EBADFD):
                        break  # interface is down
                    raise
                if not b:
                    break
                out.append((n, b if self.tap[n] else b[4:]))
        return out

    def read_log(self):
        out = []
        for buf in self.log.drain():
            if buf is None:
                out.append({"lost": True})
                continue
            for t, _, _, p in Nl.split(buf):
                if t != (SUB_ULOG << 8):
                    continue
                g = struct.unpack_from("!H", p, 2)[0]
                r = {"group": g}
                for a, _, v in nlas(p[4:]):
                    if a == 1:
                        r["hook"] = v[2]
                    elif a == 2:
                        r["mark"] = be(v)
                    elif a == 4:
                        r["in"] = self.idx.get(be(v), be(v))
                    elif a == 5:
                        r["out"] = self.idx.get(be(v), be(v))
                    elif a == 9:
                        r["pay"] = v
                    elif a == 10:
                        r["prefix"] = v.rstrip(b"\0").decode("latin1")
                out.append(r)
        return out

    def pump_events(self):
        for buf in self.ev.drain():
            if buf is None:
                self.full_dump = True
                self.ev_buf.append(None)
                continue
            for t, fl, _, p in Nl.split(buf):
                self.ev_buf.append((t, fl, p))
                if t >> 8 == SUB_CT:
                    self._mirror(t & 255, fl, p)

    def read_events(self, want=True):
        self.pump_events()
        buf, self.ev_buf = self.ev_buf, []
        out = []
        if not want:
            return out
        for x in buf:
            if x is None:
                out.append({"ev": "LOST"})
                continue
            t, fl, p = x
            if True:
                sub, msg = t >> 8, t & 255
                if sub == SUB_CT and msg in (0, 2):
                    e, _ = parse_ct(p)
                    k = "DESTROY" if msg == 2 else ("NEW" if fl & 0x600 else "UPDATE")
                    out.append({"ev": k, "text": ct_text(e)})
                elif sub == SUB_EXP and msg in (0, 2):
                    d = nlad(p[4:])
                    out.append({"ev": "EXP_DESTROY" if msg == 2 else "EXP_NEW",
                                "tuple": parse_tuple(d.get(2, b"")), "mask": parse_tuple(d.get(3, b""))})
        return out

    def inject(self, where, pkt, st):
        """-> errno name or None"""
        if where == "local":
            v = pkt[0] >> 4 if pkt else 0
            s = (self.raw(st["as"]) if st.get("as") else (self.raw4, self.raw6))[v == 6]
            try:
                s.setsockopt(socket.SOL_SOCKET, 36, int(st.get("mark", 0)))  # SO_MARK
                if v == 6:
                    d = pkt[24:40]
                    scope = 0
                    if st.get("dev"):
                        scope = socket.if_nametoindex(st["dev"])
                    s.sendto(pkt, (str(ipaddress.IPv6Address(bytes(d))), 0, 0, scope))
                else:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, (st.get("dev", "") + "\0").encode())
                    s.sendto(pkt, (socket.inet_ntoa(pkt[16:20]) if len(pkt) >= 20 else "127.0.0.1", 0))
            except OSError as e:
                return errno.errorcode.get(e.errno, str(e.errno))
            return None
        if where not in self.fds:
            raise CaseError("no interface %r" % where)
        if not self.tap[where]:
            et = st.get("ethertype")
            if et is None:
                et = 0x86DD if pkt and pkt[0] >> 4 == 6 else 0x0800
            pkt = struct.pack("!HH", 0, et) + pkt
        try:
            os.write(self.fds[where], pkt)
        except OSError as e:
            return errno.errorcode.get(e.errno, str(e.errno))
        return None

    def collect(self, where, err, opt, pkt):
        res = {}
        outs = self.read_out()
        logs = self.read_log()
        post = []      # (key, role)
        seen_self = False
        for l in logs:
            if l.get("group") == 7 and l.get("hook") == 4 and "pay" in l:
                if where == "local":
                    role = "emit"
                    if not seen_self and err is None:
                        role, seen_self = "self", True
                    if "in" in l:
                        role = "fwd"
                else:
                    role = "fwd" if "in" in l else "emit"
                post.append([flow_key(l["pay"]), role, l.get("out"), 0])
        out = []
        for dev, b in outs:
            ip = b[14:] if self.tap[dev] else b
            if is_noise(ip):
                continue
            k, role = flow_key(ip), "unknown"
            for want_unused in (True, False):
                for q in post:
                    if q[0] == k and q[2] == dev and (q[3] == 0) == want_unused:
                        role, q[3] = q[1], q[3] + 1
                        break
                if role != "unknown":
                    break
            out.append({"dev": dev, "role": role, "hex": b.hex()})
        loc = [dict([("dev", l.get("in")), ("hex", l["pay"].hex())] + ([("mark", l["mark"])] if l.get("mark") else []))
               for l in logs if l.get("group") == 7 and l.get("hook") == 1 and "pay" in l]
        if out:
            res["out"] = out
        if loc:
            res["local"] = loc
        def copied(l):      # what a rule asked for, not what helpers and trackers say
            ours = not l.get("prefix", "").startswith("nf_ct_")
            return {"hex": l.get("pay", b"").hex(), "mark": l.get("mark", 0)} if ours else {}
        ulog = [{"group": l["group"], "hook": l.get("hook"), "prefix": l.get("prefix", ""),
                 "in": l.get("in"), "out": l.get("out"), **copied(l)}
                for l in logs if l.get("group") != 7 and not l.get("lost") and not l.get("prefix", "").startswith("TRACE: ")]
        tr = [l["prefix"][7:].strip() for l in logs if l.get("prefix", "").startswith("TRACE: ")]
        if ulog:
            res["log"] = ulog
        if tr:
            res["rules"] = tr
        if any(l.get("lost") for l in logs):
            res["log_lost"] = True
        if err:
            res["errno"] = err
        ev = self.read_events(opt.get("events", True))
        if ev:
            res["events"] = ev
        roles = {o["role"] for o in out}
        if "fwd" in roles:
            v = "forward"
        elif "self" in roles:
            v = "output"
        elif loc:
            v = "local"
        else:
            v = "drop"
        res["verdict"] = v
        if v == "drop" and leaves_state(pkt) and len(pkt) > 9 and (pkt[0] >> 4 == 6 or struct.unpack("!H", pkt[6:8])[0] & 0x3FFF):
            res["verdict"] = "none"  # a fragment: held in a queue, or dropped
        if self.tr:
            rs = [r for r in read_dropmon(self.tr) if r not in ("NOT_SPECIFIED", "CONSUMED", "SKB_CONSUMED")]
            if v == "local" and self.local == "sink" and "NETFILTER_DROP" in rs:
                rs.remove("NETFILTER_DROP")
            if rs:
                res["drop_reasons"] = rs
        return res


# ------------------------------------------------ kfree_skb drop reasons (optional)
def open_dropmon():
    base = "/run/tracing"
    if not os.path.isdir(base):
        os.makedirs(base)
        rc = subprocess.run(["mount", "-t", "tracefs", "tracefs", base], capture_output=True).returncode
        if rc:
            return None
    inst = "%s/instances/nforacle%d" % (base, os.getpid())
    try:
        os.makedirs(inst, exist_ok=True)
        with open(inst + "/events/skb/kfree_skb/filter", "w") as f:
            f.write("common_pid == %d" % os.getpid())
        with open(inst + "/events/skb/kfree_skb/enable", "w") as f:
            f.write("1")
        fd = os.open(inst + "/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    return (inst, fd)


def read_dropmon(tr):
    out = []
    while True:
        try:
            b = os.read(tr[1], 1 << 16)
        except (BlockingIOError, InterruptedError):
            break
        except OSError:
            break
        if not b:
            break
        out += re.findall(r"reason: (\w+)", b.decode("latin1"))
    return out


def close_dropmon(tr):
    try:
        with open(tr[0] + "/events/skb/kfree_skb/enable", "w") as f:
            f.write("0")
        os.close(tr[1])
        os.rmdir(tr[0])
    except OSError:
        pass


# ------------------------------------------- text of -j LOG lines (optional, -j 1)
ALLNS = "/proc/sys/net/netfilter/nf_log_all_netns"


class Kmsg:
    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def read(self):
        out = []
        while True:
            try:
                b = os.read(self.fd, 8192)
            except BlockingIOError:
                return out
            except OSError as e:
                if e.errno == errno.EPIPE:
                    continue
                raise
            t = b.decode("latin1").split(";", 1)[-1].split("\n")[0]
            if "IN=" in t and "OUT=" in t:
                out.append(t)


# ----------------------------------------------------------------------- engine
class Engine:
    """runs cases; keeps the namespace between cases when that is safe"""

    def __init__(self, fresh=False, drop_reasons=False, allow_exec=False, timeout=60, kmsg=False):
        _chk(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare (root needed)")
        _libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        os.environ["XTABLES_LOCKFILE"] = "/run/xtables.lock"
        self.fresh, self.dr, self.allow_exec, self.timeout = fresh, drop_reasons, allow_exec, timeout
        self.r, self.routers, self.keep, self.tr = None, {}, 48, None
        self.kmsg = Kmsg() if kmsg else None
        self.stats = {"cases": 0, "fresh": 0}

    def close(self):
        for r in self.routers.values():
            r.close()
        for path, _, _ in os.walk(os.path.join(CGROUPS, "tidegate-oracle"), topdown=False):
            with contextlib.suppress(OSError):      # another worker is still in it
                os.rmdir(path)
        self.routers = {}
        if self.tr:
            close_dropmon(self.tr)
            self.tr = None

    def _key(self, c):
        k = {x: c.get(x) for x in ("interfaces", "routes", "neighs", "ip", "sysctls", "local", "conntrack",
                                   "backend", "trace", "log_prerouting")}
        k["t4"], k["t6"] = rules_tables(c.get("rules4")), rules_tables(c.get("rules6"))
        return json.dumps(k, sort_keys=True)

    def run_case(self, case):
        t0 = time.perf_counter()
        name = case.get("name", "") if isinstance(case, dict) else ""
        old = signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, self.timeout)
        try:
            res = self._run(case)
        except CaseError as e:
            self._dirty()
            res = {"name": name, "ok": False, "error": str(e)}
        except Exception as e:  # a bad case must not end the worker
            self._dirty()
            res = {"name": name, "ok": False, "error": "%s: %s" % (type(e).__name__, e),
                   "where": traceback.format_exc().strip().splitlines()[-3:]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        res["elapsed_us"] = int((time.perf_counter() - t0) * 1e6)
        self.stats["cases"] += 1
        return res

    @staticmethod
    def _alarm(*_):
        raise CaseError("case timed out")

    def _dirty(self):
        if self.r:
            self.r.dirty = True

    def _router(self, case):
        """the namespace for this case: one of the few kept (same topology, same tables,
        clean), or a new one"""
        key = self._key(case)
        r = self.routers.pop(key, None)
        if r is not None:
            r.enter()
            if r.frag4:
                r.frag4 = False
                if frag_queues():
                    r.dirty = True
            if self.fresh or r.dirty or case.get("fresh"):
                r.close()
                r = None
        new = r is None
        if new:
            while len(self.routers) >= self.keep:
                self.routers.pop(next(iter(self.routers))).close()
            if self.tr is None and (self.dr or case.get("drop_reasons")):
                self.tr = open_dropmon() or False
            r = Router(case, self.tr or None)
            self.stats["fresh"] += 1
        self.routers[key] = r  # last = most recently used
        self.r = r
        return r, new

    def _run(self, case):
        if not isinstance(case, dict):
            raise CaseError("a case is a JSON object")
        r, new = self._router(case)
        if not new:
            r.flush_ct()
        r.load(case)
        seqs = case.get("sequences")
        if seqs is None:
            body = self._sequence(r, case, case.get("packets", []))
            res = {"name": case.get("name", ""), "ok": True, "version": VERSION, "kernel": os.uname().release,
                   "backend": r.backend, "fresh_ns": new}
            res.update(body)
            return res
        out = []
        base = None
        for i, s in enumerate(seqs):
            if i:
                r.flush_ct()
                r.drain_all()
                if r.dirty or r.frag4:
                    r, was_new = self._router(case)
                    if was_new:
                        r.load(case)
                        base = None
                if STATEFUL.search(case.get("rules4", "") + case.get("rules6", "")) or " limit" in case.get("rules4", "") \
                        or " limit" in case.get("rules6", "") or "-m quota" in case.get("rules4", "") \
                        or "statistic" in case.get("rules4", "") + case.get("rules6", ""):
                    r.load(case)
                    base = None
            b = self._sequence(r, case, s, base)
            base = b.pop("_abs")
            out.append(b)
        return {"name": case.get("name", ""), "ok": True, "version": VERSION, "kernel": os.uname().release,
                "backend": r.backend, "fresh_ns": new, "sequences": out}

    # one packet sequence
    def _sequence(self, r, case, packets, base=None):
        opt = case.get("options", {})
        steps, now, frac = [], None, 0.0
        cur_rules = {4: case.get("rules4", ""), 6: case.get("rules6", "")}
        want_counters = opt.get("counters", True)
        clock = case.get("clock", "warp")
        for n, st in enumerate(packets):
            if isinstance(st, (list, tuple)):
                st = {"t": st[0], "in": st[1], "hex": st[2]}
            if "op" in st:
                steps.append(dict(self._op(r, case, st, cur_rules), i=n))
                continue
            where = st.get("in")
            if "reply_of" in st:
                ro = st["reply_of"]
                # (What was to be answered may never have been sent.)
                lst = [] if ro["step"] is None else reply_target(steps[ro["step"]], ro)
                if len(lst) <= ro.get("n", 0) or not answerable(bytes.fromhex(lst[ro.get("n", 0)]["hex"])):
                    steps.append({"i": n, "in": where, "verdict": "skipped"})
                    continue
                x = lst[ro.get("n", 0)]
                b = bytes.fromhex(x["hex"])
                if r.tap.get(x["dev"]) and "role" in x:
                    raise CaseError("reply_of is for TUN interfaces")
                pkt = make_reply(b, ro)
                if where is None:
                    where = x["dev"] if "role" in x else "local"
            else:
                pkt = bytes.fromhex(st["hex"].replace(" ", ""))
            for s in st.get("subst", []):
                f = s["from"]
                src = steps[f["step"]].get(f.get("list", "out"), [])[f.get("n", 0)]["hex"]
                val = bytes.fromhex(src)[f["off"]:f["off"] + s["len"]]
                val = ((int.from_bytes(val, "big") + s.get("add", 0)) % 256 ** s["len"]).to_bytes(s["len"], "big")
                pkt = pkt[:s["off"]] + val + pkt[s["off"] + s["len"]:]
            if st.get("fix"):
                pkt = fix_csums(pkt)
            t = st.get("t")
            warp = None
            if t is not None:
                if now is not None and t > now:
                    d = t - now
                    if clock == "real":
                        time.sleep(d)
                    elif clock == "warp":
                        frac += d
                        if frac >= 1:
                            warp = r.warp(int(frac))
                            frac -= int(frac)
                now = t
            ls = leaves_state(pkt)
            if ls == 2:
                r.dirty = True
            elif ls == 1:
                r.frag4 = True
            pre_ev = [e for e in r.read_events() if e["ev"] != "UPDATE"] if warp else None
            err = r.inject(where, pkt, st)
            res = r.collect(where, err, opt, pkt)
            if self.kmsg:
                k = self.kmsg.read()
                if k:
                    res["log_lines"] = k
            res = dict({"i": n, "in": where}, **res)
            if st.get("subst") or st.get("fix") or "reply_of" in st:
                res["sent"] = pkt.hex()
            if warp:
                res["warp"] = warp
                if pre_ev:
                    res["warp_events"] = pre_ev
            if opt.get("ct_each"):
                res["conntrack"] = r.ct()
            if opt.get("counters_each"):
                res["counters"] = {"4": r.counters(4, cur_rules[4]), "6": r.counters(6, cur_rules[6])}
            steps.append(res)
        if opt.get("linger_ms"):
            time.sleep(opt["linger_ms"] / 1000)
        tail = r.collect("async", None, opt, b"")
        tail.pop("verdict", None)
        body = {"steps": steps}
        if tail:
            body["async"] = tail
        if want_counters:
            c = {}
            for fam in (4, 6):
                if cur_rules[fam]:
                    c[str(fam)] = r.counters(fam, cur_rules[fam])
            absolute = c
            if base:
                c = counters_sub(c, base)
            body["counters"] = c
            if case.get("sequences") is not None:
                body["_abs"] = absolute
        elif case.get("sequences") is not None:
            body["_abs"] = None
        if opt.get("save"):
            for fam in (4, 6):
                if cur_rules[fam]:
                    body["save%d" % fam] = r.save(fam)
        if opt.get("conntrack", True):
            ct = r.ct()
            body["conntrack"] = ct
            if opt.get("text"):
                body["conntrack_text"] = [ct_text(e) for e in ct]
            ex = r.expects()
            if ex:
                body["expect"] = ex
        return body

    def _op(self, r, case, st, cur):
        op = st["op"]
        o = {"op": op}
        if op == "warp":
            o.update(r.warp(int(st["sec"])))
        elif op == "sleep":
            time.sleep(st["ms"] / 1000)
        elif op == "restore":
            fam = st.get("family", 4)
            rc = run(["ip%stables-%s-restore" % ("6" if fam == 6 else "", r.backend)]
                     + (["-n"] if st.get("noflush") else []) + (["-c"] if st.get("counters") else []),
                     st["text"] if st["text"].endswith("\n") else st["text"] + "\n", check=False)
            o["rc"], o["stderr"] = rc.returncode, rc.stderr
            r.dirty = True
            if rc.returncode == 0:
                cur[fam] = st["text"] if not st.get("noflush") else cur[fam]
        elif op == "iptables":
            rc = run(["ip%stables-%s" % ("6" if st.get("family") == 6 else "", r.backend)] + st["args"], check=False)
            o["rc"], o["stdout"], o["stderr"] = rc.returncode, rc.stdout, rc.stderr
            r.dirty = True
        elif op == "sysctl":
            r.sysctl(st["set"])
            r.dirty = True
        elif op == "ip":
            rc = run(["ip"] + st["args"], check=False)
            o["rc"], o["stderr"] = rc.returncode, rc.stderr
            r.dirty = True
        elif op == "ct_flush":
            r.flush_ct()
        elif op == "ct_dump":
            o["conntrack"] = r.ct()
            o["expect"] = r.expects()
            if st.get("text"):
                o["conntrack"] = [ct_text(e) for e in o["conntrack"]]
        elif op == "counters":
            o["counters"] = {"4": r.counters(4, cur[4]), "6": r.counters(6, cur[6])}
        elif op == "exec":
            if not self.allow_exec:
                raise CaseError("op exec needs --allow-exec")
            rc = run(st["argv"], st.get("stdin"), check=False)
            o["rc"], o["stdout"], o["stderr"] = rc.returncode, rc.stdout, rc.stderr
            r.dirty = True
        else:
            raise CaseError("unknown op %r" % op)
        ev = r.read_events()
        if ev:
            o["events"] = ev
        x = r.collect("async", None, {"events": True}, b"")
        x.pop("verdict")
        o.update(x)
        return o


def counters_sub(a, b):
    out = {}
    for fam in a:
        out[fam] = {}
        for t in a[fam]:
            out[fam][t] = {}
            for ch, v in a[fam][t].items():
                w = b.get(fam, {}).get(t, {}).get(ch)
                if not w:
                    out[fam][t][ch] = v
                    continue
                out[fam][t][ch] = {
                    "policy": v["policy"],
                    "pc": [x - y for x, y in zip(v["pc"], w["pc"])] if v["pc"] and w["pc"] else v["pc"],
                    "rules": [[x - y for x, y in zip(p, q)] for p, q in zip(v["rules"], w["rules"])]}
    return out


# -------------------------------------------------------------------- pool / CLI
class Worker:
    def __init__(self, kw):
        a, b = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            a.close()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            f = b.makefile("rwb")
            try:
                eng = Engine(**kw)
            except Exception as e:
                eng = None
                fail = "engine: %s" % e
            for ln in f:
                if eng is None:
                    res = {"ok": False, "error": fail}
                else:
                    try:
                        res = eng.run_case(json.loads(ln))
                    except ValueError as e:
                        res = {"ok": False, "error": "bad JSON: %s" % e}
                f.write(json.dumps(res).encode() + b"\n")
                f.flush()
            if eng is not None:
                eng.close()
            os._exit(0)
        b.close()
        self.s = a
        self.f = a.makefile("rwb")
        self.busy = None

    def give(self, tag, line):
        self.busy = tag
        self.f.write(line + b"\n")
        self.f.flush()

    def take(self):
        ln = self.f.readline()
        tag, self.busy = self.busy, None
        if not ln:
            return tag, None
        return tag, ln.rstrip(b"\n")

    def end(self):
        try:
            # a later worker holds a copy of this socket: shut it down, do not just close it
            self.s.shutdown(socket.SHUT_RDWR)
            self.f.close()
            self.s.close()
        except OSError:
            pass
        try:
            os.waitpid(self.pid, 0)
        except OSError:
            pass


def pool(lines, jobs, kw, emit):
    """lines: iterator of bytes (one JSON case each). emit(index, bytes)"""
    ws = [Worker(kw) for _ in range(jobs)]
    it = enumerate(lines)
    live = True
    try:
        while True:
            for k, w in enumerate(ws):
                if w.busy is None and live:
                    try:
                        i, ln = next(it)
                    except StopIteration:
                        live = False
                        break
                    w.give(i, ln)
            act = [w for w in ws if w.busy is not None]
            if not act:
                break
            rd, _, _ = select.select([w.s for w in act], [], [])
            for k, w in enumerate(ws):
                if w.s in rd:
                    tag, ln = w.take()
                    if ln is None:  # worker died: say so, start another
                        emit(tag, json.dumps({"ok": False, "error": "worker died"}).encode())
                        w.end()
                        ws[k] = Worker(kw)
                    else:
                        emit(tag, ln)
    finally:
        for w in ws:
            w.end()


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("cases", nargs="*", help="JSON files (an object or a list); '-' or none: JSON lines on stdin")
    ap.add_argument("-j", "--jobs", type=int, default=1)
    ap.add_argument("--fresh", action="store_true", help="a new namespace for every case")
    ap.add_argument("--drop-reasons", action="store_true", help="also give the kernel's kfree_skb reasons")
    ap.add_argument("--allow-exec", action="store_true", help="allow the op 'exec' in cases")
    ap.add_argument("--timeout", type=float, default=60)
    ap.add_argument("--kmsg", action="store_true", help="also read the text of LOG lines from /dev/kmsg; sets "
                    "net.netfilter.nf_log_all_netns=1 on this machine while it runs; one job")
    ap.add_argument("--ordered", action="store_true", help="results in the order of the cases")
    ap.add_argument("--pretty", action="store_true")
    a = ap.parse_args()
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            sys.exit("nforacle: %s is missing: apt-get install %s" % (tool, package))
    if os.geteuid() != 0:
        sys.exit("nforacle: must be root (CAP_NET_ADMIN, CAP_SYS_ADMIN)")
    kw = dict(fresh=a.fresh, drop_reasons=a.drop_reasons, allow_exec=a.allow_exec, timeout=a.timeout, kmsg=a.kmsg)
    old_allns = None
    if a.kmsg:
        a.jobs = 1
        with open(ALLNS) as f:
            old_allns = f.read()
        with open(ALLNS, "w") as f:
            f.write("1")

    def src():
        if not a.cases or a.cases == ["-"]:
            for ln in sys.stdin.buffer:
                if ln.strip():
                    yield ln.strip()
            return
        for p in a.cases:
            with open(p) as f:
                d = json.load(f)
            for c in (d if isinstance(d, list) else [d]):
                yield json.dumps(c).encode()
    held, nxt = {}, [0]
    out = sys.stdout.buffer
    bad = [0]

    def put(ln):
        d = None
        if a.pretty:
            d = json.loads(ln)
            ln = json.dumps(d, indent=1).encode()
        if b'"ok": false' in ln[:400]:
            bad[0] += 1
        out.write(ln + b"\n")
        out.flush()

    def emit(i, ln):
        if not a.ordered:
            return put(ln)
        held[i] = ln
        while nxt[0] in held:
            put(held.pop(nxt[0]))
            nxt[0] += 1
    try:
        pool(src(), max(1, a.jobs), kw, emit)
    finally:
        if old_allns is not None:
            with open(ALLNS, "w") as f:
                f.write(old_allns)
    sys.exit(1 if bad[0] else 0)


if __name__ == "__main__":
    main()
