"""sets: -m set with every option, -j SET, and the types of ipset that the kernel here has

Each case has a few sets of one type and others for contrast, filled with what packets have and
what they nearly have.  Rules look into them at every hook, change them and look again; counters
and marks show what came of it."""
import gen
from genrules import CHAINS
from gentargets import Target
from topo import CLIENT_PORTS, HOSTS, NETS, ROUTER, SERVICE_PORTS, hosts

PARTS = {"hash:ip": ["ip"], "hash:net": ["net"], "hash:ip,port": ["ip", "port"], "hash:net,port": ["net", "port"],
         "hash:ip,port,ip": ["ip", "port", "ip"], "hash:ip,port,net": ["ip", "port", "net"], "hash:net,iface": ["net", "iface"],
         "bitmap:ip": ["ip"], "bitmap:port": ["bare"]}
# a member that the kernel cannot decide by a packet's own bytes (MAC addresses) has no type here
KINDS = list(PARTS) + ["list:set"]
LONG = 2000000


class Sets(Target):
    def __init__(self, seed, fam, kind):
        super().__init__("%s%d" % (kind, seed), fam)
        self.kind, self.seed = kind, seed
        self.made, self.text = {}, []

    # ------------------------------------------------------------------ sets and members
    def addr(self):
        r = self.r
        return r.choice(hosts(self.fam) + list(ROUTER[self.fam].values()))

    def net(self):
        r, fam = self.r, self.fam
        k = r.random()
        if k < .4:
            return self.addr()
        if k < .6:
            return "%s/%d" % (self.addr(), r.choice([8, 16, 23, 30, 31] if fam == 4 else [8, 48, 63, 112, 127]))
        return r.choice([n for n in NETS[fam] if not n.endswith("/0")])

    def port(self):
        r = self.r
        icmp = "icmp" if self.fam == 4 else "icmpv6"
        types = ["echo-request", "echo-reply", "3/3" if self.fam == 4 else "1/4"]
        p = r.choice(SERVICE_PORTS + CLIENT_PORTS)
        return r.choice(["tcp:%d" % p, "tcp:%d" % p, "udp:%d" % p, "sctp:%d" % p, "%s:%s" % (icmp, r.choice(types)), "gre:0",
                         "tcp:%d-%d" % (p, p + 5), "tcp:1000-1100", "udp:1-120"])

    def part(self, what):
        if what == "bare":
            return str(self.r.choice(SERVICE_PORTS))
        if what == "iface":
            return self.r.choice(["eth0", "eth1", "eth2", "lo", "eth9"])
        return getattr(self, {"ip": "addr"}.get(what, what))()

    def new(self, kind):
        r, fam = self.r, self.fam
        name = "s%d-%d" % (self.seed, len(self.made))
        line = "create %s %s" % (name, kind)
        if kind.startswith("hash"):
            line += " family inet%s" % ("6" if fam == 6 else "")
            if kind == "hash:ip" and r.random() < .3:
                line += " netmask %d" % r.choice([8, 24, 31] if fam == 4 else [16, 64, 127])
        if kind == "bitmap:ip":
            line += " range 10.0.0.0/16" + r.choice(["", "", " netmask 24"])
        if kind == "bitmap:port":
            line += " range 0-10000"
        timeout, counters, skbinfo = (r.random() < .3 for _ in range(3))
        line += " timeout %d" % r.choice([0, LONG]) * timeout + " counters" * counters + " skbinfo" * skbinfo
        self.text.append(line)
        self.made[name] = kind
        for _ in range(r.randint(0, 8)):
            more = ""
            if kind == "list:set":
                inner = [n for n, k in self.made.items() if k != "list:set"]
                member = r.choice(inner)
            else:
                member = ",".join(self.part(p) for p in PARTS[kind])
                if "net" in PARTS[kind] and r.random() < .2:
                    more += " nomatch"
            if timeout and r.random() < .5:
                more += " timeout %d" % (LONG + 10)
            if counters and r.random() < .3:
                more += " packets %d bytes %d" % (r.randint(0, 5), r.randint(0, 500))
            if skbinfo:
                more += " skbmark %#x/%#x" % (r.getrandbits(8), r.choice([0xff, 0xffffffff, 0xf0]))
            self.text.append("add %s %s%s" % (name, member, more))
        return name

    def sides(self):
        return ",".join(self.r.choice(["src", "dst"]) for _ in range(self.r.choice([1, 2, 3, 3, 3])))

    # ------------------------------------------------------------------------------ rules
    def m_set(self):
        r = self.r
        m = "-m set %s--match-set %s %s" % ("! " if r.random() < .25 else "", r.choice(list(self.made)), self.sides())
        if r.random() < .2:
            m += " --return-nomatch"
        if r.random() < .25:
            m += " ! --update-counters"
        if r.random() < .25:
            m += " ! --update-subcounters"
        for what, near in (("packets", [0, 1, 2, 3, 5]), ("bytes", [40, 60, 100, 300])):
            if r.random() < .25:
                m += r.choice([" --%s-eq %d", " ! --%s-eq %d", " --%s-lt %d", " --%s-gt %d"]) % (what, r.choice(near))
        return m

    def t_set(self, chain):
        r, name = self.r, self.r.choice(list(self.made))
        k = r.random()
        if k < .45:
            return "-j SET --add-set %s %s%s%s" % (name, self.sides(), r.choice(["", " --exist"]), r.choice(["", " --timeout %d" % LONG]))
        if k < .65:
            return "-j SET --del-set %s %s" % (name, self.sides())
        flags = " --map-mark" + (" --map-prio" if chain in ("FORWARD", "OUTPUT", "POSTROUTING") and r.random() < .3 else "")
        return "-j SET --map-set %s %s%s" % (name, self.sides(), flags)

    def ruleset(self):
        r = self.r
        kinds = [self.kind] if self.kind != "list:set" else ["hash:ip", "hash:net,port"]
        for kind in kinds + [self.kind] * r.randint(0, 1) + r.sample([k for k in PARTS if self.fam == 4 or k != "bitmap:ip"], 1):
            self.new(kind)
        out = []
        for table in ("mangle", "filter"):
            out += ["*" + table] + [":%s ACCEPT [0:0]" % c for c in CHAINS[table]]
            for chain in CHAINS[table]:
                for _ in range(r.randint(1, 4)):
                    proto = r.choice(["", "", "-p tcp ", "-p udp "])
                    target = self.t_set(chain) if table == "mangle" and r.random() < .5 else r.choice(["", "", "", "-j DROP"])
                    m = self.m_set() if r.random() < .8 or not target.startswith("-j SET") else ""
                    out.append(("-A %s %s%s %s" % (chain, proto, m, target)).strip())
                if table == "filter":
                    out += ["-A %s -m mark --mark %d/%d" % (chain, 1 << i, 1 << i) for i in range(0, 8, 2)]
            out.append("COMMIT")
        return "\n".join(out) + "\n"


def set_case(i, kind=None):
    kind = kind or KINDS[i % len(KINDS)]
    turn = i // len(KINDS) if kind is None else i
    fam = 6 if turn % 3 == 2 and kind != "bitmap:ip" else 4
    g = Sets(i, fam, kind)
    c = g.case("set-%s%d" % (kind, i))
    c["ipset"] = "\n".join(g.text) + "\n"
    return c
