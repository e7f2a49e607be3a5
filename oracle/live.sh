#!/usr/bin/env bash
# live.sh RUNNER [FIRST COUNT]: generated cases through this machine's kernel and through
# RUNNER, and the hand-written cases too. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runner=$(realpath "${1:?RUNNER}")
first=${2:-2001} count=${3:-500}
python3 "$here/kernel/fuzz_diff.py" "$first" "$count" --b "$runner"
