#!/usr/bin/env bash
# recorded.sh RUNNER: the recorded cases through RUNNER, compared with what the kernel
# answered when they were recorded. Needs no root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runner=$(realpath "${1:?RUNNER}")
mine=$(mktemp)
trap 'rm -f "$mine"' EXIT
status=0
for cases in "$here"/recorded/cases-*.jsonl.gz; do
  kernel=${cases/cases-/kernel-}
  gzip -dc "$cases" | "$runner" > "$mine"
  python3 "$here/compare.py" "$kernel" "$mine" || status=1
done
exit $status
