#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The module when memory or the device fails it: faults.py memory|mounts|device MOUNT DEVICE SEED.

The kernel's fault injectors (debugfs) fail allocations made under a function of the module, or requests
of the device. An operation may then fail with the right error, and nothing else may happen: what failed was
not done, what succeeded is there, also after a remount; fsck is content; the kernel's log is the host's business.
"""
import concurrent.futures
import contextlib
import ctypes
import errno
import os
import random
import stat
import struct
import subprocess
import sys
import threading

PART, MOUNT, DEVICE, SEED = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
WORKERS = 3
NAMES = [f"n{i}" for i in range(10)]
ATTRS = ["user.a", "user.b", "trusted.long"]
DEBUGFS = "/sys/kernel/debug"
MANY = 1_000_000
# Everybody may do everything, and user 1 by name: what is made under it gets an ACL of its own.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 7, user) for tag, user in ((1, 0), (2, 1), (4, 0), (16, 0), (32, 0)))
libc = ctypes.CDLL(None, use_errno=True)
PUNCH, ZERO = 3, 17  # FALLOC_FL_KEEP_SIZE with FALLOC_FL_PUNCH_HOLE, with FALLOC_FL_ZERO_RANGE


def put(path, text):
    with open(path, "w") as file:
        file.write(str(text))


def run(*words, ok=(0,)):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode not in ok:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done


def attributes(path):
    """Those that were set by hand."""
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if not name.startswith("system.")}


def fallocate(fd, mode, at, size):
    if libc.fallocate(fd, mode, ctypes.c_int64(at), ctypes.c_int64(size)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Faults:
    """Injectors that are on while this is entered; `count` says how often they struck."""

    def __init__(self, percent, *names):
        self.percent, self.names, self.count = percent, names, 0

    def __enter__(self):
        # No address behind the module's text is one a function returns to.
        with open("/proc/modules") as modules:
            line = next(line.split() for line in modules if line.startswith("vexfs "))
        start, end = int(line[5], 16), int(line[5], 16) + int(line[1])
        for name in self.names:
            place = f"{DEBUGFS}/{name}"
            put(f"{place}/verbose", 0)
            put(f"{place}/times", MANY)
            if name != "fail_make_request":
                put(f"{place}/ignore-gfp-wait", "N")
                put(f"{place}/require-start", start)
                put(f"{place}/require-end", end)
            if name == "fail_page_alloc":
                put(f"{place}/ignore-gfp-highmem", "N")
                put(f"{place}/min-order", 0)
            put(f"{place}/probability", self.percent)
        return self

    def __exit__(self, *_):
        for name in self.names:
            put(f"{DEBUGFS}/{name}/probability", 0)
            with open(f"{DEBUGFS}/{name}/times") as times:
                self.count += MANY - int(times.read())


class Node:
    """What a name stands for, as far as it is known."""

    def __init__(self, kind, mode, fd=None, target=None):
        self.kind, self.mode, self.fd, self.target = kind, mode, fd, target
        self.attrs = {}
        # None: a change of it failed. Lost: writing it back may have failed.
        self.data, self.lost = b"", False


class Worker:
    """Changes one directory and knows what must be in it."""

    def __init__(self, path, seed, allowed):
        self.path, self.rng, self.allowed = path, random.Random(seed), allowed
        self.names, self.done, self.failed = {}, 0, 0

    def at(self, name):
        return f"{self.path}/{name}"

    def attempt(self, call, *args):
        """True: it was done. False: it failed as it may."""
        try:
            call(*args)
        except OSError as error:
            if error.errno not in self.allowed:
                raise
            self.failed += 1
            return False
        self.done += 1
        return True

    def step(self):
        rng = self.rng
        name = rng.choice(NAMES)
        node = self.names.get(name)
        if node is None:
            self.make(name)
        elif rng.randrange(5) == 0:
            self.rename_or_remove(name, node)
        elif rng.randrange(3) == 0:
            self.change_attributes(name, node)
        elif node.kind == "file":
            self.change_data(node)
        elif node.kind == "dir":
            def look():
                found = sorted(os.listdir(self.path))
                assert found == sorted(self.names), f"{self.path} holds {found}, not {sorted(self.names)}"
            self.attempt(look)
        else:
            self.attempt(os.statvfs, self.path)

    def make(self, name):
        rng, path = self.rng, self.at(name)
        kind = rng.choice(["file", "file", "file", "file", "dir", "link", "fifo", "other", "temporary"])
        files = [node for node in self.names.values() if node.kind == "file"]
        if kind == "file":
            def create():
                node = Node("file", 0o640, os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))
                self.names[name] = node
            self.attempt(create)
        elif kind == "dir":
            if self.attempt(os.mkdir, path, 0o750):
                self.names[name] = Node("dir", 0o750)
        elif kind == "link":
            target = "t" * rng.randrange(1, 3000)
            if self.attempt(os.symlink, target, path):
                self.names[name] = Node("link", 0o777, target=target)
        elif kind == "fifo":
            if self.attempt(os.mkfifo, path, 0o600):
                self.names[name] = Node("fifo", 0o600)
        elif kind == "other" and files:
            node = rng.choice(files)
            other = next(name for name, there in self.names.items() if there is node)
            if self.attempt(os.link, self.at(other), path):
                self.names[name] = node
        elif kind == "temporary":
            def temporary():
                fd = os.open(self.path, os.O_TMPFILE | os.O_RDWR, 0o600)
                try:
                    os.write(fd, b"t" * 5000)
                finally:
                    os.close(fd)
            self.attempt(temporary)

    def rename_or_remove(self, name, node):
        rng = self.rng
        if rng.randrange(2):
            remove = os.rmdir if node.kind == "dir" else os.unlink
            if self.attempt(remove, self.at(name)):
                self.drop(self.names.pop(name))
            return
        other = rng.choice(NAMES)
        there = self.names.get(other)
        if other != name and there is not node and (there is None or (node.kind == "dir") == (there.kind == "dir")):
            if self.attempt(os.rename, self.at(name), self.at(other)):
                self.names[other] = self.names.pop(name)
                if there:
                    self.drop(there)

    def drop(self, node):
        """One of its names is gone; with the last one and this, the file is."""
        if node.fd is not None and node not in self.names.values():
            os.close(node.fd)

    def change_attributes(self, name, node):
        rng, path = self.rng, self.at(name)
        kind = rng.randrange(5)
        if kind == 0 and node.kind != "link":
            mode = rng.choice([0o600, 0o644, 0o755, 0o711])
            if self.attempt(os.chmod, path, mode):
                node.mode = mode
        elif kind == 1:
            self.attempt(lambda: os.chown(path, 0, 0, follow_symlinks=False))
        elif kind == 2:
            self.attempt(lambda: os.utime(path, (1, 1), follow_symlinks=False))
        elif node.kind in ("file", "dir"):
            attr = rng.choice(ATTRS)
            if kind == 3 and attr in node.attrs:
                if self.attempt(os.removexattr, path, attr):
                    del node.attrs[attr]
            elif kind == 3:
                value = rng.randbytes(rng.choice([1, 30, 900]))
                if self.attempt(os.setxattr, path, attr, value):
                    node.attrs[attr] = value
            else:
                def compare():
                    found = attributes(path)
                    assert found == node.attrs, (path, found, node.attrs)
                self.attempt(compare)

    def change_data(self, node):
        rng, fd = self.rng, node.fd
        size = os.fstat(fd).st_size
        kind = rng.randrange(10)
        at = rng.randrange(size + 5000)
        length = rng.randrange(1, 20_000)
        old, node.data = node.data, None
        if kind < 5:
            data = rng.randbytes(length)
            wrote = []
            if self.attempt(lambda: wrote.append(os.pwrite(fd, data, at))) and old is not None:
                data = data[:wrote[0]]
                node.data = old[:at].ljust(at, b"\0") + data + old[at + len(data):]
        elif kind < 6:
            if self.attempt(os.ftruncate, fd, at) and old is not None:
                node.data = old[:at].ljust(at, b"\0")
        elif kind < 7:
            stop = min(at + length, size)
            if self.attempt(fallocate, fd, rng.choice([PUNCH, ZERO]), at, length) and old is not None:
                node.data = old[:at] + bytes(max(stop - at, 0)) + old[max(stop, at):]
        elif kind < 8:
            node.data = old
            if not self.attempt(os.fsync, fd):
                node.lost = True
        elif kind < 9:
            node.data = old
            # What is in memory is no test of anything.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

            def read():
                found = os.pread(fd, 1 << 20, 0)
                if old is None or node.lost or found == old:
                    return
                # Writeback may have failed, which an fsync tells.
                with contextlib.suppress(OSError):
                    os.fsync(fd)
                    raise AssertionError(f"{self.path}: it reads what was never written")
                node.lost = True
            self.attempt(read)
        else:
            node.data = old
            self.attempt(os.statvfs, self.path)

    def settle(self):
        """Without faults: writes everything back, and finds out what was lost."""
        for node in set(self.names.values()):
            if node.kind == "file":
                try:
                    os.fsync(node.fd)
                except OSError as error:
                    if error.errno not in self.allowed:
                        raise
                    node.lost = True
        self.compare("before the unmount")
        for node in set(self.names.values()):
            if node.kind == "file":
                node.data = None
                if not node.lost:
                    node.data = os.pread(node.fd, 1 << 24, 0)
                os.close(node.fd)
                node.fd = None

    def compare(self, when):
        found = sorted(os.listdir(self.path))
        assert found == sorted(self.names), f"{when}: {self.path} holds {found}, not {sorted(self.names)}"
        for name, node in self.names.items():
            path, known = self.at(name), f"{when}: {self.at(name)}"
            status = os.lstat(path)
            kinds = {"file": stat.S_ISREG, "dir": stat.S_ISDIR, "link": stat.S_ISLNK, "fifo": stat.S_ISFIFO}
            assert kinds[node.kind](status.st_mode), f"{known}: it is no {node.kind}"
            assert stat.S_IMODE(status.st_mode) == node.mode, f"{known}: mode {status.st_mode:o}, not {node.mode:o}"
            links = 2 if node.kind == "dir" else sum(other is node for other in self.names.values())
            assert status.st_nlink == links, f"{known}: {status.st_nlink} links, not {links}"
            if node.kind == "link":
                assert os.readlink(path) == node.target, f"{known}: another target"
            elif node.kind in ("file", "dir"):
                attrs = attributes(path)
                assert attrs == node.attrs, f"{known}: other attributes: {attrs}, not {node.attrs}"
            if node.kind == "file" and node.data is not None and not node.lost:
                with open(path, "rb") as file:
                    assert file.read() == node.data, f"{known}: other data"



class Thread(threading.Thread):
    """A worker at work."""

    def __init__(self, worker, steps):
        super().__init__(daemon=True)
        self.worker, self.steps, self.error = worker, steps, None

    def run(self):
        try:
            for _ in range(self.steps):
                self.worker.step()
        except BaseException as error:
            self.error = error


def side_by_side(workers, steps):
    threads = [Thread(worker, steps) for worker in workers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        # What has to be read again, and written behind our backs, meets faults too.
        put("/proc/sys/vm/drop_caches", 3)
        os.sync()
        for thread in threads:
            thread.join(1)
    for thread in threads:
        if thread.error:
            raise thread.error


def mount():
    run("mount", "-t", "vexfs", DEVICE, MOUNT)


def unmount():
    run("umount", MOUNT)
    run("fsck.vexfs", "-n", "-f", DEVICE)


def workers_in(path, rng, allowed):
    workers = [Worker(f"{path}/w{number}", rng.random(), allowed) for number in range(WORKERS)]
    for worker in workers:
        os.makedirs(worker.path)
    os.setxattr(workers[0].path, "system.posix_acl_default", ACL)
    os.sync()
    return workers


def figures(workers, faults, totals):
    done, failed = sum(worker.done for worker in workers), sum(worker.failed for worker in workers)
    print(f"{faults.count} faults: {done} operations done, {failed} failed", flush=True)
    for name, count in (("faults", faults.count), ("done", done), ("failed", failed)):
        totals[name] = totals.get(name, 0) + count


def memory(rng):
    totals = {}
    for number, percent in enumerate((1, 4, 15)):
        mount()
        workers = workers_in(f"{MOUNT}/m{number}", rng, (errno.ENOMEM, errno.EIO))
        with Faults(percent, "failslab", "fail_page_alloc") as faults:
            side_by_side(workers, 500)
        figures(workers, faults, totals)
        for worker in workers:
            worker.settle()
        unmount()
        mount()
        for worker in workers:
            worker.compare("after the unmount")
        run("rm", "-r", f"{MOUNT}/m{number}")
        unmount()
    assert all(totals.values()), "that tests nothing"


def mounts(rng):
    refused = 0
    for number in range(40):
        with Faults(rng.choice((1, 3, 10)), "failslab", "fail_page_alloc"):
            if run("mount", "-t", "vexfs", DEVICE, MOUNT, ok=(0, 32)).returncode:
                refused += 1
                continue
            with contextlib.suppress(OSError):
                os.close(os.open(f"{MOUNT}/f{number}", os.O_CREAT | os.O_WRONLY))
                os.mkdir(f"{MOUNT}/d{number}")
                os.unlink(f"{MOUNT}/f{number - 1}")
            run("umount", MOUNT)
        run("fsck.vexfs", "-n", "-f", DEVICE)
    print(f"{refused} of 40 mounts failed", flush=True)
    assert 0 < refused < 40, "that tests nothing"
    mount()
    unmount()


def keep(path, number, rng):
    """A file that an fsync of it and of its directory promised: its name and data."""
    data = rng.randbytes(rng.randrange(1, 30_000))
    name = f"{path}/kept{number}"
    for target, flags in ((name, os.O_CREAT | os.O_EXCL | os.O_WRONLY), (path, os.O_RDONLY)):
        fd = os.open(target, flags)
        try:
            if target == name:
                assert os.write(fd, data) == len(data)
            os.fsync(fd)
        finally:
            os.close(fd)
    return name, data


def device(rng):
    put(f"/sys/block/{os.path.basename(DEVICE)}/make-it-fail", 1)
    kept, totals = {}, {}
    for number in range(6):
        mount()
        for name, data in kept.items():
            with open(name, "rb") as file:
                assert file.read() == data, f"{name}: data that was fsync'ed differ"
        path = f"{MOUNT}/d{number}"
        workers = workers_in(path, rng, (errno.EIO, errno.EROFS))
        promised = {}
        with Faults((1, 3, 10)[number % 3], "fail_make_request") as faults:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                others = pool.submit(side_by_side, workers, 100)
                for one in range(50):
                    try:
                        name, data = keep(path, one, rng)
                        promised[name] = data
                    except OSError as error:
                        assert error.errno in (errno.EIO, errno.EROFS), error
                others.result()
            for node in {node for worker in workers for node in worker.names.values()}:
                if node.fd is not None:
                    os.close(node.fd)
            run("umount", MOUNT)
        figures(workers, faults, totals)
        print(f"{len(promised)} of 50 files promised", flush=True)
        kept.update(promised)
        run("fsck.vexfs", "-n", "-f", DEVICE)
    assert kept and all(totals.values()), "that tests nothing"
    mount()
    for name, data in kept.items():
        with open(name, "rb") as file:
            assert file.read() == data, f"{name}: data that was fsync'ed differ"
    unmount()


{"memory": memory, "mounts": mounts, "device": device}[PART](random.Random(SEED))
