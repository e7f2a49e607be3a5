"""connections that programs in the kernel can be told of: forwarded, established, with much to say, under rules as
firewalls have them, which change while packets come

Everything else of genpackets goes on beside them."""
import shlex

import gen
from genrules import CHAINS
from pkt import udp
from topo import HOSTS, ROUTER, VIP, hosts


class Fast(gen.G):
    KINDS = [("tcp_session", 14), ("udp_stream", 2), ("udp_session", 2), ("icmp_session", 1), ("frag_session", 1), ("stray", 3), ("flood", 3)]

    def __init__(self, seed, fam):
        super().__init__(seed, fam)
        self.ftp = False
        self.sleeps = self.r.random() < .04     # real time: what makes a UDP flow a stream cannot be warped
        self.nat, self.mangle = self.r.random() < .6, self.r.random() < .4     # tables stay

    # ------------------------------------------------------------- packets
    def flow(self, proto=None):
        f = super().flow(proto)
        if self.r.random() < .8:                # from one network to another
            a, b = self.r.sample(list(HOSTS[self.fam]), 2)
            f.update(i=a, s=self.r.choice(HOSTS[self.fam][a]), d=self.r.choice(HOSTS[self.fam][b]))
            if self.nat and self.r.random() < .2:
                f["d"] = self.r.choice([VIP[self.fam], ROUTER[self.fam][a]])
        return f

    def tcp_data(self, c, s, sackok):
        """whole megabytes of it, compared with the others"""
        r, pos = self.r, {c: 1, s: 1}
        for _ in range(r.randint(2, 14)):
            me, you = r.choice([(c, s), (s, c)])
            n = r.choice([1, 10, 100, 1000])
            yield me(r.choice(["A", "PA"]), pos[me], pos[you], data=b"x" * n, **self.sound())
            pos[me] += n
            if r.random() < .5:
                yield you("A", pos[you], pos[me], **self.sound())
        if r.random() < .6:
            # What goes wrong starts where this has ended.
            yield from super().tcp_data(self.later(c, pos[c], pos[s]), self.later(s, pos[s], pos[c]), sackok)
        else:
            yield from self.tcp_close(c, s, pos)

    def sound(self):
        return {"win": self.r.choice([65535, 65535, 4000])}

    @staticmethod
    def later(who, mine, other):
        """the same speaker, for whom numbers begin further on"""
        return lambda flags, seq, ack=0, **kw: who(flags, seq + mine - 1, ack + other - 1, **kw)

    def udp_stream(self):
        if not self.sleeps:
            yield from self.udp_session()
            return
        r, f = self.r, self.flow("udp")

        def say():
            return {"in": f["i"], "hex": udp(f["s"], f["d"], f["sp"], f["dp"], b"x" * r.choice([0, 1, 20, 1200]), **self.ip_extra()).hex()}
        for n in range(r.randint(3, 9)):
            k = yield say()
            if r.random() < .8:
                yield {"reply_of": {"step": k, "list": "any", "data": (b"y" * r.choice([0, 5, 300])).hex()}}
            if n == 0:
                yield {"op": "sleep", "ms": 2100}

    def flood(self):
        """packets of strangers to one place, the later ones when programs know what rules say about them"""
        r, f = self.r, self.flow("udp")
        if f["i"] == "local":
            return
        for n in range(r.randint(8, 16)):
            yield {"in": f["i"], "hex": udp(f["s"], f["d"], self.ports.pop(), f["dp"], b"x").hex()}
            if n == 3:
                yield {"op": "sleep", "ms": 50}

    def jump(self):
        if not self.sleeps:
            super().jump()

    def packets(self, n):
        """the rules change now and then"""
        out = super().packets(n)
        if self.r.random() < .4:
            # Steps are referred to by number: a change takes the place of a packet that nobody refers to.
            named = {p["reply_of"]["step"] for p in out if "reply_of" in p}
            free = [i for i in range(8, len(out)) if i not in named and "op" not in out[i]]
            for i in self.r.sample(free, min(len(free), self.r.randint(1, 3))):
                out[i] = dict(self.change(), t=out[i]["t"])
        return out

    # ------------------------------------------------------------- rules
    def change(self):
        r = self.r
        if r.random() < .3:
            return {"op": "restore", "family": self.fam, "text": self.ruleset()}
        rule = shlex.split(self.rule("filter", "FORWARD", []))
        if r.random() < .5:
            return {"op": "iptables", "family": self.fam, "args": rule}
        return {"op": "iptables", "family": self.fam, "args": ["-I", "FORWARD", "1"] + rule[2:]}

    def ruleset(self):
        r = self.r
        out = ["*filter"]
        out += [":%s %s [0:0]" % (c, r.choice(["DROP", "ACCEPT"])) for c in CHAINS["filter"]]
        out.append(":u0 - [0:0]")
        for c in CHAINS["filter"]:
            if r.random() < .2:
                out.append("-A %s -m conntrack --ctstate INVALID -j DROP" % c)
            if r.random() < .3:
                out.append("-A %s -j u0" % c)
            out.append("-A %s -m conntrack --ctstate %s -j ACCEPT" % (c, r.choice(["ESTABLISHED", "ESTABLISHED,RELATED"])))
            if r.random() < .4:
                out.append(self.rule("filter", c, []))
            out.append(r.choice(["-A %s -m conntrack --ctstate NEW -j ACCEPT", "-A %s -p tcp --syn -j ACCEPT", "-A %s -p tcp -m conntrack --ctstate NEW -j ACCEPT"]) % c)
        out += ["-A u0 " + r.choice(["-p tcp", "-s %s" % r.choice(hosts(self.fam)), "-i eth0", "-m mark --mark 1"]) for _ in range(r.randint(0, 2))]
        out.append("COMMIT")
        if self.nat:
            out += ["*nat"] + [":%s ACCEPT [0:0]" % c for c in CHAINS["nat"]]
            dev = r.choice(list(HOSTS[self.fam]))
            if r.random() < .7:
                out.append("-A POSTROUTING -o %s -j %s" % (dev, r.choice(["MASQUERADE", "SNAT --to-source " + r.choice([ROUTER[self.fam][dev], VIP[self.fam]])])))
            to = r.choice([ROUTER[self.fam][dev], VIP[self.fam], r.choice(hosts(self.fam))])
            if r.random() < .8:
                out.append("-A PREROUTING -d %s -j DNAT --to-destination %s" % (to, r.choice(hosts(self.fam))))
            out.append("COMMIT")
        if self.mangle:
            marks = ["-j MARK --set-mark 1", "-j CONNMARK --set-mark 2", "-j CONNMARK --restore-mark", "-j MARK --or-mark 2"]
            change = ["-j TOS --set-tos 0x10", "-j DSCP --set-dscp 10"]
            out += ["*mangle"] + [":%s ACCEPT [0:0]" % c for c in CHAINS["mangle"]]
            for c in ("PREROUTING", "FORWARD", "POSTROUTING"):
                if r.random() < .5:
                    out.append("-A %s %s %s" % (c, r.choice(["", "-p tcp", "-i eth0" if c != "POSTROUTING" else "-o eth1"]), r.choice(marks + change)))
            out.append("COMMIT")
        return "\n".join(out) + "\n"


def fast_case(i):
    """case number i of the series: every fourth is IPv6"""
    g = Fast(7_000_000 + i, 6 if i % 4 == 3 else 4)
    return g.case("fast%d" % i, g.r.randint(30, 70))
