#!/usr/bin/env python3
"""record.py [NAME...]: record the captures of real programs anew (all, or those named)

Everything runs in network namespaces that are removed at the end. The guarded hosts have
no rules while they are recorded (whatever a ruleset would drop is in the capture), except
for the translating routers, whose own kernel translates. See README.md."""
import os
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
sys.path.insert(0, os.path.join(here, "..", "oracle", "kernel"))
from lab import Lab, check_tools

CAPTURES = os.path.join(here, "captures")
SERVER, CLIENT = "192.168.114.20", "192.168.114.101"
SERVER6, CLIENT6 = "fd00:114::20", "fd00:114::101"
CLIENTS = [CLIENT] + ["192.168.114.%d" % n for n in (99, 100, 127, 150, 151)]
SERVER_LINK = ("s", "eth0", "02:00:00:00:14:20", [SERVER + "/24", SERVER6 + "/64"])
CLIENT_LINK = ("c", "eth0", "02:00:00:00:15:01", [a + "/24" for a in CLIENTS] + [CLIENT6 + "/64"])
TCP = "socat TCP-LISTEN:%d,fork,reuseaddr,bind=%s SYSTEM:'head -c 20 /etc/services'"

VSFTPD = """listen=%(v4)s
listen_ipv6=%(v6)s
listen_port=%(port)d
background=NO
anonymous_enable=YES
write_enable=YES
anon_upload_enable=YES
anon_root=%(root)s
no_anon_password=YES
connect_from_port_20=YES
seccomp_sandbox=NO
xferlog_enable=NO
pasv_min_port=5000
pasv_max_port=5100
"""


class Programs(Lab):
    """the servers and clients the scenes are made of"""

    def pair(self):
        """client and server on one wire"""
        self.ns("s")
        self.ns("c")
        self.link(SERVER_LINK, CLIENT_LINK)

    def sshd(self, ns):
        key = os.path.join(self.dir, "hostkey-" + ns)
        self.run(ns, "ssh-keygen -q -t ed25519 -N '' -f %s" % key)
        os.makedirs("/run/sshd", exist_ok=True)
        self.start(ns, "/usr/sbin/sshd -D -f /dev/null -h %s -o PidFile=none" % key)
        self.wait_port(ns, 22)

    def web(self, ns, port=80):
        os.makedirs(self.dir + "/web", exist_ok=True)
        with open(self.dir + "/web/index.html", "w") as f:
            f.write("hello " * 600)
        self.start(ns, "python3 -m http.server --directory web %d" % port)
        self.wait_port(ns, port)

    def dns(self, ns, addr):
        self.start(ns, "dnsmasq -k -C /dev/null --no-resolv --no-hosts --pid-file= --bind-interfaces --listen-address=%s"
                   " --address=/example.test/192.0.2.80 --user=root" % addr)
        self.wait_port(ns, 53, "u")

    def tcp(self, ns, port, bind):
        self.start(ns, TCP % (port, bind))
        self.wait_port(ns, port)

    def ftpd(self, ns, port=21, v6=False):
        root = os.path.join(self.dir, "ftp")
        if not os.path.isdir(root):
            os.makedirs(root + "/pub")
            os.chmod(self.dir, 0o755)
            os.chmod(root + "/pub", 0o777)
            with open(root + "/file", "w") as f:
                f.write("0123456789abcde\n" * 400)
            os.makedirs("/run/vsftpd/empty", exist_ok=True)
        conf = os.path.join(self.dir, "vsftpd-%d.conf" % port)
        with open(conf, "w") as f:
            f.write(VSFTPD % dict(v4="NO" if v6 else "YES", v6="YES" if v6 else "NO", port=port, root=root))
        self.start(ns, "vsftpd " + conf)
        self.wait_port(ns, port)

    def tnftp(self, ns, host, active, port=21, epsv=False):
        """log in, list, download, upload; epsv: the extended commands for IPv4, too"""
        script = "epsv4 %s\nls\nget file got\ncd pub\nput got up\nquit\n" % ("on" if epsv else "off")
        r = self.run(ns, "tnftp -n -i -v %s %s %d" % ("-A" if active else "-p", host, port),
                     stdin="user anonymous x\nbinary\n" + script, timeout=40)
        got = os.path.join(self.dir, "got")
        if not os.path.exists(got) or os.path.getsize(got) != 6400 or "226" not in r.stdout:
            raise RuntimeError("FTP failed:\n" + r.stdout + r.stderr)
        os.unlink(got)
        up = os.path.join(self.dir, "ftp", "pub", "up")
        assert os.path.getsize(up) == 6400
        os.unlink(up)

    def lftp(self, ns, host, active, settings=""):
        r = self.run(ns, "lftp -c 'set ftp:passive-mode %s; set net:max-retries 1; set net:timeout 8; set ftp:use-feat no; "
                     "set ftp:sync-mode yes; %s open -u anonymous,x %s; cls; get file -o got; put got -o pub/up; bye'"
                     % ("off" if active else "on", settings, host), timeout=40)
        got, up = os.path.join(self.dir, "got"), os.path.join(self.dir, "ftp", "pub", "up")
        if os.path.getsize(got) != 6400 or os.path.getsize(up) != 6400:
            raise RuntimeError("FTP failed:\n" + r.stdout + r.stderr)
        os.unlink(got)
        os.unlink(up)


def out(name):
    return os.path.join(CAPTURES, name)


def connect(lab, ns, dest, port, src=None, sport=None, wait=1, proto="TCP4"):
    """one short TCP (or UDP) connection, as a careless client makes it"""
    opts = "".join([",bind=%s%s" % (src or "", ":%d" % sport if sport else "")] if src or sport else []) + (",reuseaddr" if sport else "")
    return lab.run(ns, "echo hi | socat -t %s -T 2 - %s:%s:%d%s%s" % (wait, proto, dest, port, opts, ",connect-timeout=1" if proto == "TCP4" else ""),
                   check=False, timeout=10)


# ------------------------------------------------------------------ A: host firewall
def web_ssh(lab):
    """A1: web and ssh used, closed ports tried"""
    lab.pair()
    lab.sshd("s")
    lab.web("s")
    lab.tcp("s", 3306, SERVER)
    with lab.capture("s", "eth0", out("web-ssh.pcap")):
        lab.run("c", "curl -s -o /dev/null http://%s/" % SERVER)
        lab.run("c", "wget -q -O /dev/null http://%s/index.html" % SERVER)
        lab.run("c", "ssh-keyscan -t ed25519 %s" % SERVER)
        connect(lab, "c", SERVER, 3306)
        connect(lab, "c", SERVER, 8080)


def db_lo(lab):
    """A2: a database over 127.0.0.1 and over the host's own address, and ping"""
    lab.pair()
    lab.tcp("s", 3306, "0.0.0.0")
    with lab.capture("s", "lo", out("db-lo.pcap")):
        connect(lab, "s", "127.0.0.1", 3306)
        connect(lab, "s", SERVER, 3306)
        connect(lab, "s", "127.0.0.1", 3307)        # refused
        lab.run("s", "ping -n -c 2 -i 0.2 127.0.0.1")
        lab.run("s", "ping -n -c 1 ::1")


def outbound(lab):
    """A3: the server itself pings, asks the DNS, fetches a page; a stranger tries a port"""
    lab.pair()
    lab.sshd("s")
    lab.dns("c", CLIENT)
    lab.web("c")
    lab.tcp("s", 3306, SERVER)
    with lab.capture("s", "any", out("outbound-sll2.pcap"), "-y LINUX_SLL2"):
        lab.run("s", "ping -n -c 3 -i 0.2 %s" % CLIENT)
        lab.run("s", "dig +short +tries=1 @%s www.example.test" % CLIENT)
        lab.run("s", "dig +short +tcp @%s mail.example.test" % CLIENT)
        lab.run("s", "wget -q -O /dev/null http://%s/" % CLIENT)
        lab.run("c", "ssh-keyscan -t ed25519 %s" % SERVER)
        connect(lab, "c", SERVER, 3306)


def iprange(lab):
    """A4: five clients at a database"""
    lab.pair()
    lab.tcp("s", 3306, SERVER)
    with lab.capture("s", "any", out("iprange-sll.pcap"), "-y LINUX_SLL"):
        for a in CLIENTS[1:]:
            connect(lab, "c", SERVER, 3306, src=a)


def sport80(lab):
    """A5: an attacker who binds port 80 and port 53, among what the rules were made for"""
    lab.pair()
    lab.sshd("s")
    lab.dns("c", CLIENT)
    lab.tcp("s", 3306, SERVER)
    lab.start("s", "socat UDP4-LISTEN:5000,fork,reuseaddr SYSTEM:'echo secret'")
    lab.wait_port("s", 5000, "u")
    with lab.capture("s", "eth0", out("sport80.pcap")):
        for port in (22, 3306):
            connect(lab, "c", SERVER, port, src="192.168.114.99", sport=80)
        connect(lab, "c", SERVER, 5000, src="192.168.114.99", sport=53, proto="UDP4")
        connect(lab, "c", SERVER, 3306)
        lab.run("s", "dig +short +tries=1 @%s www.example.test" % CLIENT)
        lab.web("c")
        lab.run("s", "wget -q -O /dev/null http://%s/" % CLIENT)


def nmap_scan(lab):
    """A6: a SYN scan; ssh listens, nothing else"""
    lab.pair()
    lab.sshd("s")
    with lab.capture("s", "eth0", out("nmap.pcap")):
        lab.run("c", "nmap -sS -n -Pn --max-retries 1 -p 1-1000 -e eth0 -S %s %s" % (CLIENT, SERVER))


def low_port(lab):
    """A7: out from unprivileged ports, and from a privileged one"""
    lab.pair()
    lab.dns("c", CLIENT)
    lab.web("c")
    with lab.capture("s", "eth0", out("low-port.pcap")):
        lab.run("s", "wget -q -O /dev/null http://%s/" % CLIENT)
        connect(lab, "s", CLIENT, 80, sport=1023)
        connect(lab, "s", CLIENT, 80, sport=1024)
        lab.run("s", "dig +short +tries=1 @%s www.example.test" % CLIENT)
        lab.run("s", "dig +short +tries=1 -b %s#1000 @%s www.example.test" % (SERVER, CLIENT))
        lab.run("s", "ping -n -c 2 -i 0.2 %s" % CLIENT)


def ssh_both(lab):
    """A8: ssh outwards and ssh inwards, both to port 22"""
    lab.pair()
    lab.sshd("s")
    lab.sshd("c")
    with lab.capture("s", "eth0", out("ssh-both.pcap")):
        lab.run("s", "ssh-keyscan -t ed25519 %s" % CLIENT)
        lab.run("c", "ssh-keyscan -t ed25519 %s" % SERVER)


def states(lab):
    """A9: every state: UDP and ping, ICMP errors, traceroute, a bad checksum, a packet out of the window"""
    import pkt
    import socket
    lab.pair()
    lab.start("s", "socat UDP4-LISTEN:7000,fork,reuseaddr SYSTEM:'echo a'")
    lab.web("s")
    lab.wait_port("s", 7000, "u")
    with lab.capture("s", "eth0", out("states.pcap")):
        connect(lab, "c", SERVER, 7000, proto="UDP4", sport=40000)
        lab.run("c", "ping -n -c 3 -i 0.2 %s" % SERVER)
        lab.run("c", "ping -n -c 1 %s" % SERVER6)
        connect(lab, "c", SERVER, 7001, proto="UDP4", sport=40001)      # port unreachable
        connect(lab, "s", CLIENT, 7001, proto="UDP4", sport=40002)      # and one that comes in
        lab.run("c", "traceroute -n -q 1 -m 3 %s" % SERVER)
        lab.run("s", "traceroute -n -q 1 -m 3 %s" % CLIENT)
        # crafted: a client that never acknowledges sanely
        seg = [pkt.tcp(CLIENT, SERVER, 41000, 80, "S", seq=1000, bad=True), pkt.tcp(CLIENT, SERVER, 41001, 80, "S", seq=1000, win=500),
               pkt.tcp(CLIENT, SERVER, 41001, 80, "PA", seq=9000000, ack=1, data=b"far away"),
               pkt.tcp(CLIENT, SERVER, 41001, 80, "SF", seq=1001), pkt.tcp(CLIENT, SERVER, 41002, 80, "SA", seq=1, ack=1),
               pkt.udp(CLIENT, SERVER, 41003, 7000, b"bad", bad=True), pkt.echo(CLIENT, SERVER, id=7, bad=True),
               pkt.unreach(CLIENT, SERVER, pkt.udp(SERVER, CLIENT, 40999, 53, b"never sent"))]
        lab.run("c", "python3 -c '%s'" % RAW_SEND, stdin="\n".join(p.hex() for p in seg))


RAW_SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for ln in sys.stdin:
    p = bytes.fromhex(ln.strip())
    s.sendto(p, (socket.inet_ntoa(p[16:20]), 0))
    time.sleep(0.05)
"""


def fragments(lab):
    """pings larger than the link, both families and directions, and a large UDP datagram"""
    lab.pair()
    lab.start("s", "socat -b 5000 UDP4-LISTEN:7000,fork,reuseaddr SYSTEM:'cat'")
    lab.wait_port("s", 7000, "u")
    with lab.capture("s", "eth0", out("fragments.pcap")):
        lab.run("c", "ping -n -c 2 -i 0.2 -s 4000 %s" % SERVER)
        lab.run("c", "ping -n -c 2 -i 0.2 -s 4000 %s" % SERVER6)
        lab.run("s", "ping -n -c 1 -s 4000 %s" % CLIENT)
        lab.run("s", "ping -n -c 1 -s 4000 %s" % CLIENT6)
        lab.run("c", "head -c 3000 /dev/zero | socat -b 5000 -t 1 -T 1 - UDP4:%s:7000" % SERVER, check=False)


def tunnel(lab):
    """ssh, web and ping through a tunnel: packets without a link layer"""
    lab.pair()
    lab.tunnel(("s", "172.31.0.20/24"), ("c", "172.31.0.101/24"))
    lab.sshd("s")
    lab.web("s")
    lab.web("c")
    with lab.capture("s", "tun0", out("tunnel-raw.pcap")):
        lab.run("c", "curl -s -o /dev/null http://172.31.0.20/")
        lab.run("c", "ssh-keyscan -t ed25519 172.31.0.20")
        lab.run("c", "ping -n -c 2 -i 0.2 172.31.0.20")
        lab.run("s", "wget -q -O /dev/null http://172.31.0.101/")
        connect(lab, "c", "172.31.0.20", 3306)


# ------------------------------------------------------------------ B: FTP
def ftp_active(lab):
    """B1, B2: PORT and EPRT, then a connection from port 20 that nothing announced"""
    lab.pair()
    lab.ftpd("s")
    lab.tcp("c", 40020, CLIENT)
    with lab.capture("s", "eth0", out("ftp-active.pcap")):
        lab.tnftp("c", SERVER, active=True)
        lab.lftp("c", SERVER, active=True, settings="set ftp:prefer-epsv yes; set ftp:port-ipv4 %s;" % CLIENT)
        connect(lab, "s", CLIENT, 40020, src=SERVER, sport=20)


def ftp_passive(lab):
    """B3, B4: PASV and EPSV"""
    lab.pair()
    lab.ftpd("s")
    with lab.capture("s", "eth0", out("ftp-passive.pcap")):
        lab.tnftp("c", SERVER, active=False)
        lab.tnftp("c", SERVER, active=False, epsv=True)


def ftp_pasv_once(lab):
    """B4: one passive transfer, nothing else"""
    lab.pair()
    lab.ftpd("s")
    with lab.capture("s", "eth0", out("ftp-pasv-once.pcap")):
        lab.run("c", "curl -s -S --disable-epsv -o /dev/null ftp://%s/file" % SERVER)


def ftp_2121(lab):
    """B5: a server on 2121"""
    lab.pair()
    lab.ftpd("s", port=2121)
    with lab.capture("s", "eth0", out("ftp-2121.pcap")):
        lab.tnftp("c", SERVER, active=False, port=2121)


def ftp6(lab):
    """B6: EPSV and EPRT over IPv6"""
    lab.pair()
    lab.ftpd("s", v6=True)
    with lab.capture("s", "eth0", out("ftp6-passive.pcap")):
        lab.tnftp("c", SERVER6, active=False)
    with lab.capture("s", "eth0", out("ftp6-active.pcap")):
        lab.tnftp("c", SERVER6, active=True)


def routed(lab, rules, family=4):
    """a private network, a translating router, the outside"""
    lab.ns("in")
    lab.ns("r", forward=True)
    lab.ns("o")
    lab.link(("r", "lan0", "02:00:00:00:66:01", ["10.66.0.1/24", "fd00:66::1/64"]),
             ("in", "eth0", "02:00:00:00:66:20", ["10.66.0.20/24", "fd00:66::20/64"]))
    lab.link(("r", "wan0", "02:00:00:00:71:01", ["203.0.113.1/24", "fd00:203::1/64"]),
             ("o", "eth0", "02:00:00:00:71:09", ["203.0.113.9/24", "fd00:203::9/64"]))
    lab.run("in", "ip route add default via 10.66.0.1 && ip -6 route add default via fd00:66::1")
    lab.restore("r", os.path.join(here, "rules", rules), family)


def ftp_masq(lab):
    """B6: a client behind MASQUERADE in active mode, seen by the router on both sides"""
    routed(lab, "b6-masq.rules")
    lab.ftpd("o")
    with lab.capture("r", "any", out("ftp-masq-sll2.pcap"), "-y LINUX_SLL2"):
        lab.tnftp("in", "203.0.113.9", active=True)
    with lab.capture("r", ["lan0", "wan0"], out("ftp-masq.pcapng"), program="dumpcap"):
        lab.tnftp("in", "203.0.113.9", active=True)
        lab.tnftp("in", "203.0.113.9", active=False)


def ftp_dnat(lab):
    """B6: a server behind DNAT in passive mode"""
    routed(lab, "b6-dnat.rules")
    lab.ftpd("in")
    with lab.capture("r", "any", out("ftp-dnat-sll2.pcap"), "-y LINUX_SLL2"):
        lab.tnftp("o", "203.0.113.1", active=False)
        lab.tnftp("o", "203.0.113.1", active=False, epsv=True)


def ftp_masq6(lab):
    """B6 over IPv6: EPRT through MASQUERADE"""
    routed(lab, "b6-masq-v6.rules", 6)
    lab.ftpd("o", v6=True)
    with lab.capture("r", ["lan0", "wan0"], out("ftp-masq6.pcapng"), program="dumpcap"):
        lab.tnftp("in", "fd00:203::9", active=True)


SCENES = [web_ssh, db_lo, outbound, iprange, sport80, nmap_scan, low_port, ssh_both, states, fragments, tunnel,
          ftp_active, ftp_passive, ftp_pasv_once, ftp_2121, ftp6, ftp_masq, ftp_dnat, ftp_masq6]


def main():
    check_tools()
    os.makedirs(CAPTURES, exist_ok=True)
    wanted = sys.argv[1:]
    failed = []
    for scene in SCENES:
        if wanted and scene.__name__ not in wanted:
            continue
        lab, t = Programs(), time.time()
        try:
            scene(lab)
            print("%-14s %4.1f s  %s" % (scene.__name__, time.time() - t, scene.__doc__.split("\n")[0]), flush=True)
        except Exception as e:      # the other scenes are still worth recording
            failed.append(scene.__name__)
            print("%-14s FAILED: %s" % (scene.__name__, e), flush=True)
        finally:
            lab.close()
    sys.exit("failed: " + " ".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
