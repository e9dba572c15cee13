#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=1536 timeout=400
# The same operations through the kernel on ublk and through the engine natively: the same tree,
# with modes, owners, links, attributes, sizes, allocated blocks and contents.
. "$(dirname "$0")/lib.sh"

seeds=${VEXFS_SAME_SEEDS:-8}
dir=/dev/shm/same
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir" /mnt/kernel /mnt/native
# The tests build it before their guests start.
PATH=$PATH:$VEXFS_DIST/../release
need "the driver" modprobe ublk_drv
need "the module" insmod "$VEXFS_MODULE"
for seed in $(seq "$seeds"); do
  step "seed $seed"
  script=$(vexfs-lab script --seed "$seed" --ops 60)
  need "natively" vexfs-lab replay --script "$script" --image "$dir/native.img"
  need "mkfs" mkfs.vexfs --force "$dir/kernel.img" 4M
  need "two devices" bash -c "vexfs-ublk add --image $dir/kernel.img --id 0 && vexfs-ublk add --image $dir/native.img --id 1"
  need "two mounts" bash -c "mount -t vexfs /dev/ublkb0 /mnt/kernel && mount -t vexfs /dev/ublkb1 /mnt/native"
  check "through the kernel" python3 "$here/ublk-same.py" run /mnt/kernel "$script"
  check "the same tree" python3 "$here/ublk-same.py" compare /mnt/kernel /mnt/native || say "$script"
  umount /mnt/kernel /mnt/native
  check "clean" bash -c "vexfs-ublk del --all && fsck.vexfs -n $dir/kernel.img && fsck.vexfs -n $dir/native.img"
  rm "$dir"/*.img
done
check "the module unloads" rmmod vexfs
finish
