#!/usr/bin/env bash
# datapath.sh RUNNER [EVERY]: the recorded cases, or every EVERYth of each file, through the interfaces of a router in a
# network namespace that RUNNER guards, with programs of traffic control and of XDP in front, compared with what
# the kernel answered. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runner=$(realpath "${1:?RUNNER}")
every=${2:-1}
mine=$(mktemp -d)
trap 'rm -rf "$mine"' EXIT
pick() { gzip -dc "$1" | awk -v n="$every" 'NR % n == 1 || n == 1'; }
through() {
  local cases kernel name status=0
  for cases in "$here"/recorded/cases-*.jsonl.gz; do
    name=$(basename "${cases#*cases-}" .jsonl.gz)
    kernel=${cases/cases-/kernel-}
    pick "$cases" | "$runner" --datapath "$1" > "$mine/$1-$name.jsonl"
    pick "$kernel" > "$mine/$1-$name.kernel"
    echo "$1, $name:"
    python3 "$here/compare.py" --datapath "$mine/$1-$name.kernel" "$mine/$1-$name.jsonl" || status=1
  done
  return $status
}
through tcx & tcx=$!
status=0
through xdp || status=1
wait $tcx || status=1
exit $status
