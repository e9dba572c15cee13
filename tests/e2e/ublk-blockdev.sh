#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=256M,128M mem=1536 timeout=600
# A block device as the image: formatted, served, mounted, searched; refused while somebody else has it.
. "$(dirname "$0")/lib.sh"

disk=/dev/vda
other=/dev/vdb
mnt=/mnt/v
elsewhere=/mnt/elsewhere
queries=$VEXFS_ROOT/tests/data/queries-200.npy
vectors=$VEXFS_ROOT/tests/data/packages-2k.npy
mkdir -p "$mnt" "$elsewhere"
need "load" insmod "$VEXFS_MODULE"

slots() { vexfs-ublk search "$@" --json | grep -o '"slot":[0-9]*' | cut -d: -f2; }
daemon() { vexfs-ublk list --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
no_devices() { ! ls /dev/ublkb* 2>/dev/null; }

step "a disk is formatted and served"
refuses "an empty disk" 1 "$disk: not a VexFS image: .*--raw" vexfs-ublk add --image "$disk"
need "mkfs.vexfs on the disk" mkfs.vexfs -L disk "$disk"
same "vexfs-ublk add" /dev/ublkb0 "$(vexfs-ublk add --image "$disk")"
same "as long as the disk, and the command window" $(($(blockdev --getsize64 "$disk") + (8 << 20))) "$(blockdev --getsize64 /dev/ublkb0)"

step "one server, and nobody beside it"
refuses "a second server" 1 "$disk: .*process $(daemon) .*stop" vexfs-ublk add --image "$disk"
refuses "mkfs.vexfs" 1 "$disk: in use: .*process $(daemon) .*stop" mkfs.vexfs --force "$disk" 64M
refuses "vexfs put" 1 "$disk: in use: .*process $(daemon) .*stop" vexfs put "$disk" /etc/hostname /
check "a mount of the disk itself" sh -c "! mount -t vexfs $disk $elsewhere 2>/dev/null"

step "mounted, filled, searched"
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
refuses "a mounted device stays" 1 "/dev/ublkb0 is in use: unmount it first" vexfs-ublk del --id 0
check "a tree" sh -c "cp -a /usr/lib/python3*/json $mnt && diff -r /usr/lib/python3*/json $mnt/json"
mkdir "$mnt/corpus"
need "a directory of vectors" setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$mnt/corpus"
cp "$vectors" "$mnt/corpus/"
sync -f "$mnt"
same "a search finds a row" 77 "$(slots "$mnt/corpus" --query "$vectors" --row 77 -k 1)"
check "the daemon is killed under a write" sh -c "
  (dd if=/dev/zero of=$mnt/load bs=1M count=64 conv=fsync status=none; echo \$? >/tmp/load) &
  sleep 0.3; kill -9 $(daemon); sleep 0.5; vexfs-ublk recover --id 0 >/dev/null && wait && grep -qx 0 /tmp/load"
same "a search finds it after that" 77 "$(slots "$mnt/corpus" --query "$vectors" --row 77 -k 1)"
check "umount" umount "$mnt"
check "del" vexfs-ublk del --id 0
check "the disk is clean" fsck.vexfs -n -f "$disk"

step "the disk without a server"
need "is mounted as it is" mount -t vexfs "$disk" "$elsewhere"
check "and holds the same" diff -r /usr/lib/python3*/json "$elsewhere/json"
refuses "no server while it is mounted" 1 "$disk: in use: .*mounted on $elsewhere.*unmount" vexfs-ublk add --image "$disk"
refuses "no server for it raw" 1 "$disk: in use: .*mounted on $elsewhere.*unmount" vexfs-ublk add --image "$disk" --raw
check "no device was made" no_devices
refuses "no mkfs" 1 "$disk: in use: it is mounted on $elsewhere" mkfs.vexfs --force "$disk"
check "umount" umount "$elsewhere"
same "served again" /dev/ublkb0 "$(vexfs-ublk add --image "$disk")"
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
same "the index is there" 77 "$(slots "$mnt/corpus" --query "$vectors" --row 77 -k 1)"
check "the disk has nothing but the filesystem" sh -c "umount $mnt && vexfs-ublk del --id 0 && fsck.vexfs -n -f $disk"
same "read-only" /dev/ublkb0 "$(vexfs-ublk add --image "$disk" --read-only)"
check "mounted read-only" sh -c "mount -t vexfs -o ro /dev/ublkb0 $mnt && diff -r /usr/lib/python3*/json $mnt/json && ! touch $mnt/x 2>/dev/null; s=\$?; umount $mnt; exit \$s"
check "del" vexfs-ublk del --id 0

step "formatted through a raw device"
same "a raw device of the other disk" /dev/ublkb0 "$(vexfs-ublk add --image "$other" --raw)"
need "another filesystem on it" mkfs.ext4 -q /dev/ublkb0
need "is mounted" mount /dev/ublkb0 "$mnt"
refuses "mkfs.vexfs while it is" 1 "/dev/ublkb0: in use: it is mounted on $mnt" mkfs.vexfs --force /dev/ublkb0
umount "$mnt"
refuses "mkfs.vexfs over it" 1 "/dev/ublkb0: holds .*ext.*--force" mkfs.vexfs /dev/ublkb0
need "mkfs.vexfs --force" mkfs.vexfs --force /dev/ublkb0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
need "a directory of vectors" setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$mnt"
cp "$vectors" "$mnt/p.npy"
sync -f "$mnt"
same "a search finds a row, and nothing was added again" 500 "$(slots "$mnt" --query "$vectors" --row 500 -k 1)"
check "stats know the index" sh -c "vexfs-ublk stats --id 0 --json | tr -d ' \n' | grep -q '\"vectors\":2000'"
umount "$mnt"
need "formatted once more" mkfs.vexfs --force /dev/ublkb0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
need "a directory of other vectors" setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$mnt"
cp "$queries" "$mnt/q.npy"
sync -f "$mnt"
same "what was there before is not found" "$mnt/q.npy" "$(vexfs-ublk search "$mnt" --query "$vectors" --row 500 -k 3 --json | grep -o '"path":"[^"]*"' | cut -d'"' -f4 | sort -u)"
check "umount" umount "$mnt"
check "del" vexfs-ublk del --id 0
same "now it is an image, without --raw" /dev/ublkb0 "$(vexfs-ublk add --image "$other")"
check "and clean" sh -c "vexfs-ublk del --id 0 && fsck.vexfs -n -f $other"
check "the module unloads" rmmod vexfs
finish
