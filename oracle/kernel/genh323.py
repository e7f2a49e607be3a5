"""H.323 for the helpers: registrations with gatekeepers (RAS), calls (Q.931) with their H.245 connections and media,
both families, with every NAT and without; in and out of order, cut and forged.  Messages are those of h323.txt with
other addresses and ports written into them.  genh323.h323_case(i) is number i."""
import os
import socket

from genhelpers import HELPERS, Helper
from gentrackers import TIMEOUTS
from pkt import tcp
from topo import HOSTS

HELPERS.setdefault("RAS", ("udp", 1719))
HELPERS.setdefault("Q.931", ("tcp", 1720))
VECTORS = {}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "h323.txt")) as _f:
    for _line in _f:
        if _line[0] != "#":
            _name, _fam, _hex, *_places = _line.split()
            VECTORS.setdefault((_name, int(_fam)), []).append((bytes.fromhex(_hex), [p.split("@") for p in _places]))


def packed(addr):
    return socket.inet_pton(socket.AF_INET6 if ":" in addr else socket.AF_INET, addr)


def tpkt(data):
    return b"\3\0" + (len(data) + 4).to_bytes(2, "big") + data


class H323(Helper):
    timeouts = TIMEOUTS + (240, 1200, 3600)

    def __init__(self, seed, kind, fam):
        super().__init__(seed, kind, fam)
        f, r = self.flow, self.r
        # by who sends: own address, the other's, own as the other knows it
        self.addrs = [(f.ends[0][1], f.ends[0][2], f.ends[1][2]), (f.ends[1][1], f.ends[1][2], f.ends[0][2])]
        self.signal = [self.announced.pop(), self.announced.pop()]
        self.pairs = [self.announced.pop() & ~1 for _ in range(6)]
        self.told = []
        self.asked = False

    def jump(self):
        # a question is forgotten with its connection
        if not self.asked:
            super().jump()

    def stranger(self):
        return self.r.choice(HOSTS[self.fam]["eth2"] + HOSTS[self.fam]["eth0"][-1:])

    def place(self, role, who):
        """the address and port to write"""
        r, f = self.r, self.flow
        own, other, known = self.addrs[who]
        if role in ("H245", "Stack", "AckStack"):
            addr = own if r.random() < .9 else self.stranger()
            port = self.announced.pop() if len(self.announced) > 12 and r.random() < .95 else 0
            if addr == own and port:
                self.told.append((role, who, port))
            return addr, port
        if role == "Media":
            port = r.choice(self.pairs[3 * who:3 * who + 3]) + r.randrange(2)
            if r.random() < .9:
                self.told.append((role, who, port))
                return own, port
            return self.stranger(), port
        if role == "Alternative":
            addr, port = r.choice(HOSTS[self.fam]["eth2"] + HOSTS[self.fam]["eth1"][-1:]), self.announced.pop()
            self.told.append((role, who, port))
            return addr, port
        signal, peer = self.signal[who], self.signal[1 - who]
        if role == "Listens":
            return r.choice([(own, signal)] * 6 + [(self.stranger(), signal)] + ([("127.0.0.1", signal)] * 2 if self.fam == 4 else []))
        if role == "Signal":
            here = [("127.0.0.1", signal)] if self.fam == 4 else []
            return r.choice([(own, signal), (other, peer), (other, peer), (own, 1720), (self.stranger(), signal)] + here)
        if role == "Ras":
            return r.choice([(own, f.ports(who)[0])] * 5 + [(own, 1), (self.stranger(), 1719)])
        if role in ("Callee", "Admitted"):
            third = (r.choice(HOSTS[self.fam]["eth2"]), self.announced[0])
            return r.choice([(other, peer), (other, 1720), (known, signal), third])
        if role == "Located":
            return r.choice([(self.stranger(), self.announced[1]), (own, signal)])
        if role == "Gatekeeper":
            return r.choice([(own, f.ports(who)[0]), (self.stranger(), 1719), (own, 1721)])
        # Caller, Calls, Answers
        return r.choice([(own, f.ports(who)[0]), (own, signal), (own, signal), (known, signal), (self.stranger(), 1)])

    def message(self, name, who, whole=False):
        data, places = self.r.choice(VECTORS[name, self.fam])
        data = bytearray(data)
        for role, at in places:
            if role != "Life":
                addr, port = self.place(role, who)
                text = packed(addr) + port.to_bytes(2, "big")
                data[int(at):int(at) + len(text)] = text
        x = self.r.random()
        if whole or x > .03:
            return bytes(data)
        return bytes(data[:self.r.randrange(len(data))])

    # ------------------------------------------------------------- sessions
    def RAS(self):
        r = self.r
        for _ in range(r.randint(2, 6)):
            who = r.random() < .15
            x = r.random()
            pair = r.choice([("rrq", "rcf"), ("rrq", "rcf"), ("rrq", "rcf"), ("grq", "gcf"), ("arq", "acf"), ("arq", "acf"), ("lrq", "lcf"), ("irr", None), ("urq", None)])
            # an answer needs its question
            yield self.say(who, self.message("ras-" + pair[0], who, whole=True))
            if pair[1] and x < .9:
                self.asked = True
                yield self.say(1 - who, self.message("ras-" + pair[1], 1 - who))
                self.asked = False
            if r.random() < .5:
                target = self.addrs[who][2]
                src = self.addrs[1 - who][0] if r.random() < .8 else self.stranger()
                yield self.connect("tcp", src, target, self.signal[who])

    def segments(self, data):
        """a message in its envelope, mostly in one segment"""
        x = self.r.random()
        data = tpkt(data)
        if x < .06:
            return [data[:4], data[4:]]
        if x < .09:
            return [data + data]
        if x < .11:
            return [data[:-1], data[-1:]]
        return [data]

    def h245(self, who, port):
        """the other end opens what `who` announced, and both say something"""
        r = self.r
        ends = [self.flow.ends[1 - who], self.flow.ends[who]]
        ports = [(self.announced.pop(), port), None]
        ports[1] = ports[0][::-1]
        seq = [1000, 5000]

        def say(i, data=b"", flags="PA"):
            dev, src, dst = ends[i]
            p = tcp(src, dst, *ports[i], flags, seq=seq[i], ack=seq[1 - i] if "A" in flags else 0, data=data)
            seq[i] += len(data) + ("S" in flags)
            return {"in": dev, "hex": p.hex()}
        yield say(0, flags="S")
        yield say(1, flags="SA")
        yield say(0, flags="A")
        for _ in range(r.randint(1, 4)):
            i = r.randrange(2)
            sender = 1 - who if i == 0 else who
            for s in self.segments(self.message(r.choice(["h245-olc", "h245-ack", "h245-any"]), sender)):
                yield say(i, s)

    def follow(self):
        """connections and packets to what was announced"""
        r = self.r
        told, self.told = self.told, []
        for role, who, port in told:
            if r.random() < .5 or len(self.announced) < 8:
                continue
            peer, known = self.addrs[1 - who][0], self.addrs[who][2]
            if r.random() < .15:
                peer = self.stranger()
            if role == "Media":
                yield self.connect("udp", peer, known, port)
            elif role == "H245" and peer == self.addrs[1 - who][0]:
                yield from self.h245(who, port)
            elif role != "Alternative":
                yield self.connect("tcp", peer, known, port)

    def q931(self):
        r = self.r
        yield self.say(0, tpkt(self.message("q931-setup", 0, whole=True)))
        for _ in range(r.randint(2, 6)):
            who = r.random() < .6
            kind = r.choice(["callProceeding", "alerting", "connect", "progress", "facility", "forward", "empty", "setup", "releaseComplete"])
            for s in self.segments(self.message("q931-" + kind, who)):
                yield self.say(who, s)
            yield from self.follow()


setattr(H323, "Q.931", H323.q931)


def h323_case(i):
    kind = ("Q.931", "RAS")[i % 2]
    return H323(i, kind, 6 if i // 2 % 3 == 2 else 4).case("h323-%d" % i)
