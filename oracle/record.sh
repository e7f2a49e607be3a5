#!/bin/bash
# record.sh [FIRST COUNT]: record what this machine's kernel makes of the generated cases
# (default 1 2000), of attacks/ and of logs/ into recorded/.  Needs root and the tools
# below; touches nothing outside its own network namespaces.
set -euo pipefail
cd "$(dirname "$0")"
declare -A package=([ip]=iproute2 [nft]=nftables [iptables-legacy-restore]=iptables [python3]=python3)
for tool in "${!package[@]}"; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install ${package[$tool]}" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "must be root" >&2; exit 2; }
XTABLES_LOCKFILE=$(mktemp)
export XTABLES_LOCKFILE
trap 'rm -f "$XTABLES_LOCKFILE"' EXIT
python3 kernel/record.py "${1:-1}" "${2:-2000}" recorded
python3 kernel/record.py 1 210 recorded trackers
python3 kernel/record.py 1 210 recorded helpers
python3 kernel/record.py 1 60 recorded sip
python3 kernel/record.py 1 90 recorded h323
python3 kernel/record.py 1 240 recorded targets
python3 kernel/record.py 1 120 recorded sets
python3 kernel/record.py 1 120 recorded synproxy
python3 kernel/record_by_hand.py recorded attacks logs
