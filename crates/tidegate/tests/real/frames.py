#!/usr/bin/env python3
"""What speaks PPP to pptp and pptpd where no pppd can: frames in HDLC's clothes (RFC 1662).

frames.py pptp SERVER: has pptp call the server, sends a frame until it comes back.
frames.py, as pptpd calls it with pppd's words: sends back what comes.
"""
import os
import select
import subprocess
import sys
import time
import tty

FLAG, ESCAPE = 0x7E, 0x7D


def check(frame):
    """The frame's check sequence (RFC 1662, appendix C.2)."""
    fcs = 0xFFFF
    for byte in frame:
        fcs ^= byte
        for _ in range(8):
            fcs = fcs >> 1 ^ (0x8408 if fcs & 1 else 0)
    return (fcs ^ 0xFFFF).to_bytes(2, "little")


def dressed(frame):
    out = bytearray([FLAG])
    for byte in frame + check(frame):
        out += bytes([ESCAPE, byte ^ 0x20]) if byte < 0x20 or byte in (FLAG, ESCAPE) else bytes([byte])
    return bytes(out + bytes([FLAG]))


def call(server):
    ours, theirs = os.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    pptp = subprocess.Popen(["pptp", server, "--nolaunchpppd"], stdin=theirs, stdout=theirs)
    # An LCP echo request with words of its own.
    frame = bytes.fromhex("ff03c0210901001c00000000") + b"through the tunnel"
    dress, seen = dressed(frame), b""
    end = time.monotonic() + 10
    try:
        while dress.strip(b"~") not in seen:
            if time.monotonic() > end or pptp.poll() is not None:
                sys.exit(f"nothing came back but {seen.hex()}")
            os.write(ours, dress)
            if select.select([ours], [], [], 0.3)[0]:
                seen += os.read(ours, 4096)
    finally:
        pptp.terminate()
        pptp.wait(5)
    print("came back")


def echo():
    tty.setraw(0)
    # pptpd reads the tunnel once the other side of its terminal has spoken.
    os.write(1, dressed(bytes.fromhex("ff03c0210900000c00000000")))
    try:
        while frames := os.read(0, 4096):
            os.write(1, frames)
    except OSError:
        pass  # The call is over.


if __name__ == "__main__":
    call(sys.argv[2]) if sys.argv[1:2] == ["pptp"] else echo()
