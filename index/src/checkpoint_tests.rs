// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checkpoints with right checksums and impossible contents, as another version or a faulty one
//! could write them. Nothing of such a checkpoint is used.

use super::*;
use crate::{
    graph::GRAPH_ROWS_MAX,
    index::{Index, Options},
    store::DirStore,
    types::{Element, Metric, Slot},
    vector::Params,
};

const FILE: FileId = FileId(5);
const OWNER: [u8; 16] = [1; 16];

fn options(owner: [u8; 16]) -> Options {
    Options { owner, graph_rows: 64, nice: 0, ..Options::default() }
}

/// A checkpoint with a segment, its graph, tombstones, skipped slots and a growing segment.
fn saved(path: &Path) {
    let store = Box::new(DirStore::open(path).unwrap());
    let (index, _) = Index::open(Some(store), options(OWNER)).unwrap();
    index.declare(FILE, Space::new(Element::F32, Metric::L2, 2), Params::default()).unwrap();
    let row = |x: f32| [x, 1.0].map(f32::to_le_bytes).concat();
    for slot in 0..70u64 {
        index.upsert(FILE, Slot(slot), &row(slot as f32)).unwrap();
    }
    index.upsert(FILE, Slot(90), &row(f32::NAN)).unwrap();
    index.settle();
    index.remove(FILE, 3..5);
    index.checkpoint(9, b"", &[(FILE, vec![])]).unwrap();
}

/// Opens the checkpoint after an edit of its manifest and of its blobs.
fn edited(edit: impl FnOnce(&mut DirStore, &mut Manifest)) -> (Index, Recovered) {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let mut store = DirStore::open(dir.path()).unwrap();
    let mut manifest = manifest::decode(&store.manifest().unwrap().unwrap()).unwrap();
    edit(&mut store, &mut manifest);
    store.publish(&manifest::encode(&manifest).unwrap()).unwrap();
    Index::open(Some(Box::new(store)), options(OWNER)).unwrap()
}

fn vectors(manifest: &mut Manifest) -> &mut VectorsRecord {
    manifest.files[0].vectors.as_mut().unwrap()
}

/// A blob of these slots, all with the same row.
fn blob_of(store: &mut DirStore, slots: &[u64]) -> VectorsBlob {
    let row = [1.0f32, 1.0].map(f32::to_le_bytes).concat();
    let space = Space::new(Element::F32, Metric::L2, 2);
    let mut rows = VectorArray::new(space);
    for _ in slots {
        rows.push(&space.decode(&row).unwrap().unwrap());
    }
    let blob = vectors_blob::write(store, space, SlotsOf::Growing(slots), &rows);
    VectorsBlob { count: slots.len() as u64, blob: blob.unwrap() }
}

#[test]
fn what_was_saved_comes_back() {
    let (index, recovered) = edited(|_, manifest| {
        let vectors = vectors(manifest);
        assert_eq!(vectors.segments.len(), 1);
        assert!(vectors.segments[0].graph.is_some() && !vectors.segments[0].tombstones.is_empty());
        assert!(vectors.growing.is_some());
    });
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    assert_eq!(recovered.covered.unwrap().generation, 9);
    let stats = index.stats();
    assert_eq!((stats.counts.vectors, stats.counts.skipped, stats.counts.tombstones), (68, 1, 2));
}

type Edit = fn(&mut DirStore, &mut Manifest);

#[test]
fn nonsense_with_right_checksums_is_refused_whole() {
    let edits: [(&str, Edit); 11] = [
        ("its space", |_, m| vectors(m).space.dim = 0),
        ("its space", |_, m| vectors(m).params.m = 1),
        ("its skipped slots", |_, m| vectors(m).skipped = vec![(9, 3)]),
        ("a slot occurs twice", |store, m| vectors(m).growing = Some(blob_of(store, &[7, 7]))),
        ("slots out of order", |store, m| {
            vectors(m).segments[0] = SegmentRecord {
                vectors: blob_of(store, &[2, 1]),
                graph: None,
                tombstones: Vec::new(),
            };
        }),
        ("slots out of order", |store, m| {
            vectors(m).segments[0] = SegmentRecord {
                vectors: blob_of(store, &[2, 2]),
                graph: None,
                tombstones: Vec::new(),
            };
        }),
        ("its tombstones", |_, m| vectors(m).segments[0].tombstones = vec![0; 3]),
        ("its tombstones", |store, m| {
            vectors(m).segments[0] = SegmentRecord {
                vectors: blob_of(store, &[1, 2, 3]),
                graph: None,
                tombstones: vec![1 << 3],
            };
        }),
        ("has a wrong length", |_, m| vectors(m).segments[0].vectors.count += 1),
        ("has a wrong length", |_, m| {
            vectors(m).segments[0].vectors.count = GRAPH_ROWS_MAX as u64 + 1;
        }),
        ("has a wrong length", |_, m| vectors(m).growing.as_mut().unwrap().blob.bytes -= 1),
    ];
    for (words, edit) in edits {
        let (index, recovered) = edited(edit);
        assert!(recovered.covered.is_none(), "{words}");
        assert_eq!((index.stats().counts.vectors, index.files().len()), (0, 0), "{words}");
        let text = recovered.problems[0].to_string();
        assert!(recovered.problems.len() == 1 && text.contains(words), "{text}");
    }
}

/// A graph is only as good as its rows: one that is not of these rows goes alone.
#[test]
fn a_graph_of_other_rows_is_built_again() {
    let (index, recovered) = edited(|store, m| {
        vectors(m).segments[0].vectors = blob_of(store, &(0..64).collect::<Vec<_>>());
        vectors(m).segments[0].tombstones = Vec::new();
    });
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    let problems = index.verify();
    assert!(matches!(problems[..], [IndexError::Damaged(_)]), "{problems:?}");
    assert!(recovered.covered.is_some());
    index.settle();
    assert_eq!((index.stats().counts.vectors, index.stats().counts.graphs), (70, 1));
}

/// Such a file has no blobs.
#[test]
fn a_file_without_vectors_and_a_segment_without_a_graph_come_back() {
    let (mut index, recovered) = edited(|_, manifest| {
        vectors(manifest).segments[0].graph = None;
        vectors(manifest).growing = None;
    });
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    index.settle();
    assert_eq!((index.stats().counts.vectors, index.stats().counts.graphs), (62, 1));

    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let store = Box::new(DirStore::open(dir.path()).unwrap());
        Index::open(Some(store), options(OWNER)).unwrap()
    };
    index = open().0;
    let space = Space::new(Element::F32, Metric::L2, 2);
    index.declare(FILE, space, Params::default()).unwrap();
    assert_eq!(index.checkpoint(1, b"", &[(FILE, vec![])]).unwrap().blobs, 0);
    drop(index);
    let (index, recovered) = open();
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    assert_eq!((index.files(), index.space(FILE)), (vec![FILE], Some(space)));
}

/// A checkpoint does not wait for a graph that is being built.
/// A file of so many rows, of which each 64 are a segment. No build thread has it in its queue.
fn file_of(rows: u64) -> VectorFile {
    let mut file = VectorFile::new(Space::new(Element::F32, Metric::L2, 2), Params::default());
    let limits = crate::vector_file::Limits {
        graph_rows: 64,
        merge_rows: 1 << 18,
        merge_bytes: u64::MAX,
        memory: u64::MAX,
        graph: crate::GraphKind::default(),
    };
    for slot in 0..rows {
        let row = [slot as f32, 1.0].map(f32::to_le_bytes).concat();
        file.upsert(slot, &row, limits).unwrap();
    }
    assert_eq!((file.segments.len() as u64, file.growing.len() as u64), (rows / 64, rows % 64));
    file
}

#[test]
fn a_segment_is_saved_before_it_has_a_graph_and_its_rows_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = DirStore::open(dir.path().join("checkpoints")).unwrap();
    let files = HashMap::from([(FILE.0, Arc::new(RwLock::new(file_of(64))))]);
    let states = [(FILE, vec![])];
    let mut live = Vec::new();
    for (generation, blobs) in [(1, 1), (2, 0)] {
        let snapshot =
            Snapshot { owner: OWNER, generation, note: b"", states: &states, files: &files };
        assert_eq!(save(&mut store, dir.path(), &mut live, &snapshot).unwrap().blobs, blobs);
    }
    let loaded = load(&mut store, dir.path(), OWNER).unwrap().unwrap();
    assert!(loaded.problems.is_empty() && loaded.covered.generation == 2);
    let file = loaded.files[&FILE.0].read().unwrap();
    assert!(file.segments[0].segment.graph().is_none() && file.counts().vectors == 64);
}

/// The blobs of a file that one checkpoint left out are freed: the next one that has it writes them again.
#[test]
fn a_file_that_was_left_out_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    // It maps nothing.
    let medium = crate::store::volatile::VolatileMedium::default();
    let mut store = crate::store::TailStore::open(medium, 0, None).unwrap();
    let files = HashMap::from([(FILE.0, Arc::new(RwLock::new(file_of(65))))]);
    let with = [(FILE, vec![])];
    let mut live = Vec::new();
    for (generation, states, blobs) in
        [(1, &with[..], 2), (2, &[], 0), (3, &with, 2), (4, &with, 0)]
    {
        let snapshot = Snapshot { owner: OWNER, generation, note: b"", states, files: &files };
        assert_eq!(save(&mut store, dir.path(), &mut live, &snapshot).unwrap().blobs, blobs);
    }
    let loaded = load(&mut store, dir.path(), OWNER).unwrap().unwrap();
    assert_eq!(loaded.files[&FILE.0].read().unwrap().counts().vectors, 65);
}

/// A graph that was built while another was written is not taken for it.
#[test]
fn a_graph_that_is_not_the_written_one_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = DirStore::open(dir.path().join("checkpoints")).unwrap();
    let file = file_of(65);
    let segment = &file.segments[0].segment;
    let build = || {
        let (rows, go) = (segment.rows(), std::sync::atomic::AtomicBool::new(false));
        graph::build(crate::GraphKind::default(), &rows, None, Params::default(), &go).unwrap()
    };
    let written = build();
    let space = file.space;
    let vectors =
        vectors_blob::write(&mut store, space, SlotsOf::Sealed(&segment.slots), &segment.rows())
            .unwrap();
    let blob = {
        let dump = written.dump(dir.path(), vectors.crc).unwrap();
        pages::write(&mut store, dump.bytes(), &mut |out| dump.write_to(out)).unwrap()
    };
    for (now, kept) in [(None, None), (Some(build()), None), (Some(written.clone()), Some(blob))] {
        if let Some(graph) = now {
            segment.admit_graph(graph);
        }
        let saved = SavedSegment {
            segment: Arc::clone(segment),
            space,
            vectors,
            graph: Some(blob),
            fresh: false,
            built: Some(written.clone()),
        };
        saved.remember(&mut store);
        assert_eq!(lock(&segment.stored).graph, kept);
    }
}

#[test]
fn a_graph_of_the_library_is_loaded_from_a_store_that_maps() {
    let dir = tempfile::tempdir().unwrap();
    let of_the_library = || Options { graph: crate::GraphKind::HnswRs, ..options(OWNER) };
    for checkpoint in [true, false] {
        let store = Box::new(DirStore::open(dir.path()).unwrap());
        let (index, recovered) = Index::open(Some(store), of_the_library()).unwrap();
        assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
        if checkpoint {
            let space = Space::new(Element::F32, Metric::L2, 2);
            index.declare(FILE, space, Params::default()).unwrap();
            for slot in 0..200u64 {
                let row = [slot as f32, 1.0].map(f32::to_le_bytes).concat();
                index.upsert(FILE, Slot(slot), &row).unwrap();
            }
            index.settle();
            index.checkpoint(9, b"", &[(FILE, vec![])]).unwrap();
        }
        assert_eq!(index.stats().counts.graphs, 1);
        let hits = index.search(&[FILE], &[77.2, 1.0], 1, None, false).unwrap();
        assert_eq!(hits[0].slot, Slot(77));
    }
}

#[test]
fn a_file_that_was_never_declared_is_covered_all_the_same() {
    let (index, recovered) = edited(|_, manifest| manifest.files[0].vectors = None);
    assert!(recovered.problems.is_empty());
    assert_eq!(recovered.covered.unwrap().files, [(FILE, vec![])]);
    assert!(index.files().is_empty());
}

#[test]
fn another_owners_checkpoint_is_foreign() {
    let (index, recovered) = edited(|_, manifest| manifest.owner = [2; 16]);
    assert!(recovered.covered.is_none() && index.files().is_empty());
    assert!(matches!(recovered.problems[..], [IndexError::Foreign(_)]));
}

/// A store that cannot free anything, and cannot write if `fail_blobs`.
struct Stubborn {
    store: DirStore,
    fail_blobs: bool,
}

impl Store for Stubborn {
    fn write_blob(&mut self, bytes: u64, fill: &mut crate::store::Fill<'_>) -> Result<Blob> {
        if self.fail_blobs {
            return Err(IndexError::Full { needed: bytes, available: 0 });
        }
        self.store.write_blob(bytes, fill)
    }
    fn read_blob(&mut self, blob: &Blob, take: &mut crate::store::Take<'_>) -> Result<()> {
        self.store.read_blob(blob, take)
    }
    fn publish(&mut self, manifest: &[u8]) -> Result<()> {
        self.store.publish(manifest)
    }
    fn manifest(&mut self) -> Result<Option<Vec<u8>>> {
        self.store.manifest()
    }
    fn retain(&mut self, _: &[Blob]) -> Result<()> {
        Err(IndexError::storage("freeing")(std::io::Error::other("stubborn")))
    }
}

#[test]
fn leftovers_that_cannot_be_freed_are_reported_and_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let store = Stubborn { store: DirStore::open(dir.path()).unwrap(), fail_blobs: true };
    let (index, recovered) = Index::open(Some(Box::new(store)), options(OWNER)).unwrap();
    assert!(recovered.problems[0].to_string().contains("freeing"), "{:?}", recovered.problems);
    assert_eq!((recovered.covered.unwrap().generation, index.stats().counts.vectors), (9, 68));
    // The first error is the one that is reported, and the old checkpoint stays.
    index.upsert(FILE, Slot(80), &[0; 8]).unwrap();
    let error = index.checkpoint(10, b"", &[(FILE, vec![])]).unwrap_err();
    assert!(matches!(error, IndexError::Full { .. }), "{error}");
    drop(index);
    let store = Box::new(DirStore::open(dir.path()).unwrap());
    let (index, recovered) = Index::open(Some(store), options(OWNER)).unwrap();
    assert_eq!((recovered.covered.unwrap().generation, index.stats().counts.vectors), (9, 68));
}

#[test]
fn an_index_needs_a_scratch_directory_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Options { scratch: dir.path().join("not there"), ..options(OWNER) };
    assert!(matches!(Index::open(None, nowhere), Err(IndexError::Storage { .. })));
    // Names that a killed process with the same number left behind are not used.
    for nonce in 0..5000 {
        let name = format!("vexfs-index-{}-{nonce}", std::process::id());
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let scratch = Options { scratch: dir.path().into(), ..options(OWNER) };
    assert!(Index::open(None, scratch).is_ok());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5000, "and left alone");
}

fn published(space: Space, rows: u64, blobs: &[Blob]) -> (tempfile::TempDir, DirStore) {
    let segment = |blob: &Blob| SegmentRecord {
        vectors: VectorsBlob { count: rows, blob: *blob },
        graph: None,
        tombstones: Vec::new(),
    };
    let vectors = VectorsRecord {
        space,
        params: Params::default(),
        skipped: Vec::new(),
        growing: None,
        segments: blobs.iter().map(segment).collect(),
    };
    let files = vec![FileRecord { file: 1, state: Vec::new(), vectors: Some(vectors) }];
    let manifest = Manifest { owner: [7; 16], generation: 1, note: Vec::new(), files };
    let dir = tempfile::tempdir().unwrap();
    let mut store = DirStore::open(dir.path()).unwrap();
    store.publish(&manifest::encode(&manifest).unwrap()).unwrap();
    (dir, store)
}

// A manifest with right checksums named a sparse file of 4 TiB: the process asked for as much
// memory at once and was aborted, each time it was started, or read all of the file first.
#[test]
fn a_checkpoint_that_does_not_fit_into_memory_is_refused() {
    let space = Space::new(Element::F32, Metric::L2, 65_536);
    let rows = GRAPH_ROWS_MAX as u64;
    let contents = VectorArray::stored_bytes(space, rows).unwrap() + 128;
    let bytes = contents.div_ceil(4096) * 4100;
    let (dir, mut store) = published(space, rows, &[Blob { at: 0, bytes, crc: 0 }]);
    let blob = std::fs::File::create(dir.path().join("blob-0")).unwrap();
    blob.set_len(bytes).unwrap();
    assert!(load(&mut store, dir.path(), [7; 16]).is_err());
}

#[test]
fn a_blob_that_is_named_twice_is_refused() {
    let space = Space::new(Element::F32, Metric::L2, 2);
    let blob = Blob { at: 3, bytes: 16, crc: 0 };
    let (dir, mut store) = published(space, 1, &[blob, blob]);
    let error = load(&mut store, dir.path(), [7; 16]).err().unwrap().to_string();
    assert!(error.contains("one place"), "{error}");
}
