"""SIP sessions for the helper: registrations and the calls they let in, calls with one to three
media, their answers and ends, over UDP and TCP, with every NAT and without; orderly, cut and
forged.  gensip.sip_case(i) is number i."""
import random

from genhelpers import HELPERS, Helper
from pkt import udp
from topo import HOSTS

HELPERS.setdefault("sip", ("udp", 5060))
MEDIA = ("audio", "audio", "audio", "video", "image", "text")


class Sip(Helper):
    def __init__(self, seed, fam):
        super().__init__(seed, "sip", fam)
        r = self.r
        self.transport = r.choice(["udp", "udp", "tcp"])
        self.udp = self.transport == "udp"
        self.cseq = r.randrange(1, 500)
        f = self.flow
        # addresses by who sends: own, the other's, own as the other knows it
        self.addrs = [(f.ends[0][1], f.ends[0][2], f.ends[1][2]), (f.ends[1][1], f.ends[1][2], f.ends[0][2])]

    # ------------------------------------------------------------- texts
    def host(self, addr, port=None):
        addr = addr if self.fam == 4 else "[%s]" % addr
        return addr if port is None else "%s:%d" % (addr, port)

    def sdp(self, addr, ports, other=None):
        """a description of media on these ports; other: the address of single media"""
        r, net = self.r, "IN IP%d " % self.fam
        lines = ["v=0", "o=u 1 1 " + net + addr, "s=-"]
        where = r.choice(["session", "session", "media", "both"])
        if where != "media":
            lines.append("c=" + net + addr)
        lines.append("t=0 0")
        for n, p in enumerate(ports):
            # through NAT the kernel does not know which address to write when there is none
            kind = r.choice(MEDIA[:5] if n == 0 else MEDIA)
            lines.append("m=%s %d RTP/AVP 0 8" % (kind, p))
            if where != "session":
                lines.append("c=" + net + (other or addr))
            lines.append("a=sendrecv")
        x = r.random()
        if x < .04:
            lines = [line for line in lines if not line.startswith("c=")]
        elif x < .07:
            del lines[1]
        elif x < .1:
            lines[1] = lines[1][:9]
        return "\r\n".join(lines) + "\r\n"

    def message(self, first, who, method, cseq, headers=(), body="", via=True):
        r, f = self.r, self.flow
        own, other, known = self.addrs[who]
        port = f.ports(who)[0]
        if first.startswith("SIP/2.0"):
            # the other's request, as it arrived here
            vp = f.ports(who)[1]
            line = "%s;branch=z9hG4bK%d" % (self.host(other, vp), cseq)
            line += r.choice(["", ";received=" + other, ";rport=%d;received=%s" % (vp, other), ";received=%s;rport=%d" % (other, vp)])
        else:
            line = "%s;branch=z9hG4bK%d" % (self.host(own, port), cseq)
            line += r.choice(["", ";rport", ";maddr=" + self.host(own)])
        out = [first]
        if via:
            out.append("%s: SIP/2.0/%s %s" % (r.choice(["Via", "Via", "v", "VIA"]), self.transport.upper(), line))
        me, you = "<sip:a@%s>;tag=1" % self.host(own, r.choice([None, port])), "<sip:b@%s>" % self.host(other, r.choice([None, f.ports(who)[1]]))
        if first.startswith("SIP/2.0"):
            me, you = you, me
        out += ["%s: %s" % (r.choice(["From", "f"]), me), "%s: %s" % (r.choice(["To", "t"]), you), "Call-ID: %d@x" % cseq,
                "CSeq: %d %s" % (cseq, method)]
        out += headers
        if body:
            out.append("Content-Type: application/sdp")
        if body or self.transport == "tcp" or r.random() < .8:
            out.append("%s: %d" % (r.choice(["Content-Length", "l"]), len(body)))
        return "\r\n".join(out) + "\r\n\r\n" + body

    def send(self, who, text):
        r, data = self.r, text.encode()
        x = r.random()
        if x < .03 and self.udp:
            cut = data[:r.randrange(1, len(data))]
            # no description without media, as above
            data = cut if b"v=0" not in cut or b"m=" in cut else data
        elif x < .05:
            i = r.randrange(len(data))
            data = data[:i] + bytes([data[i] ^ 1 << r.randrange(5)]) + data[i + 1:]
        return self.say(who, data)

    # ------------------------------------------------------------- sessions
    def register(self):
        r, f = self.r, self.flow
        own, other, _ = self.addrs[0]
        port = r.choice([f.sport, self.announced.pop(), self.announced.pop()])
        life = r.choice([600, 60, 3600, 0])
        addr = r.choice([own] * 6 + [other, HOSTS[self.fam]["eth0"][-1]])
        where = r.choice(["param", "header", "both"])
        contact = "Contact: <sip:a@%s%s>" % (self.host(addr, port), r.choice(["", "", ";transport=" + self.transport, ";transport=tls"]))
        if where != "header":
            contact += ";expires=%d" % life
        headers = [contact] + (["Expires: %d" % life] if where != "param" else [])
        self.cseq += 1
        yield self.send(0, self.message("REGISTER sip:%s SIP/2.0" % self.host(other), 0, "REGISTER", self.cseq, headers))
        # the registrar's answer names the binding as it knows it, and others
        code = r.choice(["200 OK"] * 5 + ["100 Trying", "401 Unauthorized", "500 No"])
        known = self.addrs[1][1] if addr == own else addr
        bound = "<sip:a@%s>;expires=%d" % (self.host(known, port), r.choice([life, life, 0, 30]))
        others = "<sip:c@%s>;expires=100" % self.host(self.addrs[1][0], 5070)
        values = r.choice([[bound], [bound], [others + ", " + bound], [bound + "," + others], [others]])
        cseq = self.cseq if r.random() < .93 else self.cseq + 7
        if r.random() < .9:
            yield self.send(1, self.message("SIP/2.0 " + code, 1, "REGISTER", cseq, ["Contact: " + v for v in values]))
        if port != f.sport:
            src = self.someone() or self.addrs[1][0]
            if self.udp:
                yield self.connect("udp", src, self.addrs[1][1], port, sport=self.announced.pop())
            else:
                yield self.connect("tcp", src, self.addrs[1][1], port)

    def call(self):
        r, f = self.r, self.flow
        own, other, _ = self.addrs[0]
        server, outside, _ = self.addrs[1]
        ports = [self.announced.pop() & ~1 for _ in range(r.choice([1, 1, 1, 2, 3]))]
        if r.random() < .08:
            at = r.randrange(len(ports))
            ports[at] = r.choice([0, 80, 1023, ports[at] | 1] if at else [80, 1023, ports[0] | 1])
        theirs = [self.announced.pop() & ~1 for _ in ports]
        self.cseq += 1
        cseq = self.cseq
        odd = r.choice([None] * 8 + [HOSTS[self.fam]["eth0"][-1]])
        offer = self.sdp(own, ports, odd)
        contact = ["%s: <sip:a@%s>" % (r.choice(["Contact", "m"]), self.host(own, f.sport))]
        yield self.send(0, self.message("INVITE sip:b@%s SIP/2.0" % self.host(other, 5060), 0, "INVITE", cseq, contact, offer))
        contact = ["Contact: <sip:b@%s>" % self.host(server, 5060)]
        if r.random() < .3:
            yield self.send(1, self.message("SIP/2.0 180 Ringing", 1, "INVITE", cseq, contact))
        if r.random() < .12:
            yield self.send(1, self.message("SIP/2.0 486 Busy", 1, "INVITE", cseq))
        else:
            yield self.send(1, self.message("SIP/2.0 200 OK", 1, "INVITE", cseq, contact, self.sdp(server, theirs)))
            yield self.send(0, self.message("ACK sip:b@%s SIP/2.0" % self.host(other, 5060), 0, "ACK", cseq))
        for mine, their in zip(ports, theirs):
            if mine and r.random() < .8:
                src = self.someone() or server
                yield self.connect("udp", src, outside, mine + r.randrange(2), sport=their)
            if r.random() < .6:
                yield {"in": "eth0", "hex": udp(own, other, mine or 9999, their + r.randrange(2), b"rtp").hex()}
        if r.random() < .25:
            yield self.send(0, self.message("INVITE sip:b@%s SIP/2.0" % self.host(other, 5060), 0, "INVITE", cseq + 1, (),
                                            self.sdp(own, [self.announced.pop() & ~1])))
            self.cseq += 1
        if r.random() < .5:
            yield self.send(r.randrange(2), self.message("BYE sip:b@%s SIP/2.0" % self.host(other, 5060), 0, "BYE", cseq + 1))

    def sip(self):
        r = self.r
        # a TCP connection begins with a whole message: what does not, Tidegate never listens to
        yield self.say(0, self.message("OPTIONS sip:b@%s SIP/2.0" % self.host(self.addrs[0][1]), 0, "OPTIONS", 1).encode())
        for _ in range(r.randint(1, 3)):
            if r.random() < .4:
                yield from self.register()
            else:
                yield from self.call()


def sip_case(i):
    fam = 6 if i % 4 == 3 else 4
    return Sip(i, fam).case("sip%d" % i)
