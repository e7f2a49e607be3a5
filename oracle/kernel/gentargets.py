"""the targets that change packets or send them elsewhere, each in a series of its own

The packets are those of every case (genpackets); the rules are few and hit often, so that
a target meets all kinds of packets, and marks and counters show what it made of them."""
import ipaddress

import gen
from genrules import CHAINS
from topo import HOSTS, NETS, ROUTER, hosts


def pick(r, *words):
    return r.choice(words)


class Target(gen.G):
    """rules with one target in the places where the kernel takes it"""

    def rules_of(self, kind):
        return getattr(self, "r_" + kind)()

    def some(self, table, chains, target, proto=""):
        r = self.r
        for chain in chains:
            for _ in range(r.randint(0, 2)):
                m, p = self.matches(chain, table)
                if proto:
                    m = [x for x in m if not x.startswith(("-p ", "! -p ", "--", "! --", "-m multiport"))] + [proto]
                elif not p and r.random() < .2:
                    m = []
                yield table, "-A %s %s %s" % (chain, " ".join(m), target(chain))

    def r_netmap(self):
        r, fam = self.r, self.fam

        def to(_chain):
            net = r.choice(NETS[fam])
            addr, length = net.split("/")
            return "-j NETMAP --to " + pick(r, net, net, addr + "/%d" % (int(length) + (4 if fam == 4 else 0)), r.choice(hosts(fam)))
        return self.some("nat", CHAINS["nat"], to)

    def r_tcpoptstrip(self):
        r = self.r
        kinds = "2 3 4 5 6 8 19 254".split()
        return self.some("mangle", CHAINS["mangle"], lambda _: "-j TCPOPTSTRIP --strip-options " +
                         ",".join(sorted(r.sample(kinds, r.randint(1, 4)), key=int)), "-p tcp")

    def r_ecn(self):
        r = self.r

        def how(_):
            return "-j ECN " + pick(r, "--ecn-tcp-remove", "--ecn-tcp-cwr 1", "--ecn-tcp-ece 1 --ecn-tcp-cwr 0",
                                    "--ecn-ip-ect %d" % r.randint(0, 3), "--ecn-tcp-ece 0 --ecn-ip-ect 2")
        return self.some("mangle", CHAINS["mangle"], how, "-p tcp")

    def r_hmark(self):
        r, fam = self.r, self.fam

        def how(_):
            x = pick(r, "--hmark-tuple src", "--hmark-tuple src,dst", "--hmark-tuple src,dst,sport,dport,proto",
                     "--hmark-tuple sport,dport,ct", "--hmark-tuple src,dst,sport,dport,proto,ct", "--hmark-tuple spi,src",
                     "--hmark-src-prefix %d --hmark-dst-prefix 8" % (24 if fam == 4 else 64),
                     "--hmark-sport-mask 0xff00 --hmark-dport-mask 0xf --hmark-dport 0x10 --hmark-proto-mask 0x3",
                     "--hmark-tuple proto,src --hmark-sport 0x1234")
            return "-j HMARK %s --hmark-rnd %#x --hmark-mod %d --hmark-offset %d" % (
                x, r.getrandbits(32), pick(r, 1, 2, 10, 4294967295), pick(r, 0, 1, 100))
        rules = list(self.some("mangle", CHAINS["mangle"], how))
        # INPUT's mark reaches the socket; elsewhere rules see it
        for chain in CHAINS["filter"]:
            rules += [("filter", "-A %s -m mark --mark %d/%d" % (chain, i & 1 and 1 << i, 1 << i)) for i in range(0, 8)]
        return rules

    def r_tee(self):
        r, fam = self.r, self.fam

        def how(_):
            dev = r.choice(list(HOSTS[fam]))
            return "-j TEE --gateway " + r.choice(HOSTS[fam][dev]) + pick(r, "", "", " --oif " + r.choice(list(HOSTS[fam])))
        rules = list(self.some(*r.choice([("mangle", CHAINS["mangle"]), ("raw", CHAINS["raw"]), ("filter", CHAINS["filter"])]), how))
        rules += [("filter", "-A OUTPUT -m conntrack --ctstate UNTRACKED"), ("mangle", "-A POSTROUTING -m conntrack --ctstate UNTRACKED")]
        return rules

    def r_nfqueue(self):
        r = self.r

        def how(_):
            return pick(r, "-j NFQUEUE --queue-bypass", "-j NFQUEUE --queue-num 3", "-j NFQUEUE --queue-balance 1:4 --queue-bypass", "-j QUEUE")
        return self.some(*r.choice([("mangle", CHAINS["mangle"]), ("filter", CHAINS["filter"])]), how)

    def r_npt(self):
        r = self.r

        def how(chain):
            a, b = r.sample(NETS[6], 2)
            target = "DNPT" if chain in ("PREROUTING", "OUTPUT") else "SNPT"
            short = pick(r, 64, 64, 48, 56)
            return "-j %s --src-pfx %s --dst-pfx %s/%d" % (target, a, prefix(b, short), short)
        # a raw socket does not say where its ICMP header is, so errors from there stay as they are
        yield from self.some("mangle", ["PREROUTING", "INPUT"], how)
        yield from self.some("mangle", ["OUTPUT", "POSTROUTING"], how, r.choice(["-p tcp", "-p udp"]))

    def r_nothing(self):
        """targets that leave the packet alone"""
        r = self.r

        def how(chain):
            words = ["-j AUDIT --type " + pick(r, "accept", "drop", "reject"), "-j CHECKSUM --checksum-fill", "-j CONNSECMARK --save",
                     "-j CONNSECMARK --restore", "-j RATEEST --rateest-name e --rateest-interval 1s --rateest-ewmalog 4s",
                     "-j IDLETIMER --timeout 600 --label " + pick(r, "a", "b")]
            if chain in ("FORWARD", "OUTPUT", "POSTROUTING"):
                words.append("-j CLASSIFY --set-class 1:%x" % r.randint(0, 99))
            return r.choice(words)
        return list(self.some("mangle", CHAINS["mangle"], how)) + list(self.some("raw", CHAINS["raw"], lambda _: "-j TRACE"))

    def r_nflog(self):
        r = self.r

        def how(_):
            return "-j NFLOG --nflog-group %d" % r.randint(1, 3) + pick(r, "", " --nflog-prefix x%d" % r.randint(0, 9)) + pick(r, "", " --nflog-size 64")
        # the router's own ICMP errors have an id that the kernel draws
        yield from self.some("mangle", ["PREROUTING", "INPUT", "FORWARD"], how)
        yield from self.some("mangle", ["OUTPUT", "POSTROUTING"], how, r.choice(["-p tcp", "-p udp"]))

    def r_tproxy(self):
        """to sockets of the router, found by policy routing"""
        r, fam = self.r, self.fam
        any_addr = "0.0.0.0" if fam == 4 else "::"

        def how(_):
            to = pick(r, "", "", " --on-ip " + r.choice(list(ROUTER[fam].values())))
            return "-p %s -j TPROXY --on-port %d%s --tproxy-mark %s" % (pick(r, "tcp", "udp"), r.choice([0, 80, 3129, 53, 443]), to, pick(r, "1", "1/1", "0x101/0xff"))
        self.sockets = []
        for proto in ("tcp", "udp"):
            for port in r.sample([80, 3129, 53, 443, 1000], 3):
                addr = pick(r, any_addr, any_addr, *ROUTER[fam].values())
                self.sockets.append({"proto": proto, "port": port, "addr": addr, "transparent": r.random() < .7, "mark": pick(r, 0, 9)})
        rules = [("mangle", "-A PREROUTING " + pick(r, "", "", "-i eth0 ", "-s %s " % HOSTS[fam]["eth1"][0]) + how("")) for _ in range(r.randint(1, 3))]
        rules += [("mangle", "-A INPUT -m socket --transparent"), ("mangle", "-A INPUT -m mark --mark 1/1"), ("mangle", "-A FORWARD -m mark --mark 1/1")]
        return rules

    def r_hl(self):
        name, low = ("TTL", "ttl") if self.fam == 4 else ("HL", "hl")
        return self.some("mangle", CHAINS["mangle"], lambda _: "-j %s --%s-%s %d" % (name, low, pick(self.r, "set", "inc", "dec"), pick(self.r, 1, 2, 64, 255)))

    def ruleset_of(self, kind):
        tables = {}
        for table, rule in self.rules_of(kind):
            tables.setdefault(table, []).append(rule)
        tables.setdefault("filter", [])
        out = []
        for table, rules in tables.items():
            head = self.sane_head() if table == "filter" and self.r.random() < .3 else []
            out += ["*" + table] + [":%s ACCEPT [0:0]" % c for c in CHAINS[table]] + head + rules + ["COMMIT"]
        return "\n".join(out) + "\n"


def prefix(net, length):
    return str(ipaddress.ip_network(net.split("/")[0] + "/%d" % length, strict=False).network_address)


# "nothing" is several targets
KINDS = ["nothing", "netmap", "tcpoptstrip", "ecn", "hmark", "tee", "nfqueue", "npt", "nothing", "nflog", "hl", "tproxy"]
FAMILY = {"ecn": 4, "npt": 6}


def target_case(i, kind=None):
    """case number i of the series: the targets in turn, or one of them"""
    turn = i // len(KINDS) if kind is None else i
    kind = kind or KINDS[i % len(KINDS)]
    fam = FAMILY.get(kind, 6 if turn % 2 else 4)
    g = Target("%s%d" % (kind, i), fam)
    g.ruleset = lambda: g.ruleset_of(kind)
    c = g.case("%s%d" % (kind, i))
    if kind == "tproxy":
        c["sockets"] = g.sockets
        c["ip"] = [["route add local 0.0.0.0/0 dev lo table 100", "rule add fwmark 1 table 100 priority 90"],
                   ["route add local ::/0 dev lo table 100", "-6 rule add fwmark 1 table 100 priority 90"]][fam == 6]
    return c

