#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=2048 timeout=900
# The kernel module over the crash lab: power cuts under a workload that knows what was fsync'ed.
# VEXFS_SOAK_CUTS and VEXFS_SOAK_SEED say how many and which, VEXFS_SOAK_KEEP where a failure leaves what
# there is to look into; `cargo xtask soak` runs many.
. "$(dirname "$0")/lib.sh"

cuts=${VEXFS_SOAK_CUTS:-6}
seed=${VEXFS_SOAK_SEED:-1}
keep=${VEXFS_SOAK_KEEP:-}
mnt=/mnt/soak
image=/dev/shm/soak.img
mkdir -p "$mnt"

step "$cuts power cuts under a mounted vexfs, seed $seed"
need "the driver" modprobe ublk_drv
need "the module" insmod "$VEXFS_MODULE"
need "mkfs" mkfs.vexfs "$image" 64M
need "a device of the crash lab" vexfs-ublk add --image "$image" --crash-model --id 0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
if SOAK_IMAGE=$image python3 "$(dirname "$0")/soak.py" "$mnt" 0 "$cuts" "$seed" $keep; then
  ok "after each of $cuts cuts everything that was promised is there"
else
  not_ok "a cut lost something, seed $seed"
  dmesg | grep -v audit | tail -n 40 | tee ${keep:+"$keep/kernel.log"} | tail -n 15 | sed 's/^/   kernel | /'
  if [ -n "$keep" ]; then
    cp /run/vexfs/ublk0.log "$keep/daemon.log"
    say "kept: $(ls "$keep" | tr '\n' ' ')"
  fi
fi
check "unmount" umount "$mnt"
check "del" vexfs-ublk del --id 0
check "fsck" fsck.vexfs -f -n "$image"
check "the module unloads" rmmod vexfs
finish
