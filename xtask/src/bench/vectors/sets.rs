// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is searched: corpora and queries, generated or given, as every engine reads them.
//!
//! A set lies below the target directory as two `.npy` files of `<f4` in C order; rows that are compared by
//! angle have unit length there, so that all engines rank alike. Generated sets depend on nothing but
//! their size. What was found is judged by distance, not by number: equal rows are equally good.

use std::f64::consts::TAU;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use vexfs_npy::{Header, MAGIC};

use super::conductor::Engine;

/// Neighbours that a query asks for.
pub const K: usize = 10;

/// How rows are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Distance
    L2,
    /// Angle
    Cosine,
}

impl Metric {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Cosine => "cosine",
        }
    }
}

/// Rows of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Elements of a row.
    pub dim: usize,
    /// Row after row.
    pub data: Vec<f32>,
}

impl Matrix {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.dim.max(1)
    }

    fn row(&self, row: usize) -> Option<&[f32]> {
        self.data.get(row.checked_mul(self.dim)?..)?.get(..self.dim)
    }

    /// Reads an `.npy` file of `float32`.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let header = Header::parse(&bytes)
            .with_context(|| format!("{} is no .npy file of one matrix", path.display()))?;
        let [rows, dim] = header.shape;
        ensure!(
            header.descr == "<f4" && !header.fortran_order && dim > 0,
            "{} is not of float32 in C order: save numpy.ascontiguousarray(a, 'float32')",
            path.display()
        );
        let body = bytes.get(header.data_start..).unwrap_or_default();
        let (numbers, rest) = body.as_chunks::<4>();
        let data: Vec<f32> = numbers.iter().map(|x| f32::from_le_bytes(*x)).collect();
        ensure!(
            rest.is_empty() && Some(data.len() as u64) == rows.checked_mul(dim) && rows > 0,
            "{} has another length than its header says, or no rows",
            path.display()
        );
        ensure!(data.iter().all(|x| x.is_finite()), "{} has a NaN or infinity", path.display());
        Ok(Self { dim: usize::try_from(dim)?, data })
    }

    /// Writes it as an `.npy` file, which appears whole or not at all.
    fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_extension("part");
        let put = || -> std::io::Result<()> {
            let mut out = BufWriter::new(File::create(&part)?);
            let dict = format!(
                "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
                self.rows(),
                self.dim
            );
            out.write_all(&MAGIC)?;
            out.write_all(&[1, 0, 118, 0])?;
            writeln!(out, "{dict:<117}")?;
            for x in &self.data {
                out.write_all(&x.to_le_bytes())?;
            }
            out.into_inner()?.sync_data()?;
            fs::rename(&part, path)
        };
        put().with_context(|| format!("cannot write {}", path.display()))
    }

    fn normalise(&mut self) {
        for row in self.data.chunks_exact_mut(self.dim) {
            let norm = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            if norm > 0.0 {
                for x in row {
                    *x = (f64::from(*x) / norm) as f32;
                }
            }
        }
    }
}

/// A corpus, its queries, and what is true of them.
#[derive(Debug)]
pub struct Set {
    /// In results and file names.
    pub name: String,
    /// How rows are compared.
    pub metric: Metric,
    /// Where the engines read the corpus.
    pub corpus_path: PathBuf,
    /// Where the engines read the queries.
    pub queries_path: PathBuf,
    corpus: Matrix,
    queries: Matrix,
    /// The squared distance of each query's last true neighbour.
    kth: Vec<f64>,
}

impl Set {
    /// Generates the set, or takes it from an earlier run.
    pub fn clustered(dir: &Path, name: &str, rows: usize) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let (corpus_path, queries_path) = (dir.join("corpus.npy"), dir.join("queries.npy"));
        let earlier =
            Matrix::read(&corpus_path).and_then(|c| Ok((c, Matrix::read(&queries_path)?)));
        let (corpus, queries) = if let Ok(pair) = earlier {
            pair
        } else {
            let (corpus, queries) = clusters(rows, 1000);
            corpus.write(&corpus_path)?;
            queries.write(&queries_path)?;
            (corpus, queries)
        };
        let (name, kth) = (name.to_owned(), Vec::new());
        Ok(Self { name, metric: Metric::L2, corpus_path, queries_path, corpus, queries, kth })
    }

    /// Takes a set from files.
    pub fn given(dir: &Path, corpus: &Path, queries: &Path, metric: Metric) -> Result<Self> {
        let name = corpus.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (mut corpus, mut queries) = (Matrix::read(corpus)?, Matrix::read(queries)?);
        ensure!(
            corpus.dim == queries.dim,
            "rows of the corpus have {} elements, queries {}",
            corpus.dim,
            queries.dim
        );
        ensure!(corpus.rows() >= 1000, "the corpus has fewer than 1000 rows: nothing to index");
        if metric == Metric::Cosine {
            corpus.normalise();
            queries.normalise();
        }
        let dir = dir.join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let (corpus_path, queries_path) = (dir.join("corpus.npy"), dir.join("queries.npy"));
        corpus.write(&corpus_path)?;
        queries.write(&queries_path)?;
        Ok(Self { name, metric, corpus_path, queries_path, corpus, queries, kth: Vec::new() })
    }

    /// Has an engine look at every row, for what is true.
    pub fn find_truth(&mut self, exact: &mut Engine) -> Result<()> {
        self.kth = exact.truth(K)?;
        ensure!(self.kth.len() == self.queries.rows(), "the exact search left queries out");
        Ok(())
    }

    /// Elements of a row.
    pub fn dim(&self) -> usize {
        self.corpus.dim
    }

    /// Rows of the corpus.
    pub fn rows(&self) -> usize {
        self.corpus.rows()
    }

    /// Rows, elements, metric and queries in words.
    pub fn describe(&self) -> String {
        format!(
            "{}: {} x {}, {}, {} queries, recall@{K}",
            self.name,
            self.rows(),
            self.dim(),
            self.metric.word(),
            self.queries.rows()
        )
    }

    /// The share of true neighbours among what was found; a row found twice counts once.
    pub fn recall(&self, found: &[Vec<usize>]) -> Result<f64> {
        ensure!(found.len() == self.queries.rows(), "it answered {} queries", found.len());
        let mut good = 0;
        for ((ids, kth), query) in found.iter().zip(&self.kth).zip(0..) {
            let mut ids = ids.clone();
            ids.truncate(K);
            ids.sort_unstable();
            ids.dedup();
            let query = self.queries.row(query).context("a query is missing")?;
            for id in ids {
                let row = self.corpus.row(id).with_context(|| format!("it found row {id}"))?;
                // As much as single precision leaves open.
                good += usize::from(squared(row, query) <= kth * (1.0 + 1e-6) + 1e-12);
            }
        }
        Ok(good as f64 / (K * found.len().max(1)) as f64)
    }
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// Overlapping clusters of unequal size and width, which lie in 24 of 128 dimensions, with a little noise
/// in all: nearer to embeddings than points drawn alike.
fn clusters(rows: usize, queries: usize) -> (Matrix, Matrix) {
    const DIM: usize = 128;
    const LATENT: usize = 24;
    const CENTRES: usize = 1000;
    let mut random = Random(42);
    let scale = (LATENT as f64).sqrt();
    let plane: Vec<f32> = (0..LATENT * DIM).map(|_| (random.normal() / scale) as f32).collect();
    let centres: Vec<f64> = (0..CENTRES * LATENT).map(|_| random.normal()).collect();
    let widths: Vec<f64> = (0..CENTRES).map(|_| 0.25 + 0.35 * random.uniform()).collect();
    // The chance of a cluster falls with the root of its rank.
    let mut sums = Vec::with_capacity(CENTRES);
    let mut sum = 0.0;
    for rank in 1..=CENTRES {
        sum += 1.0 / (rank as f64).sqrt();
        sums.push(sum);
    }
    let mut draw = |rows: usize| {
        let mut data = Vec::with_capacity(rows * DIM);
        for _ in 0..rows {
            let wish = random.uniform() * sum;
            let cluster = sums.partition_point(|sum| *sum < wish).min(CENTRES - 1);
            let mut row: [f32; DIM] = std::array::from_fn(|_| (0.1 * random.normal()) as f32);
            for (centre, plane) in
                centres[cluster * LATENT..][..LATENT].iter().zip(plane.chunks_exact(DIM))
            {
                let along = (centre + widths[cluster] * random.normal()) as f32;
                for (x, direction) in row.iter_mut().zip(plane) {
                    *x += along * direction;
                }
            }
            data.extend_from_slice(&row);
        }
        Matrix { dim: DIM, data }
    };
    (draw(rows), draw(queries))
}

/// Numbers that are the same on every machine (splitmix64, by Steele, Lea and Flood).
struct Random(u64);

impl Random {
    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of mean 0 and deviation 1, after Box and Muller.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Metric, Set, clusters};

    #[test]
    fn a_generated_set_is_the_same_every_time() {
        let (corpus, queries) = clusters(300, 5);
        assert_eq!((corpus.rows(), corpus.dim, queries.rows()), (300, 128, 5));
        assert_eq!(clusters(300, 5).0, corpus);
        let mean_square = corpus.data.iter().map(|x| f64::from(x * x)).sum::<f64>() / 38_400.0;
        // Centres of deviation 1 and a width of a sixth of that, and a hundredth of noise.
        assert!((0.9..1.5).contains(&mean_square), "{mean_square}");
    }

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let matrix = Matrix { dim: 2, data: vec![1.0, 2.0, 3.0, 4.5] };
        matrix.write(&path).unwrap();
        assert_eq!(Matrix::read(&path).unwrap(), matrix);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.pop();
        std::fs::write(&path, bytes).unwrap();
        assert!(Matrix::read(&path).unwrap_err().to_string().contains("another length"));
    }

    impl Set {
        /// The numbers 0 to 10, the last of them twice; ten are true neighbours of the query, 0.
        pub fn line_of_twelve() -> Self {
            Self {
                name: "x".into(),
                metric: Metric::L2,
                corpus_path: "c".into(),
                queries_path: "q".into(),
                corpus: Matrix { dim: 1, data: (0..12_u8).map(|x| f32::from(x.min(10))).collect() },
                queries: Matrix { dim: 1, data: vec![0.0] },
                kth: vec![81.0],
            }
        }
    }

    #[test]
    fn equal_rows_are_equally_good_and_count_once() {
        let set = Set::line_of_twelve();
        let recall = |ids: &[usize]| set.recall(&[ids.to_vec()]).unwrap();
        assert!((recall(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) - 1.0).abs() < 1e-9);
        assert!((recall(&[0, 0, 0, 1, 10, 11]) - 0.2).abs() < 1e-9);
        assert!(set.recall(&[vec![12]]).is_err() && set.recall(&[]).is_err());
        let tied = Set { kth: vec![100.0], ..set };
        let of = |id| tied.recall(&[vec![id]]).unwrap();
        assert!((of(10) - of(11)).abs() < 1e-9 && of(11) > 0.0);
    }
}
