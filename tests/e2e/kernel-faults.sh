#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: kernel=debug mem=2048 timeout=300
# The module when it gets no memory and when the device fails: operations fail, and nothing else does.
. "$(dirname "$0")/lib.sh"

seed=${VEXFS_FAULTS_SEED:-1}
mnt=/mnt/faults
image=/dev/shm/faults.img
mkdir -p "$mnt"
need "the driver" modprobe ublk_drv
need "the module" insmod "$VEXFS_MODULE"
need "mkfs" mkfs.vexfs "$image" 64M
need "a device" vexfs-ublk add --image "$image" --id 0
for part in memory mounts device; do
  step "faults: $part, seed $seed"
  if python3 "$(dirname "$0")/faults.py" "$part" "$mnt" /dev/ublkb0 "$seed"; then
    ok "$part"
  else
    not_ok "$part, seed $seed"
    umount "$mnt"
  fi
done
check "del" vexfs-ublk del --id 0
check "fsck" fsck.vexfs -f -n "$image"
check "the module unloads" rmmod vexfs
finish
