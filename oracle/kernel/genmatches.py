"""one match at a time: rules that only count, with all options and inversions of the match,
and packets that some of them match.  genmatches.match_case(i) is number i of the series;
KINDS says which matches there are.

What the kernel counts in real time is kept far from any boundary: rates of a few packets an
hour, lists that look back hours."""
import struct
import time

from gen import G
from gentrackers import chunk, sctp
from pkt import ip, tcp, udp, unreach
from topo import HOSTS, IFS, ROUTER, SERVICE_PORTS, hosts

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
ESP, AH, COMP, SCTP, DCCP, MH, HOP, ROUTING, FRAGMENT, DST, NONE = 50, 51, 108, 132, 33, 135, 0, 43, 44, 60, 59
CHUNKS = ["DATA", "INIT", "INIT_ACK", "SACK", "HEARTBEAT", "ABORT", "SHUTDOWN", "COOKIE_ECHO", "SHUTDOWN_COMPLETE", "ASCONF", "I_DATA"]
NUMBERS = {"DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "ABORT": 6, "SHUTDOWN": 7, "COOKIE_ECHO": 10,
           "SHUTDOWN_COMPLETE": 14, "ASCONF": 193, "I_DATA": 64}
DCCP_TYPES = ["REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK", "INVALID"]
DCCP_FIXED = {0: 4, 1: 12, 2: 0, 3: 8, 4: 8, 5: 8, 6: 8, 7: 12, 8: 8, 9: 8}


class M(G):
    """rules and packets for one match"""

    def __init__(self, seed, fam, kind):
        super().__init__(seed, fam)
        self.ftp, self.kind, self.seed = kind == "helper", kind, seed
        self.default_route = False

    def inv(self):
        return "! " if self.r.random() < .3 else ""

    def span(self, top, near):
        """a number or a range near those in use"""
        r = self.r
        a = r.choice(near)
        k = r.random()
        if k < .5:
            return str(a)
        if k < .8:
            return "%d:%d" % (max(0, a - r.randint(0, 2)), min(top, a + r.randint(0, 300)))
        return r.choice(["%d:" % a, ":%d" % a])

    # ------------------------------------------------------------ packets of all kinds
    def between(self):
        r, devs = self.r, HOSTS[self.fam]
        i, o = r.sample(list(devs), 2)
        dst = r.choice(devs[o]) if r.random() < .8 else ROUTER[self.fam][i]
        return i, r.choice(devs[i]), dst

    def send(self, proto, body, **k):
        i, s, d = self.between()
        return {"in": i, "hex": ip(s, d, proto, body, **k).hex()}

    def mk_tcp(self, **k):
        i, s, d = self.between()
        r = self.r
        k.setdefault("flags", r.choice(["S", "SA", "A", "FA", "R", "PA"]))
        return {"in": i, "hex": tcp(s, d, self.port(), r.choice(SERVICE_PORTS), **k).hex()}

    def mk_udp(self, data=b"x", **k):
        i, s, d = self.between()
        return {"in": i, "hex": udp(s, d, self.port(), self.r.choice(SERVICE_PORTS), data, **k).hex()}

    def port(self):
        return self.ports.pop()

    def p_esp(self):
        body = struct.pack("!II", self.r.choice([1, 256, 0xFFFFFFFF]), 7) + b"data"
        return self.send(ESP, body[:self.r.choice([12, 12, 12, 8, 7, 3])])

    def p_ah(self):
        r = self.r
        n = r.choice([1, 2, 4])
        head = struct.pack("!BBHII", 17, n + 1, r.choice([0, 0, 5]), r.choice([1, 256, 0xFFFFFFFF]), 7) + bytes(4 * n)
        if self.fam == 4:
            return self.send(AH, (head + b"payload!")[:r.choice([99, 99, 99, 11])])
        i, s, d = self.between()
        u = udp(s, d, self.port(), 53, b"x")[40:]
        return {"in": i, "hex": ip(s, d, 17, u, ext=head, nh=AH).hex()}

    def p_ipcomp(self):
        body = struct.pack("!BBH", 6, self.r.choice([0, 1]), self.r.choice([0, 2, 256, 65535])) + b"data"
        return self.send(COMP, body[:self.r.choice([8, 8, 8, 3])])

    def p_sctp(self):
        r = self.r
        out = b""
        for _ in range(r.randint(1, 3)):
            kind = NUMBERS[r.choice(CHUNKS)]
            out += chunk(kind, bytes(r.choice([0, 4, 5, 12])), r.choice([0, 1, 2, 3, 4, 7, 15]), r.choice([None] * 12 + [0]))
        body = sctp(self.port(), r.choice(SERVICE_PORTS), r.getrandbits(32), out)
        return self.send(SCTP, body[:r.choice([999] * 8 + [11, 12, 14])])

    def p_dccp(self):
        r = self.r
        ty, long = r.randint(0, 11), r.random() < .6
        fixed = 12 + 4 * long + DCCP_FIXED.get(ty, 12)
        opts = b"".join(r.choice([b"\0", b"\1", b"\x29\x04ab", b"\x2a\x03c", b"\x20\x00", b"\x21\x02"]) for _ in range(r.randint(0, 4)))
        opts += bytes(-(fixed + len(opts)) & 3)
        words = (fixed + len(opts)) // 4 + r.choice([0] * 9 + [-2, 3])
        head = struct.pack("!HHBBHBBH", self.port(), r.choice(SERVICE_PORTS), max(0, words), 0, 0, ty << 1 | long, 0, 1)
        body = head + bytes(fixed - 12) + opts
        return self.send(DCCP, body[:r.choice([999] * 9 + [11])])

    def p_tcpmss(self):
        r = self.r
        opts = r.choice([b"", b"\x02\x04\x05\xb4", b"\x01\x01\x02\x04\x02\x00", b"\x02\x03\x05", b"\x04\x02\x02\x04\xff\xff",
                         b"\x03\x03\x07\x02\x04\x00\x2a", b"\x02\x04"])
        return self.mk_tcp(flags=r.choice(["S", "SA", "A"]), opts=opts, doff=r.choice([None] * 9 + [4, 15]))

    def p_ecn(self):
        r = self.r
        if r.random() < .3:
            return self.mk_udp(tos=r.randint(0, 255))
        return self.mk_tcp(flags=r.choice([2, 0x42, 0x82, 0xC2, 0x10, 0x52]), tos=r.randint(0, 255))

    def p_string(self):
        return self.mk_udp(data=self.r.choice([b"abcABCabab", b"GET / HTTP", b"\x00\xff\xe9\xc9", b"ababababc", b"x" * 700 + b"Zq", b""]))

    def ext(self, nh, body):
        """an IPv6 packet with those headers before UDP, TCP or nothing"""
        r = self.r
        i, s, d = self.between()
        if r.random() < .3:
            return {"in": i, "hex": ip(s, d, NONE, b"", ext=body(NONE), nh=nh).hex()}
        if r.random() < .5:
            return {"in": i, "hex": ip(s, d, 17, udp(s, d, self.port(), 53, b"x")[40:], ext=body(17), nh=nh).hex()}
        return {"in": i, "hex": ip(s, d, 6, tcp(s, d, self.port(), 80)[40:], ext=body(6), nh=nh).hex()}

    def options(self, nh):
        r = self.r
        opts = b"".join(r.choice([b"\0", b"\x05\x02ab", b"\x05\x00", b"\x1e\x01c", b"\x01\x00", b"\x01\x02\0\0"]) for _ in range(r.randint(0, 4)))
        pad = -(2 + len(opts)) & 7
        opts += b"" if not pad else b"\0" if pad == 1 else bytes([1, pad - 2]) + bytes(pad - 2)
        return struct.pack("!BB", nh, (2 + len(opts)) // 8 - 1) + opts

    def p_hbh(self):
        return self.ext(HOP, self.options)

    def p_dst(self):
        return self.ext(DST, self.options)

    def p_rt(self):
        r = self.r
        addrs = [r.choice(["fd00::9", "fd00::a", "fd00:1::2"]) for _ in range(r.randint(0, 3))]
        kind, res = r.choice([0, 0, 0, 2, 4, 7]), r.choice([0, 0, 1])
        segs = b"".join(ip(a, a, 0)[8:24] for a in addrs)
        return self.ext(ROUTING, lambda nh: struct.pack("!BBBBI", nh, 2 * len(addrs), kind, r.randint(0, 3), res) + segs)

    def p_srh(self):
        r = self.r
        addrs = [r.choice(["fd00::9", "fd00::a", "fd00:1::2"]) for _ in range(r.randint(1, 4))]
        segs = b"".join(ip(a, a, 0)[8:24] for a in addrs)
        left, kind, last = r.randint(0, len(addrs)), r.choice([4, 4, 4, 4, 0]), len(addrs) - 1
        return self.ext(ROUTING, lambda nh: struct.pack("!BBBBBBH", nh, 2 * len(addrs), kind, left, last, 0, r.choice([0, 7])) + segs)

    def p_frag(self):
        r = self.r
        off = r.choice([0, 0, 8, 64]) | r.choice([0, 0, 2, 6]) | r.choice([0, 1])
        return self.ext(FRAGMENT, lambda nh: struct.pack("!BBHI", nh, r.choice([0, 0, 3]), off, r.choice([1, 77, 0xFFFFFFFF])))

    def p_ipv6header(self):
        r = self.r
        k = r.random()
        if k < .2:
            return self.p_ah()
        if k < .4:
            return self.p_esp() if r.random() < .5 else self.p_frag()
        if k < .5:
            return self.ext(HOP, lambda nh: self.options(DST) + self.options(nh))
        return r.choice([self.p_hbh, self.p_dst, self.p_rt])()

    def p_mh(self):
        r = self.r
        body = struct.pack("!BBBBHH", r.choice([NONE] * 6 + [6]), 0, r.randint(0, 9), 0, 0, 0)
        return self.send(MH, body[:r.choice([8, 8, 8, 5])])

    def p_rpfilter(self):
        p = self.mk_udp()
        if self.r.random() < .5:
            i = self.r.choice(list(HOSTS[self.fam]))
            src = self.r.choice(hosts(self.fam) + list(ROUTER[self.fam].values()))
            p = {"in": i, "hex": udp(src, self.r.choice(hosts(self.fam)), self.port(), 53, b"x").hex()}
        return p

    def p_few(self):
        """several packets of few addresses"""
        return self.mk_udp() if self.r.random() < .7 else self.mk_tcp(flags="S")

    # -------------------------------------------------------------- rules of each match
    def m_esp(self):
        return "-p esp -m esp %s--espspi %s" % (self.inv(), self.span(0xFFFFFFFF, [1, 255, 256, 0xFFFFFFFF]))

    def m_ah(self):
        m = "%s--ahspi %s" % (self.inv(), self.span(0xFFFFFFFF, [1, 255, 256, 0xFFFFFFFF]))
        if self.fam == 4:
            return "-p ah -m ah " + m
        if self.r.random() < .5:
            m += " %s--ahlen %d" % (self.inv(), self.r.choice([12, 16, 20, 28, 13]))
        return "-m ah " + m + self.r.choice(["", " --ahres"])

    def m_ipcomp(self):
        return "-p 108 -m ipcomp %s--ipcompspi %s" % (self.inv(), self.span(65535, [0, 2, 256, 65535]))

    def ports_of(self):
        r, m = self.r, ""
        if r.random() < .3:
            m += " %s--dport %s" % (self.inv(), r.choice(["80", "1:443", "443:"]))
        if r.random() < .2:
            m += " %s--sport %s" % (self.inv(), r.choice(["1000", "1024:65535"]))
        return m

    def m_sctp(self):
        r = self.r
        m = "-p sctp -m sctp" + self.ports_of()
        if r.random() < .85:
            names = r.sample(CHUNKS, r.randint(1, 4))
            flags = {"DATA": ["", ":B", ":be", ":UE", ":I"], "I_DATA": ["", ":b"], "ABORT": ["", ":T", ":t"], "SHUTDOWN_COMPLETE": ["", ":t"]}
            lst = r.choice([",".join(n + r.choice(flags.get(n, [""])) for n in names)] * 6 + ["ALL", "NONE"])
            m += " %s--chunk-types %s %s" % (self.inv(), r.choice(["all", "any", "only"]), lst)
        return m

    def m_dccp(self):
        r = self.r
        m = "-p dccp -m dccp" + self.ports_of()
        if r.random() < .6:
            m += " %s--dccp-types %s" % (self.inv(), ",".join(r.sample(DCCP_TYPES, r.randint(1, 4))))
        if r.random() < .6:
            m += " %s--dccp-option %d" % (self.inv(), r.choice([1, 0x29, 0x2A, 0x20, 0x21, 255]))
        return m

    def m_tcpmss(self):
        return "-p tcp -m tcpmss %s--mss %s" % (self.inv(), self.span(65535, [42, 512, 1460, 65535]))

    def m_ecn(self):
        r, m = self.r, ""
        if r.random() < .6:
            m += " %s--ecn-ip-ect %d" % (self.inv(), r.randint(0, 3))
        t = [o for o in ("cwr", "ece") if r.random() < .5] if r.random() < .6 or not m else []
        t = t or ([] if m else ["cwr"])
        return ("-p tcp " if t else "") + "-m ecn" + m + "".join(" %s--ecn-tcp-%s" % (self.inv(), o) for o in t)

    def m_string(self):
        r = self.r
        pat = r.choice(['--string "%s"' % r.choice(["abab", "ababc", "ABC", "GET /", "Zq", "b", "xxxx"]),
                        '--hex-string "|%s|"' % r.choice(["00ff", "e9", "c9", "6162", "0a00"])])
        m = "-m string %s%s --algo %s" % (self.inv(), pat, r.choice(["bm", "kmp"]))
        if r.random() < .4:
            m += " --from %d" % r.choice([1, 20, 28, 29, 48, 700])
        if r.random() < .4:
            m += " --to %d" % r.choice([700, 710, 730, 730, 740, 800])
        return m + (" --icase" if r.random() < .4 else "")

    def m_u32(self):
        r = self.r
        # not the flow label, which the kernel draws for what the router makes
        l4 = "0>>22&0x3C@%d" if self.fam == 4 else "%d"
        at = lambda n: l4 % (n if self.fam == 4 else n + 40)
        where = ["6&0xFF", "4&0x3FFF", "0>>24", at(0) + "&0xFFFF", at(0) + ">>16", at(8), "12<<8", "%d" % r.randint(4, 60), at(40)]
        where += ["2&0xFFFF"] if self.fam == 4 else []
        one = lambda: "%s=%s" % (r.choice(where), r.choice(["6", "17", "0", "80", "0x45", "53,80,443", "0:0x7fffffff", "1:1000,8080", "0x60:0x6f"]))
        return '-m u32 %s--u32 "%s"' % (self.inv(), "&&".join(one() for _ in range(r.choice([1, 1, 2]))))

    def m_bpf(self):
        r = self.r
        proto = 9 if self.fam == 4 else 6
        x = "177 0 0 0" if self.fam == 4 else "1 0 0 40"
        k = r.choice(["4,48 0 0 %d,21 0 1 %d,6 0 0 1,6 0 0 0" % (proto, r.choice([6, 17, 1, 58])),
                      "5,%s,72 0 0 2,21 0 1 %d,6 0 0 1,6 0 0 0" % (x, r.choice(SERVICE_PORTS)),
                      "5,%s,72 0 0 0,53 0 1 %d,6 0 0 0,6 0 0 9" % (x, r.choice([1000, 4000, 30000])),
                      "4,128 0 0 0,37 0 1 %d,6 0 0 1,6 0 0 0" % r.choice([40, 60, 100]),
                      "6,48 0 0 %d,7 0 0 0,40 0 0 2,92 0 0 0,20 0 0 1,22 0 0 0" % r.randint(0, 9),
                      "3,32 0 0 %d,84 0 0 %d,22 0 0 0" % (r.randint(0, 70), r.choice([1, 255, 0xFF00])),
                      "5,32 0 0 0,2 0 0 3,32 0 0 4,96 0 0 3,22 0 0 0",
                      "6,48 0 0 1,52 0 0 3,1 0 0 0,96 0 0 0,60 0 0 0,22 0 0 0".replace("96 0 0 0,60 0 0 0", "0 0 0 8,60 0 0 0")])
        return '-m bpf --bytecode "%s"' % k

    def m_hbh(self, n="hbh"):
        r, m = self.r, "-m " + n
        if r.random() < .5:
            m += " %s--%s-len %d" % (self.inv(), n, r.choice([8, 16, 24, 9]))
        if r.random() < .7:
            m += " --%s-opts %s" % (n, ",".join(r.choice(["0", "5", "5:2", "5:0", "30:1", "1", "1:0", "1:2"]) for _ in range(r.randint(1, 3))))
        return m

    def m_dst(self):
        return self.m_hbh("dst")

    def m_rt(self):
        r, m = self.r, "-m rt"
        zero = r.random() < .5
        if zero or r.random() < .4:
            m += " --rt-type 0" if zero else " %s--rt-type %d" % (self.inv(), r.choice([0, 2, 4]))
        if r.random() < .4:
            m += " %s--rt-segsleft %s" % (self.inv(), self.span(255, [0, 1, 2]))
        if r.random() < .4:
            m += " %s--rt-len %d" % (self.inv(), r.choice([8, 24, 40, 56, 9]))
        if zero and r.random() < .4:
            m += " --rt-0-res"
        if zero and r.random() < .5:
            m += " --rt-0-addrs " + ",".join(r.choice(["fd00::9", "fd00::a", "fd00:1::2"]) for _ in range(r.randint(1, 2)))
            m += r.choice(["", " --rt-0-not-strict"])
        return m

    def m_srh(self):
        r, m = self.r, "-m srh"
        for o, near in (("next-hdr", [6, 17, 59]), ("hdr-len-eq", [2, 4, 6]), ("hdr-len-gt", [2, 4]), ("hdr-len-lt", [0, 3, 7]), ("segs-left-eq", [0, 1]),
                        ("segs-left-gt", [0, 1]), ("segs-left-lt", [0, 2]), ("last-entry-eq", [0, 1]), ("last-entry-gt", [0]), ("last-entry-lt", [1, 2]), ("tag", [0, 7])):
            if r.random() < .12:
                m += " %s--srh-%s %d" % (self.inv(), o, r.choice(near))
        for o in ("psid", "nsid", "lsid"):
            if r.random() < .3:
                m += " %s--srh-%s %s" % (self.inv(), o, r.choice(["fd00::9/128", "fd00::/64", "fd00:1::/48", "::/0"]))
        return m

    def m_frag(self):
        r, m = self.r, "-m frag"
        if r.random() < .5:
            m += " %s--fragid %s" % (self.inv(), self.span(0xFFFFFFFF, [1, 77, 0xFFFFFFFF]))
        if r.random() < .2:
            m += " %s--fraglen 8" % self.inv()
        return m + r.choice(["", " --fragres"]) + r.choice(["", " --fragfirst"]) + r.choice(["", " --fragmore", " --fraglast"])

    def m_ipv6header(self):
        r = self.r
        names = r.sample(["hop", "dst", "route", "frag", "auth", "esp", "none", "prot"], r.randint(1, 3))
        return "-m ipv6header %s--header %s%s" % (self.inv(), ",".join(names), r.choice(["", " --soft"]))

    def m_mh(self):
        return "-p mh -m mh %s--mh-type %s" % (self.inv(), self.span(255, [0, 1, 4, 5, 7]))

    def m_rpfilter(self):
        return "-m rpfilter" + "".join(" --" + o for o in ("loose", "validmark", "accept-local", "invert") if self.r.random() < .4)

    def m_pkttype(self):
        return "-m pkttype %s--pkt-type %s" % (self.inv(), self.r.choice(["unicast", "broadcast", "multicast", "otherhost"]))

    def m_physdev(self):
        return "-m physdev " + " ".join(self.r.sample(["--physdev-in eth0", "! --physdev-in eth0", "! --physdev-is-in"], 1)
                                        + self.r.sample(["! --physdev-is-bridged", "--physdev-is-bridged", ""], 1))

    def m_policy(self):
        return "-m policy --dir %s --pol %s" % (self.dir, self.r.choice(["none", "ipsec", "ipsec --reqid 1", "ipsec --strict --proto esp"]))

    def m_quota(self):
        return "-m quota %s--quota %d" % (self.inv(), self.r.choice([0, 50, 100, 200, 500, 1000, 100000]))

    def m_cluster(self):
        r = self.r
        n = r.randint(1, 5)
        who = r.choice(["--cluster-local-node %d" % r.randint(1, n)] * 3 + ["--cluster-local-nodemask %d" % min(r.randint(1, 2 ** n - 1), 32)])
        return "-m cluster --cluster-total-nodes %d %s%s --cluster-hash-seed %d" % (n, self.inv(), who, r.getrandbits(32))

    def m_connbytes(self):
        r = self.r
        mode = r.choice(["packets", "bytes", "avgpkt"])
        near = {"packets": [1, 2, 3, 5], "bytes": [40, 60, 100, 200, 500], "avgpkt": [40, 50, 60, 80]}[mode]
        a = r.choice(near)
        span = r.choice(["%d" % a, "%d:" % a, ":%d" % a, "%d:%d" % (a, a + r.choice([0, 1, 20, 300]))])
        return "-m connbytes %s--connbytes %s --connbytes-mode %s --connbytes-dir %s" % (self.inv(), span, mode, r.choice(["original", "reply", "both"]))

    def m_helper(self):
        return "-m helper %s--helper %s" % (self.inv(), self.r.choice(["ftp", "ftp-21", "ft", '""', "irc"]))

    def name(self):
        return "m%d-%s" % (self.seed, self.r.choice("ab"))

    def m_hashlimit(self):
        r, fam = self.r, self.fam
        if not hasattr(self, "tables"):
            self.tables = {}
        name = self.name()
        if name in self.tables and r.random() < .6:
            return self.tables[name].replace("upto", r.choice(["upto", "above"]))
        name = name if name not in self.tables else "m%d-%d" % (self.seed, len(self.tables))
        modes = [m for m in ("srcip", "dstip", "srcport", "dstport") if r.random() < .4]
        rate = r.choice(["1/hour --hashlimit-burst %d" % r.randint(1, 5), "3/day --hashlimit-burst 1", "16b/s --hashlimit-burst %db" % (16 * r.randint(1, 4)),
                         "%d/hour --hashlimit-rate-match" % r.randint(1, 5), "%dkb/s --hashlimit-rate-match --hashlimit-rate-interval 900" % r.choice([1, 2])])
        m = "-m hashlimit --hashlimit-%s %s --hashlimit-name %s" % (r.choice(["upto", "above"]), rate, name)
        if modes:
            m += " --hashlimit-mode " + ",".join(modes)
        for side in ("src", "dst"):
            if r.random() < .3:
                m += " --hashlimit-%smask %d" % (side, r.choice([0, 8, 24, 31] if fam == 4 else [0, 16, 64, 127]))
        if r.random() < .2:
            m += " --hashlimit-htable-max %d" % r.choice([1, 2, 4])
        self.tables[name] = m
        return m

    def m_recent(self):
        r = self.r
        side = r.choice(["", "--rsource", "--rdest"])
        name = "--name " + self.name()
        k = r.random()
        if k < .4:
            return "-m recent %s--set %s %s" % (self.inv(), name, side)
        if k < .55:
            return "-m recent %s--remove %s %s" % (self.inv(), name, side)
        m = "-m recent %s--%s %s %s" % (self.inv(), r.choice(["rcheck", "update"]), name, side)
        if r.random() < .5:
            m += " --seconds %d" % r.choice([3600, 7200]) + r.choice(["", " --reap"])
        if r.random() < .5:
            m += " --hitcount %d" % r.randint(1, 4)
        return m + r.choice(["", "", " --rttl"])

    def m_connlimit(self):
        r = self.r
        mask = r.choice(["", " --connlimit-mask %d" % r.choice([0, 8, 24] if self.fam == 4 else [0, 16, 64])])
        # each connection is looked at once: within a tick the kernel counts one again
        return "-m conntrack --ctstate NEW -m connlimit --connlimit-%s %d%s%s" % (r.choice(["upto", "above"]), r.randint(0, 4), mask,
                                                                                 r.choice(["", " --connlimit-saddr", " --connlimit-daddr"]))

    def m_time(self):
        r = self.r
        if self.epoch % 86400 > 85800:
            return "-m time"    # the day would end between making the case and running it
        now = time.gmtime(self.epoch)
        hm = lambda d: time.strftime("%H:%M", time.gmtime(self.epoch + 3600 * d))
        m = "-m time"
        if r.random() < .7:
            a, b = r.sample([-20, -9, -5, -2, 2, 5, 9, 20], 2)
            m += " --timestart %s --timestop %s" % (hm(a), hm(b))
            if hm(a) > hm(b) and r.random() < .5:
                m += " --contiguous"
        if r.random() < .5:
            days = {now.tm_wday + 1, r.randint(1, 7), (now.tm_wday - 1) % 7 + 1}
            m += " %s--weekdays %s" % (self.inv(), ",".join(str(x) for x in r.sample(sorted(days), r.randint(1, len(days)))))
        if r.random() < .4:
            m += " %s--monthdays %s" % (self.inv(), ",".join(str(x) for x in {now.tm_mday, r.randint(1, 28)} if r.random() < .8) or "1")
        if r.random() < .4:
            date = lambda d: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.epoch + 86400 * d))
            m += r.choice([" --datestart " + date(r.choice([-3, 2])), " --datestop " + date(r.choice([-2, 3]))])
        return m

    # ----------------------------------------------------------- what the host knows
    WHO = ({}, {}, {"uid": 1000, "gid": 100, "groups": [100, 200]}, {"uid": 65534, "gid": 65534, "groups": []}, {"uid": 1000, "gid": 1000, "groups": [4, 27]})
    CGROUPS = ("tidegate-oracle/a", "tidegate-oracle/a/b", "tidegate-oracle/c")

    def p_own(self):
        """mostly packets of this host's own, each from a socket of somebody"""
        r, fam = self.r, self.fam
        if r.random() < .25:
            return self.mk_udp()
        p = self.mk_udp() if r.random() < .5 else self.mk_tcp()
        i, d = self.between()[0], r.choice(hosts(fam))
        src = r.choice([x for x in ROUTER[fam].values()])
        make = udp if r.random() < .5 else tcp
        p = {"in": "local", "hex": make(src, d, self.port(), r.choice(SERVICE_PORTS)).hex()}
        who = dict(r.choice(self.WHO))
        if self.kind == "cgroup" and r.random() < .7:
            who["cgroup"] = r.choice(self.CGROUPS)
        return dict(p, **{"as": who}) if who else p

    def m_owner(self):
        r = self.r
        ids = lambda near: r.choice(["%d", "%d", "0-%d", "%d-4294967294"]) % r.choice(near)
        m = ""
        if r.random() < .35:
            m += " %s--socket-exists" % self.inv()
        if r.random() < .6:
            m += " %s--uid-owner %s" % (self.inv(), ids([0, 1000, 65534]))
        if r.random() < .5 or not m:
            m += " %s--gid-owner %s" % (self.inv(), ids([0, 100, 200, 1000, 27, 65534])) + r.choice(["", " --suppl-groups"])
        return "-m owner" + m

    def m_cgroup(self):
        r = self.r
        if r.random() < .3:
            return "-m cgroup %s--cgroup %d" % (self.inv(), r.choice([0, 7]))
        return "-m cgroup %s--path %s" % (self.inv(), r.choice(self.CGROUPS + ("tidegate-oracle",)))

    def own_sockets(self):
        r, fam = self.r, self.fam
        out = []
        for port in r.sample(SERVICE_PORTS, 4):
            x = {"proto": r.choice(["tcp", "udp", "udp"]), "port": port, "mark": r.choice([0, 5, 6])}
            x["addr"] = r.choice([{4: "0.0.0.0", 6: "::"}[fam]] + list(ROUTER[fam].values()))
            if r.random() < .4:
                x["transparent"] = True
            if x["proto"] == "udp" and r.random() < .6:
                dev = r.choice(list(HOSTS[fam]))
                x["addr"], x["peer"] = ROUTER[fam][dev], [HOSTS[fam][dev][0], r.choice([1000, 53])]
            if self.kind == "cgroup":
                x["as"] = {"cgroup": r.choice(self.CGROUPS)}
            out.append(x)
        if fam == 4 and r.random() < .3:
            out.append({"proto": "tcp", "port": 9, "addr": "::", "only": False})
        return out

    def p_socket(self):
        """to the sockets, about what they sent, and elsewhere"""
        r, fam = self.r, self.fam
        x = r.choice(self.case_sockets)
        dev = r.choice(list(HOSTS[fam]))
        src, sport = r.choice(HOSTS[fam][dev]), r.choice([1000, 53, 4000])
        dst = x["addr"] if x["addr"] not in ("0.0.0.0", "::") else r.choice(list(ROUTER[fam].values()))
        if x.get("peer") and r.random() < .6:
            src, sport = x["peer"]
            dev = [d for d in HOSTS[fam] if src in HOSTS[fam][d]][0]
        port = x["port"] if r.random() < .8 else 99
        if r.random() < .15:
            return {"in": dev, "hex": tcp(src, r.choice(hosts(fam)), sport, port, flags="S").hex()}
        make = tcp if x["proto"] == "tcp" else udp
        if r.random() < .2:
            make = tcp if make is udp else udp
        if r.random() < .2:
            return {"in": dev, "hex": unreach(src, dst, make(dst, src, port, sport)).hex()}
        return {"in": dev, "hex": make(src, dst, sport, port).hex()}

    def m_socket(self):
        return "-m socket" + "".join(" --" + o for o in ("transparent", "nowildcard", "restore-skmark") if self.r.random() < .4)

    OSF = """S4:64:1:60:M*,S,T,N,W7:TgLinux:2.6::a
S4:64:1:60:M*,S,T,N,W7:TgTwin:9:z:b
T2:128:0:48:M*,N,N,S:TgWin:xp:1:c
%8192:64:0:44:M512:TgMod:1::d
512:255:1:40:.:TgPlain:1::e
*:64:0:44:M*:TgAny:1::f
"""

    def p_osf(self):
        r = self.r
        kind = r.choice(["a", "a", "c", "d", "e", "f"])
        mss = r.choice([1460, 1448, 1400, 536])
        opts = {"a": struct.pack("!BBH", 2, 4, mss) + b"\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x05", "c": struct.pack("!BBH", 2, 4, mss) + b"\x01\x01\x04\x02",
                "d": b"\x02\x04\x02\x00", "e": b"", "f": struct.pack("!BBH", 2, 4, mss)}[kind]
        win = {"a": 4 * r.choice([mss, 1460, 1448, 99]), "c": 2 * (40 + r.choice([mss, 1460])), "d": 8192 * r.randint(0, 5), "e": 512, "f": r.randint(0, 65535)}[kind]
        if r.random() < .1:
            opts = opts[::-1]
        df = kind in "ae" if r.random() < .85 else r.random() < .5
        ttl = {"a": 64, "c": 128, "d": 64, "e": 255, "f": 64}[kind] - r.choice([0, 0, 0, 1, 9, -1 if kind != "e" else 0])
        return self.mk_tcp(flags=r.choice(["S", "S", "S", "S", "SA", "A"]), opts=opts, win=win & 65535, ttl=ttl, df=df)

    def m_osf(self):
        r = self.r
        genre = r.choice(["TgLinux", "TgTwin", "TgWin", "TgMod", "TgPlain", "TgAny", "TgNone"])
        return "-p tcp -m osf %s--genre %s%s" % (self.inv(), genre, r.choice(["", " --ttl 0", " --ttl 1", " --ttl 2"]))

    def m_cpu(self):
        return "-m cpu %s--cpu %d" % (self.inv(), self.r.randint(0, 1))

    def m_devgroup(self):
        r, sides = self.r, []
        if self.hook in ("PREROUTING", "INPUT", "FORWARD"):
            sides.append("src")
        if self.hook in ("FORWARD", "OUTPUT", "POSTROUTING"):
            sides.append("dst")
        one = lambda s: " %s--%s-group %s" % (self.inv(), s, r.choice(["0", "1", "5", "0x4/0x4", "7/0x3"]))
        return "-m devgroup" + "".join(one(s) for s in r.sample(sides, r.randint(1, len(sides))))

    def m_realm(self):
        return "-m realm %s--realm %s" % (self.inv(), self.r.choice(["0", "5", "6", "0x50000", "0x50006", "5/0xff", "0x60000/0xffff0000", "0/0xffff"]))

    def m_connlabel(self):
        return "-m connlabel %s--label %d%s" % (self.inv(), self.r.choice([0, 1, 7, 127]), self.r.choice(["", " --set"]))

    def m_mac(self):
        """frames here have no link-layer header"""
        return "-m mac %s--mac-source 02:00:00:00:00:0%d" % (self.inv(), self.r.randint(0, 3))

    def m_eui64(self):
        return "-m eui64"

    def m_hops(self):
        op, n = self.r.choice(["! --%s-eq", "--%s-eq", "--%s-lt", "--%s-gt"]), self.r.choice([1, 2, 62, 63, 64, 65, 255])
        return ("-m ttl " + op % "ttl" if self.fam == 4 else "-m hl " + op % "hl") + " %d" % n

    def m_statistic(self):
        every = self.r.randint(1, 5)
        return "-m statistic --mode nth %s--every %d --packet %d" % (self.inv(), every, self.r.randint(0, every - 1))

    def m_transport(self):
        """the header's own matches, inverted"""
        r, kind = self.r, self.r.choice(["tcp", "tcp", "udp", "icmp"])
        if kind == "tcp":
            flags = r.choice(["SYN,ACK SYN", "ALL ACK", "FIN,RST RST", "ALL NONE"])
            return "-p tcp -m tcp" + self.ports_of() + r.choice([" ! --tcp-flags " + flags, " --tcp-flags " + flags, " ! --tcp-option 2", " ! --syn", " --syn"])
        if kind == "udp":
            return "-p udp -m udp" + (self.ports_of() or " ! --dport 53")
        if self.fam == 4:
            return "-p icmp -m icmp %s--icmp-type %s" % (self.inv(), r.choice(["8", "0", "3/1", "any", "3"]))
        return "-p icmpv6 -m icmp6 %s--icmpv6-type %s" % (self.inv(), r.choice(["128", "129", "1/4", "1"]))

    def m_nfacct(self):
        return "-m nfacct --nfacct-name " + self.r.choice(["over", "under", "plain"])

    def m_rateest(self):
        """no estimator says anything but 0 before its first interval is over"""
        r = self.r
        how, inv = r.choice(["lt", "gt", "eq"]), self.inv()
        if r.random() < .4:
            delta = r.choice(["", "--rateest-delta "])
            return "-m rateest %s--rateest1 a %s--rateest-%s --rateest2 b %s" % (delta, inv, how, r.choice(["--rateest-bps", "--rateest-pps"]))
        if r.random() < .3:
            return "-m rateest --rateest-delta --rateest a --rateest-bps1 %s %s--rateest-%s --rateest-bps2 %s" % (r.choice(["1kbit", "0"]), inv, how, r.choice(["2kbit", "1kbit"]))
        v = r.choice(["bps 8bit", "pps 1", "bps 1kbit", "pps 0", "bps 0"])
        return "-m rateest --rateest a %s--rateest-%s --rateest-%s" % (inv, how, v)

    # ------------------------------------------------------------------------ the case
    PACKETS = {"owner": "own", "cgroup": "own", "cpu": "own", "devgroup": "own", "realm": "own", "nfacct": "few", "mac": "few", "eui64": "few", "rateest": "few", "hashlimit": "few", "recent": "few", "connlimit": "few", "quota": "few", "time": "few", "pkttype": "few", "policy": "few", "physdev": "few"}
    GENERIC = ("u32", "bpf", "connbytes", "cluster", "helper", "connlabel", "hops", "statistic", "transport")

    def hooks(self):
        allowed = {"mac": ["PREROUTING", "INPUT", "FORWARD"], "eui64": ["PREROUTING", "INPUT", "FORWARD"],
                   "rpfilter": ["PREROUTING"], "owner": ["OUTPUT", "POSTROUTING"], "socket": ["PREROUTING", "INPUT"],
                   "cgroup": ["INPUT", "OUTPUT", "POSTROUTING"], "osf": ["PREROUTING", "INPUT", "FORWARD"], "realm": ["INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]}
        if self.kind in allowed:
            return allowed[self.kind]
        return self.r.sample(HOOKS, 3)

    def match_case(self, name):
        r, fam = self.r, self.fam
        self.epoch = int(time.time())
        out = ["*mangle"] + [":%s ACCEPT [0:0]" % c for c in HOOKS]
        self.case_sockets = self.own_sockets() if self.kind in ("socket", "cgroup") else []
        if self.kind == "rateest":
            out += ["-A PREROUTING -j RATEEST --rateest-name %s --rateest-interval 8s --rateest-ewmalog 16s" % n for n in "ab"]
        for h in self.hooks():
            self.hook = h
            self.dir = "out" if h in ("OUTPUT", "POSTROUTING") else "in"
            out += ["-A %s %s" % (h, getattr(self, "m_" + self.kind)()) for _ in range(r.randint(3, 6))]
        rules = "\n".join(out + ["COMMIT", ""])
        if self.kind == "owner":    # what the router itself makes
            rules += "*filter\n-A FORWARD -p udp -j REJECT\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"
        if self.ftp:
            rules += self.ftp_ruleset()
        make = getattr(self, "p_" + self.PACKETS.get(self.kind, self.kind), None)
        n = r.randint(15, 30)
        if self.kind in self.GENERIC:
            packets = self.packets(n)
        elif self.kind == "connlimit":
            packets = [dict(self.p_few(), t=0) for _ in range(n)]
        else:
            packets = [dict(make() if r.random() < .85 else self.p_few(), t=0) for _ in range(n)]
        c = {"name": name, "interfaces": IFS, "rules%d" % fam: rules, "packets": packets, "epoch": self.epoch}
        if self.case_sockets:
            c["sockets"] = self.case_sockets
        if self.kind == "cgroup":
            c["cgroups"] = self.CGROUPS
        if self.kind == "nfacct":
            c["nfacct"] = [["plain"], ["over", "packet", str(r.randint(1, 9))], ["under", "byte", str(r.randint(1, 900))]]
        if self.kind == "osf":
            c["osf"] = self.OSF
        if self.kind == "cpu":
            c["cpu"] = r.randint(0, 1)
        if self.kind == "devgroup":
            c["interfaces"] = [dict(x, group=g) for x, g in zip(IFS, (1, 5, 0))]
        if self.kind == "realm":
            c["routes"] = ["10.0.0.0/24 dev eth0 src 10.0.0.1 realm 5", "10.0.1.0/24 dev eth1 src 10.0.1.1 realm 6", "192.0.2.0/24 via 10.0.1.2 realm 3/5"]
        if self.kind in ("frag", "ipv6header", "esp"):
            c["conntrack"] = "auto"
        return c


ONLY6 = ("eui64", "hbh", "dst", "rt", "srh", "frag", "ipv6header", "mh")
ONLY4 = ("realm", "osf")
KINDS = ("esp", "ah", "ipcomp", "sctp", "dccp", "tcpmss", "ecn", "string", "u32", "bpf", "hbh", "dst", "rt", "srh", "frag", "ipv6header", "mh", "rpfilter",
         "pkttype", "physdev", "policy", "quota", "cluster", "connbytes", "helper", "hashlimit", "recent", "connlimit", "time",
         "owner", "socket", "cgroup", "cpu", "devgroup", "realm", "osf", "nfacct", "rateest", "connlabel", "mac", "eui64", "hops", "statistic", "transport")


def match_case(i, kind=None):
    """case number i of the series: the matches in turn, or one of them"""
    turn = i // len(KINDS) if kind is None else i
    kind = kind or KINDS[i % len(KINDS)]
    fam = 6 if kind in ONLY6 or turn % 2 and kind not in ONLY4 else 4
    return M(i + 7000000, fam, kind).match_case("%s%d" % (kind, i))
