# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The engines of `cargo xtask bench vectors` that have a binding for Python, one process each.

The lines understood and the answers are those of index/examples/engine/protocol.rs. Queries go in batches,
so that Python's own time is no part of the figures (qdrant-edge takes a list of requests); where rows are
compared by angle they have unit length, and every engine here ranks them by distance.
"""

import json
import os
import sys
import threading
import time

import numpy as np

# Libraries print; what is read by the conductor is this copy of standard output.
OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

# Rows of one batch at least: what a call costs is spread over them.
BATCH = 1000


class Hnswlib:
    def __init__(self, dim, scratch):
        import hnswlib

        self.lib, self.dim, self.path = hnswlib, dim, scratch + "/index"
        self.version = "hnswlib, M 16, efConstruction 200"

    def build(self, rows):
        self.index = self.lib.Index("l2", self.dim)
        self.index.init_index(max_elements=len(rows), M=16, ef_construction=200)
        self.index.add_items(rows, num_threads=1)

    def save(self):
        self.index.save_index(self.path)
        return True

    def open(self):
        self.index = self.lib.Index("l2", self.dim)
        self.index.load_index(self.path)

    def search(self, queries, k, ef, threads):
        self.index.set_ef(ef)
        return self.index.knn_query(queries, k=k, num_threads=threads)[0]


class Faiss:
    def __init__(self, dim, scratch):
        import faiss

        self.lib, self.dim, self.path = faiss, dim, scratch + "/index"
        self.version = f"faiss {faiss.__version__} HNSW, M 16, efConstruction 200"

    def build(self, rows):
        self.lib.omp_set_num_threads(1)
        self.index = self.lib.IndexHNSWFlat(self.dim, 16)
        self.index.hnsw.efConstruction = 200
        self.index.add(rows)

    def save(self):
        self.lib.write_index(self.index, self.path)
        return True

    def open(self):
        self.index = self.lib.read_index(self.path)

    def search(self, queries, k, ef, threads):
        self.lib.omp_set_num_threads(threads)
        self.index.hnsw.efSearch = ef
        return self.index.search(queries, k)[1]


class Usearch:
    def __init__(self, dim, scratch):
        import usearch
        from usearch.index import Index

        self.path = scratch + "/index"
        self.make = lambda: Index(
            ndim=dim, metric="l2sq", dtype="f16", connectivity=16, expansion_add=200
        )
        self.version = f"usearch {usearch.__version__} f16, M 16, efConstruction 200"

    def build(self, rows):
        self.index = self.make()
        self.index.add(np.arange(len(rows)), rows, threads=1)

    def save(self):
        self.index.save(self.path)
        return True

    def open(self):
        # As its own documentation opens an index to serve from: mapped, not read.
        self.index = self.make()
        self.index.view(self.path)

    def search(self, queries, k, ef, threads):
        self.index.expansion_search = ef
        return self.index.search(queries, k, threads=threads).keys


class Symqg:
    DEGREE = 32

    def __init__(self, dim, scratch):
        from rabitqlib import SymqgIndex

        self.lib, self.dim, self.path = SymqgIndex, dim, scratch + "/index"
        self.version = "rabitqlib SymphonyQG, degree 32, efConstruction 200"

    def build(self, rows):
        self.index = self.lib(self.dim, self.DEGREE, "l2")
        self.index.build(rows, 200, num_threads=1)

    def save(self):
        self.index.save(self.path)
        return True

    def open(self):
        self.index = self.lib.load(self.path)

    def search(self, queries, k, ef, threads):
        return self.index.search_batch(queries, k, ef, num_threads=threads)[0]


class QdrantEdge:
    def __init__(self, dim, scratch):
        import qdrant_edge

        self.lib, self.dim, self.path = qdrant_edge, dim, scratch + "/shard"
        self.requests = {}
        self.version = "qdrant-edge, m 16, ef_construct 200"

    def build(self, rows):
        lib = self.lib
        config = lib.EdgeConfig(
            vectors=lib.EdgeVectorParams(size=self.dim, distance=lib.Distance.Euclid),
            hnsw_config=lib.HnswIndexConfig(
                m=16, ef_construct=200, full_scan_threshold=10, max_indexing_threads=1
            ),
            # One graph over all: several would be searched one by one.
            optimizers=lib.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=1 << 30, indexing_threshold=1000
            ),
            max_search_threads=1,
        )
        os.makedirs(self.path, exist_ok=True)
        self.index = lib.EdgeShard.create(self.path, config)
        for first in range(0, len(rows), 1000):
            some = enumerate(rows[first : first + 1000].tolist(), first)
            points = [lib.Point(number, row) for number, row in some]
            self.index.update(lib.UpdateOperation.upsert_points(points))
        self.index.optimize()

    def save(self):
        self.index.flush()
        self.index.close()
        # Only one process may have it open: the next search opens it again.
        self.index = None
        return True

    def open(self):
        self.index = self.lib.EdgeShard.load(self.path)

    def search(self, queries, k, ef, threads):
        lib = self.lib
        if self.index is None:
            self.open()
        if (k, ef) not in self.requests:
            params = lib.SearchParams(hnsw_ef=ef)
            self.requests[k, ef] = [
                lib.SearchRequest(lib.Query.Nearest(query), limit=k, params=params)
                for query in queries.tolist()
            ]
        requests, answers = self.requests[k, ef], [None] * len(queries)

        def some(part):
            for at in range(part, len(requests), threads):
                answers[at] = self.index.search(requests[at])

        others = [threading.Thread(target=some, args=(part,)) for part in range(1, threads)]
        for other in others:
            other.start()
        some(0)
        for other in others:
            other.join()
        return [[point.id for point in answer] for answer in answers]


ENGINES = {
    "hnswlib": Hnswlib,
    "faiss-hnsw": Faiss,
    "usearch-f16": Usearch,
    "symqg": Symqg,
    "qdrant-edge": QdrantEdge,
}


def resident():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    return 0


def build(engine, corpus):
    rows = np.load(corpus)
    before, cpu, start = resident(), time.process_time(), time.perf_counter()
    engine.build(rows)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    grown = max(0, resident() - before)
    return {"build_s": wall, "build_cpu_s": cpu, "grown": grown, "saved": engine.save()}


def opened(engine, queries):
    before, start = resident(), time.perf_counter()
    engine.open()
    millis = (time.perf_counter() - start) * 1e3
    engine.search(queries, 10, 80, 1)
    return {"open_ms": millis, "grown": max(0, resident() - before)}


def search(engine, queries, count, ef, k, threads, millis, with_ids):
    ids = None
    if with_ids:
        ids = [[int(number) for number in found] for found in engine.search(queries, k, ef, 1)][:count]
    asked, cpu, start = 0, time.process_time(), time.perf_counter()
    while time.process_time() - cpu < millis * threads / 1e3:
        engine.search(queries, k, ef, threads)
        asked += len(queries)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"queries": asked, "wall_s": wall, "cpu_s": cpu, "ids": ids}


def answer(engine, words, corpus, queries, count):
    if words == ["build"]:
        return build(engine, corpus)
    if words == ["open"]:
        return opened(engine, queries)
    if words[0] == "search" and len(words) == 6:
        ef, k, threads, millis, ids = map(int, words[1:])
        return search(engine, queries, count, ef, k, threads, millis, ids == 1)
    raise ValueError(f"not understood: {' '.join(words)}")


def say(value):
    OUT.write(json.dumps(value) + "\n")
    OUT.flush()


def main():
    name, corpus, queries, dim, _metric, scratch = sys.argv[1:]
    queries = np.load(queries)
    count = len(queries)
    queries = np.tile(queries, (-(-BATCH // count), 1))
    try:
        engine = ENGINES[name](int(dim), scratch)
    except Exception as error:
        return say({"refused": f"{type(error).__name__}: {error}"})
    say({"ready": engine.version})
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        try:
            say(answer(engine, words, corpus, queries, count))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


main()
