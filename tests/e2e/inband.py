#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""ioctl(VEXFS_IOC_SEARCH) from outside any library of the project, from the text of
kernel/include/vexfs_ioctl.h: inband.py COMMAND ARGUMENT..."""
import ctypes
import errno
import fcntl
import os
import random
import struct
import sys
import threading
import time

HEAD = struct.Struct("=8IQ3Q3Q4I")
IOC = 3 << 30 | HEAD.size << 16 | 0xF5 << 8 | 1
MOST = 1 << 20
DIM = 384


def fields(**changes):
    """The structure's first fields, for a query of DIM numbers."""
    named = dict(size=0, version=1, flags=0, k=3, ef=0, element=1, dim=DIM, timeout=0, like=0, r0=0, r1=0, r2=0)
    named.update(changes)
    return named


def pack(named, data, room):
    named = dict(named)
    named["size"] = named["size"] or HEAD.size + room
    head = HEAD.pack(*named.values(), *[0] * 7)
    return bytearray(head + data + bytes(max(0, room - len(data))))


def call(fd, buffer):
    """The error's name, or None."""
    try:
        fcntl.ioctl(fd, IOC, buffer, True)
    except OSError as error:
        # Python prefers the number's other name.
        return {errno.EOPNOTSUPP: "EOPNOTSUPP"}.get(error.errno) or errno.errorcode[error.errno]
    return None


def unpack(buffer):
    values = HEAD.unpack_from(buffer)
    generation, searched, denied, flags, hits, note_bytes, _ = values[12:]
    found = [struct.unpack_from("=QQfI", buffer, HEAD.size + 24 * i)[:3] for i in range(hits)]
    at, notes = HEAD.size + 24 * hits, []
    end = at + note_bytes
    while at < end:
        ino, kind, length = struct.unpack_from("=QII", buffer, at)
        notes.append((ino, kind, bytes(buffer[at + 16:at + 16 + length])))
        at += 16 + (length + 7) // 8 * 8
    assert at == end, "notes end where they say"
    return dict(generation=generation, searched=searched, denied=denied, flags=flags, hits=found, notes=notes)


def row(file, index):
    with open(file, "rb") as source:
        source.seek(128 + index * DIM * 4)
        return source.read(DIM * 4)


def opened(path, flags=os.O_RDONLY):
    return os.open(path, flags | os.O_CLOEXEC)


def search(path, query, room=1 << 16, **changes):
    fd = opened(path)
    try:
        buffer = pack(fields(**changes), query, room)
        error = call(fd, buffer)
        return error, unpack(buffer) if error in (None, "EBADR") else None
    finally:
        os.close(fd)


def do_search(path, file, index, *changes):
    """Prints the error, or the paths and slots of the hits."""
    named = {name: int(value) for name, value in (change.split("=") for change in changes)}
    error, found = search(path, row(file, int(index)), **named)
    if found is None:
        return print(error)
    if error:
        return print(error, *(text.decode() for _, _, text in found["notes"]))
    paths = {ino: text.decode() for ino, kind, text in found["notes"] if kind == 1}
    print(" ".join(f"{paths.get(ino, '-')}:{slot}" for ino, slot, _ in found["hits"]))


def do_open(path, how, file):
    """The error of a search on a descriptor that was opened in some way."""
    fd = opened(path, {"write": os.O_WRONLY, "path": os.O_PATH, "both": os.O_RDWR}[how])
    print(call(fd, pack(fields(), row(file, 0), 4096)))


def do_fields(path, file):
    """Every field with values it may not have; and some that it may."""
    query, wrong = row(file, 5), 0
    refused = [dict(version=v) for v in (0, 2, 1 << 31)]
    refused += [dict(size=s) for s in (0xFFFFFFFF, HEAD.size - 1, HEAD.size, HEAD.size + 71, 1, MOST + 1)]
    refused += [dict(flags=f) for f in (4, 1 << 31, 0xFFFFFFFF)]
    refused += [dict(flags=2), dict(flags=2, element=0), dict(flags=2, dim=0)]
    refused += [dict(k=k) for k in (0, 16385, 1 << 31, 0xFFFFFFFF)]
    refused += [dict(ef=e) for e in (16385, 0xFFFFFFFF)]
    refused += [dict(element=e) for e in (0, 4, 0xFFFFFFFF)]
    refused += [dict(dim=d) for d in (0, 65537, 0x40000000, 0x40000180, 0xFFFFFFFF, 3000)]
    refused += [dict(timeout=t) for t in (600001, 0xFFFFFFFF)]
    refused += [dict(like=1), dict(r0=1), dict(r1=1 << 63), dict(r2=1)]
    fd = opened(path)
    for change in refused:
        got = call(fd, pack(fields(**change), query, 8192))
        if got != "EINVAL":
            print(f"{change}: {got} instead of EINVAL")
            wrong += 1
    for change in (dict(), dict(flags=1), dict(k=16), dict(ef=16384), dict(timeout=600000)):
        buffer = pack(fields(**change), query, 8192)
        got = call(fd, buffer)
        if got is not None or len(unpack(buffer)["hits"]) != change.get("k", 3):
            print(f"{change}: {got}")
            wrong += 1
    # What only the target can judge comes with a reason.
    for change in (dict(dim=5), dict(element=2, dim=5), dict(flags=2, element=0, dim=0, like=1 << 63)):
        buffer = pack(fields(**change), query, 8192)
        got = call(fd, buffer)
        reasons = unpack(buffer)["notes"] if got == "EBADR" else []
        if len(reasons) != 1 or reasons[0][1] != 3 or not reasons[0][2]:
            print(f"{change}: {got} {reasons}")
            wrong += 1
    # A structure that is not all there: its last byte is on a page that nobody has.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
    pages = libc.mmap(None, 3 * 4096, 3, 0x22, -1, 0)
    libc.munmap(pages + 8192, 4096)
    whole = bytes(pack(fields(), query, 8192))
    for length in (0, 50, HEAD.size, HEAD.size + 4 * DIM - 1):
        ctypes.memmove(pages + 8192 - length, whole, length)
        if libc.ioctl(fd, IOC, pages + 8192 - length) == 0 or ctypes.get_errno() != errno.EFAULT:
            print(f"{length} bytes of a structure: {ctypes.get_errno()}")
            wrong += 1
    for command in (IOC + 1, IOC ^ 1 << 16, 0x5401, 0):
        try:
            fcntl.ioctl(fd, command, bytearray(whole), True)
            got = None
        except OSError as error:
            got = error.errno
        if got != errno.ENOTTY:
            print(f"command {command:#x}: {got}")
            wrong += 1
    sys.exit(wrong > 0)


def do_fuzz(path, file, count, seed):
    """Random structures: an answer or an error that the header names, and the kernel lives."""
    query, rng, seen = row(file, 1), random.Random(int(seed)), {}
    known = {None, "EINVAL", "EFAULT", "EBADR", "ENOMEM", "ETIMEDOUT"}
    fd = opened(path)
    for _ in range(int(count)):
        named = fields(timeout=rng.choice([0, 1000, 5000]))
        for _ in range(rng.randrange(4)):
            name = rng.choice(list(named))
            named[name] = rng.choice([0, 1, 2, 3, 104, 105, 128, 4095, 16384, 65536, 1 << 20, (1 << 31) - 1,
                                      1 << 31, (1 << 32) - 1, rng.randrange(1 << 32), rng.randrange(4096)])
        data = rng.choice([query, rng.randbytes(rng.randrange(3000)), b"\xff" * 3000])
        # Never more than is there: what the kernel wrote past the buffer, Python would not survive.
        buffer = pack(named, data, rng.choice([0, 24, 4096, 70000]))
        buffer += bytes(max(0, min(named["size"], MOST) - len(buffer)))
        got = call(fd, buffer)
        seen[got] = seen.get(got, 0) + 1
        if got not in known:
            sys.exit(f"{named}: {got}")
        if got is None:
            unpack(buffer)
    print(seen)
    sys.exit(None not in seen or "EINVAL" not in seen)


def do_many(path, file, count, rounds):
    """So many callers at once, each of whom gets the answers to its own queries."""
    wrong = []

    def ask(number):
        for turn in range(int(rounds)):
            index = (number * 37 + turn * 101) % 2000
            error, found = search(path, row(file, index), k=1)
            if error or [slot for _, slot, _ in found["hits"]] != [index]:
                wrong.append((number, turn, error, found))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(wrong[:3] if wrong else "all")
    sys.exit(len(wrong) > 0)


def do_large(path, query_dim, k):
    """The longest request and the most hits that fit: 65,536 numbers of which no file has so many."""
    fd = opened(path)
    buffer = pack(fields(dim=int(query_dim), k=int(k)), random.Random(1).randbytes(4 * int(query_dim)), MOST - HEAD.size)
    error = call(fd, buffer)
    print(error, *(text.decode() for _, _, text in unpack(buffer)["notes"]))


def do_hits(path, file, k):
    """How many hits there are of so many asked for."""
    error, found = search(path, row(file, 0), room=MOST - HEAD.size, k=int(k), flags=1)
    print(error, len(found["hits"]) if found else "")


def do_stuck(path, file, timeout):
    """A search of a target that does not answer: its error, and that it took its time and little more."""
    began = time.monotonic()
    error, _ = search(path, row(file, 0), timeout=int(timeout))
    took = (time.monotonic() - began) * 1000
    print(error, "early" if took < int(timeout) - 50 else "in time")


globals()["do_" + sys.argv[1]](*sys.argv[2:])
