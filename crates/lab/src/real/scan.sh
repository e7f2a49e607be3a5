#!/bin/sh
# nmap, its answer in the lines of the built-in scan
nmap -sS -n -Pn --privileged --max-retries 1 -p "$2" -oG - "$1" 2>&1 | awk '
  /Ports:/ {
    sub(/.*Ports: /, "")
    rest = $0
    sub(/\tIgnored.*/, "")
    n = split($0, ports, ", ")
    for (i = 1; i <= n; i++) { split(ports[i], f, "/"); print f[1], f[2] }
    if (match(rest, /Ignored State: filtered \([0-9]+\)/)) {
      s = substr(rest, RSTART, RLENGTH); gsub(/[^0-9]/, "", s); print "others filtered: " s
    }
    seen = 1
  }
  /Ignored State/ && !/Ports:/ { print; seen = 1 }
  END { exit !seen }'
