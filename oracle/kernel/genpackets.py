"""random packet sequences: stray packets, and whole sessions with their accidents

A session is a Python generator: it yields one step of a case at a time and is sent the
step's index, so that later steps can answer what came out of it (`reply_of`).  Several
sessions run interleaved.

What keeps two runs equal:
  * every flow has a client port (or ICMP id) of its own: the kernel never has to invent one
  * fragments of different datagrams never share an id
  * the clock only jumps where no timeout is within the error of the oracle's warp
    (one second a jump), and not while a UDP flow may turn into a "stream"
"""
from pkt import echo, frag6, frags4, icmp, ip, tcp, tcp_seg, udp
from topo import CLIENT_PORTS, HOSTS, LOOP, OFFNET, ROUTER, SERVICE_PORTS, VIP, hosts

MSS, SACKOK, TS = bytes([2, 4, 5, 180]), bytes([4, 2]), bytes([8, 10] + [0, 0, 0, 9, 0, 0, 0, 7])
TIMEOUTS = (10, 30, 60, 120, 180, 300, 600)     # every tracker's, in seconds
JUMPS = (1, 5, 31, 61, 121, 181, 301, 400)
MAX_TIME = 3000                                 # less than one token of `--limit 1/hour`


def sack(*blocks):
    b = b"".join(x.to_bytes(4, "big") for blk in blocks for x in blk)
    return bytes([1, 1, 5, 2 + len(b)]) + b


class Packets:
    """mix-in: needs self.r (random.Random) and self.fam (4 or 6)"""

    def packets_init(self):
        r = self.r
        self.ports = list(CLIENT_PORTS)
        r.shuffle(self.ports)
        self.ports += r.sample(range(1025, 60000), 60)
        self.ids = list(range(1, 400))
        self.frag_id = 1000
        self.jumps, self.now, self.udp = [], 0.0, False

    # ------------------------------------------------------------- time
    def jump(self):
        """sometimes let seconds pass, but never to where the outcome hangs on less than one"""
        d = self.r.choice(JUMPS)
        if self.udp and d < 31 or self.now + d > MAX_TIME:
            return
        total = 0
        for k, x in enumerate([d] + self.jumps[::-1], 1):
            total += x
            if any(t - k - 1 <= total < t for t in TIMEOUTS):
                return
        self.jumps.append(d)
        self.now += d

    # ------------------------------------------------------------- endpoints
    def flow(self, proto=None):
        r, fam = self.r, self.fam
        dev = "local"
        src = r.choice(list(ROUTER[fam].values()))
        if r.random() < .7:
            dev = r.choice(list(HOSTS[fam]))
            src = r.choice(HOSTS[fam][dev])
            if r.random() < .04:    # comes in where it does not belong
                dev = r.choice(list(HOSTS[fam]))
        x = r.random()
        if x < .25 and dev != "local":
            dst = ROUTER[fam][dev] if r.random() < .6 else r.choice(list(ROUTER[fam].values()))
        elif x < .1 and dev == "local":
            dst = r.choice([src, LOOP[fam], r.choice(list(ROUTER[fam].values()))])
            src = LOOP[fam] if dst == LOOP[fam] else src
        elif x < .33 and self.default_route:
            dst = OFFNET[fam]
        elif x < .345 and fam == 4 and dev != "local":
            dst = r.choice([ROUTER[4][dev][:-1] + "255", "255.255.255.255"])
        else:
            dst = r.choice([h for h in hosts(fam) if h != src])
        if r.random() < .01:
            src = LOOP[fam]     # a martian
        p = proto or r.choice(["tcp", "tcp", "tcp", "udp", "udp", "icmp"])
        self.udp |= p == "udp"
        return dict(i=dev, s=src, d=dst, p=p, sp=self.ports.pop() if r.random() < .6 else self.ports.pop(0), dp=r.choice(SERVICE_PORTS),
                    id=self.ids.pop(r.randrange(len(self.ids))), seq=r.choice([1, 1000, 0xFFFFFF00, r.getrandbits(32)]), n=0)

    def ip_extra(self):
        """now and then a TTL or TOS that is not the usual one"""
        r, kw = self.r, {}
        if r.random() < .06:
            kw["ttl"] = r.choice([1, 2, 255])
        if r.random() < .08:
            kw["tos"] = r.choice([0x10, 0x28, 0x08, 0xB8])
        return kw

    # ------------------------------------------------------------- TCP
    def tcp_session(self):
        r, f = self.r, self.flow("tcp")
        ws = [r.choice([None, 0, 2, 7, 14]) for _ in "cs"]
        sackok = r.random() < .7
        cisn, sisn = f["seq"], r.choice([5000, 0xFFFFFFF0, r.getrandbits(32)])

        def syn_opts(w):
            o = MSS + (SACKOK if sackok else b"\x01\x01")
            return o + (bytes([3, 3, w, 1]) if w is not None else b"") + (TS + b"\x01\x01" if r.random() < .3 else b"")

        def c(flags, seq, ack=0, opts=b"", data=b"", win=None, **kw):
            kw.update(self.ip_extra())
            return {"in": f["i"], "hex": tcp(f["s"], f["d"], f["sp"], f["dp"], flags, seq=cisn + seq, ack=sisn + ack if "A" in flags else 0,
                                             opts=opts, data=data, win=win if win is not None else r.choice([65535, 4000, 229]), **kw).hex()}

        def s(flags, seq, ack=0, opts=b"", data=b"", win=None):
            spec = {"step": k0, "list": "any", "flags": flags, "seq": (sisn + seq) & 0xFFFFFFFF, "ack": (cisn + ack) & 0xFFFFFFFF,
                    "win": win if win is not None else r.choice([65535, 4000, 229])}
            opts += b"\x01" * (-len(opts) & 3)
            return {"reply_of": dict(spec, opts=opts.hex(), data=data.hex())}

        so = syn_opts(ws[0])
        k0 = yield c("S", 0, opts=so)
        while r.random() < .15:
            yield c("S", 0, opts=so)        # retransmitted SYN
        x = r.random()
        if x < .05:
            yield s("RA", 0, 1)
            if r.random() < .5:
                return
        if x < .1:
            yield s("SA", 0, 77777)         # acknowledges what was never sent
            yield c("R", 77777)
        if x < .13:
            yield s("S", 0)                 # simultaneous open
        synack = s("SA", 0, 1, opts=syn_opts(ws[1]))
        yield synack
        if r.random() < .1:
            yield synack
        if r.random() < .9:
            yield c("A", 1, 1)
        yield from self.tcp_data(c, s, sackok)

    def tcp_data(self, c, s, sackok):
        r = self.r
        pos = {c: 1, s: 1}                  # next byte each side sends (relative)
        for _ in range(r.randint(0, 7)):
            me, you = r.choice([(c, s), (s, c)])
            n = r.choice([1, 10, 100, 1000])
            a, b = pos[me], pos[you]
            x = r.random()
            if x < .3:
                yield me("PA", a, b, data=b"x" * n)
                pos[me] += n
                if r.random() < .8:
                    yield you("A", b, pos[me])
            elif x < .42:                   # a segment lost; the next one; SACK; retransmission
                yield me("PA", a + n, b, data=b"y" * n)
                isn = self.isn_of(you, b, a + n)
                yield you("A", b, a, opts=sack(isn) if sackok or r.random() < .3 else b"")
                yield me("PA", a, b, data=b"x" * n)
                pos[me] += 2 * n
                yield you("A", b, pos[me])
            elif x < .5:                    # retransmission
                seg = me("PA", a, b, data=b"x" * n)
                yield seg
                yield seg
                pos[me] += n
            elif x < .6:                    # beyond the window, or long ago
                yield me("PA", a + r.choice([70000, 1000000, -70000, 5000, 300]), b, data=b"x" * n)
            elif x < .68:                   # acknowledges what was never sent, or long ago
                yield me("A", a, b + r.choice([1, 70000, -70000, 1 << 31]))
            elif x < .74:
                yield me("A", a, b, win=0)
                yield you("A", b - 1, a, data=r.choice([b"", b"z"]))    # keepalive / window probe
                yield me("A", a, b)
            elif x < .8:
                yield me(r.choice(["", "FPU", "SF", "SR", "P", "FSRPAU", "SA", "PAU"]), a, b)
            elif x < .84:
                yield c("PA", pos[c], pos[s], data=b"x" * n, bad=True)
            elif x < .88:
                yield me("R", a + r.choice([0, 1, 100, 70000]), b)
            elif x < .92:
                yield me("S", a + r.choice([0, 100000]), 0)             # SYN inside a connection
            else:
                yield me("A", a, b, opts=b"\x01\x01" + TS)
        if r.random() < .6:
            yield from self.tcp_close(c, s, pos)

    def isn_of(self, who, seq, ack):
        """the absolute SACK block [ack, ack+100) that `who` would send"""
        p = who("A", seq, ack)
        a = p["reply_of"]["ack"] if "reply_of" in p else int(p["hex"][-24:-16], 16)
        return (a, (a + 100) & 0xFFFFFFFF)

    def tcp_close(self, c, s, pos):
        r = self.r
        me, you = r.choice([(c, s), (s, c)])
        a, b = pos[me], pos[you]
        x = r.random()
        if x < .2:
            yield me("RA" if r.random() < .5 else "R", a, b)
            if r.random() < .5:
                yield you("PA", b, a, data=b"late")
            return
        yield me("FA", a, b)
        if x < .3:                          # both at once
            yield you("FA", b, a)
            yield me("A", a + 1, b + 1)
            yield you("A", b + 1, a + 1)
            return
        if r.random() < .8:
            yield you("A", b, a + 1)
        if r.random() < .3:                 # half closed: data still comes
            yield you("PA", b, a + 1, data=b"rest")
            b += 4
            yield me("A", a + 1, b)
        yield you("FA", b, a + 1)
        if r.random() < .85:
            yield me("A", a + 1, b + 1)
        if r.random() < .2:
            yield you("FA", b, a + 1)       # retransmitted FIN
        if r.random() < .2:
            yield c("S", 1 << 20)           # the port is used again

    # ------------------------------------------------------------- UDP, ICMP, errors
    def udp_session(self):
        r, f = self.r, self.flow("udp")
        k = None
        for _ in range(r.randint(1, 4)):
            k = yield {"in": f["i"], "hex": udp(f["s"], f["d"], f["sp"], f["dp"], b"x" * r.choice([0, 1, 20, 1200]),
                                                bad=r.random() < .03, nocsum=self.fam == 4 and r.random() < .05, **self.ip_extra()).hex()}
            x = r.random()
            if x < .6:
                yield {"reply_of": {"step": k, "list": "any", "data": (b"y" * r.choice([0, 5, 300])).hex()}}
            elif x < .75:
                yield self.error(k)

    def icmp_session(self):
        r, f = self.r, self.flow("icmp")
        for n in range(r.randint(1, 3)):
            if r.random() < .9:
                p = echo(f["s"], f["d"], id=f["id"], seq=n, bad=r.random() < .03, **self.ip_extra())
            else:                           # other kinds: requests, or answers to nothing
                t = r.choice([0, 13, 14, 15, 17, 3, 11, 5, 42]) if self.fam == 4 else r.choice([129, 1, 3, 4, 200])
                if t == 5:
                    t = 13
                p = icmp(f["s"], f["d"], t, 0, f["id"].to_bytes(2, "big") + bytes([0, n]), b"\0" * 12)
            k = yield {"in": f["i"], "hex": p.hex()}
            x = r.random()
            if x < .6:
                yield {"reply_of": {"step": k, "list": "any"}}
            elif x < .75:
                yield self.error(k)

    def error(self, k):
        """an ICMP error about what came out in step k, sometimes from a router on the way"""
        r = self.r
        t, codes = r.choice([(3, [0, 1, 2, 3, 9, 13]), (3, [0, 1, 3]), (11, [0]), (12, [0])] if self.fam == 4 else
                            [(1, [0, 1, 3, 4]), (1, [4]), (3, [0]), (4, [0, 1])])
        spec = {"step": k, "list": r.choice(["out", "any"]), "kind": "error", "type": t, "code": r.choice(codes)}
        if r.random() < .2:
            spec["src"] = r.choice(hosts(self.fam))
        return {"reply_of": spec}

    # ------------------------------------------------------------- fragments
    def frag_session(self):
        r, fam = self.r, self.fam
        f = self.flow(r.choice(["udp", "icmp", "tcp"]))
        if f["i"] == "local":
            f["i"] = r.choice(list(HOSTS[fam]))
            f["s"] = r.choice(HOSTS[fam][f["i"]])
            f["d"] = r.choice([h for h in hosts(fam) if h != f["s"]])
        n = r.choice([100, 600, 1400, 3000])
        if f["p"] == "udp":
            p = udp(f["s"], f["d"], f["sp"], f["dp"], b"x" * n)
        elif f["p"] == "icmp":
            p = echo(f["s"], f["d"], id=f["id"], data=b"x" * n)
        else:
            p = tcp(f["s"], f["d"], f["sp"], f["dp"], r.choice(["S", "PA"]), seq=f["seq"], data=b"x" * n)
        self.frag_id += 1
        size = r.choice([8, 32, 64, 512]) if n < 1000 else r.choice([512, 1400])
        fr = self.split(p, size)
        x = r.random()
        if x < .25:
            r.shuffle(fr)
        elif x < .35:
            fr = fr[::-1]
        elif x < .45:
            fr.pop(r.randrange(len(fr)))    # one lost: never complete
        elif x < .5:
            fr.insert(1, fr[0])             # a copy
        elif x < .57 and len(fr) > 2:
            fr[1] = self.overlap(p, size)
        k = None
        for q in fr[:40]:
            k = yield {"in": f["i"], "hex": q.hex()}
        if r.random() < .6 and f["p"] != "tcp":
            yield {"reply_of": {"step": k, "list": "any"}}

    def split(self, p, size):
        if self.fam == 4:
            return frags4(p, size, id=self.frag_id)
        return [self.part6(p, o, size) for o in range(0, len(p) - 40, size)]

    def part6(self, p, o, size):
        body = p[40:]
        s, d = (self.text6(p[k:k + 16]) for k in (8, 24))
        return frag6(s, d, p[6], body[o:o + size], o, o + size < len(body), id=self.frag_id)

    @staticmethod
    def text6(b):
        import ipaddress
        return str(ipaddress.IPv6Address(bytes(b)))

    def overlap(self, p, size):
        """a second fragment that begins 8 bytes too early"""
        if self.fam == 4:
            hl = 20
            return ip(*[".".join(map(str, p[k:k + 4])) for k in (12, 16)], p[9], p[hl + size - 8:hl + 2 * size],
                      id=self.frag_id, frag=(size - 8) // 8, mf=True)
        return self.part6(p, size - 8, size)

    # ------------------------------------------------------------- FTP
    def ftp_session(self):
        """control connection, one data connection announced in it, and its accidents"""
        r, f = self.r, self.flow("tcp")
        f["dp"] = 21
        if r.random() < .3:
            f["d"] = VIP[self.fam]
        cseq, sseq = f["seq"], r.choice([9000, 0xFFFFFFC0])
        last = yield {"in": f["i"], "hex": tcp(f["s"], f["d"], f["sp"], 21, "S", seq=cseq, opts=MSS).hex()}
        pos = {"c": cseq + 1, "s": sseq}

        def say(who, flags, data=b""):
            spec = {"step": last, "list": "any", "flags": flags, "seq": pos[who] & 0xFFFFFFFF, "ack": "auto", "data": data.hex()}
            pos[who] += len(data) + ("S" in flags) + ("F" in flags)
            return {"reply_of": spec}

        last = yield say("s", "SA")
        last = yield say("c", "A")
        last = yield say("s", "PA", b"220 ready\r\n")
        last = yield say("c", "PA", b"USER a\r\n")
        last = yield say("s", "PA", b"230 in\r\n")
        active = r.random() < .5
        # FTP's commands carry an address; the one seen on the wire is put in by the oracle
        port = r.choice([20000, 40001, 51234])
        if active:
            cmd = r.choice(["PORT", "PORT", "EPRT", "EPRT", "port", "PORTX", "PORT "]) if self.fam == 4 else r.choice(["EPRT", "EPRT", "eprt"])
            addr = f["s"] if r.random() < .9 else r.choice(hosts(self.fam))
            text = self.port_command(cmd, addr, port)
            if r.random() < .08:            # in two pieces
                last = yield say("c", "PA", text[:9])
                text = text[9:]
            ann = yield say("c", "PA", text)
            if r.random() < .1:
                again = say("c", "PA", text)
                again["reply_of"]["seq"] = (pos["c"] - 2 * len(text)) & 0xFFFFFFFF
                pos["c"] -= len(text)
                ann = yield again           # the command retransmitted
            last = ann
            last = yield say("s", "PA", b"200 ok\r\n")
        else:
            last = yield say("c", "PA", b"PASV\r\n" if r.random() < .6 and self.fam == 4 else b"EPSV\r\n")
            text = self.passive_reply(f, port)
            ann = last = yield say("s", "PA", text)
        if r.random() < .85:
            yield from self.ftp_data(ann)
            if r.random() < .3:
                yield from self.ftp_data(ann, stray=True)   # announced once, opened twice
        last = yield say("s" if not active else "c", "A")
        last = yield say("s" if active else "c", "PA", b"226 done\r\n" if active else b"NOOP\r\n")
        last = yield say("c" if active else "s", "A")
        if r.random() < .5:
            last = yield say("c", "FA")
            last = yield say("s", "FA")
            yield say("c", "A")

    def port_command(self, cmd, addr, port):
        if cmd.lower().startswith("eprt"):
            return ("%s |%d|%s|%d|\r\n" % (cmd, 1 if self.fam == 4 else 2, addr, port)).encode()
        return ("%s %s,%d,%d\r\n" % (cmd, addr.replace(".", ","), port >> 8, port & 255)).encode()

    def passive_reply(self, f, port):
        r = self.r
        if self.fam == 6 or r.random() < .4:
            return b"229 Entering Extended Passive Mode (|||%d|)\r\n" % port
        addr = f["d"] if r.random() < .6 else r.choice(hosts(4))
        t = "%s,%d,%d" % (addr.replace(".", ","), port >> 8, port & 255)
        return (r.choice(["227 Entering Passive Mode (%s)\r\n", "227 Entering Passive Mode (%s).\r\n", "227 =%s\r\n"]) % t).encode()

    def ftp_data(self, ann, stray=False):
        """the connection to the address that step `ann` announced, as it came out"""
        r = self.r
        sport = 20 if r.random() < .5 and not stray else self.ports.pop()
        seq, peer = r.choice([1, 70000]), r.choice([100, 90000])

        def opener(flags, s, a, data=b""):
            return {"reply_of": {"step": ann, "list": "any", "kind": "ftpdata", "sport": sport, "flags": flags, "seq": s, "ack": a,
                                 "opts": MSS.hex() if "S" in flags else "", "data": data.hex()}}
        k = yield opener("S", seq, 0)
        answer = {"step": k, "list": "any", "seq": peer}
        yield {"reply_of": dict(answer, flags="SA", opts=MSS.hex())}
        yield opener("A", seq + 1, peer + 1)
        yield opener("PA", seq + 1, peer + 1, b"file")
        yield {"reply_of": dict(answer, flags="A", seq=peer + 1, ack=seq + 5)}
        if r.random() < .6:
            yield opener("FA", seq + 5, peer + 1)
            yield {"reply_of": dict(answer, flags="FA", seq=peer + 1, ack=seq + 6)}
            yield opener("A", seq + 6, peer + 2)

    # ------------------------------------------------------------- stray packets
    def stray(self):
        """a flow of packets that follow no protocol, answered at random"""
        r, f = self.r, self.flow()
        for _ in range(r.randint(1, 4)):
            if f["p"] == "tcp":
                fl = "S" if f["n"] == 0 and r.random() < .7 else r.choice(["S", "A", "A", "PA", "FA", "R", "SA", 0, "FPU", "SF"])
                seq = f["seq"] + (1 if f["n"] else 0) + r.choice([0, 0, 0, 10, 70000])
                p = tcp(f["s"], f["d"], f["sp"], f["dp"], fl, seq=seq, ack=r.choice([5001, 5001, 0, 77]), data=b"x" * r.choice([0, 0, 1, 1000]),
                        bad=r.random() < .03, win=r.choice([65535, 500]), **self.ip_extra())
                if r.random() < .03:        # a header that ends too early, or lies about its length
                    seg = tcp_seg(f["s"], f["d"], f["sp"], f["dp"], "S")
                    p = ip(f["s"], f["d"], 6, r.choice([seg[:12], seg[:12] + b"\xf0" + seg[13:], seg[:12] + b"\x10" + seg[13:]]))
            elif f["p"] == "udp":
                p = udp(f["s"], f["d"], f["sp"], f["dp"], b"x" * r.choice([0, 1, 20, 1200]), bad=r.random() < .05,
                        ulen=r.choice([None] * 9 + [4, 2000]), **self.ip_extra())
            else:
                p = echo(f["s"], f["d"], id=f["id"], seq=f["n"], **self.ip_extra())
            if r.random() < .02 and f["i"] != "local":
                p = ip(f["s"], f["d"], 47 if r.random() < .5 else 132 if r.random() < .5 else 253, b"\0" * 24)
            f["n"] += 1
            k = yield {"in": f["i"], "hex": p.hex()}
            if r.random() < .6:
                spec = {"step": k, "list": "any"}
                if r.random() < .15:
                    yield self.error(k)
                    continue
                spec.update(flags=r.choice(["SA", "SA", "A", "A", "PA", "FA", "R", "RA", "S", "FPU", "P"]),
                            seq=r.choice(["auto", "auto", "+1", "+100000", 5000]), ack=r.choice(["auto", "auto", "auto", "+1", "+70000"]),
                            win=r.choice([65535, 1000, 0]))
                if r.random() < .3:
                    spec["data"] = (b"x" * r.choice([1, 10, 100])).hex()
                yield {"reply_of": spec}

    KINDS = [("tcp_session", 9), ("udp_session", 4), ("icmp_session", 3), ("frag_session", 2), ("stray", 7)]

    def packets(self, n):
        """about n steps from interleaved sessions"""
        r, out, live = self.r, [], []
        while len(out) < n:
            if not live or len(live) < 4 and r.random() < .25:
                kind = r.choices([k for k, _ in self.KINDS], [w for _, w in self.KINDS])[0]
                if self.ftp and r.random() < .7:
                    kind = "ftp_session"
                live.append([getattr(self, kind)(), None])
            if r.random() < .04:
                self.jump()
            s = r.choice(live)
            while r.random() < .95:         # a session mostly goes on undisturbed for a while
                try:
                    step = s[0].send(s[1])
                except StopIteration:
                    live.remove(s)
                    break
                s[1] = len(out)
                out.append(dict({"t": self.now}, **step))
                if r.random() < .25:
                    break
        return out
