// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Finds the true neighbours of the sample queries by brute force, for the tests to compare with.
//!
//! It shares no code with the index, not even the parser of `.npy`. Only little-endian `f32` matrices in
//! version 1 of the format are read, which is what `tests/data` holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// Neighbours per query.
const NEIGHBOURS: usize = 10;
/// Queries that tests use.
const QUERIES: usize = 50;

struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

/// Writes one line per query: the slots of its nearest rows by cosine, nearest first.
pub fn write(workspace: &Workspace) -> Result<PathBuf> {
    let data = workspace.root.join("tests/data");
    let rows = read_npy(&data.join("packages-2k.npy"))?;
    let queries = read_npy(&data.join("queries-200.npy"))?;
    ensure!(rows.columns == queries.columns, "the sample matrices differ in their dimension");
    let mut text = String::new();
    for query in queries.values.chunks_exact(queries.columns).take(QUERIES) {
        let slots: Vec<String> = nearest(&rows, query).iter().map(ToString::to_string).collect();
        text.push_str(&slots.join(" "));
        text.push('\n');
    }
    let path = workspace.vm.join("truth.txt");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn nearest(rows: &Matrix, query: &[f32]) -> Vec<usize> {
    let mut all: Vec<(f64, usize)> = rows
        .values
        .chunks_exact(rows.columns)
        .enumerate()
        .map(|(slot, row)| (1.0 - cosine(row, query), slot))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(NEIGHBOURS).map(|(_, slot)| slot).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    dot / (aa * bb).sqrt()
}

fn read_npy(path: &Path) -> Result<Matrix> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_npy(&bytes).with_context(|| format!("{} is not the .npy expected", path.display()))
}

fn parse_npy(bytes: &[u8]) -> Result<Matrix> {
    let rest = bytes.strip_prefix(b"\x93NUMPY\x01\x00").context("another format or version")?;
    let length = rest.first_chunk::<2>().context("cut short")?;
    let length = usize::from(u16::from_le_bytes(*length));
    let header = rest.get(2..2 + length).context("cut short")?;
    let header = std::str::from_utf8(header).context("a header that is no text")?;
    ensure!(header.contains("'<f4'") && header.contains("False"), "not a matrix of <f4 in C order");
    let shape = header.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let shape = shape.context("no shape")?.0;
    let columns = shape.split(',').nth(1).and_then(|text| text.trim().parse().ok());
    let columns: usize = columns.context("no second dimension")?;
    let values: Vec<f32> = rest[2 + length..]
        .chunks_exact(4)
        .map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]))
        .collect();
    ensure!(columns > 0 && values.len().is_multiple_of(columns), "an incomplete row");
    Ok(Matrix { columns, values })
}

#[cfg(test)]
mod tests {
    use super::{Matrix, nearest, parse_npy};

    #[test]
    fn the_nearest_comes_first() {
        let rows = Matrix { columns: 2, values: vec![0.0, 1.0, 1.0, 0.0, 1.0, 1.0] };
        assert_eq!(nearest(&rows, &[2.0, 0.1]), [1, 2, 0]);
    }

    #[test]
    fn a_matrix_is_read() {
        let header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header);
        for value in [1.5_f32, -2.0] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let matrix = parse_npy(&bytes).map(|m| (m.columns, m.values));
        assert_eq!(matrix.ok(), Some((2, vec![1.5, -2.0])));
        assert!(parse_npy(b"not numpy").is_err());
    }
}
