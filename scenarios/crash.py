#!/usr/bin/env python3
"""crash.py TIDEGATE [closed|open]: the daemon is killed in the middle of an FTP upload, and started again

An FTP server guards itself with `TIDEGATE up`; a client uploads a file. The daemon dies by
SIGKILL: with --on-crash closed nothing passes then, with open everything does. It is started
again: the rules that were in force and the connections are back, though the rules would not let a
connection in mid-stream be taken for a new one, and the upload ends with every byte. Needs root,
vsftpd, lftp; everything is in namespaces that vanish at the end."""
import os
import subprocess
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
from record import CLIENT, CLIENT_LINK, SERVER, SERVER_LINK, Programs

# Connections that are picked up in mid-stream (tcp_loose is off) are INVALID: only what is
# remembered goes on.
RULES = ["iptables -A INPUT -i lo -j ACCEPT",
         "iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
         "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
         "iptables -A INPUT -p tcp --dport 21 --syn -m conntrack --ctstate NEW -j ACCEPT",
         "iptables -A OUTPUT -m conntrack --ctstate INVALID,NEW -j DROP",
         "iptables -P INPUT DROP"]
# Enough for the client to be busy still after it has made up for the standstill.
SIZE = 8_000_000


class Crash(Programs):
    def up(self, how):
        socket = self.env["TIDEGATE_SOCKET"]
        log = open(os.path.join(self.dir, "log"), "a")
        daemon = subprocess.Popen(["nsenter", "--net=/run/netns/" + self.prefix + "s", self.program, "up", "--config", self.config, "--socket", socket,
                                   "--on-crash", how], env=self.env, stderr=log, start_new_session=True)
        self.procs.append(daemon)
        for _ in range(200):
            if self.run("s", self.program + " status", check=False).returncode == 0:
                return daemon
            time.sleep(.05)
        raise RuntimeError("the daemon does not come up:\n" + open(log.name).read())

    def reachable(self):
        return self.run("c", "ping -c 1 -W 1 " + SERVER, check=False).returncode == 0

    def must(self, what, held):
        print("  %s %s" % ("✓" if held else "✗", what), flush=True)
        if not held:
            raise RuntimeError("not as it must be: " + what + "\n" + open(os.path.join(self.dir, "log")).read())

    def go(self, program, how):
        print("--on-crash " + how)
        self.program = program
        self.env["TIDEGATE_SOCKET"] = os.path.join(self.dir, "sock")
        self.config = os.path.join(self.dir, "conf")
        with open(self.config, "w") as f:
            f.write("[rules]\nv4 = '%s/rules.v4'\nv6 = '%s/rules.v6'\n[state]\nevery = 1\n"
                    "[sysctl]\n'net.netfilter.nf_conntrack_tcp_loose' = 0\n" % (self.dir, self.dir))
        self.pair()
        self.ftpd("s")
        with open(os.path.join(self.dir, "big"), "wb") as f:
            f.write(os.urandom(SIZE))
        daemon = self.up(how)
        for line in RULES:
            self.run("s", self.program + " " + line)
        self.must("the rules stop pings", not self.reachable())
        upload = self.start("c", "lftp -c 'set net:limit-rate 0:600000; set net:timeout 20; set net:max-retries 1; set ftp:use-feat no; "
                            "open -u anonymous,x %s; put big -o pub/big; bye'" % SERVER)
        arrived = os.path.join(self.dir, "ftp", "pub", "big")
        while not (os.path.exists(arrived) and os.path.getsize(arrived) > 1_000_000):
            if upload.poll() is not None:
                raise RuntimeError("the upload ended early: " + upload.stderr.read())
            time.sleep(.05)
        time.sleep(1.5)                                     # a record of the connections
        daemon.kill()
        daemon.wait()
        time.sleep(.5)                                      # the guardian's, if there is one
        before = os.path.getsize(arrived)
        passes = self.reachable()
        self.must("dead, %s passes" % ("everything" if how == "open" else "nothing"), passes == (how == "open"))
        time.sleep(1)
        if how == "closed":
            self.must("the upload stands still", os.path.getsize(arrived) == before < SIZE)
        self.up(how)
        self.must("the rules are back", not self.reachable())
        listed = self.run("s", self.program + " conntrack -L -p tcp").stdout
        print(listed) if os.environ.get("VERBOSE") else None
        self.must("the control connection is back", "src=%s dst=%s" % (CLIENT, SERVER) in listed and "dport=21 " in listed and "ESTABLISHED" in listed)
        upload.wait(60)
        with open(arrived, "rb") as got, open(os.path.join(self.dir, "big"), "rb") as sent:
            self.must("the upload ends with every byte", upload.returncode == 0 and got.read() == sent.read())
        counters = self.run("s", self.program + " iptables -L OUTPUT -n -v -x").stdout
        self.must("no packet of it was INVALID", counters.splitlines()[2].split()[0] == "0")


def main():
    if len(sys.argv) < 2 or os.geteuid() != 0:
        sys.exit(__doc__)
    for how in sys.argv[2:] or ("closed", "open"):
        lab = Crash()
        try:
            lab.go(os.path.abspath(sys.argv[1]), how)
        finally:
            lab.close()


main()
