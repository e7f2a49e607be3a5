"""random rulesets in iptables-save form, from the extensions every case may use"""
from topo import CLIENT_PORTS, HOSTS, NETS, ROUTER, SERVICE_PORTS, VIP, at, hosts

CHAINS = {"filter": ["INPUT", "FORWARD", "OUTPUT"], "nat": ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
          "mangle": ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"], "raw": ["PREROUTING", "OUTPUT"]}
IN_HOOKS, OUT_HOOKS = ("PREROUTING", "INPUT", "FORWARD"), ("POSTROUTING", "OUTPUT", "FORWARD")
ICMP = {4: ["8", "8/0", "0", "3", "3/3", "echo-request", "destination-unreachable", "11", "any"],
        6: ["128", "128/0", "129", "1", "1/4", "echo-request", "destination-unreachable", "3"]}
REJECTS = {4: ["icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable", "icmp-port-unreachable",
               "icmp-net-prohibited", "icmp-host-prohibited", "icmp-admin-prohibited"],
           6: ["icmp6-no-route", "icmp6-adm-prohibited", "icmp6-addr-unreachable", "icmp6-port-unreachable",
               "icmp6-policy-fail", "icmp6-reject-route"]}
TCP_MATCHES = ["--syn", "! --syn", "--tcp-flags SYN,ACK,FIN,RST RST", "--tcp-flags ALL NONE", "--tcp-flags FIN,SYN FIN,SYN",
               "! --tcp-flags ACK ACK", "--tcp-flags ALL SYN", "--tcp-option 8", "--tcp-option 2", "! --tcp-option 3"]
STATES = ["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"]
NEEDS_CT = {"conntrack", "state", "connmark"}


class Rules:
    """mix-in: needs self.r (random.Random) and self.fam (4 or 6)"""

    def inv(self):
        return "! " if self.r.random() < .15 else ""

    def addr(self):
        r, x = self.r, self.r.random()
        if x < .6:
            return r.choice(hosts(self.fam))
        return r.choice(list(ROUTER[self.fam].values())) if x < .8 else r.choice(NETS[self.fam])

    # ------------------------------------------------------------- matches
    def m_state(self):
        return "-m state %s--state %s" % (self.inv(), ",".join(self.r.sample(STATES, self.r.randint(1, 3))))

    def m_ctstate(self):
        st = self.r.sample(STATES + ["SNAT", "DNAT"], self.r.randint(1, 2))
        return "-m conntrack %s--ctstate %s" % (self.inv(), ",".join(st))

    def m_conntrack(self):
        r = self.r
        x = r.choice(["dir", "status", "proto", "addr", "port", "expire"])
        if x == "dir":
            return "-m conntrack --ctdir " + r.choice(["ORIGINAL", "REPLY"])
        if x == "status":
            return "-m conntrack %s--ctstatus %s" % (self.inv(), r.choice(["NONE", "SEEN_REPLY", "ASSURED", "EXPECTED", "CONFIRMED"]))
        if x == "proto":
            return "-m conntrack %s--ctproto %s" % (self.inv(), r.choice(["tcp", "udp"]))
        if x == "addr":
            return "-m conntrack %s--ct%s %s" % (self.inv(), r.choice(["origsrc", "origdst", "replsrc", "repldst"]), self.addr())
        if x == "port":
            return "-m conntrack %s--ct%s %s" % (self.inv(), r.choice(["origdstport", "replsrcport", "origsrcport", "repldstport"]),
                                                 r.choice(["80", "1:1023", "22", "1024:65535"]))
        return "-m conntrack --ctexpire 1000:500000"    # far from every timeout in use

    def m_mark(self):
        return "-m mark %s--mark %s" % (self.inv(), self.r.choice(["0", "1", "2", "3", "0x1/0x1", "0x2/0x3"]))

    def m_connmark(self):
        return "-m connmark %s--mark %s" % (self.inv(), self.r.choice(["0", "1", "2", "0x1/0x1"]))

    def m_length(self):
        return "-m length %s--length %d:%d" % (self.inv(), self.r.choice([0, 28, 40]), self.r.choice([40, 60, 1500, 65535]))

    def m_ttl(self):
        op = self.r.choice(["eq", "lt", "gt"])
        return ("-m ttl --ttl-%s 64" if self.fam == 4 else "-m hl --hl-%s 64") % op

    def m_limit(self):
        # slow enough that no case lasts until the next token
        return "-m limit --limit 1/hour --limit-burst %d" % self.r.randint(1, 4)

    def m_nth(self):
        n = self.r.randint(2, 4)
        return "-m statistic %s--mode nth --every %d --packet %d" % ("", n, self.r.randint(0, n - 1))

    def m_iprange(self):
        w = self.r.choice(["src", "dst"])
        a = "10.0.0.2-10.0.1.2" if self.fam == 4 else "fd00::2-fd00:1::2"
        return "-m iprange %s--%s-range %s" % (self.inv(), w, a)

    def m_addrtype(self):
        kinds = ["LOCAL", "UNICAST", "MULTICAST"] + (["BROADCAST"] if self.fam == 4 else [])
        return "-m addrtype %s--%s-type %s" % (self.inv(), self.r.choice(["src", "dst"]), self.r.choice(kinds))

    def m_tos(self):
        return "-m tos %s--tos %s" % (self.inv(), self.r.choice(["0x10/0x3f", "0x00", "0x28", "0x08/0x3f"]))

    def m_dscp(self):
        return "-m dscp %s%s" % (self.inv(), self.r.choice(["--dscp 0x0a", "--dscp-class CS0", "--dscp-class EF", "--dscp 0x04"]))

    def m_comment(self):
        return '-m comment --comment "%s"' % self.r.choice(["web", "a b c", "it's 50% \\\"quoted\\\"", "命令端口"])

    def m_frag(self):
        return "%s-f" % self.inv() if self.fam == 4 else "-m length --length 1281:65535"

    # weights: state first, it is what rulesets are about
    MATCHES = [("m_state", 8), ("m_ctstate", 14), ("m_conntrack", 14), ("m_mark", 6), ("m_connmark", 6), ("m_length", 5),
               ("m_ttl", 4), ("m_limit", 3), ("m_nth", 3), ("m_iprange", 4), ("m_addrtype", 5), ("m_tos", 4), ("m_dscp", 3),
               ("m_comment", 4), ("m_frag", 2)]

    def l4_matches(self, proto):
        r, m = self.r, []
        if proto not in ("tcp", "udp"):
            if r.random() < .5:
                m.append("%s--icmp%s-type %s" % (self.inv(), "" if self.fam == 4 else "v6", r.choice(ICMP[self.fam])))
            return m
        x = r.random()
        if x < .3:
            m.append("%s--dport %d" % (self.inv(), r.choice(SERVICE_PORTS)))
        elif x < .4:
            m.append("%s--dport %s" % (self.inv(), r.choice(["1:80", "80:", ":22", "1:1023"])))
        elif x < .5:
            m.append("%s--sport %s" % (self.inv(), r.choice(["%d" % r.choice(CLIENT_PORTS), "1024:65535"])))
        elif x < .62:
            lst = ",".join(map(str, sorted(r.sample(SERVICE_PORTS, 3))))
            m.append("-m multiport %s--%s %s" % (self.inv(), r.choice(["dports", "sports", "ports"]), r.choice([lst, lst, "22,1024:65535"])))
        if proto == "tcp" and r.random() < .25:
            m.append(r.choice(TCP_MATCHES))
        return m

    def matches(self, chain, table):
        """-> (list of match texts, protocol or None)"""
        r, m = self.r, []
        if chain in IN_HOOKS and r.random() < .3:
            m.append("%s-i %s" % (self.inv(), r.choice(["eth0", "eth1", "eth2", "eth+", "lo"])))
        if chain in OUT_HOOKS and r.random() < .3:
            m.append("%s-o %s" % (self.inv(), r.choice(["eth0", "eth1", "eth2", "eth+"])))
        if r.random() < .3:
            m.append("%s-s %s" % (self.inv(), self.addr()))
        if r.random() < .3:
            m.append("%s-d %s" % (self.inv(), self.addr()))
        proto = None
        if r.random() < .6:
            proto = r.choice(["tcp", "tcp", "udp", "icmp" if self.fam == 4 else "icmpv6"])
            m.append("-p " + proto)
            m += self.l4_matches(proto)
        elif r.random() < .05:
            m.append("! -p tcp")
        if r.random() < .7:
            name = r.choices([n for n, _ in self.MATCHES], [w for _, w in self.MATCHES])[0]
            x = getattr(self, name)()
            if table != "raw" or not set(x.split()) & NEEDS_CT:
                m.append(x)
        if r.random() < .35:
            # few conditions: rules that are hit often show more
            m = [x for x in m if x.startswith("-p ")][:1]
        return m, proto

    # ------------------------------------------------------------- targets
    def t_log(self):
        return '-j LOG --log-prefix "%s: " --log-level %s%s' % (self.r.choice(["in", "want-in-from-port-22"]),
                                                               self.r.choice(["info", "debug", "4"]),
                                                               self.r.choice(["", " --log-tcp-options", " --log-ip-options"]))

    def t_nat(self, chain, proto):
        r, fam = self.r, self.fam
        if chain in ("PREROUTING", "OUTPUT"):
            h = r.choice(hosts(fam))
            if proto in ("tcp", "udp") and r.random() < .5:
                return r.choice(["-j DNAT --to-destination " + at(h, r.choice(SERVICE_PORTS), fam),
                                 "-j REDIRECT --to-ports %d" % r.choice(SERVICE_PORTS), "-j REDIRECT"])
            return r.choice(["-j DNAT --to-destination " + h, "-j ACCEPT", "-j RETURN"])
        src = r.choice(list(ROUTER[fam].values()))
        if chain == "INPUT":
            return "-j SNAT --to-source " + src
        if proto in ("tcp", "udp") and r.random() < .1:
            return r.choice(["-j SNAT --to-source " + at(src, 5555, fam), "-j MASQUERADE --to-ports 5556"])
        return r.choice(["-j SNAT --to-source " + src, "-j SNAT --to-source " + src, "-j MASQUERADE"])

    def t_mangle(self, chain, proto, m):
        r = self.r
        if proto == "tcp" and chain in OUT_HOOKS and r.random() < .3:
            m[:] = [x for x in m if "--tcp" not in x and "--syn" not in x] + ["--tcp-flags SYN,RST SYN"]
            return r.choice(["-j TCPMSS --set-mss 1200", "-j TCPMSS --clamp-mss-to-pmtu"])
        n = r.randint(0, 3)
        return r.choice(["-j MARK --set-mark %d" % n, "-j MARK --set-xmark 0x%x/0x3" % n, "-j MARK --or-mark %d" % n,
                         "-j MARK --and-mark %d" % n, "-j MARK --xor-mark %d" % n,
                         "-j CONNMARK --set-mark %d" % n, "-j CONNMARK --set-xmark 0x%x/0x1" % n, "-j CONNMARK --save-mark",
                         "-j CONNMARK --save-mark --nfmask 0x1 --ctmask 0x3", "-j CONNMARK --restore-mark",
                         "-j ACCEPT", "-j DROP", "-j RETURN", "-j DSCP --set-dscp %d" % r.randint(0, 63),
                         "-j DSCP --set-dscp-class AF11", "-j TOS --set-tos 0x10", "-j TOS --set-tos 0x08/0x3f", "-j TOS --or-tos 0x02",
                         ("-j TTL --ttl-%s 2" if self.fam == 4 else "-j HL --hl-%s 2") % r.choice(["set", "dec", "inc"])])

    def t_raw(self):
        return self.r.choice(["-j CT --notrack", "-j NOTRACK", "-j CT --zone 1", "-j CT --zone-orig 2", "-j ACCEPT", "-j DROP", "-j RETURN"])

    def t_filter(self, chain, proto):
        r = self.r
        if r.random() < .2 and chain in CHAINS["filter"]:
            if proto == "tcp" and r.random() < .7:
                return "-j REJECT --reject-with tcp-reset"
            return "-j REJECT --reject-with " + r.choice(REJECTS[self.fam])
        return r.choice(["-j ACCEPT"] * 5 + ["-j DROP"] * 2 + ["-j RETURN", "", self.t_log()])

    def rule(self, table, chain, users):
        r = self.r
        m, proto = self.matches(chain, table)
        if users and r.random() < .3:
            t = r.choice(["-j ", "-g "]) + r.choice(users)
        elif r.random() < .04:
            t = self.t_log()
        elif table == "nat":
            t = self.t_nat(chain, proto) if chain in CHAINS["nat"] else r.choice(["-j ACCEPT", "-j RETURN"])
        elif table == "mangle":
            t = self.t_mangle(chain, proto, m)
        elif table == "raw":
            t = self.t_raw()
        else:
            t = self.t_filter(chain, proto)
        return "-A %s %s %s" % (chain, " ".join(m), t)

    # ------------------------------------------------------------ rulesets
    def table(self, t, head=()):
        r = self.r
        users = ["u%d" % i for i in range(r.randint(0, 2))] if t != "raw" else []
        out = ["*" + t]
        for c in CHAINS[t]:
            out.append(":%s %s [0:0]" % (c, "DROP" if t == "filter" and r.random() < .4 else "ACCEPT"))
        out += [":%s - [0:0]" % u for u in users]
        out += head
        for c in CHAINS[t]:
            out += [self.rule(t, c, users) for _ in range(r.randint(0, 3 if t == "filter" else 2))]
        for i, u in enumerate(users):
            # a user chain calls only chains below it: no loops
            out += [self.rule(t, u, users[i + 1:]) for _ in range(r.randint(0, 3))]
        return out + ["COMMIT"]

    def sane_head(self):
        """the rules most real rulesets begin with, so that connections get somewhere"""
        r, out = self.r, []
        for c in CHAINS["filter"]:
            st = r.choice(["-m state --state", "-m conntrack --ctstate"])
            if r.random() < .8:
                out.append("-A %s %s ESTABLISHED,RELATED -j ACCEPT" % (c, st))
            if r.random() < .4:
                out.append("-A %s %s INVALID -j DROP" % (c, st))
            if r.random() < .6:
                out.append("-A %s -p %s %s NEW -j ACCEPT" % (c, r.choice(["tcp", "tcp --syn", "udp"]), st))
        return out

    def ruleset(self):
        """-> iptables-save text, or with .auto: one without anything that needs tracking"""
        r = self.r
        out = []
        if self.ftp:
            return self.ftp_ruleset()
        tabs = ["filter"] + [t for t, p in (("nat", .6), ("mangle", .4), ("raw", .15)) if r.random() < p]
        for t in tabs:
            out += self.table(t, self.sane_head() if t == "filter" and r.random() < .35 else ())
        return "\n".join(out) + "\n"

    def ftp_ruleset(self):
        r, fam = self.r, self.fam
        out = ["*raw", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
        out += ["-A %s -p tcp --dport 21 -j CT --helper ftp" % c for c in ("PREROUTING", "OUTPUT")]
        out += ["COMMIT", "*filter"]
        out += [":%s %s [0:0]" % (c, r.choice(["DROP", "ACCEPT"])) for c in CHAINS["filter"]]
        for c in CHAINS["filter"]:
            k = r.random()
            if k < .1:
                continue
            out.append("-A %s -p tcp -m state --state RELATED -j ACCEPT" % c)
            if r.random() < .3:
                out.append("-A %s -m conntrack --ctstatus EXPECTED -m comment --comment data -j ACCEPT" % c)
            out.append("-A %s -m state --state ESTABLISHED%s -j ACCEPT" % (c, ",RELATED" if r.random() < .3 else ""))
            out.append("-A %s -p tcp --dport 21 -m state --state NEW -j ACCEPT" % c)
            if r.random() < .3:
                out.append(self.rule("filter", c, []))
        out.append("COMMIT")
        k = r.random()
        if k < .75:
            out += ["*nat"] + [":%s ACCEPT [0:0]" % c for c in CHAINS["nat"]]
            if k < .4:
                dev = r.choice(list(HOSTS[fam]))
                out.append("-A POSTROUTING -o %s -j %s" % (dev, r.choice(["MASQUERADE", "SNAT --to-source " + ROUTER[fam][dev], "SNAT --to-source " + VIP[fam]])))
            if k > .25:
                out.append("-A %s -p tcp -d %s --dport 21 -j DNAT --to-destination %s" %
                           (r.choice(["PREROUTING", "PREROUTING", "OUTPUT"]), r.choice(list(ROUTER[fam].values()) + hosts(fam) + [VIP[fam]] * 5),
                            r.choice([r.choice(hosts(fam)), at(r.choice(hosts(fam)), 21, fam)])))
            out.append("COMMIT")
        return "\n".join(out) + "\n"
