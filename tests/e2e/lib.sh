# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What end-to-end tests share. Sourced, not run. Every check prints `ok NAME` or `not ok NAME`;
# `finish` ends the script with the right status. The kernel's log is judged by the host.
set -uo pipefail
failures=0

# step TEXT: a heading.
step() { printf '\n== %s\n' "$*"; }

# say TEXT: a figure or a remark, part of what the step shows.
say() { printf '   %s\n' "$*"; }

ok() { printf 'ok %s\n' "$*"; }

not_ok() {
  printf 'not ok %s\n' "$*"
  failures=$((failures + 1))
}

# check NAME COMMAND...: the command succeeds; what a failed one said is shown.
check() {
  local name=$1 said status
  shift
  if said=$("$@" 2>&1); then
    ok "$name"
  else
    status=$?
    not_ok "$name"
    printf '   %s: status %s\n' "$*" "$status"
    printf '%s\n' "$said" | tail -n 20 | sed 's/^/   | /'
    return 1
  fi
}

# refuses NAME STATUS PATTERN COMMAND...: it fails with this exit status, says one line that
# holds the (extended regular expression) PATTERN, and nothing else.
refuses() {
  local name=$1 want=$2 pattern=$3 said status
  shift 3
  said=$("$@" 2>&1 >/dev/null)
  status=$?
  if [ "$status" -ne "$want" ]; then
    not_ok "$name (status $status instead of $want)"
  elif [ "$(printf '%s\n' "$said" | wc -l)" -ne 1 ] || ! grep -Eq "$pattern" <<<"$said"; then
    not_ok "$name (it says something else)"
  else
    ok "$name"
    return 0
  fi
  printf '%s\n' "$said" | sed 's/^/   | /'
  return 1
}

# need NAME COMMAND...: like check, and the script ends here if it fails.
need() { check "$@" || finish; }

# same NAME EXPECTED ACTUAL
same() {
  if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1 (expected '$2', found '$3')"; fi
}

# milliseconds since boot, for figures only.
now_ms() { awk '{printf "%d", $1 * 1000}' /proc/uptime; }

# mount_ms DEVICE DIR: mounts a vexfs and prints how many milliseconds mount(2) took, without the
# start of a process and what it looks for first.
mount_ms() {
  python3 - "$@" <<'PY'
import ctypes, os, sys, time
device, target = map(os.fsencode, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
began = time.perf_counter()
failed = libc.mount(device, target, b"vexfs", 0, None)
took = time.perf_counter() - began
if failed:
    sys.exit(f"mount of {sys.argv[1]}: {os.strerror(ctypes.get_errno())}")
print(f"{took * 1000:.1f}")
PY
}

# finish: the end of every script; after a failure it shows what the daemons said.
finish() {
  local log
  if [ "$failures" -gt 0 ]; then
    vexfs-ublk list --json 2>/dev/null | sed -n 's/.*"log": *"\([^"]*\)".*/\1/p' |
      while read -r log; do
        echo "   the daemon's log $log ends with:"
        tail -n 20 "$log" | sed 's/^/   | /'
      done
  fi
  exit $((failures > 0))
}
