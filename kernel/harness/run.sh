#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Builds the engine as it goes into the kernel, but for this machine, links it with the C harness and runs it:
# every function of kernel/include/vexfs_ffi.h, with good arguments and bad ones. No root, no kernel.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
build=$target/harness
mkdir -p "$build"

# In a directory of its own: other flags would rebuild everything there is.
CARGO_TARGET_DIR=$build CARGO_PROFILE_RELEASE_PANIC=abort \
  cargo build --quiet --release --manifest-path "$root/Cargo.toml" -p vexfs-ffi --features object

cc=${CC:-cc}
flags=(-std=gnu11 -g -O1 -Wall -Wextra -Wno-clobbered -Wno-pointer-sign -I "$root/kernel/include" -I "$here")
sanitize=()
if echo 'int main(void){return 0;}' | $cc -fsanitize=address,undefined -x c - -o "$build/probe" 2>/dev/null; then
  sanitize=(-fsanitize=address,undefined -fno-sanitize-recover=undefined)
fi
$cc "${flags[@]}" "${sanitize[@]}" "$here"/*.c "$build/release/libvexfs_ffi.a" -o "$build/harness"

# Every function of the header is called somewhere.
missing=0
for name in $(grep -o 'vexfs_rust_[a-z_]*(' "$root/kernel/include/vexfs_ffi.h" | tr -d '(' | sort -u); do
  if ! grep -q "$name(" "$here"/*.c; then
    echo "not ok - $name is never called"
    missing=1
  fi
done
"$build/harness"
exit $missing
