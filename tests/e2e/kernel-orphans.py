#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Mounts of images as a crash leaves them: thousands of files without a name, a truncation cut short, a full
disk whose largest file had been removed. Runs in a guest with vexfs.ko; prints `ok NAME` for each test, or for
those that are named as arguments, as often as they are."""
import ctypes
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

MNT, DEVICE, IMAGE = "/mnt/v", "/dev/ublkb0", "/dev/shm/orphans.img"
LEFT, FULL = "/dev/shm/left.img", "/dev/shm/full.img"
PATIENCE = int(os.environ.get("VEXFS_PATIENCE", "1"))
NAMELESS, KEPT, PIECES = 3000, 60, 3000
SLOW_MS = 15
libc = ctypes.CDLL(None, use_errno=True)


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def mount(flags=0):
    if libc.mount(DEVICE.encode(), MNT.encode(), b"vexfs", flags, None):
        raise OSError(ctypes.get_errno(), "mount")


def serve(image):
    run("vexfs-ublk", "add", "--image", image, "--id", "0", "--crash-model")


def end():
    """What is left is clean, and how many orphans that is."""
    run("umount", MNT)
    run("fsck.vexfs", "-n", DEVICE)
    left = orphans(DEVICE)
    run("vexfs-ublk", "del", "--id", "0")
    return left


def orphans(image):
    roots = json.loads(run("vexfs", "dump", "--json", image))["roots"]
    return max(roots, key=lambda root: root["generation"])["orphans"]


def reads():
    with open(f"/sys/block/{os.path.basename(DEVICE)}/stat") as file:
        return int(file.read().split()[0])


def inodes():
    figures = os.statvfs(MNT)
    return figures.f_files - figures.f_ffree


def medium():
    return hashlib.file_digest(open(IMAGE, "rb"), "md5").hexdigest()


def cleared(count):
    """Waits until so many inodes are left."""
    for _ in range(300 * PATIENCE):
        if inodes() == count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{inodes()} inodes are left, not {count}")


def make_images():
    """What is to be there after each mount, as images of a moment at which the power could have gone."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    run("mkfs.vexfs", "--force", IMAGE, "160M")
    run("vexfs-ublk", "add", "--image", IMAGE, "--id", "0")
    mount()
    held = [os.open(f"{MNT}/gone{n}", os.O_CREAT | os.O_RDWR) for n in range(NAMELESS)]
    for n, fd in enumerate(held):
        os.pwrite(fd, b"g" * 5000, n % 3 * 100_000)
    for n in range(KEPT):
        with open(f"{MNT}/kept{n}", "wb") as file:
            file.write(b"%d" % n * 3000)
    # Last, so that its turn comes last.
    with open(f"{MNT}/long", "wb") as file:
        for n in range(PIECES):
            file.seek(n * 8192)
            file.write(b"L" * 4096)
    for n in range(NAMELESS):
        os.unlink(f"{MNT}/gone{n}")
    os.sync()
    for _ in range(20):
        thread = threading.Thread(target=os.truncate, args=(f"{MNT}/long", 4096))
        thread.start()
        time.sleep(0.01 * PATIENCE)
        os.sync()
        shutil.copyfile(IMAGE, LEFT)
        thread.join()
        fsck = subprocess.run(["fsck.vexfs", "-n", LEFT], capture_output=True)
        if fsck.returncode == 0 and orphans(LEFT) == NAMELESS + 1:
            break
        with open(f"{MNT}/long", "r+b") as file:
            for n in range(PIECES):
                file.seek(n * 8192)
                file.write(b"L" * 4096)
        os.sync()
    else:
        raise SystemExit("no truncation was caught in the midst")
    for fd in held:
        os.close(fd)
    # Everything there is room for, in a file without a name.
    fd = os.open(f"{MNT}/huge", os.O_CREAT | os.O_RDWR)
    try:
        while True:
            os.write(fd, b"h" * (1 << 20))
    except OSError:
        pass
    os.unlink(f"{MNT}/huge")
    os.sync()
    shutil.copyfile(IMAGE, FULL)
    os.close(fd)
    run("umount", MNT)
    run("vexfs-ublk", "del", "--id", "0")


def prepare(source, slow=True):
    shutil.copyfile(source, IMAGE)
    serve(IMAGE)
    if slow:
        run("vexfs-ublk", "fault", "--id", "0", "--set", "latency", "--on", "read", "--ms", str(SLOW_MS))


def a_mount_does_not_wait_for_them():
    prepare(LEFT)
    # The driver looks for partitions first.
    time.sleep(1)
    before = reads()
    began = time.perf_counter()
    mount()
    took = time.perf_counter() - began
    asked, left = reads() - before, inodes()
    print(f"   with {SLOW_MS} ms for each read mount(2) took {took * 1000:.1f} ms; {asked} reads, {left} inodes by then")
    # The first of the work that follows may be among them.
    assert asked <= 12 and left > NAMELESS
    cleared(KEPT + 2)
    assert end() == 0
    prepare(LEFT, slow=False)
    began = time.perf_counter()
    mount()
    print(f"   on a fast device {(time.perf_counter() - began) * 1000:.1f} ms")
    cleared(KEPT + 2)
    assert end() == 0


def what_is_in_use_stays():
    # An orphan of this mount is one that somebody has open.
    prepare(LEFT)
    mount()
    held = {}
    for n in range(KEPT):
        fd = os.open(f"{MNT}/kept{n}", os.O_RDWR)
        os.unlink(f"{MNT}/kept{n}")
        held[fd] = b"%d" % n * 3000
    for n in range(20):
        fd = os.open(MNT, os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"t" * (n * 1000))
        held[fd] = b"t" * (n * 1000)
    assert inodes() > KEPT + 100, "nothing was left to be done: that tests nothing"
    os.sync()
    cleared(KEPT + 20 + 2)
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    for fd, data in held.items():
        assert os.pread(fd, 100_000, 0) == data
        os.close(fd)
    cleared(2)
    assert end() == 0


def a_truncation_is_finished_before_anybody_sees_the_file():
    prepare(LEFT)
    mount()
    path = f"{MNT}/long"
    status = os.stat(path)
    assert (status.st_size, status.st_blocks) == (4096, 8), status
    assert inodes() > KEPT + 100, "nothing was left to be done: that tests nothing"
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"end", PIECES * 8192)
    assert os.pread(fd, 4096, 0) == b"L" * 4096
    for n in range(1, PIECES, 7):
        assert not any(os.pread(fd, 4096, n * 8192)), f"what was cut off is back at {n}"
    os.close(fd)
    cleared(KEPT + 2)
    assert end() == 0


def an_unmount_does_not_wait_for_them():
    prepare(LEFT)
    seen = [NAMELESS + 1]
    for _ in range(3):
        mount()
        time.sleep(0.3)
        run("umount", MNT)
        run("fsck.vexfs", "-n", DEVICE)
        seen.append(orphans(DEVICE))
    assert 0 < seen[-1] < seen[0] and seen == sorted(seen, reverse=True), seen
    print(f"   orphans after each: {seen}")
    run("vexfs-ublk", "fault", "--id", "0", "--clear", "all")
    mount()
    cleared(KEPT + 2)
    assert end() == 0


def a_frozen_filesystem_rests():
    prepare(LEFT)
    mount()
    run("fsfreeze", "-f", MNT)
    before = medium()
    assert os.stat(f"{MNT}/long").st_size == 4096
    time.sleep(1)
    after = medium()
    run("fsfreeze", "-u", MNT)
    assert before == after
    cleared(KEPT + 2)
    assert end() == 0


def remounts():
    MS_RDONLY, MS_REMOUNT = 1, 32
    prepare(LEFT)
    mount()
    assert libc.mount(None, MNT.encode(), None, MS_REMOUNT | MS_RDONLY, None) == 0
    before = medium()
    time.sleep(1)
    assert before == medium(), "a read-only mount was written to"
    assert end() == 0
    prepare(LEFT)
    mount(MS_RDONLY)
    assert inodes() == NAMELESS + KEPT + 2
    fd = os.open(f"{MNT}/kept0", os.O_RDONLY)
    assert libc.mount(None, MNT.encode(), None, MS_REMOUNT, None) == 0
    cleared(KEPT + 2)
    os.close(fd)
    assert end() == 0


def their_room_is_there_for_who_needs_it():
    prepare(FULL)
    mount()
    left = os.statvfs(MNT).f_bavail
    assert left < 1000, f"{left} blocks are left: the disk is not full"
    with open(f"{MNT}/more", "wb") as file:
        file.write(b"m" * (8 << 20))
        os.fsync(file.fileno())
    cleared(KEPT + 3)
    assert end() == 0


TESTS = {test.__name__: test for test in (
    a_mount_does_not_wait_for_them, what_is_in_use_stays, a_truncation_is_finished_before_anybody_sees_the_file,
    an_unmount_does_not_wait_for_them, a_frozen_filesystem_rests, remounts, their_room_is_there_for_who_needs_it)}
make_images()
failures = 0
for test in [TESTS[name] for name in sys.argv[1:] or TESTS]:
    try:
        test()
        print(f"ok {test.__name__}", flush=True)
    except (AssertionError, OSError) as error:
        failures += 1
        print(f"not ok {test.__name__}: {error!r}", flush=True)
        subprocess.run(["umount", "-l", MNT])
        subprocess.run(["vexfs-ublk", "del", "--id", "0"])
sys.exit(failures > 0)
