// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index as an engine of `cargo xtask bench vectors`: through its public interface, with the options
//! that it has by default.
//!
//! `vexfs-index` is the index as it is; `hnsw_rs` the same with that library's graphs. Rows arrive in
//! batches of a thousand, as they do from commits, and a build lasts until nothing is left to merge.

mod protocol;

use std::{fs::File, io::Read, path::Path};

use protocol::{Engine, Job, Outcome, Rows};
use vexfs_index::{
    DirStore, Element, FileId, GraphKind, Index, Metric, Options, Params, Slot, Space,
};

const FILE: FileId = FileId(1);
/// Rows of one upsert.
const BATCH: usize = 1000;

struct Ours {
    options: Options,
    index: Option<Index>,
}

impl Ours {
    fn opened(&mut self, job: &Job) -> Outcome<&Index> {
        let store = DirStore::open(&job.scratch)?;
        let (index, recovered) = Index::open(Some(Box::new(store)), self.options.clone())?;
        if let Some(problem) = recovered.problems.first() {
            return Err(problem.to_string().into());
        }
        Ok(self.index.insert(index))
    }

    fn index(&self) -> Outcome<&Index> {
        self.index.as_ref().ok_or_else(|| "it is not built or opened yet".into())
    }
}

impl Engine for Ours {
    fn build(&mut self, job: &Job, rows: &Rows) -> Outcome<()> {
        let metric = if job.cosine { Metric::Cosine } else { Metric::L2 };
        let index = self.opened(job)?;
        index.declare(
            FILE,
            Space::new(Element::F32, metric, rows.dim as u32),
            Params::default(),
        )?;
        let mut first = 0;
        for batch in rows.data.chunks(BATCH * rows.dim) {
            let bytes: Vec<u8> = batch.iter().flat_map(|x| x.to_le_bytes()).collect();
            index.upsert_rows(FILE, Slot(first), &bytes, rows.dim * 4, 0)?;
            first += BATCH as u64;
        }
        index.settle();
        Ok(())
    }

    fn note(&self) -> String {
        let counts = self.index.as_ref().map(|index| index.stats().counts).unwrap_or_default();
        format!(
            "{} segments with {} graphs, {} rows in no graph",
            counts.segments, counts.graphs, counts.pending
        )
    }

    fn save(&mut self, _: &Job) -> Outcome<bool> {
        self.index()?.checkpoint(1, b"", &[(FILE, Vec::new())])?;
        Ok(true)
    }

    fn open(&mut self, job: &Job) -> Outcome<()> {
        let index = self.opened(job)?;
        if index.stats().counts.vectors == 0 { Err("nothing was saved".into()) } else { Ok(()) }
    }

    fn mapped_vectors(&self, job: &Job) -> u64 {
        let Ok(scratch) = job.scratch.canonicalize() else { return 0 };
        // FORMAT.md: what a blob of vectors begins with.
        let is_vectors = |path: &str| {
            let mut first = [0; 6];
            Path::new(path).starts_with(&scratch)
                && File::open(path).is_ok_and(|mut file| file.read_exact(&mut first).is_ok())
                && first == *b"VXVECT"
        };
        protocol::resident_of(is_vectors)
    }

    fn search(&self, query: &[f32], k: usize, ef: usize, found: &mut Vec<u64>) -> Outcome<()> {
        let hits = self.index()?.search(&[FILE], query, k, Some(ef), false)?;
        found.extend(hits.iter().map(|hit| hit.slot.0));
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let job = Job::from_args()?;
    let graph = match job.engine.as_str() {
        "hnsw_rs" => GraphKind::HnswRs,
        _ => GraphKind::Flat,
    };
    let options = Options { graph, scratch: job.scratch.clone(), ..Options::default() };
    let version = format!("{} {}", job.engine, env!("CARGO_PKG_VERSION"));
    protocol::serve(&job, &version, Ours { options, index: None })
}

#[cfg(test)]
mod tests {
    use super::protocol::{Engine, Job, Rows};
    use super::{GraphKind, Options, Ours};

    #[test]
    fn what_is_built_is_saved_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let rows = Rows { dim: 8, data: (0..8 * 2500).map(|_| random.f32()).collect() };
        for (name, graph) in [("vexfs-index", GraphKind::Flat), ("hnsw_rs", GraphKind::HnswRs)] {
            let scratch = dir.path().join(name);
            std::fs::create_dir(&scratch).unwrap();
            let job = Job::of(name, false, &scratch);
            let options = Options { graph, scratch: scratch.clone(), ..Options::default() };
            let mut built = Ours { options: options.clone(), index: None };
            assert!(built.search(rows.row(0), 1, 10, &mut Vec::new()).is_err());
            built.build(&job, &rows).unwrap();
            assert!(built.save(&job).unwrap());
            let mut opened = Ours { options, index: None };
            opened.open(&job).unwrap();
            for row in [0, 999, 1000, 2499] {
                for engine in [&built, &opened] {
                    let mut found = Vec::new();
                    engine.search(rows.row(row), 1, 10, &mut found).unwrap();
                    assert_eq!(found, [row as u64], "{name}");
                }
            }
        }
    }

    #[test]
    fn an_empty_directory_has_nothing_to_open() {
        let dir = tempfile::tempdir().unwrap();
        let job = Job::of("vexfs-index", true, dir.path());
        let options = Options { scratch: dir.path().to_owned(), ..Options::default() };
        assert!(Ours { options, index: None }.open(&job).is_err());
    }
}
