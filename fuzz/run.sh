#!/bin/sh
# Runs fuzz targets and reports: fuzz/run.sh [SECONDS] [TARGET...]
#
# Without arguments every target for 600 seconds, one after another. New inputs go to
# fuzz/work/TARGET, failing ones to fuzz/artifacts/TARGET; the committed corpus is only
# read. `fuzz/run.sh 600 engine` runs one.
#
# The crates have no unsafe code, so no sanitizer is used; overflow checks and debug
# assertions are on (fuzz/Cargo.toml). A stable toolchain will do.
set -eu
cd "$(dirname "$0")"
seconds=${1:-600}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- capture commands engine ftp helpers rules sets snapshot trackers wire

cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
export RUSTC_BOOTSTRAP=1

failed=
for target; do
    mkdir -p "work/$target" "artifacts/$target"
    log=work/$target.log
    dict=
    words=$target
    [ "$target" != commands ] || words=rules
    [ ! -f "$words.dict" ] || dict=-dict=$words.dict
    if cargo fuzz run -s none "$target" "work/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=2000 $dict \
        -print_final_stats=1 >"$log" 2>&1; then
        verdict=ok
    else
        verdict=FAILED
        failed="$failed $target"
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    cover=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$log" | tail -n 1)
    echo "$target: $verdict, $seconds s, ${runs:-0} executions, ${cover:-no coverage}"
    [ "$verdict" = ok ] || sed -n '/panicked at/,/stack backtrace/p; /Test unit written/p' "$log"
done
[ -z "$failed" ]
