#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A workload that knows what it was promised: soak.py MOUNT DEVICE_ID CUTS SEED.

Each round some threads, each in a directory of its own, change names and files and fsync now and
then, until the power of the device is cut under them. Then: unmount, power on, fsck, mount, compare.

What is compared. A thread's changes of names happen one after the other, and VexFS recovers whole
commits: so its directory must be as it was after one of its changes, at or after the last one that
an fsync covered: one of the directory covers all of them, one of a file those of its own names and
whatever came before. A file's data that was not changed since its last fsync must be there to the byte;
where it was changed, every sector must be of a version it had since (behind its end then: zeroes).
"""
import json
import os
import random
import subprocess
import sys
import threading
import time

MOUNT, ID, CUTS, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
DEVICE = f"/dev/ublkb{ID}"
THREADS = 3
NAMES = [f"n{i}" for i in range(12)]
SECTOR = 512
KEPT_ROUNDS = 3


def run(*words, ok=(0,)):
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode not in ok:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class File:
    """Contents since the last fsync, oldest first; the first is what was promised."""

    def __init__(self):
        self.versions = [b""]
        # The last change of names that it was part of.
        self.named = 0

    @property
    def now(self):
        return self.versions[-1]

    def wrong(self, found):
        if len(self.versions) == 1:
            return None if found == self.now else "data that was fsync'ed differ"
        sizes = [len(version) for version in self.versions]
        if not min(sizes) <= len(found) <= max(sizes):
            return f"{len(found)} bytes long, never had fewer than {min(sizes)} or more than {max(sizes)}"
        for at in range(0, len(found), SECTOR):
            part = found[at:at + SECTOR]
            if not any(self.has(version, at, part) for version in self.versions):
                return f"byte {at}: a sector that was never written there"
        return None

    @staticmethod
    def has(version, at, part):
        # Behind a version's end there were zeroes.
        return version[at:at + len(part)].ljust(len(part), b"\0") == part


class Worker(threading.Thread):
    """One thread and its directory."""

    def __init__(self, path, seed, cut):
        super().__init__()
        self.path, self.rng, self.error, self.cut = path, random.Random(seed), None, cut
        # Name to file (or None for a directory), after each change; `promised`: of these.
        self.states, self.promised, self.fsyncs = [{}], 0, 0
        self.stop = False

    def run(self):
        try:
            while not self.stop:
                self.step()
        except OSError as error:
            # The device is off, or the module stopped for an error of the device; not before the cut.
            if not self.cut.is_set() or error.errno not in (5, 30, 108):
                self.error = error

    def changed(self, **names):
        state = dict(self.states[-1])
        for name, file in names.items():
            if file == "gone":
                del state[name]
            else:
                state[name] = file
                if file is not None:
                    file.named = len(self.states)
        self.states.append(state)

    def fsync(self, fd, file=None):
        os.fsync(fd)
        self.fsyncs += 1
        self.promised = max(self.promised, file.named if file else len(self.states) - 1)
        if file:
            file.versions = file.versions[-1:]

    def step(self):
        rng, state = self.rng, self.states[-1]
        name = rng.choice(NAMES)
        there, file, path = name in state, state.get(name), f"{self.path}/{name}"
        kind = rng.randrange(20)
        if not there:
            # Noted before it is done: the power may go after the commit and before the return.
            if kind < 3:
                self.changed(**{name: None})
                os.mkdir(path)
            else:
                self.changed(**{name: File()})
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        elif file is None:
            if kind < 8:
                self.changed(**{name: "gone"})
                os.rmdir(path)
            else:
                fd = os.open(self.path, os.O_RDONLY)
                try:
                    self.fsync(fd)
                finally:
                    os.close(fd)
        elif kind < 2:
            self.changed(**{name: "gone"})
            os.unlink(path)
        elif kind < 5:
            other = rng.choice(NAMES)
            # Two names of one file: rename does nothing then.
            if state.get(other, "none") not in (file, None):
                self.changed(**{name: "gone", other: file})
                os.rename(path, f"{self.path}/{other}")
        elif kind < 7:
            size = rng.randrange(0, 40_000)
            file.versions.append((file.now + bytes(size))[:size])
            os.truncate(path, size)
        elif kind < 8:
            other = rng.choice(NAMES)
            if other not in state:
                self.changed(**{other: file})
                os.link(path, f"{self.path}/{other}")
        else:
            at = rng.randrange(0, len(file.now) + 3000)
            data = rng.randbytes(rng.randrange(1, 9000)).replace(b"\0", b"\1")
            before = file.now
            file.versions.append(before[:at].ljust(at, b"\0") + data + before[at + len(data):])
            fd = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(fd, data, at)
                if kind < 14:
                    self.fsync(fd, file)
            finally:
                os.close(fd)

    def compare(self):
        """None, or what is wrong."""
        found = {}
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False):
                found[entry.name] = None
            else:
                with open(entry.path, "rb") as file:
                    found[entry.name] = file.read()
        shape = {n: d is None for n, d in found.items()}
        shapes = [{n: f is None for n, f in state.items()} for state in self.states]
        same = [number for number, names in enumerate(shapes) if names == shape]
        odd = sorted(set(shape.items()) ^ set(shapes[self.promised].items()))
        why = f"the names are those of states {same}, they differ from the promised by {odd}"
        for state, names in zip(self.states[self.promised:], shapes[self.promised:]):
            if names != shape:
                continue
            wrongs = [(n, f.wrong(found[n])) for n, f in state.items() if f is not None]
            wrongs = [f"{name}: {what}" for name, what in wrongs if what]
            if not wrongs:
                self.settle(state, found)
                return None
            why = "; ".join(wrongs)
        return f"{self.path}: {why} (promised state {self.promised} of {len(self.states)})"

    def settle(self, state, found):
        """From here on everything is as it was found."""
        for name, file in state.items():
            if file is not None:
                file.versions, file.named = [found[name]], 0
        self.states, self.promised = [state], 0


def main():
    rng = random.Random(SEED)
    rounds, kept, fsyncs, opens = 0, [], 0, 0
    began = time.monotonic()
    while rounds < CUTS:
        path = f"{MOUNT}/r{rounds}"
        os.mkdir(path)
        workers, power_cut = [], threading.Event()
        for number in range(THREADS):
            os.mkdir(f"{path}/t{number}")
            workers.append(Worker(f"{path}/t{number}", rng.random(), power_cut))
        os.sync()
        for worker in workers:
            worker.start()
        time.sleep(rng.uniform(0.05, 0.6))
        power_cut.set()
        keep = rng.choice(["none", "all", "random", "random", "random"])
        seed = rng.randrange(1 << 30)
        cut = json.loads(run("vexfs-ublk", "crash", "--id", ID, "--keep", keep, "--seed", str(seed), "--json"))
        for worker in workers:
            worker.stop = True
        for worker in workers:
            worker.join(60)
            if worker.is_alive():
                raise SystemExit(f"round {rounds}: a thread hangs after the cut")
            if worker.error:
                raise SystemExit(f"round {rounds}: {worker.path}: {worker.error}")
        run("umount", MOUNT)
        run("vexfs-ublk", "recover", "--id", ID)
        run("fsck.vexfs", "-n", DEVICE)
        run("mount", "-t", "vexfs", DEVICE, MOUNT)
        kept.append(workers)
        for worker in sum(kept, []):
            wrong = worker.compare()
            if wrong:
                raise SystemExit(f"round {rounds} (seed {SEED}, keep {keep} {seed}): WRONG: {wrong}")
        fsyncs += sum(worker.fsyncs for worker in workers)
        if fsyncs == 0:
            raise SystemExit(f"round {rounds}: nothing was ever fsync'ed: that tests nothing")
        opens += cut["unflushed"]
        if len(kept) > KEPT_ROUNDS:
            gone = kept.pop(0)
            run("rm", "-r", os.path.dirname(gone[0].path))
        rounds += 1
        if rounds % 10 == 0 or rounds == CUTS:
            took = time.monotonic() - began
            print(f"{rounds} cuts, {fsyncs} fsyncs kept, {opens} sectors in flight, {took:.0f} s", flush=True)


main()
