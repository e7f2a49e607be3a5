#!/usr/bin/env bash
# datapath.sh RUNNER [EVERY]: the recorded cases, or every EVERYth of each file, through the interfaces of routers in
# network namespaces that RUNNER guards, with programs of traffic control and of XDP in front, compared with what
# the kernel answered. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runner=$(realpath "${1:?RUNNER}")
every=${2:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for cases in "$here"/recorded/cases-*.jsonl.gz; do
  name=${cases##*/cases-}
  for kind in cases kernel; do
    gzip -dc "$here/recorded/$kind-$name" | awk -v n="$every" 'NR % n == 1 || n == 1' >> "$dir/$kind"
  done
done
through() {
  "$runner" --datapath "$1" < "$dir/cases" > "$dir/$1" 2> "$dir/$1.said" || { cat "$dir/$1.said"; return 1; }
  echo "$1: $(cat "$dir/$1.said")"
  python3 "$here/compare.py" --datapath "$dir/kernel" "$dir/$1"
}
through tcx & tcx=$!
status=0
through xdp || status=1
wait $tcx || status=1
exit $status
