"""sequences for one helper at a time: a control connection with what a client and a server
of the protocol say, in order and out of it, cut, damaged and forged, and connections to
what was announced.  genhelpers.helper_case(i) is number i; KINDS names the helpers.

The kernel must not have to invent ports, so every announced port is used once."""
import random

from gentrackers import Flow, NATS, Sequence
from pkt import ip, tcp, udp
from topo import HOSTS, ROUTER

# helper: transport, port of servers
HELPERS = {"tftp": ("udp", 69), "irc": ("tcp", 6667), "amanda": ("udp", 10080), "sane": ("tcp", 6566), "snmp": ("udp", 161),
           "snmp_trap": ("udp", 162), "pptp": ("tcp", 1723)}
KINDS = tuple(HELPERS)
V6 = ("tftp", "amanda", "sane")


def ber(tag, *parts):
    body = b"".join(parts)
    return bytes([tag, len(body)]) + body


class Helper(Sequence):
    def __init__(self, seed, kind, fam):
        super().__init__(seed, kind, fam)
        self.r = r = random.Random("helper %s %d" % (kind, seed))
        self.nat = r.choice(NATS)
        self.transport, self.port = HELPERS[kind]
        self.udp = self.transport == "udp"
        self.flow = Flow(r, fam, self.nat, r.randrange(20000, 30000), self.port, r.randrange(7))
        self.announced = r.sample(range(30000, 60000), 40)
        self.seq = [r.choice([1, 0xFFFFFF00, r.getrandbits(32)]) for _ in "cs"]

    def rules(self):
        text = super().rules()
        ct = "-p %s --dport %d -j CT --helper %s" % (self.transport, self.port, self.kind)
        return text + "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING %s\n-A OUTPUT %s\nCOMMIT\n" % (ct, ct)

    # ------------------------------------------------------------- packets of the control connection
    def say(self, who, data, flags="PA"):
        dev, src, dst = self.flow.ends[who]
        sp, dp = self.flow.ports(who)
        if self.transport == "udp":
            return {"in": dev, "hex": udp(src, dst, sp, dp, data, nocsum=self.fam == 4 and self.r.random() < .1).hex()}
        # the other end's numbers as NAT's change of lengths lets them be: the window check is not what this is about
        p = tcp(src, dst, sp, dp, flags, seq=self.seq[who], ack=self.seq[1 - who] & 0xFFFFFFFF if "A" in flags else 0, data=data)
        self.seq[who] = (self.seq[who] + len(data) + ("S" in flags) + ("F" in flags)) & 0xFFFFFFFF
        return {"in": dev, "hex": p.hex()}

    def connect(self, proto, src, dst, dport, sport=None, dev=None):
        """somebody opens what was announced"""
        sport = sport or self.announced.pop()
        dev = dev or next(d for d in HOSTS[self.fam] if src in HOSTS[self.fam][d])
        p = tcp(src, dst, sport, dport, "S") if proto == "tcp" else udp(src, dst, sport, dport, b"data")
        return {"in": dev, "hex": p.hex()}

    def someone(self):
        """mostly the peer, sometimes a stranger; who connects to the client or to the server"""
        return self.r.choice(HOSTS[self.fam]["eth1"] + HOSTS[self.fam]["eth2"]) if self.r.random() < .25 else None

    # ------------------------------------------------------------- protocols: generators of steps
    def tftp(self):
        r, f = self.r, self.flow
        for _ in range(r.randint(1, 4)):
            op = r.choice([1, 2, 1, 2, 3, 5, 0])
            yield self.say(r.random() < .1, op.to_bytes(2, "big") + b"file\0octet\0" if r.random() < .95 else b"\0")
            src = self.someone() or f.ends[1][1]
            yield self.connect("udp", src, f.ends[1][2], f.sport)
            if r.random() < .4:
                yield self.connect("udp", src, f.ends[1][2], f.sport, sport=self.port)

    def irc(self):
        r, f = self.r, self.flow
        yield self.say(1, b":server 001 me :Welcome\r\n")
        inside = int.from_bytes(bytes(map(int, f.ends[0][1].split("."))), "big")
        outside = int.from_bytes(bytes(map(int, f.ends[1][2].split("."))), "big")
        for _ in range(r.randint(1, 5)):
            port = self.announced.pop()
            addr = r.choice([inside] * 6 + [outside, inside + 1, 0, 0xFFFFFFFF, inside + (1 << 32)])
            verb = r.choice([b"SEND"] * 3 + [b"CHAT", b"MOVE", b"TSEND", b"SCHAT", b"GET", b"send"])
            name = r.choice([b"a.txt", b"chat", b"a b", b"x" * 200])
            text = b"\x01DCC " + verb + b" " + name + b" %d %d" % (addr, port) + r.choice([b" 1234", b"", b" "]) + b"\x01\r\n"
            text = r.choice([b"PRIVMSG you :"] * 6 + [b"privmsg you :", b" \r\nPRIVMSG you :", b"NOTICE you :", b"PRIVMSG :", b"PRIVMSG a :b :"]) + text
            x = r.random()
            if x < .08:
                text = text[:r.randrange(1, len(text))]
            elif x < .16:
                text = text.replace(b"\n", b"")
            elif x < .22:
                text = text + text
            elif x < .3:
                text = text.replace(b" %d" % port, b" " + r.choice([b"0", b"65536", b"", b"x", b"  %d" % port, b"%d" % (port + 65536)]))
            yield self.say(r.random() < .1, text)
            if r.random() < .8:
                src = self.someone() or f.ends[1][1]
                yield self.connect("tcp", src, f.ends[1][2], port)
            if r.random() < .3:
                yield self.say(1, b":you!u@h PRIVMSG me :ok\r\n")

    def amanda(self):
        r, f = self.r, self.flow
        yield self.say(0, b"Amanda 2.5 REQ HANDLE 000-1 SEQ 1\nSERVICE sendbackup\n")
        for _ in range(r.randint(1, 3)):
            ports = [self.announced.pop() for _ in range(4)]
            names = r.sample(["DATA", "MESG", "INDEX", "STATE"], r.randint(1, 4))
            line = "CONNECT " + " ".join("%s %d" % (n, p) for n, p in zip(names, ports))
            x = r.random()
            if x < .1:
                line = line.replace(str(ports[0]), r.choice(["0", "123456", "70000", "", "x"]))
            elif x < .15:
                line = line[8:]
            text = "Amanda 2.5 REP HANDLE 000-1 SEQ 1\n" + line + ("\n" if r.random() < .95 else "") + "OPTIONS features=ff;\n" * r.randint(0, 1)
            yield self.say(r.random() > .1, text.encode())
            for p in ports[:r.randint(0, 4)]:
                src = r.choice(HOSTS[self.fam]["eth0"]) if r.random() < .2 else f.ends[0][1]
                yield self.connect("tcp", src, f.ends[0][2], p)

    def sane(self):
        r, f = self.r, self.flow
        for _ in range(r.randint(1, 4)):
            if r.random() < .9:
                yield self.say(0, r.choice([7, 7, 7, 7, 6, 0]).to_bytes(4, "big") + bytes(r.choice([4, 4, 4, 4, 8, 3])))
            port = self.announced.pop()
            reply = r.choice([0, 0, 0, 0, 1]).to_bytes(4, "big") + r.choice([b"\0\0"] * 6 + [b"\0\1"]) + port.to_bytes(2, "big") + bytes(12)
            yield self.say(1, reply[:r.choice([20, 20, 20, 8, 7])])
            if r.random() < .3:
                yield self.say(1, reply)
            if r.random() < .8:
                src = r.choice(HOSTS[self.fam]["eth0"]) if r.random() < .2 else f.ends[0][1]
                yield self.connect("tcp", src, f.ends[0][2], port)

    def snmp_message(self, who):
        r, f = self.r, self.flow
        addrs = [f.ends[0][1], f.ends[0][2], f.ends[1][1], f.ends[1][2], "1.2.3.4"]
        value = lambda a: bytes(map(int, a.split(".")))
        num = ber(2, b"\x05")
        binds = []      # at least one, and no trap of version 1: Linux cannot read those
        for _ in range(r.randint(1, 3)):
            v = r.choice([ber(0x40, value(r.choice(addrs)))] * 3 + [ber(4, value(addrs[0])), num, ber(5), ber(0x41, b"\1\2"), ber(0x43, b"\7"), ber(0x80)])
            binds.append(ber(0x30, ber(6, b"\x2b\x06\x01" + bytes(r.choice([0, 1]))), v))
        kind = r.choice([0xA0, 0xA1, 0xA2, 0xA2, 0xA3, 0xA5, 0xA7])
        head = (num, num, num)
        m = ber(0x30, ber(2, bytes([r.choice([0, 1, 1, 1, 1, 3])])), ber(4, b"public"), ber(kind, *head, ber(0x30, *binds)))
        if len(m) > 130:
            return self.snmp_message(who)
        x = r.random()
        if x < .06:
            m = m[:r.randrange(len(m))]
        elif x < .1:
            i = r.randrange(len(m))
            m = m[:i] + bytes([m[i] ^ 1 << r.randrange(8)]) + m[i + 1:]
        return m

    def snmp(self):
        for _ in range(self.r.randint(2, 6)):
            who = self.r.random() < .5
            yield self.say(who, self.snmp_message(who))

    snmp_trap = snmp

    # ------------------------------------------------------------- PPTP
    def control(self, who, kind, body, cut=None):
        m = (12 + len(body)).to_bytes(2, "big") + b"\0\1\x1a\x2b\x3c\x4d" + kind.to_bytes(2, "big") + b"\0\0" + body
        return self.say(who, m[:cut])

    def tunnel(self, who, key):
        """a packet of the tunnel as it is sent: with the call id that the receiver chose"""
        dev, src, dst = self.flow.ends[who]
        return {"in": dev, "hex": ip(src, dst, 47, b"\x30\x01\x88\x0b\0\4" + key.to_bytes(2, "big") + bytes(4) + b"\xff\3\xc0\x21").hex()}

    def pptp(self):
        r = self.r
        w = lambda *n: b"".join(x.to_bytes(2, "big") for x in n)
        pns, pac = r.sample(range(1, 60000), 2)
        # the client's id as the server knows it
        known = self.flow.sport if self.nat else pns
        ok = 1 if r.random() < .95 else 2
        out = r.random() < .75
        plan = [(0, 1, bytes(144)), (1, 2, bytes([0, 1, ok]) + bytes(141))]
        if out:
            plan += [(0, 7, w(pns) + bytes(154)), (1, 8, w(pac, known) + bytes([1 if r.random() < .9 else 2]) + bytes(15))]
        else:
            plan += [(1, 9, w(pac) + bytes(206)), (0, 10, w(pns, pac) + bytes([ok]) + bytes(7)), (1, 11, w(pns) + bytes(14))]
        for step in plan:
            x = r.random()
            if x < .04:
                continue
            yield self.control(*step, cut=r.randrange(60) if x > .97 else None)
            if r.random() < .06:
                yield self.control(*step)
        for _ in range(r.randint(2, 9)):
            x = r.random()
            if x < .4:
                yield self.tunnel(0, pac)
            elif x < .75:
                yield self.tunnel(1, known)
            elif x < .8:
                yield self.tunnel(r.randrange(2), r.choice([pns, 0, 77]))
            else:
                yield self.control(*r.choice([(0, 15, w(pac) + bytes(10)), (1, 15, w(known) + bytes(10)), (0, 5, bytes(4)), (1, 6, bytes(8)),
                                              (1, 14, w(known) + bytes(26)), (0, 12, w(pns) + bytes(2)), (1, 13, w(pac) + bytes(134)),
                                              (0, 3, bytes(4)), (1, 4, bytes([1]) + bytes(3))]))

    def steps(self):
        r, out = self.r, []
        if self.transport == "tcp":
            for who, flags in [(0, "S"), (1, "SA"), (0, "A")]:
                out.append(dict({"t": 0.0}, **self.say(who, b"", flags)))
        for step in getattr(self, self.kind)():
            if self.kind == "pptp" and out and r.random() < .05:
                step = self.error(len(out) - 1)
            if r.random() < .06:
                self.jump()
            out.append(dict({"t": self.now}, **step))
            if r.random() < .05:        # once more
                out.append(out[-1])
        return out


def helper_case(i, kind=None):
    """case number i of the numbered series: the kinds in turn, every third IPv6 where there is IPv6"""
    kind = kind or KINDS[i % len(KINDS)]
    fam = 6 if i // len(KINDS) % 3 == 2 and kind in V6 else 4
    return Helper(i, kind, fam).case("%s%d" % (kind, i))
