#!/usr/bin/env python3
"""Times of loading rules, appending one to them and deleting it: Tidegate's tools beside Debian's two.

    python3 scenarios/tools_speed.py BINARY [COUNT...]

BINARY is `tidegate`, built for release; COUNTs of rules are 1000, 10000 and 100000 unless given. Tidegate's tools ask a
daemon without packets, the others work on the kernel in a network namespace that ends with this program (root). Prints
the median of several runs in milliseconds and the ratio to Tidegate's.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

RUNS = 5
PATIENCE = 300


def rules(count):
    """Five kinds of rules in turn, behind one chain."""
    lines = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]"]
    for n in range(count):
        high, low = n // 200 % 250, n % 200
        lines.append("-A FORWARD " + [
            f"-s 172.{high}.{low}.0/24 -j DROP",
            f"-d 10.7.{high}.{low}/32 -p tcp -m tcp --dport 22 -j ACCEPT",
            f"-i eth0 -p udp -m udp --dport {10000 + n % 50000} -j ACCEPT",
            f"-p tcp -m tcp --dport {500 + n % 8000} -j REJECT --reject-with tcp-reset",
            f"-p tcp -m multiport --dports 25,110,143,{500 + n % 8000} -j DROP",
        ][n % 5])
    return "\n".join(lines) + "\nCOMMIT\n"


def took(words):
    start = time.perf_counter()
    program = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    # Not wait(timeout): it looks for the end only now and then, up to 50 ms late.
    watch = threading.Timer(PATIENCE, program.kill)
    watch.start()
    status = program.wait()
    end = time.perf_counter()
    watch.cancel()
    if status != 0:
        raise subprocess.CalledProcessError(status, words)
    return (end - start) * 1000


def measure(before, tool, file):
    """Medians of restoring the file, appending a rule and deleting it."""
    times = {"restore": [], "append": [], "delete": []}
    for n in range(RUNS):
        times["restore"].append(took([*before, f"{tool}-restore", file]))
        # What is made of the change afterwards is not waited for by the user.
        time.sleep(1)
        rule = ["FORWARD", "-s", f"192.0.2.{n}", "-j", "DROP"]
        for job, flag in (("append", "-A"), ("delete", "-D")):
            times[job].append(took([*before, tool, flag, *rule]))
            time.sleep(0.3)
    return {job: statistics.median(all) for job, all in times.items()}


def of_tidegate(binary, directory, file):
    socket = os.path.join(directory, "socket")
    os.environ["TIDEGATE_SOCKET"] = socket
    up = [binary, "up", "--datapath", "none", "--socket", socket, "--state-dir", os.path.join(directory, "state")]
    daemon = subprocess.Popen(up, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not os.path.exists(socket) and time.monotonic() < end:
            time.sleep(0.05)
        return measure([binary], "iptables", file)
    finally:
        daemon.terminate()
        daemon.wait(timeout=PATIENCE)


def of_kernel(tool, file):
    holder = subprocess.Popen(["unshare", "-n", "sleep", "3600"])
    try:
        time.sleep(0.3)
        return measure(["nsenter", "-t", str(holder.pid), "-n"], tool, file)
    finally:
        holder.terminate()
        holder.wait()


def main():
    binary = os.path.abspath(sys.argv[1])
    counts = [int(word) for word in sys.argv[2:]] or [1000, 10000, 100000]
    for count in counts:
        with tempfile.TemporaryDirectory() as directory:
            file = os.path.join(directory, "rules")
            with open(file, "w", encoding="ascii") as out:
                out.write(rules(count))
            own = of_tidegate(binary, directory, file)
            others = {tool: of_kernel(tool, file) for tool in ("iptables-legacy", "iptables-nft")}
        for job, time_own in own.items():
            beside = [f"{tool} {all[job]:.1f} ({all[job] / time_own:.1f})" for tool, all in others.items()]
            print(f"{count} rules, {job}: Tidegate {time_own:.1f} ms; " + "; ".join(beside), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
