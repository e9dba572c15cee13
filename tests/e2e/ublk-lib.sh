# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the scripts of the block device share; sourced, not run.
work=$(mktemp -d) || exit 1
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
step() { echo "== $*"; }
daemon() { vexfs-ublk list --json | sed -n "/\"id\": $1,/,/}/s/.*\"pid\": \([0-9]*\).*/\1/p"; }
# refused WORDS COMMAND...: it fails with exit code 1 and one line that has the words.
refused() {
    local words=$1 out
    shift
    out=$("$@" 2>&1 >/dev/null)
    local code=$?
    [ "$code" = 1 ] || fail "$*: exit code $code"
    [ "$(printf '%s\n' "$out" | wc -l)" = 1 ] || fail "$*: not one line: $out"
    [[ $out == *"$words"* ]] || fail "$*: no '$words' in: $out"
}
