#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=2048 timeout=600
# A mount costs the same on an image of any size, after a clean unmount and after a power cut: it reads a
# handful of blocks and waits for nothing else. Times are figures here, requests are what is checked.
. "$(dirname "$0")/lib.sh"

mnt=/mnt/v
image=/dev/shm/mount.img
mkdir -p "$mnt"
need "load" insmod "$VEXFS_MODULE"

# requests KIND: how many the device has served.
requests() {
  vexfs-ublk stats --id 0 --json | python3 -c 'import json, sys
print(json.load(sys.stdin)["requests"][sys.argv[1]]["requests"])' "$1"
}

# mounted NAME MOST: mounts, with at most so many reads.
mounted() {
  local name=$1 most=$2 before took
  # The driver looks for partitions first.
  udevadm settle 2>/dev/null
  blockdev --flushbufs /dev/ublkb0
  before=$(requests read)
  took=$(mount_ms /dev/ublkb0 "$mnt") || { not_ok "$name is mounted"; finish; }
  reads=$(($(requests read) - before))
  say "$name: mount(2) took $took ms, $reads reads"
  check "$name: at most $most reads" [ "$reads" -le "$most" ]
}

for size in 64M 1G 100G 1T; do
  step "an image of $size"
  need "mkfs" mkfs.vexfs "$image" "$size"
  need "add" vexfs-ublk add --image "$image" --crash-model
  mounted "$size, new" 10
  check "work" sh -c "cp -a /usr/lib/python3*/json /usr/lib/python3*/email $mnt && setfattr -n user.a -v b $mnt/json && sync -f $mnt"
  check "umount" umount "$mnt"
  mounted "$size, after a clean unmount" 10
  # Files without a name, and a truncation that is under way, are what a mount after a cut has to end.
  exec 5<>"$mnt/gone" && head -c 8M /dev/zero >&5 && rm "$mnt/gone"
  check "work, synced" sh -c "cp -a /usr/lib/python3*/xml $mnt && sync -f $mnt && cp -a /usr/lib/python3*/json $mnt/more"
  check "the power is cut" vexfs-ublk crash --id 0 --keep random --seed 3
  exec 5>&-
  umount "$mnt"
  check "the power is back" vexfs-ublk recover --id 0
  mounted "$size, after a cut" 20
  check "what was synced is there" diff -r /usr/lib/python3*/xml "$mnt/xml"
  check "umount" umount "$mnt"
  check "del" vexfs-ublk del --id 0
  check "clean" fsck.vexfs -n "$image"
  rm "$image"
done

step "full of files, and cut while thousands of them were being removed"
need "mkfs" mkfs.vexfs "$image" 256M
need "add" vexfs-ublk add --image "$image" --crash-model
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
check "twenty thousand files" python3 - "$mnt" <<'PY'
import os, sys
for d in range(20):
    os.mkdir(f"{sys.argv[1]}/{d}")
    for n in range(1000):
        with open(f"{sys.argv[1]}/{d}/{n}", "wb") as f:
            f.write(b"x" * (n * 7))
os.sync()
PY
umount "$mnt"
mounted "20,000 files, after a clean unmount" 10
check "2,000 open files lose their names" python3 - "$mnt" <<'PY'
import os, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = [os.open(f"{sys.argv[1]}/{d}/{n}", os.O_RDWR) for d in (0, 1) for n in range(1000)]
for d in (0, 1):
    for n in range(1000):
        os.unlink(f"{sys.argv[1]}/{d}/{n}")
os.sync()
subprocess.run(["vexfs-ublk", "crash", "--id", "0", "--keep", "none"], check=True, stdout=subprocess.DEVNULL)
PY
umount "$mnt"
check "the power is back" vexfs-ublk recover --id 0
# They are destroyed after the mount, whose reads are counted with its own; kernel-orphans tells the two apart.
mounted "2,000 files without a name, after a cut" 250
check "umount" umount "$mnt"
check "del" vexfs-ublk del --id 0
check "clean" fsck.vexfs -n "$image"
check "the module unloads" rmmod vexfs
finish
