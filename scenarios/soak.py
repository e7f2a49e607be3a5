#!/usr/bin/env python3
"""soak.py TIDEGATE [MINUTES [RING]]: mixed load through a live firewall whose rules change all the time

A router between a client and a server is guarded by `TIDEGATE up`. While TCP connections, UDP
questions, downloads and pings pass it, its rules are replaced twice a second by two versions in
turn; both allow that traffic and both refuse ports 7100 to 7199 and everything from outside. What
must hold: no answer is lost, nothing refused gets through, memory and descriptors do not grow.
RING is how received packets come up: packet, or xdp.
Prints a line a minute and a JSON object at the end; exit status 0 only if everything held.
Needs root, iproute2, util-linux, ethtool. Everything is in namespaces that vanish at the end."""
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
from lab import Lab, setns

VERSIONS = ["""*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i eth0 -p tcp -m tcp --dport 7000:7099 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -i eth0 -p udp -m udp --dport 7000:7099 -j ACCEPT
-A FORWARD -i eth0 -p icmp -m icmp --icmp-type 8 -j ACCEPT
COMMIT
""", """*mangle
-A PREROUTING -p udp -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:allowed - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A FORWARD -i eth1 -m conntrack --ctstate NEW -j DROP
-A FORWARD -p udp -m mark --mark 0x1 -m udp --dport 7100:7199 -j DROP
-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s 10.1.0.0/24 -j allowed
-A allowed -p tcp -m multiport --dports 7000:7099 -j ACCEPT
-A allowed -p udp -m multiport --dports 7000:7099 -j ACCEPT
-A allowed -p icmp -j ACCEPT
COMMIT
"""]
CLIENT, SERVER = "10.1.0.2", "10.2.0.2"
BLOB = bytes(range(256)) * 400


class Soak(Lab):
    def __init__(self, program, minutes, ring):
        super().__init__()
        self.ring = ring
        self.program, self.end = program, time.monotonic() + 60 * minutes
        self.count = dict.fromkeys(("udp", "udp_lost", "tcp", "tcp_lost", "downloads", "downloads_lost",
                                    "pings", "pings_lost", "restores", "refused", "passed"), 0)
        self.stop_servers = threading.Event()

    def going(self):
        return time.monotonic() < self.end

    def inside(self, ns, work, *args):
        """work in a thread of its own in the namespace"""
        def run():
            with open("/run/netns/" + self.prefix + ns) as f:
                setns(f.fileno())
            work(*args)
        t = threading.Thread(target=run, daemon=True)
        t.start()
        return t

    # ---------------------------------------------------------- servers
    def udp_echo(self, addr, port):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((addr, port))
        s.settimeout(.5)
        while not self.stop_servers.is_set():
            try:
                data, peer = s.recvfrom(2000)
            except TimeoutError:
                continue
            if port >= 7100:
                self.count["passed"] += 1
            s.sendto(data, peer)

    def tcp_server(self, addr, port):
        s = socket.create_server((addr, port), backlog=128)
        s.settimeout(.5)
        while not self.stop_servers.is_set():
            try:
                c, _ = s.accept()
            except TimeoutError:
                continue
            if port >= 7100:
                self.count["passed"] += 1
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        with c:
            c.settimeout(20)
            try:
                asked = c.recv(10)
                c.sendall(BLOB if asked == b"blob" else asked)
            except OSError:
                pass

    # ---------------------------------------------------------- clients
    def ask_udp(self, port):
        """the first question of a flow opens it; every question must be answered"""
        while self.going():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(3)
            s.connect((SERVER, port))
            for n in range(200):
                word = b"%d" % n
                s.send(word)
                self.count["udp"] += 1
                try:
                    ok = s.recv(100) == word
                except OSError:
                    ok = False
                self.count["udp_lost"] += not ok
                time.sleep(.002)
            s.close()

    def ask_tcp(self, port, word, kind):
        """a retransmitted SYN would hide a loss: the whole exchange has less than a second"""
        while self.going():
            began, got = time.monotonic(), b""
            self.count[kind] += 1
            try:
                with socket.create_connection((SERVER, port), timeout=3) as s:
                    s.sendall(word)
                    while piece := s.recv(65536):
                        got += piece
            except OSError:
                pass
            good = got == (BLOB if word == b"blob" else word) and time.monotonic() - began < .9
            self.count[kind + "_lost"] += not good
            time.sleep(.01)

    def ping(self):
        """not ping(8): for the answer to its last question that waits no longer than two round trips,
        which on a busy machine can be over before the server has run"""
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        s.connect((SERVER, 0))
        number = os.getpid() & 0xffff
        for n in itertools.count():
            if not self.going():
                return
            asked = struct.pack("!2xHHH32s", 0, number, n & 0xffff, b"soak")
            total = sum(struct.unpack("!20H", asked)) + 0x0800
            total = total % 0xffff
            s.send(struct.pack("!BBH", 8, 0, ~total & 0xffff) + asked[4:])
            self.count["pings"] += 1
            self.count["pings_lost"] += not self.answered(s, asked[4:])
            time.sleep(.02)

    def answered(self, s, asked):
        """whether an echo reply with these bytes comes within three seconds"""
        until = time.monotonic() + 3
        while (left := until - time.monotonic()) > 0:
            s.settimeout(left)
            try:
                got = s.recv(200)[20:]
            except OSError:
                break
            if got[0] == 0 and got[4:] == asked:
                return True
        return False

    def intrude(self, addr, ports):
        """tries what both versions refuse"""
        while self.going():
            for port in ports:
                u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                u.sendto(b"let me in", (addr, port))
                u.close()
                t = socket.socket()
                t.settimeout(.1)
                try:
                    t.connect((addr, port))
                    self.count["passed"] += 1
                except OSError:
                    pass
                t.close()
                self.count["refused"] += 1
            time.sleep(.05)

    # ---------------------------------------------------------- the whole
    def restore(self, n):
        r = subprocess.run([self.program, "iptables-restore"], env=self.env, input=VERSIONS[n % 2], text=True,
                           capture_output=True, timeout=30)
        if r.returncode:
            sys.exit("restore refused: " + r.stderr)
        self.count["restores"] += 1

    def usage(self, pid):
        status = open("/proc/%d/status" % pid).read()
        return int(status.split("VmRSS:")[1].split()[0]), len(os.listdir("/proc/%d/fd" % pid))

    def go(self):
        for ns in ("c", "r", "s"):
            self.ns(ns, forward=ns == "r")
        self.link(("r", "eth0", "02:00:00:00:01:01", ["10.1.0.1/24"]), ("c", "eth0", "02:00:00:00:01:02", [CLIENT + "/24"]))
        self.link(("r", "eth1", "02:00:00:00:02:01", ["10.2.0.1/24"]), ("s", "eth0", "02:00:00:00:02:02", [SERVER + "/24"]))
        self.run("c", "ip route add default via 10.1.0.1")
        self.run("s", "ip route add default via 10.2.0.1")
        self.env["TIDEGATE_SOCKET"] = os.path.join(self.dir, "sock")
        with open(os.path.join(self.dir, "rules"), "w") as f:
            f.write(VERSIONS[0])
        with open(os.path.join(self.dir, "config"), "w") as f:
            f.write('[datapath]\nring = "%s"\n' % self.ring)
        log = open(os.path.join(self.dir, "log"), "w")
        daemon = subprocess.Popen(["nsenter", "--net=/run/netns/" + self.prefix + "r", self.program, "up",
                                   "--config", os.path.join(self.dir, "config"), "--socket", self.env["TIDEGATE_SOCKET"],
                                   "--rules", os.path.join(self.dir, "rules")], env=self.env, stderr=log, start_new_session=True)
        self.procs.append(daemon)
        for _ in range(200):
            if os.path.exists(self.env["TIDEGATE_SOCKET"]):
                break
            time.sleep(.05)
        for port in (7000, 7001, 7150):
            self.inside("s", self.udp_echo, SERVER, port)
            self.inside("s", self.tcp_server, SERVER, port)
        self.inside("c", self.tcp_server, CLIENT, 7150)
        self.inside("c", self.udp_echo, CLIENT, 7150)
        time.sleep(.5)
        load = [self.inside("c", self.ask_udp, 7000), self.inside("c", self.ask_udp, 7001),
                self.inside("c", self.ask_tcp, 7000, b"hello", "tcp"), self.inside("c", self.ask_tcp, 7001, b"blob", "downloads"),
                self.inside("c", self.ping), self.inside("c", self.intrude, SERVER, [7150]),
                self.inside("s", self.intrude, CLIENT, [7150])]
        memory, shown, n = [], time.monotonic() + 60, 0
        warm = time.monotonic() + 20
        while self.going():
            n += 1
            self.restore(n)
            if daemon.poll() is not None:
                sys.exit("the daemon ended:\n" + open(log.name).read())
            if time.monotonic() > warm:
                memory.append(self.usage(daemon.pid))
            if time.monotonic() > shown:
                shown += 60
                print(json.dumps(dict(self.count, rss_kib=memory[-1][0], fds=memory[-1][1])), flush=True)
            time.sleep(.5)
        for t in load:
            t.join(30)
        self.stop_servers.set()
        # What was lost, and where.
        drops = subprocess.run([self.program, "status", "--drops", "--json"], env=self.env, text=True,
                               capture_output=True, timeout=30).stdout
        # The first and the last tenth, so that a moment's peak is not taken for growth.
        tenth = max(1, len(memory) // 10)
        mean = lambda part, i: sum(m[i] for m in part) / len(part)
        grown = mean(memory[-tenth:], 0) - mean(memory[:tenth], 0)
        fds = mean(memory[-tenth:], 1) - mean(memory[:tenth], 1)
        daemon.send_signal(signal.SIGTERM)
        ended = daemon.wait(20)
        result = dict(self.count, rss_first_kib=round(mean(memory[:tenth], 0)), rss_grown_kib=round(grown), fds_grown=round(fds, 1), exit=ended,
                      datapath_lost=json.loads(drops or "{}").get("lost"))
        print(json.dumps(result, indent=1))
        held = not any(v for k, v in self.count.items() if k.endswith("_lost") or k == "passed")
        return held and grown < 8192 and fds < 3 and ended == 0


def main():
    if len(sys.argv) < 2 or os.geteuid() != 0:
        sys.exit(__doc__)
    program, minutes, ring = sys.argv[1:] + ["30", "packet"][len(sys.argv) - 2:]
    soak = Soak(os.path.abspath(program), float(minutes), ring)
    try:
        held = soak.go()
    finally:
        soak.close()
    sys.exit(0 if held else 1)


main()
