#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=1536 timeout=300
# A flush that fails is told to one caller, and what was to be flushed may be gone: nobody who asks later may
# be promised it, neither by the daemon nor by a mounted vexfs.
. "$(dirname "$0")/lib.sh"

mnt=/mnt/v
image=/dev/shm/flush.img
mkdir -p "$mnt"
need "load" insmod "$VEXFS_MODULE"

# asks PATH...: overwrites each on the device, has its next flush fail, and asks for each in turn whether it is
# durable; prints the answers.
asks() {
  python3 - "$@" <<'PY'
import errno, mmap, os, subprocess, sys
page = mmap.mmap(-1, 4096)
page.write(b"n" * 4096)
fds = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in sys.argv[1:]]
for fd in fds:
    os.pwrite(fd, page, 0)
subprocess.run(["vexfs-ublk", "fault", "--id", "0", "--set", "eio", "--on", "flush", "--nth", "1"], check=True,
               stdout=subprocess.DEVNULL)
answers = []
for fd in fds:
    try:
        os.fdatasync(fd)
        answers.append("promised")
    except OSError as error:
        answers.append(errno.errorcode[error.errno])
print(*answers)
PY
}

step "the daemon, over a device that fails one flush"
truncate -s 64M "$image"
same "a device of the crash lab" /dev/ublkb0 "$(vexfs-ublk add --image "$image" --raw --crash-model)"
same "another one on it" /dev/ublkb1 "$(vexfs-ublk add --image /dev/ublkb0 --raw)"
check "before it all is well" dd if=/dev/zero of=/dev/ublkb1 bs=4k count=1 conv=fsync status=none
same "after a flush that failed nothing is promised" "EIO EIO EIO" "$(asks /dev/ublkb1 /dev/ublkb1 /dev/ublkb1)"
log=$(vexfs-ublk list --json | sed -n 's/.*"log": *"\([^"]*ublk1[^"]*\)".*/\1/p')
check "the log says what to do" grep -E "/dev/ublkb0: a flush failed: .*may be lost.*del.*add" "$log"
need "del" vexfs-ublk del --id 1
same "opened anew" /dev/ublkb1 "$(vexfs-ublk add --image /dev/ublkb0 --raw)"
check "it promises again" dd if=/dev/zero of=/dev/ublkb1 bs=4k count=1 conv=fsync status=none
step "every device goes, one that is another's image too"
mkdir -p /mnt/held
check "ext4 on the upper one" sh -c "mkfs.ext4 -q /dev/ublkb1 && mount /dev/ublkb1 /mnt/held"
check "unless one is in use, which is said" sh -c "! vexfs-ublk del --all 2>/tmp/said && test \$(grep -c 'in use: unmount' /tmp/said) -eq 2"
umount /mnt/held
check "del --all" vexfs-ublk del --all
check "none is left" sh -c "! ls /dev/ublkb* 2>/dev/null"

step "a mounted vexfs, over a device that fails one flush"
need "mkfs" mkfs.vexfs --force "$image" 64M
need "a device of the crash lab" vexfs-ublk add --image "$image" --crash-model
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
check "three files, synced" sh -c "for f in a b c; do head -c 64K /dev/zero | tr '\0' o >$mnt/\$f; done; sync -f $mnt"
dmesg -C
same "overwritten in place, one flush failed: none of them is promised" "EIO EIO EIO" "$(asks "$mnt/a" "$mnt/b" "$mnt/c")"
check "the kernel's log says so" sh -c 'dmesg | grep -E "vexfs \(ublkb0\): a flush of the device failed.*unmount"'
same "once" 1 "$(dmesg | grep -c 'volume stopped')"
check "it is unmounted" umount "$mnt"
need "and mounted again" mount -t vexfs /dev/ublkb0 "$mnt"
check "with what was synced" sh -c "test \$(cat $mnt/[abc] | tail -c +4097 | tr -d o | tr -d n | wc -c) -eq 0"
check "and promises again" dd if=/dev/zero of="$mnt/a" bs=4k count=1 conv=fsync,notrunc status=none
check "umount" umount "$mnt"
check "del" vexfs-ublk del --id 0
check "clean" fsck.vexfs -n -f "$image"
check "the module unloads" rmmod vexfs
finish
