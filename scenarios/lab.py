"""a small laboratory of network namespaces for record.py; standard library only

Namespaces have names of their own (tgscen-PID-*) and vanish with close(); only processes
started here are ended, by their id."""
import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000

PACKAGES = {"ip": "iproute2", "nsenter": "util-linux", "ethtool": "ethtool", "tcpdump": "tcpdump", "dumpcap": "wireshark-common",
            "reordercap": "wireshark-common", "vsftpd": "vsftpd", "lftp": "lftp", "tnftp": "tnftp", "curl": "curl", "wget": "wget",
            "dnsmasq": "dnsmasq-base", "dig": "dnsutils", "ping": "iputils-ping", "traceroute": "traceroute", "nmap": "nmap",
            "sshd": "openssh-server", "ssh-keyscan": "openssh-client", "ssh-keygen": "openssh-client", "socat": "socat",
            "iptables-legacy-restore": "iptables", "ip6tables-legacy-restore": "iptables"}
# neighbour discovery and multicast housekeeping come when they like: not recorded
CAPTURE_FILTER = "arp or ip or (ip6 and not ip6 proto 0 and not (icmp6 and ip6[40] >= 130 and ip6[40] <= 143))"


def check_tools():
    missing = sorted({p for t, p in PACKAGES.items() if not shutil.which(t)})
    if missing:
        sys.exit("missing tools: apt-get install " + " ".join(missing))
    if os.geteuid() != 0:
        sys.exit("must be root")


def setns(fd):
    if LIBC.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def carry(a, b):
    """packets from one TUN device to the other, until it is gone"""
    try:
        while True:
            os.write(b, os.read(a, 65536))
    except OSError:
        pass


class Lab:
    def __init__(self):
        self.prefix = "tgscen-%d-" % os.getpid()
        self.names, self.procs = [], []
        self.dir = tempfile.mkdtemp(prefix="tgscen-")
        self.env = dict(os.environ, XTABLES_LOCKFILE=os.path.join(self.dir, "xtables.lock"), LC_ALL="C.UTF-8")

    def close(self):
        for p in self.procs:
            self.stop(p)
        for n in self.names:
            subprocess.run(["ip", "netns", "del", self.prefix + n])
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---------------------------------------------------------- namespaces
    def ns(self, name, forward=False):
        subprocess.run(["ip", "netns", "add", self.prefix + name], check=True)
        self.names.append(name)
        self.run(name, "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv4.icmp_ratelimit=0"
                 " net.ipv6.conf.all.router_solicitations=0 net.ipv4.ping_group_range='0 100000'")
        self.run(name, "ip link set lo up")
        if forward:
            self.run(name, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def link(self, a, b):
        """a, b: (namespace, interface, mac, [addresses]): a veth pair, checksums computed in software"""
        for n, _ in ((a, b), (b, a)):
            assert n[0] in self.names
        subprocess.run(["ip", "link", "add", a[1], "netns", self.prefix + a[0], "address", a[2], "type", "veth",
                        "peer", "name", b[1], "netns", self.prefix + b[0], "address", b[2]], check=True)
        for (ns, dev, _, addrs), (_, _, peer_mac, peer_addrs) in ((a, b), (b, a)):
            self.run(ns, "ethtool -K %s tx off gso off tso off gro off" % dev)
            self.run(ns, "ip link set %s up" % dev)
            for x in addrs:
                self.run(ns, "ip addr add %s dev %s%s" % (x, dev, " nodad" if ":" in x else ""))
            for x in peer_addrs:
                self.run(ns, "ip neigh replace %s lladdr %s dev %s nud permanent" % (x.split("/")[0], peer_mac, dev))

    def tunnel(self, a, b, mtu=1480):
        """a, b: (namespace, address): a point-to-point link of two TUN devices tun0"""
        ours = os.open("/proc/self/ns/net", os.O_RDONLY)
        fds = []
        try:
            for ns, addr in (a, b):
                with open("/run/netns/" + self.prefix + ns) as f:
                    setns(f.fileno())
                fds.append(os.open("/dev/net/tun", os.O_RDWR))
                fcntl.ioctl(fds[-1], TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
                setns(ours)
                self.run(ns, "ip addr add %s dev tun0 && ip link set tun0 mtu %d multicast off up" % (addr, mtu))
        finally:
            setns(ours)
            os.close(ours)
        for i in (0, 1):
            threading.Thread(target=carry, args=(fds[i], fds[1 - i]), daemon=True).start()

    # ---------------------------------------------------------- programs
    def cmd(self, ns, line):
        return ["nsenter", "--net=/run/netns/" + self.prefix + ns, "sh", "-c", line]

    def run(self, ns, line, check=True, timeout=60, stdin=None):
        r = subprocess.run(self.cmd(ns, line), env=self.env, cwd=self.dir, input=stdin, text=True, capture_output=True, timeout=timeout)
        if check and r.returncode:
            raise RuntimeError("%s: %s\n%s%s" % (ns, line, r.stdout, r.stderr))
        return r

    def start(self, ns, line):
        p = subprocess.Popen(self.cmd(ns, "exec " + line), env=self.env, cwd=self.dir, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.procs.append(p)
        return p

    def stop(self, p, sig=signal.SIGTERM):
        if p.poll() is None:
            p.send_signal(sig)
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()

    def wait_port(self, ns, port, proto="t"):
        """until something listens"""
        for _ in range(100):
            if self.run(ns, "ss -H%sln sport = :%d" % (proto, port)).stdout.strip():
                return
            time.sleep(.05)
        raise RuntimeError("nothing listens on %d" % port)

    def restore(self, ns, path, family=4):
        with open(path) as f:
            self.run(ns, "ip%stables-legacy-restore" % ("6" if family == 6 else ""), stdin=f.read())

    # ---------------------------------------------------------- capturing
    @contextlib.contextmanager
    def capture(self, ns, dev, path, args="", program="tcpdump"):
        """what happens inside is in the file `path` afterwards"""
        raw = os.path.join(self.dir, "capture")
        if program == "tcpdump":
            flt = "" if "-y" not in args and dev.startswith("tun") else " '%s'" % CAPTURE_FILTER
            p = self.start(ns, "tcpdump -i %s -n -B 16384 -U --immediate-mode -Z root %s -w %s%s" % (dev, args, raw, flt))
            ready = "listening on"
        else:
            p = self.start(ns, "dumpcap %s -q -w %s %s" % (" ".join("-i %s -f '%s'" % (d, CAPTURE_FILTER) for d in dev), raw, args))
            ready = "File:"
        for ln in p.stderr:
            if ready in ln:
                break
        time.sleep(.3)
        yield
        time.sleep(.5)
        self.stop(p, signal.SIGINT)
        self.procs.remove(p)
        if re.search(r"[1-9]\d* packets? dropped by kernel|': \d+/[1-9]", p.stderr.read()):
            raise RuntimeError("packets lost while capturing: record again")
        if program == "dumpcap":
            subprocess.run(["reordercap", raw, path], check=True, capture_output=True)
        else:
            shutil.copyfile(raw, path)
        os.unlink(raw)
