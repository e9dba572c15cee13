#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=64M mem=1536 timeout=600
# What the kernel asks of a filesystem beyond names and contents: fsync that keeps its word, times that
# stay as they were set, a frozen filesystem that rests, remounts and file handles that harm nothing.
. "$(dirname "$0")/lib.sh"

modprobe loop
image=/tmp/image
mnt=/mnt/v
mkdir -p "$mnt"
truncate -s 64M "$image"
need "format" mkfs.vexfs --force "$image"
disk=$(losetup --find --show "$image")
need "load" insmod "$VEXFS_MODULE"

cat >/tmp/rules.py <<'PY'
import ctypes, errno, fcntl, hashlib, mmap, os, re, signal, subprocess, sys, threading, time

disk, mnt, image = sys.argv[2:5]
libc = ctypes.CDLL(None, use_errno=True)

def run(*words):
    subprocess.run(words, check=True)

def mount(options="rw", device=disk):
    run("mount", "-t", "vexfs", "-o", options, device, mnt)

def umount():
    run("umount", mnt)

def make(name, data=b"", flags=0):
    fd = os.open(f"{mnt}/{name}", os.O_RDWR | os.O_CREAT | flags)
    os.write(fd, data)
    return fd

def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(length)):
        raise OSError(ctypes.get_errno(), "fallocate")

def medium():
    """The image as it lies on the device: what a power cut would leave."""
    with open(image, "rb") as f:
        return f.read()

def flushes():
    return int(open(f"/sys/block/{os.path.basename(disk)}/stat").read().split()[15])

def fsync_after_eviction():
    # An inode forgot, when it left memory, that its last change was not committed; fsync then did nothing.
    mount()
    os.mkdir(mnt + "/forgotten")
    open("/proc/sys/vm/drop_caches", "w").write("3")
    fd = os.open(mnt + "/forgotten", os.O_RDONLY)
    os.fsync(fd)
    open("/tmp/cut", "wb").write(medium())
    os.close(fd)
    umount()
    said = subprocess.run(["vexfs", "ls", "/tmp/cut", "/"], check=True, capture_output=True, text=True).stdout
    assert "forgotten" in said, said

def fdatasync_flushes():
    # A call that changed nothing marked the inode as changed; the fsync after it found nothing to commit
    # and left out the flush that the overwritten blocks needed.
    mount()
    fd = make("flush", b"a" * 65536)
    os.fsync(fd)
    os.pwrite(fd, b"b" * 4096, 0)
    fallocate(fd, 1, 0, 65536)
    before = flushes()
    os.fdatasync(fd)
    after = flushes()
    os.close(fd)
    umount()
    assert after > before, f"{after - before} flushes"

def tree_after_cut():
    """What names what, were the power cut now."""
    open("/tmp/cut", "wb").write(medium())
    said = subprocess.run(["vexfs", "ls", "-l", "/tmp/cut", "/"], check=True, capture_output=True, text=True).stdout
    return {l.split(" -> ")[0].split()[-1]: l for l in said.splitlines()}

def fsync_of_the_exchanged():
    # The inode that had the other name was not noted as changed.
    mount()
    for name, data in (("ex-one", b"1"), ("ex-three", b"333")):
        os.close(make(name, data))
    os.sync()
    fd = os.open(mnt + "/ex-three", os.O_RDWR)
    assert libc.renameat2(-100, f"{mnt}/ex-one".encode(), -100, f"{mnt}/ex-three".encode(), 2) == 0
    os.fsync(fd)
    seen = tree_after_cut()["ex-one"]
    os.close(fd)
    umount()
    assert " 3 " in seen, seen

def dirsync():
    # Changes of names on a mount with -o dirsync waited for their commit like all others.
    mount("dirsync")
    os.mkdir(mnt + "/ds-dir")
    os.close(make("ds-file"))
    os.rename(mnt + "/ds-file", mnt + "/ds-moved")
    os.symlink("x", mnt + "/ds-link")
    os.link(mnt + "/ds-moved", mnt + "/ds-more")
    os.unlink(mnt + "/ds-moved")
    seen = [n for n in tree_after_cut() if n.startswith("ds-")]
    umount()
    assert sorted(seen) == ["ds-dir", "ds-link", "ds-more"], seen

def times_survive_close():
    # Closing freed what was allocated ahead of the appending writer, as if the file had been modified.
    mount()
    fd = make("times")
    for _ in range(6):
        os.write(fd, b"t" * 65536)
    os.utime(fd, ns=(1_000_000_007, 2_000_000_011))
    # Now the kernel's inode is clean: what the engine says is what is read next.
    os.fsync(fd)
    os.close(fd)
    umount()
    mount()
    s = os.stat(mnt + "/times")
    umount()
    assert (s.st_atime_ns, s.st_mtime_ns) == (1_000_000_007, 2_000_000_011), s

def frozen_rests():
    # Closing a file changed a frozen filesystem.
    mount()
    fd = make("frozen")
    for _ in range(6):
        os.write(fd, b"f" * 65536)
    d = os.open(mnt, os.O_RDONLY)
    fcntl.ioctl(d, 0xC0045877, 0)
    before = hashlib.sha256(medium()).digest()
    os.close(fd)
    # Longer than a change waits for its commit.
    time.sleep(8)
    after = hashlib.sha256(medium()).digest()
    fcntl.ioctl(d, 0xC0045878, 0)
    os.close(d)
    # What it was not allowed to free then goes with the next close.
    os.close(os.open(mnt + "/frozen", os.O_RDWR))
    s = os.stat(mnt + "/frozen")
    umount()
    assert before == after, "the frozen image changed"
    assert s.st_blocks * 512 == s.st_size == 6 * 65536, s

class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("words", ctypes.c_uint * 8)]

def open_by_number(d, ino):
    h = Handle(12, 0x81)
    h.words[0], h.words[1], h.words[2] = ino >> 32, ino & 0xffffffff, 0
    fd = libc.open_by_handle_at(d, ctypes.byref(h), os.O_RDONLY)
    return fd if fd >= 0 else -ctypes.get_errno()

def handles_of_the_newborn():
    # A handle of the number that a new file was about to get found the inode before its creator had
    # hashed it, which was taken for damage: the filesystem went read-only.
    mount()
    d = os.open(mnt, os.O_RDONLY)
    os.mkdir(mnt + "/born")
    next_ino = [os.stat(mnt + "/born").st_ino + 1]
    stop = False
    opened = 0
    def guess():
        nonlocal opened
        while not stop:
            fd = open_by_number(d, next_ino[0])
            if fd >= 0:
                opened += 1
                os.close(fd)
                next_ino[0] += 1
    t = threading.Thread(target=guess)
    t.start()
    try:
        for i in range(3000):
            path = f"{mnt}/born/{i}"
            if i % 3:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            else:
                os.symlink("target", path)
            next_ino[0] = max(next_ino[0], os.lstat(path).st_ino + 1)
    finally:
        stop = True
        t.join()
    for i in range(3000):
        path = f"{mnt}/born/{i}"
        assert i % 3 and os.path.isfile(path) or os.readlink(path) == "target", path
    os.close(d)
    umount()
    print(f"{opened} were opened by number first")

def fs_context(path, *settings):
    """As mount(8) will do it one day: a reconfiguration that says nothing of ro or rw."""
    fd = libc.syscall(433, -100, path.encode(), 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    for key, value in settings:
        assert libc.syscall(431, fd, 1, key.encode(), value.encode(), 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.syscall(431, fd, 7, None, None, 0) == 0, os.strerror(ctypes.get_errno())
    os.close(fd)

def orphan_image():
    """A copy of the medium with an orphan on it."""
    mount()
    fd = make("orphan", b"o" * 65536)
    os.unlink(mnt + "/orphan")
    os.sync()
    open("/tmp/orphaned", "wb").write(medium())
    os.close(fd)
    umount()

def reconfigure_leaves_ro_alone():
    # A reconfiguration that did not mention ro took a read-only mount for one that was to be writable.
    orphan_image()
    device = subprocess.run(["losetup", "--find", "--show", "/tmp/orphaned"], check=True, capture_output=True, text=True).stdout.strip()
    mount("ro", device)
    before = open("/tmp/orphaned", "rb").read()
    fs_context(mnt, ("errors", "shutdown"))
    assert "errors=shutdown" in [l for l in open("/proc/mounts") if mnt in l][0]
    os.sync()
    time.sleep(8)
    after = open("/tmp/orphaned", "rb").read()
    umount()
    run("losetup", "-d", device)
    assert before == after, "a read-only mount was written to"

def read_only_after_damage():
    # What was mapped could still be overwritten through a memory map when damage had made the volume read-only.
    mount()
    os.close(make("mapped", b"m" * 65536))
    os.mkdir(mnt + "/crowd")
    for i in range(600):
        os.close(make(f"crowd/{i}-{'c' * 200}"))
    umount()
    broken = bytearray(medium())
    open("/tmp/broken", "wb").write(broken)
    mount("rw,loop", "/tmp/broken")
    fd = os.open(mnt + "/mapped", os.O_RDWR)
    m = mmap.mmap(fd, 65536)
    assert m[0] == ord("m")
    with open("/tmp/broken", "r+b") as f:
        for at in range(0, len(broken), 4096):
            if broken[at:at + 4] == b"VXND":
                f.seek(at + 2048)
                f.write(b"damage")
    try:
        os.listdir(mnt + "/crowd")
        assert False, "nobody noticed"
    except OSError as e:
        assert e.errno == errno.EUCLEAN, e
    child = os.fork()
    if not child:
        m[0] = 0
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    m.close()
    os.close(fd)
    umount()
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, status

def emergency_remount():
    # Read-only by force and back: an open file without a name was destroyed under its user.
    mount()
    fd = make("unlinked", b"u" * 65536)
    os.unlink(mnt + "/unlinked")
    os.fsync(fd)
    open("/proc/sysrq-trigger", "w").write("u")
    while " rw" in [l for l in open("/proc/mounts") if mnt in l][0]:
        time.sleep(0.1)
    run("mount", "-o", "remount,rw", mnt)
    assert os.fstat(fd).st_nlink == 0 and os.pread(fd, 9, 0) == b"u" * 9
    os.pwrite(fd, b"v" * 200_000, 0)
    os.fsync(fd)
    os.close(fd)
    umount()

def times_meet_writeback():
    # Writeback of an inode read its times, waited for the lock, and wrote them over newer ones.
    mount("strictatime")
    stop = False
    def sync():
        d = os.open(mnt, os.O_RDONLY)
        while not stop:
            libc.syncfs(d)
        os.close(d)
    dirs = [f"{mnt}/times-{i}" for i in range(1500)]
    for d in dirs:
        os.mkdir(d)
    threads = [threading.Thread(target=sync) for _ in range(2)]
    for t in threads:
        t.start()
    for d in dirs:
        os.listdir(d)
        os.mkdir(d + "/new")
    stop = True
    for t in threads:
        t.join()
    def times():
        return {d: (os.stat(d).st_mtime_ns, os.stat(d).st_ctime_ns) for d in dirs}
    before = times()
    umount()
    mount()
    after = times()
    umount()
    lost = [d for d in dirs if before[d] != after[d]]
    assert not lost, f"{len(lost)} of {len(dirs)} directories lost their times"

def device_goes_away():
    # Only the first commit noticed; until then changes were made to nothing.
    vda = os.environ.get("VEXFS_DISK", "/dev/vda")
    run("mkfs.vexfs", "--force", vda)
    mount(device=vda)
    fd = make("kept", b"k" * 5000)
    os.fsync(fd)
    os.write(fd, b"lost")
    driver = "/sys/bus/virtio/drivers/virtio_blk"
    name = os.path.basename(os.path.realpath(f"/sys/block/{os.path.basename(vda)}/device"))
    open(driver + "/unbind", "w").write(name)
    for call in (lambda: os.mkdir(mnt + "/nowhere"), lambda: os.fsync(fd), lambda: os.stat(mnt + "/unseen")):
        try:
            call()
            assert False, "it worked"
        except OSError as e:
            assert e.errno == errno.EIO, e
    os.close(fd)
    umount()
    open(driver + "/bind", "w").write(name)
    while not os.path.exists(vda):
        time.sleep(0.1)
    run("fsck.vexfs", "-n", "-f", vda)
    mount(device=vda)
    assert open(mnt + "/kept", "rb").read()[:5000] == b"k" * 5000
    umount()

def truncation_that_fails():
    # The size in memory was the new one, the file's still the old one: the next remount brought it back.
    lab = "/dev/shm/rules.img"
    run("mkfs.vexfs", "--force", lab, "128M")
    device = subprocess.run(["vexfs-ublk", "add", "--image", lab, "--crash-model", "--id", "7"], check=True,
                            capture_output=True, text=True).stdout.strip()
    mount(device=device)
    for name in ("shrunk", "grown"):
        fd = make(name)
        for n in range(3000):
            os.pwrite(fd, b"%04d" % n * 256, n * 8192)
        os.close(fd)
    size = os.stat(mnt + "/shrunk").st_size
    umount()
    mount(device=device)
    fds = {name: os.open(f"{mnt}/{name}", os.O_RDWR) for name in ("shrunk", "grown")}
    sizes = {"shrunk": 4096, "grown": 2 * size}
    run("vexfs-ublk", "fault", "--id", "7", "--set", "eio", "--on", "read")
    for name, fd in fds.items():
        try:
            os.ftruncate(fd, sizes[name])
            raise SystemExit(f"{name}: nothing failed: that tests nothing")
        except OSError as e:
            assert e.errno == errno.EIO, e
        assert os.fstat(fd).st_size == size, (name, os.fstat(fd).st_size, size)
    run("vexfs-ublk", "fault", "--id", "7", "--clear", "all")
    for name, fd in fds.items():
        assert os.pread(fd, 1024, 2999 * 8192) == b"2999" * 256, f"{name} lost its end"
        os.ftruncate(fd, sizes[name])
        assert os.fstat(fd).st_size == sizes[name]
        os.close(fd)
    umount()
    run("fsck.vexfs", "-n", device)
    run("vexfs-ublk", "del", "--id", "7")

def tracepoints():
    trace = "/sys/kernel/tracing"
    if not os.path.exists(f"{trace}/events"):
        run("mount", "-t", "tracefs", "tracefs", trace)
    def put(name, text):
        with open(f"{trace}/{name}", "w") as f:
            f.write(text)
    put("trace", "")
    put("events/vexfs/enable", "1")
    mount()
    os.mkdir(mnt + "/traced")
    d = os.open(mnt, os.O_RDONLY)
    os.fsync(d)
    os.close(d)
    umount()
    # Nothing is in memory: what is looked up is missed first.
    mount()
    os.stat(mnt + "/traced")
    umount()
    put("events/vexfs/enable", "0")
    with open(f"{trace}/trace") as f:
        seen = f.read()
    for event in (r"vexfs_call: dev \d+:\d+ vexfs_create_in exclusive reads \d+ commits 0 err 0",
                  r"vexfs_call: dev \d+:\d+ vexfs_lookup .*reads \d+ commits 0 err 0",
                  r"vexfs_fetch: dev \d+:\d+ \w+ unlocked err 0",
                  r"vexfs_commit_begin: dev \d+:\d+ target \d+ durable \d+ err 0",
                  r"vexfs_commit_end: dev \d+:\d+ target \d+ durable \d+ err 0"):
        assert re.search(event, seen), (event, seen[-3000:])

globals()[sys.argv[1]]()
PY

# VEXFS_RULES: the names of a few of them, to try only those.
rule() {
  [[ " ${VEXFS_RULES:-$2} " == *" $2 "* ]] || return 0
  check "$1" python3 /tmp/rules.py "$2" "$disk" "$mnt" "$image" || umount "$mnt" 2>/dev/null
}

rule "fsync of an inode that left memory since its last change" fsync_after_eviction
rule "fdatasync flushes what was overwritten, whatever came between" fdatasync_flushes
rule "fsync of an inode that was exchanged" fsync_of_the_exchanged
rule "changes of names with -o dirsync" dirsync
rule "times that were set before the last close stay" times_survive_close
rule "a frozen filesystem is not changed by a close" frozen_rests
rule "handles of files that are being made" handles_of_the_newborn
rule "a reconfiguration that says nothing of ro leaves it" reconfigure_leaves_ro_alone
rule "read-only after damage, through a map too" read_only_after_damage
rule "read-only by force, and back" emergency_remount
rule "times and their writeback" times_meet_writeback
rule "a truncation that fails" truncation_that_fails
rule "tracepoints of calls, misses and commits" tracepoints
rule "a device that goes away" device_goes_away
check "the image is clean" fsck.vexfs -n -f "$image"
losetup -d "$disk"
check "unload" rmmod vexfs
finish
