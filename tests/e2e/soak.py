#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A workload that knows what it was promised: soak.py MOUNT DEVICE_ID CUTS SEED [KEEP_DIR].

Each round some threads, each in a directory of its own, change names, extended attributes and files, and
fsync now and then, until the power of the device is cut under them. Then: unmount, power on, fsck,
mount, compare. One of the directories is a corpus: every file in it is a vector file from its birth on.

What is compared. A thread's changes of names and attributes happen one after the other, and VexFS
recovers whole commits: so its directory must be as it was after one of its changes, at or after the last
one that an fsync covered: one of the directory covers all changes of names and whatever came before the
last of them, one of a file (fdatasync too) the last change of it and whatever came before. A file's data
that was not changed since its last fsync must be there to the byte; where it was changed, every sector
must be of a version it had since (behind its end then: zeroes). And the index must hold exactly the rows
that the files hold, but for those that are zeroes, which it leaves out where they are holes: all rows are
searched for, their order is held against a search by hand.

The image as the cut left it is kept in KEEP_DIR if anything is wrong, with what the last cut was.
"""
import array
import collections
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
import time

MOUNT, ID, CUTS, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
KEEP_DIR = sys.argv[5] if len(sys.argv) > 5 else ""
IMAGE = os.environ["SOAK_IMAGE"]
AFTER_CUT = IMAGE + ".after-cut"
DEVICE = f"/dev/ublkb{ID}"
# How many times as long as usual things take on this kernel.
PATIENCE = int(os.environ.get("VEXFS_PATIENCE", "1"))
THREADS = 3
NAMES = [f"n{i}" for i in range(12)]
ATTRS = [f"user.a{i}" for i in range(3)]
SECTOR, BLOCK = 512, 4096
KEPT_ROUNDS = 3
DIM = 64
ROW = DIM * 4
VECTOR = f"type=f32,dim={DIM},metric=l2,header=0"
ROWS_MAX = 10_000
# The device is off, or the module stopped for an error of the device.
EXCUSED = (5, 30, 108)


def run(*words, ok=(0,)):
    done = subprocess.run(words, capture_output=True, text=True, timeout=120 * PATIENCE)
    if done.returncode not in ok:
        raise Wrong(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Wrong(Exception):
    """What the run ends with."""


class Node:
    """A file or a directory. `versions`: a file's contents since the last fsync, the promised first."""

    def __init__(self, is_dir=False):
        self.is_dir = is_dir
        self.versions = [b""]
        # The last change of names or attributes that it was part of.
        self.changed = 0

    @property
    def now(self):
        return self.versions[-1]

    def wrong(self, found):
        if len(self.versions) == 1:
            if found == self.now:
                return None
            at = next((i for i, (a, b) in enumerate(zip(found, self.now)) if a != b), min(len(found), len(self.now)))
            return f"data that was fsync'ed differ: {self.describe(found, at)}"
        sizes = [len(version) for version in self.versions]
        if not min(sizes) <= len(found) <= max(sizes):
            return f"{len(found)} bytes long, but it had {sizes} since its fsync"
        for at in range(0, len(found), SECTOR):
            part = found[at:at + SECTOR]
            if not any(self.has(version, at, part) for version in self.versions):
                return f"a sector that was never written there: {self.describe(found, at)}"
        return None

    @staticmethod
    def has(version, at, part):
        # Behind a version's end there were zeroes.
        return version[at:at + len(part)].ljust(len(part), b"\0") == part

    def describe(self, found, at):
        lines = [f"byte {at} (block {at // BLOCK}) of {len(found)}", f"    found    {found[at:at + 32].hex(' ', 4)}"]
        for number, version in enumerate(self.versions):
            lines.append(f"    had [{number}]  {version[at:at + 32].hex(' ', 4)} ({len(version)} bytes)")
        return "\n".join(lines)


class Worker(threading.Thread):
    """One thread and its directory."""

    def __init__(self, path, seed, cut, corpus):
        super().__init__()
        self.path, self.rng, self.error, self.cut = path, random.Random(seed), None, cut
        self.born = {}
        if corpus:
            os.setxattr(path, "vexfs.vector", VECTOR.encode())
            # As it is read back, which names the defaults too.
            self.born = {"vexfs.vector": os.getxattr(path, "vexfs.vector")}
        # Name to (node, attributes), after each change; `promised`: of these.
        self.states, self.promised, self.fsyncs, self.names_changed = [{}], 0, 0, 0
        self.stop = False
        self.buffer = mmap.mmap(-1, 16 * BLOCK)
        self.history = collections.deque(maxlen=40)

    def run(self):
        try:
            while not self.stop:
                self.step()
        except OSError as error:
            if not self.cut.is_set() or error.errno not in EXCUSED:
                self.error = f"{error} in {self.history[-1]}"
        except Exception as error:  # pylint: disable=broad-except
            self.error = f"the workload itself: {error!r} in {self.history[-1]}"

    def note(self, text):
        """What is done, with the state it makes: noted before, for the power may go before the return."""
        self.history.append(f"[{len(self.states) - 1}] {text}")

    def change(self, names=True, **entries):
        state = dict(self.states[-1])
        for name, entry in entries.items():
            if entry is None:
                del state[name]
            else:
                state[name] = entry
                entry[0].changed = len(self.states)
        if names:
            self.names_changed = len(self.states)
        self.states.append(state)

    def fsync(self, fd, node=None):
        kind = self.rng.choice([os.fsync, os.fdatasync])
        self.note(f"{kind.__name__} {'the directory' if node is None else node.changed}")
        kind(fd)
        self.fsyncs += 1
        self.promised = max(self.promised, node.changed if node else self.names_changed)
        if node:
            node.versions = node.versions[-1:]

    def data(self, length):
        if not self.born:
            return self.rng.randbytes(length).replace(b"\0", b"\1")
        rows = array.array("f", (self.rng.random() for _ in range(length // ROW * DIM)))
        return rows.tobytes()

    def step(self):
        rng, state = self.rng, self.states[-1]
        name = rng.choice(NAMES)
        path = f"{self.path}/{name}"
        if name not in state:
            self.create(name, path, rng.randrange(20) < 3)
            return
        node, attrs = state[name]
        kind = rng.randrange(30)
        if kind < 5:
            self.set_attr(node, attrs, path)
        elif node.is_dir:
            if kind < 14:
                self.note(f"rmdir {name}")
                self.change(**{name: None})
                os.rmdir(path)
            else:
                fd = os.open(self.path, os.O_RDONLY)
                try:
                    self.fsync(fd)
                finally:
                    os.close(fd)
        elif kind < 7:
            self.note(f"unlink {name}")
            self.change(**{name: None})
            os.unlink(path)
        elif kind < 11:
            other = rng.choice(NAMES)
            there = state.get(other, (None,))[0]
            # Two names of one file: rename does nothing then. A file does not replace a directory.
            if there is not node and not (there and there.is_dir):
                self.note(f"rename {name} to {other}{', which there is' if there else ''}")
                self.change(**{name: None, other: (node, attrs)})
                os.rename(path, f"{self.path}/{other}")
        elif kind < 13:
            size = rng.randrange(0, 40_000) // ROW * ROW
            self.note(f"truncate {name} from {len(node.now)} to {size}")
            node.versions.append((node.now + bytes(size))[:size])
            os.truncate(path, size)
        elif kind < 14:
            other = rng.choice(NAMES)
            if other not in state:
                self.note(f"link {name} to {other}")
                self.change(**{other: (node, attrs)})
                os.link(path, f"{self.path}/{other}")
        else:
            self.write(name, node, path, kind)

    def create(self, name, path, is_dir):
        self.note(f"{'mkdir' if is_dir else 'create'} {name}")
        self.change(**{name: (Node(is_dir), dict(self.born))})
        if is_dir:
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    def set_attr(self, node, attrs, path):
        attr = self.rng.choice(ATTRS)
        changed = dict(attrs)
        gone = attr in attrs and self.rng.random() < 0.4
        if gone:
            del changed[attr]
        else:
            most = self.rng.choice([20, 300, 3000, 9000])
            changed[attr] = self.rng.randbytes(self.rng.randrange(most))
        # All of its names.
        names = {n: (node, changed) for n, entry in self.states[-1].items() if entry[0] is node}
        self.note(f"{'remove' if gone else f'set {len(changed[attr])} bytes of'} {attr} of {list(names)}")
        self.change(names=False, **names)
        if gone:
            os.removexattr(path, attr)
        else:
            os.setxattr(path, attr, changed[attr])

    def write(self, name, node, path, kind):
        rng, before = self.rng, node.now
        blocks = len(before) // BLOCK
        direct = kind < 18 and blocks > 0
        if direct:
            # Over what is there, or past the end.
            at = rng.randrange(blocks + 1) * BLOCK
            length = rng.randrange(1, 5) * BLOCK
        else:
            at = rng.randrange(0, len(before) + 3000) // ROW * ROW
            length = max(ROW, rng.randrange(1, 9000) // ROW * ROW)
            if not self.born:
                at, length = at + rng.randrange(ROW), length + rng.randrange(ROW)
        data = self.data(length)
        self.note(f"{'direct ' if direct else ''}write {name} {at}+{length}, {len(before)} long")
        node.versions.append(before[:at].ljust(at, b"\0") + data + before[at + length:])
        fd = os.open(path, os.O_WRONLY | (os.O_DIRECT if direct else 0))
        try:
            if direct:
                self.buffer[:length] = data
                with memoryview(self.buffer) as whole, whole[:length] as part:
                    os.pwritev(fd, [part], at)
            else:
                os.pwrite(fd, data, at)
            if rng.random() < 0.4:
                self.fsync(fd, node)
        finally:
            os.close(fd)

    def look(self):
        """Name to (is a directory, attributes, contents), as they are."""
        found = {}
        for entry in os.scandir(self.path):
            attrs = {a: os.getxattr(entry.path, a) for a in os.listxattr(entry.path)}
            if self.born:
                # It is not listed.
                try:
                    attrs["vexfs.vector"] = os.getxattr(entry.path, "vexfs.vector")
                except OSError:
                    pass
            if entry.is_dir(follow_symlinks=False):
                found[entry.name] = True, attrs, None
            else:
                with open(entry.path, "rb") as file:
                    found[entry.name] = False, attrs, file.read()
        return found

    def compare(self):
        """None, or what is wrong."""
        found = self.look()
        shape = {name: entry[:2] for name, entry in found.items()}
        shapes = [{n: (node.is_dir, attrs) for n, (node, attrs) in state.items()} for state in self.states]
        why = f"names and attributes are as they never were; {self.nearest(shape, shapes)}"
        for number in range(self.promised, len(shapes)):
            if shapes[number] != shape:
                continue
            state = self.states[number]
            wrongs = [(n, node.wrong(found[n][2])) for n, (node, _) in state.items() if not node.is_dir]
            wrongs = [f"{name}: {what}" for name, what in wrongs if what]
            if not wrongs:
                self.settle(state, found)
                return None
            why = f"as in state {number}, but {'; '.join(wrongs)}"
        last = "\n".join(f"    {line}" for line in self.history)
        return f"{self.path}: {why}\n  promised: state {self.promised} of {len(self.states)}; its last steps:\n{last}"

    def nearest(self, shape, shapes):
        """How the state that is most like it differs, and whether there was one before the promise."""
        def odd(number):
            names = set(shape) | set(shapes[number])
            return [n for n in sorted(names) if shape.get(n) != shapes[number].get(n)]
        earlier = [n for n in range(self.promised) if shapes[n] == shape]
        if earlier:
            return f"but in the states {earlier}, before the promised one"
        best = min(range(len(shapes)), key=lambda number: len(odd(number)))
        brief = lambda entry: entry and (entry[0], {a: f"{len(v)} bytes {v[:8].hex()}" for a, v in entry[1].items()})
        lines = [f"    {n}: found {brief(shape.get(n))}, had {brief(shapes[best].get(n))}" for n in odd(best)]
        return f"most like state {best}:\n" + "\n".join(lines)

    def settle(self, state, found):
        """From here on everything is as it was found."""
        for name, (node, _) in state.items():
            if not node.is_dir:
                node.versions = [found[name][2]]
            node.changed = 0
        self.states, self.promised, self.names_changed = [state], 0, 0
        self.history.clear()


def check_index(worker, rng):
    """The number of rows; all that were written are found, and none that is not there."""
    files = {n: e[0].now for n, e in worker.states[0].items() if not e[0].is_dir}
    # Names of one file are found under one of them.
    seen, rows = set(), {}
    for name in sorted(files):
        ino = os.stat(f"{worker.path}/{name}").st_ino
        data = files[name]
        if ino not in seen:
            seen.add(ino)
            for slot in range(len(data) // ROW):
                rows[ino, slot] = struct.unpack_from(f"<{DIM}f", data, slot * ROW)
    if not rows:
        return 0
    if len(rows) > ROWS_MAX:
        raise Wrong(f"{worker.path}: {len(rows)} rows are more than one search finds: a mistake in the workload")
    query = [rng.random() for _ in range(DIM)]
    with open("/tmp/soak-query.npy", "wb") as file:
        head = repr({"descr": "<f4", "fortran_order": False, "shape": (1, DIM)}).ljust(117) + "\n"
        file.write(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode())
        array.array("f", query).tofile(file)
    query = array.array("f", query)
    answer = json.loads(run("vexfs-ublk", "search", worker.path, "--query", "/tmp/soak-query.npy",
                            "-k", str(ROWS_MAX), "--exact", "--json"))
    hits = [(os.stat(hit["path"]).st_ino, hit["slot"]) for hit in answer["hits"]]
    written = {at for at, row in rows.items() if any(row)}
    odd = (written - set(hits)) | (set(hits) - set(rows))
    if odd or len(hits) != len(set(hits)):
        raise Wrong(f"{worker.path}: the files hold {len(rows)} rows, {len(written)} of them no zeroes, the index "
                    f"{len(hits)}, in generation {answer['generation']}; (inode, slot) that differ: {sorted(odd)[:20]}")
    far = [sum((a - b) ** 2 for a, b in zip(query, rows[hit])) for hit in hits]
    for before, after, hit in zip(far, far[1:], hits):
        if after < before - 1e-4:
            raise Wrong(f"{worker.path}: {hit} is farther than the next: the index holds another row there")
    if not hits:
        return 0
    # One file alone, all its slots, from one of its own rows.
    ino, slot = rng.choice(sorted(set(hits)))
    path = next(f"{worker.path}/{n}" for n in files if os.stat(f"{worker.path}/{n}").st_ino == ino)
    like = json.loads(run("vexfs-ublk", "search", path, "--like", str(slot), "-k", "1", "--exact", "--json"))
    nearest = like["hits"][0]["slot"]
    if rows[ino, nearest] != rows[ino, slot]:
        raise Wrong(f"{path}: slot {slot} is nearest to slot {nearest}, which is another row")
    return len(hits)


def one_round(number, rng, kept, totals):
    path = f"{MOUNT}/r{number}"
    os.mkdir(path)
    workers, power_cut = [], threading.Event()
    for thread in range(THREADS):
        os.mkdir(f"{path}/t{thread}")
        workers.append(Worker(f"{path}/t{thread}", rng.random(), power_cut, corpus=thread == 0))
    os.sync()
    for worker in workers:
        worker.start()
    time.sleep(rng.uniform(0.05, 0.6) * PATIENCE)
    power_cut.set()
    keep = rng.choice(["none", "all", "random", "random", "random"])
    seed = rng.randrange(1 << 30)
    totals["last_cut"] = f"round {number}, --keep {keep} --seed {seed}"
    cut = json.loads(run("vexfs-ublk", "crash", "--id", ID, "--keep", keep, "--seed", str(seed), "--json"))
    for worker in workers:
        worker.stop = True
    for worker in workers:
        worker.join(60 * PATIENCE)
        if worker.is_alive():
            raise Wrong(f"{worker.path}: it hangs after the cut in {worker.history[-1]}")
        if worker.error:
            raise Wrong(f"{worker.path}: {worker.error}")
    run("umount", MOUNT)
    if KEEP_DIR:
        run("cp", "--sparse=always", IMAGE, AFTER_CUT)
    run("vexfs-ublk", "recover", "--id", ID)
    run("fsck.vexfs", "-n", DEVICE)
    run("mount", "-t", "vexfs", DEVICE, MOUNT)
    kept.append(workers)
    for worker in sum(kept, []):
        wrong = worker.compare()
        if wrong:
            raise Wrong(wrong)
        if worker.born:
            totals["rows"] += check_index(worker, rng)
    totals["fsyncs"] += sum(worker.fsyncs for worker in workers)
    if totals["fsyncs"] == 0:
        raise Wrong("nothing was ever fsync'ed: that tests nothing")
    totals["sectors_in_flight"] += cut["unflushed"]
    if len(kept) > KEPT_ROUNDS:
        gone = kept.pop(0)
        run("rm", "-r", os.path.dirname(gone[0].path))


def main():
    rng = random.Random(SEED)
    totals = {"seed": SEED, "cuts": 0, "fsyncs": 0, "sectors_in_flight": 0, "rows": 0, "failures": []}
    kept, began = [], time.monotonic()
    for number in range(CUTS):
        try:
            one_round(number, rng, kept, totals)
        except (Wrong, OSError, subprocess.TimeoutExpired) as error:
            totals["failures"].append(f"seed {SEED}, {totals.get('last_cut', 'before the first cut')}: {error}")
            break
        totals["cuts"] += 1
        totals["seconds"] = round(time.monotonic() - began, 1)
        if totals["cuts"] % 10 == 0 or totals["cuts"] == CUTS:
            print("{cuts} cuts, {fsyncs} fsyncs kept, {sectors_in_flight} sectors in flight, {rows} rows searched, "
                  "{seconds:.0f} s".format(**totals), flush=True)
    for failure in totals["failures"]:
        print(f"WRONG: {failure}")
        if KEEP_DIR and os.path.exists(AFTER_CUT):
            run("cp", "--sparse=always", AFTER_CUT, f"{KEEP_DIR}/after-cut.img")
            print(f"the image as the cut left it: after-cut.img ({totals['last_cut']})")
    totals.pop("last_cut", None)
    print(f"soak-result {json.dumps(totals)}", flush=True)
    sys.exit(bool(totals["failures"]))


main()
