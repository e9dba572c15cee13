#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=512M mem=768 timeout=600
# Little room: a full disk, little memory, much dirty data, syncs side by side, and a power cut that is none:
# the image is looked at while it is mounted, as a crash would leave it.
. "$(dirname "$0")/lib.sh"

disk=${VEXFS_DISK:-/dev/vda}
mnt=/mnt/v
mkdir -p "$mnt"
need "format" mkfs.vexfs --force "$disk"
need "load" insmod "$VEXFS_MODULE"
need "mount" mount -t vexfs "$disk" "$mnt"

step "fsync and what a crash leaves"
check "fsynced files survive, whole" python3 - "$mnt" "$disk" <<'PY'
import os, subprocess, sys
mnt, disk = sys.argv[1:]
def put(name, data, sync):
    fd = os.open(f"{mnt}/{name}", os.O_CREAT | os.O_RDWR)
    os.write(fd, data)
    if sync: os.fsync(fd)
    os.close(fd)
put("synced", b"S" * 100_000, True)
put("over", b"a" * 100_000, True)
fd = os.open(f"{mnt}/over", os.O_RDWR)
os.pwrite(fd, b"b" * 5000, 3000); os.fdatasync(fd)
put("lost", b"L" * 100_000, False)
d = os.open(mnt, os.O_RDONLY); os.mkdir(f"{mnt}/dir"); os.fsync(d)
# What the medium holds now, by a copy of it: all of it, for data may lie anywhere.
fcopy = os.open(disk, os.O_RDONLY)
os.posix_fadvise(fcopy, 0, 0, os.POSIX_FADV_DONTNEED)
end = os.lseek(fcopy, 0, os.SEEK_END)
with open("/tmp/crash.img", "wb") as g:
    g.truncate(end)
    zeroes = bytes(1 << 20)
    for at in range(0, end, 1 << 20):
        data = os.pread(fcopy, 1 << 20, at)
        if data != zeroes[:len(data)]:
            g.seek(at)
            g.write(data)
PY
check "the copy is clean" fsck.vexfs -n -f /tmp/crash.img
check "and holds what was promised" sh -c "
  modprobe loop; mkdir -p /mnt/c && mount -t vexfs -o loop /tmp/crash.img /mnt/c && cmp /mnt/c/synced $mnt/synced && cmp /mnt/c/over $mnt/over && test -d /mnt/c/dir; s=\$?; umount /mnt/c; exit \$s"
rm -f /tmp/crash.img
check "many fsyncs at once" python3 - "$mnt" <<'PY'
import multiprocessing as mp, os, sys
def hand(i):
    fd = os.open(f"{sys.argv[1]}/s{i}", os.O_CREAT | os.O_RDWR)
    for n in range(40):
        os.pwrite(fd, bytes([i]) * 3000, n * 3000); os.fsync(fd)
    data = os.pread(fd, 1 << 20, 0)
    assert data == bytes([i]) * 120_000, len(data)
with mp.Pool(8) as pool:
    pool.map(hand, range(8))
PY

step "little memory"
check "300 MiB of dirty data in 768 MiB, through maps and writes" python3 - "$mnt" <<'PY'
import hashlib, mmap, os, sys
path = sys.argv[1] + "/large"
size = 300 << 20
block = os.urandom(1 << 20)
fd = os.open(path, os.O_CREAT | os.O_RDWR)
for n in range(150):
    os.pwrite(fd, block, n << 20)
os.ftruncate(fd, size)
with mmap.mmap(fd, size) as m:
    for n in range(150, 300):
        m[n << 20:(n + 1) << 20] = block
os.fsync(fd)
want = hashlib.md5(block).digest()
for n in range(300):
    assert hashlib.md5(os.pread(fd, 1 << 20, n << 20)).digest() == want, n
os.close(fd)
PY
check "memory is taken back from the node cache" sh -c "
  mkdir $mnt/many && python3 -c 'import sys
for i in range(20000): open(f\"$mnt/many/{i}\", \"w\").close()' && sync && echo 3 >/proc/sys/vm/drop_caches && test \$(ls $mnt/many | wc -l) -eq 20000"
check "all of it is removed" rm -rf "$mnt/many" "$mnt/large"

step "a full disk"
check "fill, delete, fill again" python3 - "$mnt" <<'PY'
import errno, os, shutil, sys
root = sys.argv[1] + "/fill"
def fill(size):
    n = 0
    os.makedirs(root, exist_ok=True)
    while n < 200_000:
        try:
            fd = os.open(f"{root}/{size}-{n}", os.O_CREAT | os.O_RDWR)
            try:
                data = b"f" * size
                done = os.write(fd, data)
                while done < size:
                    done += os.write(fd, data[done:])
            finally:
                os.close(fd)
        except OSError as e:
            assert e.errno == errno.ENOSPC, e
            break
        n += 1
    try:
        os.sync()
    except OSError:
        pass
    return n
def free():
    s = os.statvfs(sys.argv[1])
    return s.f_bavail
before = free()
counts = []
# About a hundred, five thousand and twenty-five thousand files, on a disk of any size.
for size in (before * 4096 // n for n in (100, 5_000, 25_000)):
    counts.append(fill(size))
    left = free()
    assert left < max(3000, before // 40), (size, left)
    # Overwriting what is there needs no room.
    fd = os.open(f"{root}/{size}-0", os.O_RDWR); os.pwrite(fd, b"x" * 4096, 0); os.fsync(fd); os.close(fd)
    assert open(f"{root}/{size}-0", "rb").read(4096) == b"x" * 4096
    shutil.rmtree(root)
    os.sync()
    after = free()
    assert after > before - max(200, before // 500), (size, before, after)
assert counts[0] > 50 and counts[1] > 3000 and counts[2] > 10_000, counts
print(counts)
PY
room=$(($(stat -f -c '%a' "$mnt") * 4096))
half=$((room / 2 / 4096 * 4096))
check "preallocation of more than there is says so too" sh -c "! fallocate -l $((room + (1 << 20))) $mnt/huge 2>/dev/null && rm -f $mnt/huge"
check "and takes what there is" sh -c "fallocate -l $half $mnt/pre && test \$(stat -c %b $mnt/pre) -ge $((half / 512)) && rm $mnt/pre"

step "unlinked files and remounts"
check "an unlinked open file's room comes back" python3 - "$mnt" <<'PY'
import os, sys
def free(): return os.statvfs(sys.argv[1]).f_bavail
os.sync(); before = free()
fd = os.open(sys.argv[1] + "/gone", os.O_CREAT | os.O_RDWR)
os.write(fd, b"g" * (8 << 20)); os.fsync(fd)
os.unlink(sys.argv[1] + "/gone")
assert free() < before - 2000
os.close(fd); os.sync()
assert free() > before - 50, (before, free())
PY
check "unmount" umount "$mnt"
check "the image is clean" fsck.vexfs -n -f "$disk"
check "unload" rmmod vexfs
finish
