#!/usr/bin/env python3
"""The kernel's connection tracking, to put beside `cargo bench -p tidegate-conntrack --bench million`.

As root: `chrt -f 50 scenarios/kernel_conntrack.py [COUNT]`. Works in network namespaces of its own. COUNT is at
most net.netfilter.nf_conntrack_max, which only the first namespace can change; the default is 250,000.

* memory of a connection: objects in /proc/slabinfo, and a bucket of the hash table for each;
* create, list, delete by conntrack(8): the tool's work is in the figures;
* new connections a second: UDP datagrams from a packet socket through a veth pair into a namespace that tracks them,
  beside the same with NOTRACK: the difference is connection tracking. Sending and receiving share one processor.
"""
import ctypes
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

BATCH = 1000
OURS, THEIRS = f"kct{os.getpid()}a", f"kct{os.getpid()}b"


def run(*words, **more):
    return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout


def within(namespace, *words, **more):
    return run("ip", "netns", "exec", namespace, *words, **more)


def timed(what, count, work):
    start = time.monotonic()
    work()
    took = time.monotonic() - start
    print(f"{what:32} {took:7.3f} s, {took / count * 1e9:7.0f} ns each, {count / took:9,.0f} a second")
    return took


def objects():
    for line in open("/proc/slabinfo"):
        words = line.split()
        if words[0] == "nf_conntrack":
            return int(words[1]), int(words[3])
    raise SystemExit("no slab of that name: merged with others (slab_nomerge)")


def wire():
    for namespace in (OURS, THEIRS):
        run("ip", "netns", "add", namespace)
    run("ip", "-n", OURS, "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", THEIRS)
    run("ip", "-n", OURS, "link", "set", "out", "up")
    run("ip", "-n", THEIRS, "link", "set", "lo", "up")
    run("ip", "-n", THEIRS, "address", "add", "192.0.2.1/24", "dev", "in")
    run("ip", "-n", THEIRS, "link", "set", "in", "up")
    run("ip", "-n", THEIRS, "route", "add", "default", "dev", "in")
    within(THEIRS, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.in.rp_filter=0")
    # Tracking is on where rules ask for it. Nobody answers.
    within(THEIRS, "iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")


class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.c_void_p),
                ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_size_t), ("len", ctypes.c_size_t)]


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


def checksum(header):
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def sender(count, first):
    """A function that sends `count` datagrams of as many sources to a port where somebody listens."""
    mac = bytes.fromhex(within(THEIRS, "cat", "/sys/class/net/in/address").strip().replace(":", ""))
    inside = os.open(f"/run/netns/{OURS}", os.O_RDONLY)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.setns(inside, 0)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("out", 0))
    libc.setns(home, 0)
    frames = bytearray()
    for n in range(first, first + count):
        source = (0x0A000000 + n).to_bytes(4, "big")
        ip = b"\x45\0\0\x1c\0\1\0\0\x40\x11\0\0" + source + bytes([192, 0, 2, 1])
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        frames += mac + bytes(6) + b"\x08\0" + ip + struct.pack("!4H", 1000, 53, 8, 0)
    size = 14 + 28
    buffer = (ctypes.c_char * len(frames)).from_buffer(frames)
    base = ctypes.addressof(buffer)
    pieces = (Piece * count)(*(Piece(base + n * size, size) for n in range(count)))
    at = ctypes.addressof(pieces)
    messages = (Message * count)(*(Message(iov=at + n * ctypes.sizeof(Piece), iovlen=1) for n in range(count)))
    sendmmsg = libc.sendmmsg
    keep = (frames, buffer, pieces, link)

    def send():
        for done in range(0, count, BATCH):
            part = ctypes.byref(messages, done * ctypes.sizeof(Message))
            wanted = min(BATCH, count - done)
            if sendmmsg(keep[3].fileno(), part, wanted, 0) != wanted:
                raise OSError(ctypes.get_errno(), "sendmmsg")

    return send


def tracked():
    return int(within(THEIRS, "cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


def main():
    limit = int(open("/proc/sys/net/netfilter/nf_conntrack_max").read())
    count = min(int(sys.argv[1]) if sys.argv[1:] else 250_000, limit)
    os.sched_setaffinity(0, {0})
    listener = None
    try:
        wire()
        listener = subprocess.Popen(["ip", "netns", "exec", THEIRS, sys.executable, "-c", "import socket, time\n"
                                     "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53))\n"
                                     "s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)\ntime.sleep(600)"])
        time.sleep(1)
        before, size = objects()
        first = timed("packets of new connections", count, sender(count, 0))
        have = tracked()
        after, _ = objects()
        print(f"{have} connections, {after - before} objects of {size} bytes, and 8 bytes a bucket")
        second = timed("packets of known connections", count, sender(count, 0))
        within(THEIRS, "iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-j", "NOTRACK")
        bare = timed("the same packets with NOTRACK", count, sender(count, 0))
        print(f"{'new connections, tracking alone':32} {(first - bare) / count * 1e9:7.0f} ns each, "
              f"{count / (first - bare):9,.0f} a second")
        print(f"{'look-ups, tracking alone':32} {(second - bare) / count * 1e9:7.0f} ns each")
        timed("conntrack -L", have, lambda: within(THEIRS, "sh", "-c", "conntrack -L >/dev/null 2>&1"))
        timed("conntrack -D, all of them", have, lambda: within(THEIRS, "sh", "-c", "conntrack -D >/dev/null 2>&1"))
        with tempfile.NamedTemporaryFile("w") as lines:
            for n in range(count):
                host = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
                lines.write(f"-I -s {host} -d 192.0.2.1 -p udp --sport 1000 --dport 53 -t 600\n")
            lines.flush()
            timed("conntrack -R, a file of -I", count, lambda: within(THEIRS, "conntrack", "-R", lines.name))
        have = tracked()
        timed("conntrack -F", have, lambda: within(THEIRS, "conntrack", "-F"))
    finally:
        if listener:
            listener.terminate()
            listener.wait()
        for namespace in (OURS, THEIRS):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


if __name__ == "__main__":
    main()
