#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=192M mem=1536 timeout=600
# A full disk beneath the image of a mounted vexfs: programs are told, the logs say what to do, nothing
# hangs, and with room made again everything that was fsync'ed is there.
. "$(dirname "$0")/lib.sh"

host=/host-of-the-image
image=$host/vexfs.img
mnt=/mnt/v
mkdir -p "$host" "$mnt"
need "load" insmod "$VEXFS_MODULE"

# fsynced files go to the list: their sums must be right in the end.
cat >/tmp/work.py <<'PY'
import errno, hashlib, mmap, os, sys, time
mnt, notes = sys.argv[2], "/tmp/promised"
ALLOWED = (errno.ENOSPC, errno.EIO, errno.EROFS)

def promise(name, data):
    with open(notes, "a") as f:
        f.write(f"{hashlib.sha256(data).hexdigest()}  {mnt}/{name}\n")

def put(name, data, sync=os.fsync):
    """Writes, syncs and closes a file: 0, or the errno that was told."""
    try:
        fd = os.open(f"{mnt}/{name}", os.O_CREAT | os.O_RDWR)
        try:
            while data:
                data = data[os.write(fd, data):]
            sync(fd)
        finally:
            os.close(fd)
    except OSError as e:
        assert e.errno in ALLOWED, e
        return e.errno
    return 0

def start():
    for n in range(20):
        data = os.urandom(50_000 + n)
        assert put(f"first{n}", data) == 0
        promise(f"first{n}", data)
    # Laid out, to be overwritten in place when there is no room.
    assert put("laid", bytes(2 << 20)) == 0
    # Mapped: holes that get their blocks when they are written to.
    assert put("mapped", b"") == 0
    os.truncate(f"{mnt}/mapped", 4 << 20)
    os.sync()

def fill():
    """Until a program is told that there is no room."""
    for n in range(1000):
        data = os.urandom(1 << 20)
        told = put(f"big{n}", data)
        if told:
            assert told == errno.ENOSPC, f"the first to hear of it hears {errno.errorcode[told]}"
            assert n > 5, n
            print(f"{n} MiB went in, then fsync said ENOSPC")
            return
        promise(f"big{n}", data)
    raise SystemExit("the disk beneath never filled up")

def told():
    """Every other way to ask for durability tells it too."""
    for name, ask in (
        ("fdatasync", lambda: put("fd", os.urandom(4 << 20), os.fdatasync)),
        ("O_DIRECT", odirect),
        ("msync", msync),
        ("syncfs", syncfs),
    ):
        code = ask()
        print(f"{name}: {errno.errorcode.get(code, 'nothing')}")
        assert code in ALLOWED, f"{name} promised what there is no room for"

def odirect():
    try:
        fd = os.open(f"{mnt}/direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 4 << 20) as m:
                m.write(os.urandom(4 << 20))
                os.write(fd, m)
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as e:
        return e.errno
    return 0

def msync():
    try:
        fd = os.open(f"{mnt}/mapped", os.O_RDWR)
        try:
            with mmap.mmap(fd, 4 << 20) as m:
                m.write(os.urandom(4 << 20))
                m.flush()
        finally:
            os.close(fd)
    except OSError as e:
        return e.errno
    return 0

def syncfs():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        root = os.open(mnt, os.O_RDONLY)
    except OSError as e:
        return e.errno
    try:
        fd = os.open(f"{mnt}/unsynced", os.O_CREAT | os.O_RDWR)
        os.write(fd, os.urandom(4 << 20))
        os.close(fd)
    except OSError as e:
        return e.errno
    finally:
        code = ctypes.get_errno() if libc.syncfs(root) else 0
        os.close(root)
    return code

def stop():
    """On until metadata find no room, which stops the volume; then nobody is promised anything.

    The files are empty: data that find no room fail alone, and stop nothing.
    """
    for n in range(100_000):
        code = put(f"small{n}", b"")
        if code:
            print(f"{n} empty files were fsynced, then {errno.errorcode[code]}")
            break
        promise(f"small{n}", b"")
    else:
        raise SystemExit("the volume never stopped")
    codes = {put("more", b"more") for _ in range(3)}
    assert codes <= {errno.EIO, errno.EROFS}, codes
    try:
        with open(f"{mnt}/first0", "rb") as f:
            os.fsync(f.fileno())
        raise SystemExit("an fsync on a stopped volume promised something")
    except OSError as e:
        assert e.errno in (errno.EIO, errno.EROFS), e

globals()[sys.argv[1]]()
PY
work() { timeout 120 python3 /tmp/work.py "$1" "$mnt"; }
daemon_log() { vexfs-ublk list --json | sed -n 's/.*"log": *"\([^"]*\)".*/\1/p'; }

# beneath NAME ADD-OPTIONS: on what is mounted at $host.
beneath() {
  step "$1"
  shift
  rm -f /tmp/promised
  dmesg -C
  need "an image larger than what it lies on" mkfs.vexfs "$image" 1G
  device=$(vexfs-ublk add --image "$image" "$@")
  need "mount" mount -t vexfs "$device" "$mnt"
  need "files are written and fsync'ed" work start
  fallocate -l "$(($(df --output=avail -B1 "$host" | tail -n 1) - (30 << 20)))" "$host/ballast"
  need "the disk beneath fills up" work fill
  check "whoever asks is told" work told
  if work stop; then ok "the volume stops"; else not_ok "the volume stops"; fi
  check "the kernel's log says what, where and what to do" sh -c "dmesg |
    grep -E 'vexfs \(${device#/dev/}\): .*no space.*make room.*unmount'"
  same "once" 1 "$(dmesg | grep -c "vexfs (${device#/dev/}): .*stopped")"
  check "the daemon's log names the image" grep -E "$image: .*No space left.*make room" "$(daemon_log)"
  say "$(grep -c . "$(daemon_log)") lines in the daemon's log, of the kernel's:"
  dmesg | grep vexfs | cut -d']' -f2- | sed 's/^/   | /' | head -n 5
  check "it is unmounted" timeout 60 umount "$mnt"

  # Still full: what is there can be read.
  check "mounted read-only while there is no room" mount -t vexfs -o ro "$device" "$mnt"
  check "everything fsynced is whole" sha256sum --quiet -c /tmp/promised
  check "and unmounted" umount "$mnt"
  check "the device goes" timeout 120 vexfs-ublk del --id 0
  check "fsck.vexfs says clean" fsck.vexfs -n -f "$image"
  check "and comes back" vexfs-ublk add --image "$image" --id 0 "$@"

  rm "$host/ballast"
  check "with room again it mounts" mount -t vexfs "$device" "$mnt"
  check "everything fsynced is whole, again" sha256sum --quiet -c /tmp/promised
  check "and takes more" sh -c "head -c 8M /dev/urandom >/tmp/more; cp /tmp/more $mnt/after && sync -f $mnt/after && cmp /tmp/more $mnt/after"
  check "umount" umount "$mnt"
  check "del" timeout 120 vexfs-ublk del --id 0
  check "clean at the end" fsck.vexfs -n -f "$image"
  say "$(wc -l </tmp/promised) files were promised"
}

need "a small ext4" mkfs.ext4 -q "$VEXFS_DISK"
need "mounted" mount "$VEXFS_DISK" "$host"
beneath "ext4 beneath, direct"
rm -f "$image"
beneath "ext4 beneath, through the page cache" --buffered
umount "$host"
need "a small tmpfs" mount -t tmpfs -o size=160M tmpfs "$host"
beneath "tmpfs beneath"
umount "$host"
check "the module unloads" rmmod vexfs
finish
