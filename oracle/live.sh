#!/usr/bin/env bash
# live.sh RUNNER [FIRST COUNT]: generated cases, a tenth as many for single trackers, helpers and sets, half as many for single
# targets, as many for single matches, through this machine's kernel and through RUNNER, compared. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runner=$(realpath "${1:?RUNNER}")
python3 "$here/kernel/selftest.py"
python3 "$here/kernel/fuzz_diff.py" "${2:-1}" "${3:-2000}" --b "$runner"
for series in trackers helpers sip h323 synproxy; do
  python3 "$here/kernel/fuzz_diff.py" "${2:-1}" "$(((${3:-2000} + 9) / 10))" --series $series --b "$runner"
done
# Twenty and more of each target and each match, in each family: kernel/coverage.py counts them.
python3 "$here/kernel/fuzz_diff.py" "${2:-1}" "$(((${3:-2000} + 1) / 2))" --series targets --b "$runner"
if unshare -n ipset list -n >/dev/null 2>&1; then
  python3 "$here/kernel/fuzz_diff.py" "${2:-1}" "$(((${3:-2000} + 9) / 10))" --series sets --b "$runner"
else
  echo "SKIPPED: sets: ipset or the kernel's ip_set is missing"
fi
python3 "$here/kernel/fuzz_diff.py" "${2:-1}" "${3:-2000}" --series matches --b "$runner"
