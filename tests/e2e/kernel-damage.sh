#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=64M mem=1536 timeout=600
# What must not be believed: devices that are no VexFS, cut off, or with flipped bits. A mount is refused with
# the right error, or what it shows is right; nothing hangs and the kernel's log stays clean. And the module's life.
. "$(dirname "$0")/lib.sh"

disk=${VEXFS_DISK:-/dev/vda}
mnt=/mnt/v
mkdir -p "$mnt"
modprobe loop

step "load and unload"
need "20 times" sh -c 'for i in $(seq 20); do insmod "$VEXFS_MODULE" && rmmod vexfs || exit 1; done'
need "with its self-test" insmod "$VEXFS_DIST/modules/$(uname -r)/test/vexfs.ko" selftest=1
check "which passed" sh -c 'dmesg | grep -q "vexfs: self-test: passed"'

step "not a VexFS"
# mount(8) prints what the errno says.
mount_refused() { # NAME PATTERN DEVICE [OPTIONS]
  refuses "$1" 32 "$2" sh -c "mount -t vexfs ${4:-} $3 $mnt 2>&1 >/dev/null | head -n 1 >&2; exit \${PIPESTATUS:-32}"
}
dd if=/dev/zero of="$disk" bs=1M count=64 status=none conv=fsync
mount_refused "an empty device" "wrong fs type|bad superblock" "$disk"
check "the log says why" sh -c 'dmesg | tail -n 3 | grep -q "not a VexFS filesystem: it has no VexFS superblock"'
dd if=/dev/urandom of="$disk" bs=1M count=64 status=none conv=fsync
mount_refused "a device full of noise" "wrong fs type|bad superblock" "$disk"
mount_refused "an option that is none" "wrong fs type|bad option" "$disk" "-o nonsense=1"
need "format" mkfs.vexfs --force "$disk"
truncate -s 32M /tmp/short
dd if="$disk" of=/tmp/short bs=1M count=32 conv=notrunc status=none
mount_refused "an image that was cut off" "wrong fs type|bad superblock" /tmp/short "-o loop"
check "the log says so" sh -c 'dmesg | grep -q "truncated: the filesystem is 67108864 bytes long"'

step "a device with large sectors, a read-only one"
need "fill it" sh -c "mount -t vexfs $disk $mnt && cp -a /usr/lib/python3*/json /usr/lib/python3*/email $mnt && ln -s json $mnt/link && setfattr -n user.a -v b $mnt/json && umount $mnt"
need "it is clean" fsck.vexfs -n -f "$disk"
dd if="$disk" of=/tmp/good bs=1M status=none
loop=$(losetup --find --show --sector-size 4096 /tmp/good)
check "sectors of 4096 bytes" sh -c "mount -t vexfs $loop $mnt && diff -r /usr/lib/python3*/json $mnt/json && echo x >$mnt/new && umount $mnt"
losetup -d "$loop"
dd if="$disk" of=/tmp/good bs=1M status=none
loop=$(losetup --find --show --read-only /tmp/good)
check "a read-only device mounts read-only" sh -c "mount -t vexfs -o ro $loop $mnt && diff -r /usr/lib/python3*/json $mnt/json && ! touch $mnt/x 2>/dev/null && umount $mnt"
losetup -d "$loop"

step "remounts"
check "read-only and back" sh -c "
  mount -t vexfs $disk $mnt && echo 1 >$mnt/rw && mount -o remount,ro $mnt && ! touch $mnt/rw 2>/dev/null &&
  grep -q 1 $mnt/rw && mount -o remount,rw $mnt && echo 2 >$mnt/rw && umount $mnt && mount -t vexfs -o ro $disk $mnt &&
  grep -q 2 $mnt/rw && mount -o remount,rw $mnt && rm $mnt/rw && umount $mnt"
check "a mount that is busy is not unmounted" sh -c "mount -t vexfs $disk $mnt && cd $mnt && ! umount $mnt 2>/dev/null; cd / && umount $mnt"
check "freeze and thaw" sh -c "mount -t vexfs $disk $mnt && echo x >$mnt/f && fsfreeze -f $mnt && fsck.vexfs -n -f $disk >/dev/null && fsfreeze -u $mnt && rm $mnt/f && umount $mnt"
check "two mounts of one device are one" sh -c "mkdir -p /mnt/w && mount -t vexfs $disk $mnt && mount -t vexfs $disk /mnt/w && echo x >$mnt/f && grep -q x /mnt/w/f && rm /mnt/w/f && umount $mnt /mnt/w"
check "the image is clean" fsck.vexfs -n -f "$disk"

step "flipped bits"
truncate -s 8M /tmp/image
need "a small image" sh -c "mkfs.vexfs --force /tmp/image && mount -t vexfs -o loop /tmp/image $mnt && cp -a /usr/lib/python3*/json $mnt && ln -s json $mnt/link && setfattr -n user.a -v b $mnt/json && umount $mnt"
cat >/tmp/flip.py <<'PY'
import errno, os, random, subprocess, sys
image, mnt, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
good = open(image, "rb").read()
# Superblock, root ring, and every node of the tree; many of the latter are of older commits.
nodes = [b for b in range(len(good) // 4096) if good[b * 4096:b * 4096 + 4] == b"VXND"]
known = (errno.EUCLEAN, errno.EIO, errno.EROFS)

def mount(options):
    return subprocess.run(["mount", "-t", "vexfs", "-o", "loop," + options, image, mnt], capture_output=True, text=True)

def tree():
    """What can be seen without file data, which has no checksum; raises what the first failure was."""
    def raise_it(e):
        raise e
    out = {}
    for d, dirs, files in os.walk(mnt, onerror=raise_it):
        for e in files + dirs:
            p = os.path.join(d, e)
            s = os.lstat(p)
            out[p] = (s.st_mode, s.st_size, os.readlink(p) if os.path.islink(p) else os.listxattr(p))
            if os.path.isfile(p):
                open(p, "rb").read()
    return out

assert mount("ro").returncode == 0
truth = tree()
subprocess.run(["umount", mnt], check=True)
refused = damaged = harmless = 0
r = random.Random(11)
for n in range(rounds):
    blocks = [n % 34] if n % 4 == 0 else r.sample(nodes, r.choice([1, len(nodes) // 8 + 1, len(nodes) // 2]))
    bad = bytearray(good)
    for block in blocks:
        for _ in range(r.choice([1, 1, 8])):
            bad[block * 4096 + r.randrange(4096)] ^= 1 << r.randrange(8)
    open(image, "r+b").write(bad)
    m = mount(r.choice(["ro", "rw", "rw,errors=shutdown"]))
    if m.returncode:
        assert "cleaning" in m.stderr or "superblock" in m.stderr, m.stderr
        refused += 1
        continue
    try:
        seen = tree()
        # Without the newest root record an earlier commit is what there is.
        assert seen == truth or 1 <= blocks[0] <= 32, f"blocks {blocks}: it shows what never was"
        harmless += 1
    except OSError as e:
        assert e.errno in known, e
        damaged += 1
    try:
        open(mnt + "/probe", "w").write("x")
        os.sync()
        os.unlink(mnt + "/probe")
    except OSError as e:
        assert e.errno in known, e
    subprocess.run(["umount", mnt], check=True)
print(f"{rounds} images: {refused} refused, {damaged} reported damage, {harmless} without effect")
assert refused + damaged > rounds // 10, "next to nothing was noticed"
PY
export VEXFS_FLIPS=${VEXFS_FLIPS:-60}
[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing
echo 1 >/sys/kernel/tracing/events/vexfs/vexfs_error/enable
need "flip bits" sh -c "python3 /tmp/flip.py /tmp/image $mnt $VEXFS_FLIPS"
say "$(dmesg | grep -c 'vexfs (.*): damaged') messages name the damage"
check "the log names a damaged block" sh -c 'dmesg | grep -Eq "vexfs \(loop[0-9]+\): damaged: block [0-9]+: .*read-only from now on"'

check "so does the trace" grep -Eq 'vexfs_error: dev [0-9]+:[0-9]+ err -117: damaged: block [0-9]+: ' /sys/kernel/tracing/trace
# The events are the module's: while they are on, it does not unload.
echo 0 >/sys/kernel/tracing/events/vexfs/vexfs_error/enable

step "an engine that stops"
check "the volume is dead, the kernel is not" python3 - "$disk" "$mnt" <<'PY'
import errno, os, subprocess, sys
disk, mnt = sys.argv[1:]
def fails(call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == errno.EIO, e
        return
    assert False, "it worked"
subprocess.run(["mount", "-t", "vexfs", disk, mnt], check=True)
fd = os.open(mnt + "/before", os.O_CREAT | os.O_RDWR)
os.write(fd, b"x" * 10000); os.fsync(fd); os.write(fd, b"y")
open("/sys/module/vexfs/parameters/panic_next", "w").write("1")
fails(os.mkdir, mnt + "/now")
fails(os.mkdir, mnt + "/then")
fails(os.fsync, fd)
fails(os.stat, mnt + "/never-looked-up")
os.close(fd)
subprocess.run(["umount", mnt], check=True)
subprocess.run(["mount", "-t", "vexfs", disk, mnt], check=True)
assert open(mnt + "/before", "rb").read() == b"x" * 10000
subprocess.run(["umount", mnt], check=True)
PY
check "the log says so" sh -c 'dmesg | grep -q "vexfs: the engine stopped: .*as a test asked for"'
check "the image is clean" fsck.vexfs -n -f "$disk"
check "unload" rmmod vexfs
finish
