"""a small reader of pcap and pcapng files; standard library only

read(path) yields Frame(number from 1, time in seconds, interface name or index or None, kind of link, bytes).
ip_packet(frame) gives what IP there is: Packet, or None for everything else (ARP, ...)."""
import collections
import struct

Frame = collections.namedtuple("Frame", "n t dev link data")
# direction: "in", "out", "other" (not for this host) or None (the link layer does not tell); dev: name, index or None
Packet = collections.namedtuple("Packet", "n t dev direction src_mac dst_mac ip")

ETHERNET, RAW, SLL, SLL2 = 1, 101, 113, 276
ETHERTYPES = (0x0800, 0x86DD)
SLL_DIRECTION = {0: "in", 1: "in", 2: "in", 3: "other", 4: "out"}


def read(path):
    with open(path, "rb") as f:
        b = f.read()
    if b[:4] == b"\x0a\x0d\x0d\x0a":
        return pcapng(b)
    return pcap(b)


def pcap(b):
    e, unit = {b"\xd4\xc3\xb2\xa1": ("<", 1e6), b"\xa1\xb2\xc3\xd4": (">", 1e6),
               b"\x4d\x3c\xb2\xa1": ("<", 1e9), b"\xa1\xb2\x3c\x4d": (">", 1e9)}[b[:4]]
    link = struct.unpack_from(e + "I", b, 20)[0] & 0xFFFF
    o, n = 24, 0
    while o + 16 <= len(b):
        sec, frac, cap, _ = struct.unpack_from(e + "IIII", b, o)
        n += 1
        yield Frame(n, sec + frac / unit, None, link, b[o + 16:o + 16 + cap])
        o += 16 + cap


def options(b, e):
    o = 0
    while o + 4 <= len(b):
        code, ln = struct.unpack_from(e + "HH", b, o)
        if code == 0:
            return
        yield code, b[o + 4:o + 4 + ln]
        o += 4 + (ln + 3 & ~3)


def pcapng(b):
    o, n, e, ifs = 0, 0, "<", []
    while o + 12 <= len(b):
        if b[o:o + 4] == b"\x0a\x0d\x0d\x0a":
            e = "<" if b[o + 8:o + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            ifs = []
        kind, ln = struct.unpack_from(e + "II", b, o)
        body = b[o + 8:o + ln - 4]
        if kind == 1:       # interface description
            opt = dict(options(body[8:], e))
            res = opt.get(9, b"\x06")[0]
            unit = 2.0 ** (res & 127) if res & 128 else 10.0 ** res
            name = opt[2].split(b"\0")[0].decode() if 2 in opt else None
            ifs.append((name, struct.unpack_from(e + "H", body)[0], unit))
        elif kind == 6:     # enhanced packet
            i, hi, lo, cap, _ = struct.unpack_from(e + "IIIII", body)
            n += 1
            name, link, unit = ifs[i]
            yield Frame(n, ((hi << 32) + lo) / unit, name, link, body[20:20 + cap])
        o += ln


def mac(b):
    return ":".join("%02x" % x for x in b)


def ip_packet(f):
    d, dev, direction, smac, dmac = f.data, f.dev, None, None, None
    if f.link == ETHERNET:
        et, o = struct.unpack_from("!H", d, 12)[0], 14
        smac, dmac = mac(d[6:12]), mac(d[:6])
    elif f.link == SLL:
        kind, = struct.unpack_from("!H", d)
        direction, et, o = SLL_DIRECTION[kind], struct.unpack_from("!H", d, 14)[0], 16
    elif f.link == SLL2:
        et, _, dev, _, kind = struct.unpack_from("!HHIHB", d)
        direction, o = SLL_DIRECTION[kind], 20
    elif f.link == RAW:
        et, o = (0x86DD if d[0] >> 4 == 6 else 0x0800), 0
    else:
        raise ValueError("link type %d" % f.link)
    if et not in ETHERTYPES:
        return None
    ip = d[o:]
    ln = struct.unpack_from("!H", ip, 2)[0] if ip[0] >> 4 == 4 else 40 + struct.unpack_from("!H", ip, 4)[0]
    return Packet(f.n, f.t, dev, direction, smac, dmac, ip[:ln])     # without Ethernet's padding
