"""SYNPROXY: clients that are answered with cookies, servers that take, refuse or miss the connection

The proxy's sequence numbers and time stamps are drawn. Packets that need them copy them
from what came out earlier ("subst"), in the kernel and in the runner alike, so these
cases are not flattened; canon.py gives what was drawn a name of its own."""
import random

import pkt

NETS = {4: "10.0.%d.%d", 6: "fd00:%d::%d"}
S = {4: 20, 6: 40}


def opts(mss=None, ws=None, sack=False, ts=None, blocks=()):
    """option bytes; time stamps, if any, come first, so that their place is known"""
    o = b""
    if ts is not None:
        o += b"\x01\x01\x08\x0a" + ts[0].to_bytes(4, "big") + ts[1].to_bytes(4, "big")
    if mss is not None:
        o += b"\x02\x04" + mss.to_bytes(2, "big")
    if sack:
        o += b"\x04\x02"
    if ws is not None:
        o += b"\x03\x03" + bytes([ws])
    if blocks:
        o += b"\x01\x01\x05" + bytes([2 + 4 * len(blocks)]) + b"".join(b.to_bytes(4, "big") for b in blocks)
    return o + b"\x01" * (-len(o) % 4)


class Flow:
    """one connection through the proxy"""

    def __init__(self, r, fam, port, rule, local, nat, steps):
        self.nat = nat
        self.r, self.fam, self.port, self.rule, self.local, self.steps = r, fam, port, rule, local, steps
        self.client, self.dst = NETS[fam] % (0, 9), NETS[fam] % ((0, 1) if local else (1, 2))
        self.iss, self.irs = r.randint(1000, 2**32 - 1), r.randint(1000, 2**32 - 1)
        self.c = 1          # bytes that the client has sent, its SYN included
        self.s = 1
        self.clock = [r.randint(0, 2**32 - 1), r.randint(0, 2**32 - 1)]
        self.mss = r.choice([None, 500, 1300, 1400, 1440, 1460, 9000])
        self.ws = r.choice([None, 0, 7, 14])
        self.sack, self.ts, self.ecn = r.random() < .6, r.random() < .7, r.random() < .3
        self.server_ts = self.ts and "--timestamp" in rule and r.random() < .9
        self.answer = None  # the step of the answer to the SYN

    def emit(self, where, packet, subst=()):
        step = {"t": 0, "in": where, "hex": packet.hex()}
        if subst:
            step.update(subst=list(subst), fix=True)
        self.steps.append(step)
        return len(self.steps) - 1

    def tcp(self, back, flags, seq, ack, **k):
        a, b, p = (self.dst, self.client, (80, self.port)) if back else (self.client, self.dst, (self.port, 80))
        return pkt.tcp(a, b, p[0], p[1], flags, seq=seq & 0xffffffff, ack=ack & 0xffffffff, **k)

    def stamps(self, back):
        self.clock[back] = (self.clock[back] + self.r.choice([0, 1, 20])) & 0xffffffff
        return self.clock[back], self.clock[not back]

    def syn(self, shift=0):
        o = opts(self.mss, self.ws, self.sack, (self.clock[0], 0) if self.ts else None)
        flags = "SEC" if self.ecn else "S"
        at = self.emit("eth0", self.tcp(False, flags, self.iss + shift, 0, opts=o, win=self.r.choice([0, 1024, 64240])))
        if self.answer is None:
            self.answer = at

    def drawn(self, at, add):
        """the proxy's number plus so much, at this place"""
        return {"off": at, "len": 4, "add": add & 0xffffffff, "from": {"step": self.answer, "list": "out", "n": 0, "off": S[self.fam] + 4}}

    def from_client(self, flags="A", seq=None, ack=None, data=b"", blocks=(), win=501):
        """ack: bytes of the server that are acknowledged, its SYN included"""
        o, subst = b"", []
        at = S[self.fam]
        subst.append(self.drawn(at + 8, self.s if ack is None else ack))
        if self.ts and "--timestamp" in self.rule:
            o = opts(ts=(self.stamps(False)[0], 0))
            place = S[self.fam] + 20 + (4 if self.mss is not None and "--mss" in self.rule else 0) + 4
            subst.append({"off": at + 28, "len": 4, "from": {"step": self.answer, "list": "out", "n": 0, "off": place}})
        if blocks and self.sack:
            base = at + 20 + len(o) + 4
            o += opts(blocks=[0] * len(blocks))
            subst += [self.drawn(base + 4 * i, b) for i, b in enumerate(blocks)]
        seq = self.iss + (self.c if seq is None else seq)
        return self.emit("eth0", self.tcp(False, flags, seq, 0, opts=o, data=data, win=win), subst)

    def from_server(self, flags="A", seq=None, ack=None, data=b"", win=502, o=None):
        if o is None:
            o = opts(ts=self.stamps(True)) if self.server_ts else b""
        return self.emit("local" if self.local else "eth1",
                         self.tcp(True, flags, self.irs + (self.s if seq is None else seq), self.iss + (self.c if ack is None else ack), opts=o, data=data, win=win))

    def syn_ack(self):
        r = self.r
        o = opts(r.choice([None, 1400]), r.choice([None, 3, 9]), r.random() < .7, self.stamps(True) if self.server_ts else None)
        return self.from_server(r.choice(["SA", "SA", "SAE"]), seq=0, o=o, win=r.choice([0, 1000, 65535]))

    def open(self, again=False):
        """from the SYN to an open connection; False when it comes to none"""
        r = self.r
        self.syn()
        if r.random() < .3:
            self.syn()
        x = r.random()
        if x < .1 and not again:      # no cookie
            self.from_client(ack=r.choice([0, 2, 1000, 2**24]))
            self.from_client(seq=r.choice([0, 2, 2**31]))
        elif x < .15:
            self.from_client(r.choice(["R", "RA", "FA", "F", "SA"]))
        if r.random() < .15:
            return False
        if r.random() < .2:
            self.from_client(data=b"x" * r.randint(1, 40))
        else:
            self.from_client()
        for _ in range(r.choice([0, 0, 0, 1, 2])):  # the server is slow
            r.choice([lambda: self.from_client(seq=0), lambda: self.from_client(), lambda: self.from_client(data=b"early")])()
        if r.random() < .12:
            self.from_server("RA", seq=0)
            if r.random() < .5:
                self.syn()
            return False
        self.syn_ack()
        if r.random() < .2:
            self.syn_ack()
        return True

    def talk(self):
        r = self.r
        for _ in range(r.randint(1, 8)):
            n = r.randint(0, 60)
            x = r.random()
            if x < .4:
                self.from_client("PA" if n else "A", data=b"q" * n)
                self.c += n
                if r.random() < .7:
                    self.from_server()
            elif x < .8:
                self.from_server("PA" if n else "A", data=b"r" * n)
                self.s += n
                if r.random() < .7:
                    self.from_client()
            elif x < .9:    # a hole, told by SACK
                self.from_server("PA", seq=self.s + 50, data=b"z" * 50)
                self.from_client(blocks=(self.s + 50, self.s + 100))
                self.from_server("PA", data=b"y" * 50)
                self.s += 100
                self.from_client()
            else:           # keep-alives and what is out of any window
                r.choice([lambda: self.from_client(seq=self.c - 1), lambda: self.from_server(seq=self.s - 1),
                          lambda: self.from_client(seq=self.c + 2**30), lambda: self.from_server(seq=self.s + 2**30),
                          lambda: self.from_client(ack=self.s + 2**20)])()

    def close(self):
        r = self.r
        x = r.random()
        if x < .3:
            self.from_client("RA")
        elif x < .5:
            self.from_server("RA")
        elif x < .9:
            self.from_client("FA")
            self.c += 1
            self.from_server("FA")
            self.s += 1
            self.from_client()
        # the same ports once more; through NAT the kernel goes on with the old numbers
        if r.random() < .5 and not self.nat:
            self.iss = (self.iss + r.randint(100000, 2**30)) & 0xffffffff
            self.irs = (self.irs + r.randint(100000, 2**30)) & 0xffffffff
            self.c = self.s = 1
            self.answer = None
            if self.open(True):
                self.talk()


def synproxy_case(seed):
    r = random.Random("synproxy %d" % seed)
    fam = 6 if seed % 2 else 4
    local = r.random() < .2
    rule = " ".join(w for w in ("--sack-perm", "--timestamp", "--wscale %d" % r.choice([0, 7, 14]), "--mss %d" % r.choice([536, 1460, 8960]), "--ecn") if r.random() < .75)
    chain = "INPUT" if local else "FORWARD"
    states = "".join("-A %s -m conntrack --ctstate %s\n" % (c, s) for c in (chain, "OUTPUT") for s in ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"))
    text = "*raw\n-A PREROUTING -p tcp -m tcp --syn -j CT --notrack\nCOMMIT\n"
    nat = r.random()
    if nat < .2 and not local:
        text += "*nat\n-A POSTROUTING -o eth1 -j SNAT --to-source %s\nCOMMIT\n" % (NETS[fam] % (1, 1))
    text += ("*filter\n:FORWARD DROP [0:0]\n:INPUT DROP [0:0]\n" + states +
             "-A %s -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY %s\n" % (chain, rule) +
             "-A %s -m conntrack --ctstate INVALID\n-A %s -m conntrack --ctstate ESTABLISHED -j ACCEPT\n" % (chain, chain) + "COMMIT\n")
    steps = []
    for n in range(r.randint(1, 2)):
        flow = Flow(r, fam, 40000 + n, rule, local, nat < .2 and not local, steps)
        if flow.nat:
            flow.from_server = lambda *a, f=flow, **k: to_router(f, *a, **k)
        if flow.open():
            flow.talk()
            flow.close()
    sysctls = {"net.netfilter.nf_conntrack_tcp_loose": 0 if r.random() < .9 else 1}
    return {"name": "synproxy%d" % seed, "conntrack": "on", "rules%d" % fam: text, "sysctls": sysctls, "packets": steps}


def to_router(flow, *args, **kw):
    """what a server says to a translated client"""
    own, flow.client = flow.client, NETS[flow.fam] % (1, 1)
    try:
        return Flow.from_server(flow, *args, **kw)
    finally:
        flow.client = own
