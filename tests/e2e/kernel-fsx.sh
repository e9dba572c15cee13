#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=512M mem=1536 timeout=600
# Random reads, writes, maps, truncations and holes of files, compared with a copy in memory;
# unmounted, mounted and compared again between the rounds. A failure prints its seed.
. "$(dirname "$0")/lib.sh"

disk=${VEXFS_DISK:-/dev/vda}
mnt=/mnt/v
rounds=${VEXFS_FSX_ROUNDS:-6}
steps=${VEXFS_FSX_STEPS:-1500}
seed=${VEXFS_FSX_SEED:-1}
mkdir -p "$mnt"

cat >/tmp/fsx.py <<'PY'
import ctypes, fcntl, mmap, os, random, sys

path, seed, steps, state = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
BLOCK, MAX = 4096, 700_000
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
KEEP, PUNCH, ZERO = 1, 2, 16
r = random.Random(seed)
model = bytearray(open(state, "rb").read()) if os.path.exists(state) else bytearray()
fd = os.open(path, os.O_RDWR | os.O_CREAT)
direct = os.open(path, os.O_RDWR | os.O_DIRECT)
buf = mmap.mmap(-1, 1 << 18)
log = []

def fail(what, at=None):
    print(f"seed {seed}: {what}" + (f" at byte {at}" if at is not None else ""))
    for line in log[-25:]:
        print("  ", line)
    sys.exit(1)

def compare(offset, data, what):
    want = bytes(model[offset:offset + len(data)])
    if data != want:
        n = next((i for i, (a, b) in enumerate(zip(data, want)) if a != b), min(len(data), len(want)))
        fail(f"{what}: {len(data)} bytes read, {len(want)} expected, first difference", offset + n)

def grow(end):
    if len(model) < end:
        model.extend(bytes(end - len(model)))

def fallocate(mode, offset, length):
    if libc.fallocate(fd, mode, offset, length):
        fail(f"fallocate {mode}: {os.strerror(ctypes.get_errno())}")

def span(align=1, most=100_000):
    offset = r.randrange(MAX - most) // align * align
    length = max(align, r.choice([r.randrange(1, 600), r.randrange(1, 9000), r.randrange(1, most)]) // align * align)
    return offset, length

for step in range(steps):
    op = r.choice(["write"] * 4 + ["read"] * 3 + ["mwrite", "mwrite", "mread", "trunc", "trunc", "dwrite", "dwrite",
                  "dread", "punch", "punch", "zero", "alloc", "keep", "sync", "append", "drop", "writev"])
    # Direct I/O is in sectors, and need not be in whole blocks.
    offset, length = span(r.choice([BLOCK, 512]) if op in ("dwrite", "dread") else 1)
    log.append(f"{step} {op} {offset} {length} size {len(model)}")
    if op in ("write", "writev", "append", "dwrite"):
        data = r.randbytes(length)
        if op == "append":
            offset = len(model)
            if offset + length > MAX:
                continue
        grow(offset + length)
        model[offset:offset + length] = data
        if op == "dwrite":
            buf[:length] = data
            n = os.pwritev(direct, [memoryview(buf)[:length]], offset)
        elif op == "writev":
            half = length // 2
            n = os.pwritev(fd, [data[:half], data[half:]], offset)
        else:
            n = os.pwrite(fd, data, offset)
        if n != length:
            fail(f"short write of {n}")
    elif op == "read":
        compare(offset, os.pread(fd, length, offset), "read")
    elif op == "dread":
        n = os.preadv(direct, [memoryview(buf)[:length]], offset)
        compare(offset, buf[:n], "direct read")
        if n != max(0, min(length, len(model) - offset)):
            fail(f"short direct read of {n}")
    elif op in ("mwrite", "mread"):
        if offset >= len(model):
            continue
        length = min(length, len(model) - offset)
        with mmap.mmap(fd, len(model)) as m:
            if op == "mread":
                compare(offset, m[offset:offset + length], "mapped read")
            else:
                data = r.randbytes(length)
                m[offset:offset + length] = data
                model[offset:offset + length] = data
                if r.random() < 0.3:
                    m.flush()
    elif op == "trunc":
        size = r.choice([offset, r.randrange(max(1, len(model) + 1)), offset // BLOCK * BLOCK])
        os.ftruncate(fd, size)
        del model[size:]
        grow(size)
    elif op in ("punch", "zero"):
        fallocate(KEEP | PUNCH if op == "punch" else ZERO | (KEEP if r.random() < 0.5 else 0), offset, length)
        if op == "zero" and os.fstat(fd).st_size > len(model):
            grow(offset + length)
        end = min(offset + length, len(model))
        if offset < end:
            model[offset:end] = bytes(end - offset)
    elif op in ("alloc", "keep"):
        fallocate(KEEP if op == "keep" else 0, offset, length)
        if op == "alloc":
            grow(offset + length)
    elif op == "sync":
        r.choice([os.fsync, os.fdatasync])(fd)
    elif op == "drop" and r.random() < 0.2:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if os.fstat(fd).st_size != len(model):
        fail(f"the size is {os.fstat(fd).st_size}")
    if step % 100 == 99:
        compare(0, os.pread(fd, MAX * 2, 0), "whole file")
compare(0, os.pread(fd, MAX * 2, 0), "whole file")
# Data and holes, as lseek tells them, cover the file, and holes are zeroes.
at = 0
while at < len(model):
    hole = os.lseek(fd, at, os.SEEK_HOLE)
    data = at
    try:
        data = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        data = len(model)
    if any(model[at:data]):
        fail("SEEK_DATA steps over data", at)
    at = max(hole, data, at + 1)
open(state, "wb").write(model)
PY

need "format" mkfs.vexfs --force "$disk"
need "load" insmod "$VEXFS_MODULE"
for round in $(seq "$rounds"); do
  need "mount $round" mount -t vexfs "$disk" "$mnt"
  check "seed $((seed + round)): $steps steps" python3 /tmp/fsx.py "$mnt/file$((round % 2))" "$((seed + round))" "$steps" "/tmp/state$((round % 2))"
  check "seed $((seed + round)): the same after a remount" sh -c "umount $mnt && mount -t vexfs $disk $mnt && cmp $mnt/file$((round % 2)) /tmp/state$((round % 2))"
  check "unmount $round" umount "$mnt"
done
check "the image is clean" fsck.vexfs -n -f "$disk"
check "unload" rmmod vexfs
finish
