#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Runs a script of the crash lab through a mounted filesystem: ublk-same.py run MOUNT SCRIPT; and
compares two mounted trees: ublk-same.py compare A B. The words are those of
crash/src/workload/ops.rs; so is the tree that a script finds, and what is written."""
import ctypes
import hashlib
import os
import stat
import sys

BLOCK = 4096
VECTOR = b"type=f32,dim=384,metric=cosine"
libc = ctypes.CDLL(None, use_errno=True)
SETUP = [
    "mkdir d", "mkdir e", "mkdir v", "vector v", "create v/x", "write v/x 0 8192", "create f",
    f"write f 0 {3 * BLOCK + 1700}", "create g", f"write g 0 {BLOCK}", "link g d/g", "create p",
    "fallocate p 0 4", "symlink s", "setfattr f user.old 30", "fsync",
]


def filled(number, length):
    """SplitMix64, as crash/src/rng.rs has it."""
    state, mask, out = number + 1, (1 << 64) - 1, bytearray()
    while len(out) < length:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out += ((z ^ (z >> 31)) | 0x0101010101010101).to_bytes(8, "little")
    return bytes(out[:length])


def call(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(path, mode, first, count):
    fd = os.open(path, os.O_WRONLY)
    try:
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        call(libc.fallocate(fd, mode, first * BLOCK, count * BLOCK))
    finally:
        os.close(fd)


def write(path, at, data):
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.pwrite(fd, data, os.fstat(fd).st_size if at is None else at)
    finally:
        os.close(fd)


def owned(path):
    os.chown(path, 1, 2, follow_symlinks=False)


def step(words, number):
    verb, rest = words[0], words[1:]
    if verb == "create":
        os.close(os.open(rest[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        owned(rest[0])
    elif verb == "tmpfile":
        os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o644))
    elif verb == "mkdir":
        os.mkdir(rest[0], 0o755)
        owned(rest[0])
    elif verb == "symlink":
        os.symlink("somewhere/else", rest[0])
        owned(rest[0])
    elif verb == "mkfifo":
        os.mkfifo(rest[0], 0o600)
        owned(rest[0])
    elif verb == "link":
        os.link(rest[0], rest[1], follow_symlinks=False)
    elif verb == "unlink":
        os.unlink(rest[0])
    elif verb == "rmdir":
        os.rmdir(rest[0])
    elif verb == "rename" or verb == "exchange":
        flags = 2 if verb == "exchange" else 1 if rest[0] == "-n" else 0
        a, b = (name.encode() for name in rest[-2:])
        call(libc.syscall(316, -100, a, -100, b, flags))
    elif verb == "write":
        write(rest[0], int(rest[1]), filled(number, int(rest[2])))
    elif verb == "append":
        write(rest[0], None, filled(number, int(rest[1])))
    elif verb == "truncate":
        os.truncate(rest[0], int(rest[1]))
    elif verb == "punch":
        fallocate(rest[0], 3, int(rest[1]), int(rest[2]))
    elif verb == "fallocate":
        fallocate(rest[0], 1, int(rest[1]), int(rest[2]))
    elif verb == "chmod":
        os.chown(rest[0], 7, -1)
        os.chmod(rest[0], 0o711)
    elif verb == "setfattr" and rest[0] == "-x":
        os.removexattr(rest[1], rest[2])
    elif verb == "setfattr":
        os.setxattr(rest[0], rest[1], filled(number, int(rest[2])))
    elif verb == "vector" and rest[0] == "-x":
        os.removexattr(rest[1], "vexfs.vector")
    elif verb == "vector":
        os.setxattr(rest[0], "vexfs.vector", VECTOR)
    elif verb in ("fsync", "fdatasync", "freeze", "finish"):
        os.sync()
    else:
        raise SystemExit(f"'{' '.join(words)}' is no operation here")


def run(mount, script):
    os.chdir(mount)
    os.umask(0)
    done = refused = 0
    steps = [(1000 + n, text) for n, text in enumerate(SETUP)]
    steps += list(enumerate(part.strip() for part in script.split(";")))
    for number, text in steps:
        try:
            step(text.split(), number)
            done += 1
        except OSError as error:
            # What the script does to what is not there, and what the model refuses as well.
            # A link to a directory is EPERM.
            if error.errno not in (2, 17, 20, 21, 22, 39, 61) and not text.startswith("link"):
                raise SystemExit(f"{text}: {error}")
            refused += 1
    os.sync()
    print(f"{done} operations, {refused} refused")


def entry(path):
    found = os.lstat(path)
    said = [oct(found.st_mode), found.st_uid, found.st_gid, found.st_nlink]
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False).hex()
              for name in os.listxattr(path, follow_symlinks=False)}
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            said += [found.st_size, found.st_blocks, hashlib.sha256(file.read()).hexdigest()]
    if stat.S_ISLNK(found.st_mode):
        said += [os.readlink(path)]
    return said, sorted(xattrs.items())


def tree(top):
    return {os.path.relpath(os.path.join(where, name), top): entry(os.path.join(where, name))
            for where, dirs, files in os.walk(top) for name in dirs + files} | {".": entry(top)}


def compare(a, b):
    one, two = tree(a), tree(b)
    wrong = [path for path in sorted(one.keys() | two.keys()) if one.get(path) != two.get(path)]
    for path in wrong:
        print(f"{path}:\n  {one.get(path)}\n  {two.get(path)}")
    if wrong:
        raise SystemExit(1)
    print(f"{len(one)} entries are the same")


if sys.argv[1] == "run":
    run(sys.argv[2], sys.argv[3])
else:
    compare(sys.argv[2], sys.argv[3])
