"""sequences for one tracker at a time: flows of a protocol whose packets come in any order,
with every NAT and without, both families.  gentrackers.tracker_case(i) is number i of the
series; KINDS says which protocols there are.

Rules count the states, so that one wrong state shows; replies are built for the addresses
that NAT gives, which is a fixed one here."""
import random

from genpackets import MSS, Packets, SACKOK
from pkt import _l4, icmp, ip, tcp, udp
from topo import HOSTS, IFS, ROUTER, VIP

KINDS = ("tcp", "udp", "icmp", "sctp", "gre", "udplite", "generic")
NATS = (None, None, "snat", "dnat", "masquerade", "both")
STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
TIMEOUTS = (3, 10, 30, 60, 120, 180, 210, 300, 600, 432000)
JUMPS = (4, 5, 8, 12, 31, 40, 61, 121, 190, 211, 301, 400, 601)

CRC = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    CRC.append(n)


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = CRC[(c ^ b) & 255] ^ c >> 8
    return c ^ 0xFFFFFFFF


def sctp(sp, dp, tag, chunks, bad=False):
    head = sp.to_bytes(2, "big") + dp.to_bytes(2, "big") + tag.to_bytes(4, "big")
    c = crc32c(head + bytes(4) + chunks) ^ (0x55 if bad else 0)
    return head + c.to_bytes(4, "little") + chunks


def chunk(kind, value=b"", flags=0, length=None):
    n = 4 + len(value) if length is None else length
    return bytes([kind, flags]) + n.to_bytes(2, "big") + value + bytes(-len(value) & 3)


DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT = range(7)
SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = range(7, 12)
SHUTDOWN_COMPLETE = 14
# an association from its beginning to its end: who sends what
LIFE = [(0, INIT), (1, INIT_ACK), (0, COOKIE_ECHO), (1, COOKIE_ACK), (0, DATA), (1, SACK), (0, HEARTBEAT), (1, HEARTBEAT_ACK),
        (0, SHUTDOWN), (1, SHUTDOWN_ACK), (0, SHUTDOWN_COMPLETE)]


class Flow:
    """both ends of a flow, and the addresses that each sees of the other"""

    def __init__(self, r, fam, nat, sport, dport, n):
        self.r, self.fam, self.sport, self.dport, self.n = r, fam, sport, dport, n
        client, server = HOSTS[fam]["eth0"][n % len(HOSTS[fam]["eth0"])], HOSTS[fam]["eth1"][0]
        out = {"snat": VIP[fam], "both": VIP[fam], "masquerade": ROUTER[fam]["eth1"]}.get(nat, client)
        to = ROUTER[fam]["eth0"] if nat in ("dnat", "both") else server
        # by who sends: interface, source, destination
        self.ends = [("eth0", client, to), ("eth1", server, out)]
        self.tags = [r.getrandbits(32) or 1, r.getrandbits(32) or 2]
        self.state = 0
        self.call = [r.randrange(1, 65536), r.randrange(1, 65536)]
        self.seq = [r.choice([1, 0xFFFFFFF0, r.getrandbits(32)]) for _ in "cs"]

    def ports(self, who):
        return (self.sport, self.dport) if who == 0 else (self.dport, self.sport)

    def packet(self, who, proto, body):
        dev, src, dst = self.ends[who]
        return {"in": dev, "hex": ip(src, dst, proto, body).hex()}

    # ------------------------------------------------------------- one step of each protocol
    def sctp(self):
        r = self.r
        if r.random() < .75 and self.state < len(LIFE):
            who, kind = LIFE[self.state]
            self.state += r.random() < .9
        else:
            who = r.randrange(2)
            kind = r.choice([DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR,
                             COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE, 12, 15, 192])
        # a packet carries the tag that its receiver chose
        tag, value, flags = self.tags[1 - who], b"", 0
        if kind in (INIT, INIT_ACK):
            value = self.tags[who].to_bytes(4, "big") + bytes([0, 0, 64, 0, 0, 1, 0, 1, 0, 0, 0, 7])
        if kind == INIT:
            tag = 0
        if kind in (DATA, HEARTBEAT, HEARTBEAT_ACK, COOKIE_ECHO):
            value = bytes(r.choice([4, 8, 13]))
        x = r.random()
        if x < .06:
            tag = r.choice([0, self.tags[who], r.getrandbits(32)])
        elif x < .09:
            flags, tag = 1, self.tags[who]
        chunks = chunk(kind, value, flags)
        x = r.random()
        if x < .12:                         # bundled with another
            chunks += chunk(r.choice([DATA, SACK, SHUTDOWN, ABORT, COOKIE_ACK, HEARTBEAT, INIT]), bytes(4))
        elif x < .14:
            chunks = chunk(kind, value, flags, length=r.choice([0, 3, 4, 200]))
        elif x < .15:
            chunks = chunks[:r.choice([0, 2, 3])]
        return self.packet(who, 132, sctp(*self.ports(who), tag, chunks, bad=r.random() < .03))

    def gre(self):
        r = self.r
        who = r.random() < .45
        x = r.random()
        if self.n % 2 == 0:
            flags = r.choice([0, 0, 0x2000, 0x8000])
            body = flags.to_bytes(2, "big") + r.choice([b"\x08\x00", b"\x65\x58", b"\x88\x0b"]) + bytes(8)
        else:
            body = b"\x20\x01\x88\x0b" + (8).to_bytes(2, "big") + self.call[who].to_bytes(2, "big") + bytes(8)
            if x < .05:
                body = b"\x20\x01\x08\x00" + body[4:]
        if x > .96:
            body = body[:r.choice([2, 4, 6])]
        return self.packet(who, 47, body)

    def udplite(self):
        r = self.r
        who = r.random() < .45
        data = bytes(r.choice([0, 4, 33]))
        full = 8 + len(data)
        cover = r.choice([0, full, 8, 8, min(full, 12), r.choice([7, full + 1])])
        sp, dp = self.ports(who)
        seg = sp.to_bytes(2, "big") + dp.to_bytes(2, "big") + cover.to_bytes(2, "big") + b"\0\0" + data
        x = r.random()
        if x > .05:
            # with either protocol number in the pseudo-header: Linux 6.18 takes UDP's
            n = cover if 8 <= cover <= full else full
            check = partial(self.ends[who], seg, n, 17 if x < .8 else 136)
            seg = seg[:6] + check + seg[8:]
        return self.packet(who, 136, seg)

    def generic(self):
        r = self.r
        who = r.random() < .45
        # ESP, AH, IP in IP, DCCP, OSPF, L2TP, one that nobody uses
        proto = (50, 51, 4, 33, 89, 115, 253)[self.n % 7]
        return self.packet(who, proto, bytes(r.choice([0, 1, 4, 8, 24])) if proto != 33 else
                           self.sport.to_bytes(2, "big") + self.dport.to_bytes(2, "big") + bytes(12))

    def udp(self):
        r = self.r
        who = r.random() < .45
        dev, src, dst = self.ends[who]
        p = udp(src, dst, *self.ports(who), bytes(r.choice([0, 1, 30])), bad=r.random() < .04,
                nocsum=self.fam == 4 and r.random() < .1, ulen=r.choice([7, 8, 500]) if r.random() < .05 else None)
        return {"in": dev, "hex": p.hex()}

    def icmp(self):
        r = self.r
        who = r.random() < .45
        dev, src, dst = self.ends[who]
        pairs = [(8, 0), (8, 0), (13, 14), (15, 16), (17, 18)] if self.fam == 4 else [(128, 129), (128, 129), (139, 140)]
        kind = pairs[self.n % len(pairs)][who]
        if r.random() < .1:
            kind = r.choice([0, 8, 13, 14, 18, 19, 42] if self.fam == 4 else [128, 129, 130, 135, 139, 140, 200])
        code = 1 if r.random() < .08 else 0
        p = icmp(src, dst, kind, code, self.sport.to_bytes(2, "big") + b"\0\1", bytes(12), bad=r.random() < .03)
        return {"in": dev, "hex": p.hex()}

    def tcp(self):
        r = self.r
        if self.state < 3 and r.random() < .85:
            who, flags = [(0, "S"), (1, "SA"), (0, "A")][self.state]
            self.state += 1
        else:
            who = r.randrange(2)
            flags = r.choice(["A", "A", "PA", "PA", "FA", "FA", "R", "RA", "S", "SA", "F", "", "SF", "UA"])
        seq, ack = self.seq[who], self.seq[1 - who]
        x = r.random()
        if x < .12:
            seq += r.choice([-1, 1, 100, -100, 70000, -70000, 1 << 31])
        elif x < .2:
            ack += r.choice([-1, 1, 100, -100, 70000, -70000, 1 << 31])
        data = b"x" * r.choice([1, 10, 1000]) if "P" in flags else b""
        opts = MSS + SACKOK + bytes([3, 3, r.choice([0, 7, 15]), 1]) if "S" in flags and r.random() < .8 else b""
        dev, src, dst = self.ends[who]
        p = tcp(src, dst, *self.ports(who), flags, seq=seq, ack=ack & 0xFFFFFFFF if "A" in flags else 0, opts=opts, data=data,
                win=r.choice([65535, 8192, 0, 1]), bad=r.random() < .02)
        if x >= .12:
            self.seq[who] = (seq + len(data) + ("S" in flags) + ("F" in flags)) & 0xFFFFFFFF
        return {"in": dev, "hex": p.hex()}


def partial(end, seg, cover, proto):
    """the checksum over the first bytes of a segment whose pseudo-header has its whole length"""
    _, src, dst = end
    # Bytes beyond the coverage count as if they were zero.
    body = seg[:cover] + bytes(len(seg) - cover)
    return _l4(src, dst, proto, body, 6)[6:8]


class Sequence(Packets):
    timeouts = TIMEOUTS

    def __init__(self, seed, kind, fam):
        self.r, self.fam, self.kind = random.Random("%s %d" % (kind, seed)), fam, kind
        self.nat = self.r.choice(NATS)
        self.jumps, self.now, self.udp = [], 0.0, False

    def jump(self):
        d = self.r.choice(JUMPS)
        if self.kind == "udp" and d < 31:
            return
        total = 0
        for k, x in enumerate([d] + self.jumps[::-1], 1):
            total += x
            if any(t - k - 1 <= total < t for t in self.timeouts):
                return
        self.jumps.append(d)
        self.now += d

    def rules(self):
        fam = self.fam
        nat = ["*nat"] + [":%s ACCEPT [0:0]" % c for c in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")]
        if self.nat in ("dnat", "both"):
            nat.append("-A PREROUTING -i eth0 -d %s -j DNAT --to-destination %s" % (ROUTER[fam]["eth0"], HOSTS[fam]["eth1"][0]))
        if self.nat in ("snat", "both"):
            nat.append("-A POSTROUTING -o eth1 -j SNAT --to-source %s" % VIP[fam])
        if self.nat == "masquerade":
            nat.append("-A POSTROUTING -o eth1 -j MASQUERADE")
        count = ["-A %s -m conntrack --ctstate %s" % (chain, s) for chain in ("FORWARD", "INPUT") for s in STATES]
        drop = ["-A FORWARD -m conntrack --ctstate INVALID -j DROP"] if self.r.random() < .4 else []
        filt = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"] + count + drop
        tables = [filt + ["COMMIT"]] + ([nat + ["COMMIT"]] if self.nat or self.r.random() < .3 else [])
        return "".join(ln + "\n" for t in tables for ln in t)

    def steps(self):
        r, out = self.r, []
        # without ports two flows between the same hosts are one
        count = 1 if self.kind in ("gre", "generic") and self.nat else r.randint(1, 3)
        first = r.randrange(14)
        flows = [Flow(r, self.fam, self.nat, 20000 + n, r.choice([80, 5000, 36412]), first + n) for n in range(count)]
        for _ in range(r.randint(8, 30)):
            if r.random() < .12:
                self.jump()
            step = getattr(r.choice(flows), self.kind)()
            if out and r.random() < .08:
                step = self.error(r.randrange(len(out)))
            out.append(dict({"t": self.now}, **step))
        return out

    def case(self, name):
        return {"name": name, "interfaces": IFS, "rules%d" % self.fam: self.rules(), "packets": self.steps()}


def tracker_case(i, kind=None):
    """case number i of the numbered series: the kinds in turn, every third IPv6"""
    kind = kind or KINDS[i % len(KINDS)]
    return Sequence(i, kind, 6 if i // len(KINDS) % 3 == 2 else 4).case("%s%d" % (kind, i))
