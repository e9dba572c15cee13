// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Queries from a `.npy` file. Bytes stay what they are: only who answers knows whether they are numbers or
//! packed bits.

use crate::ask::Query;
use std::path::Path;
use vexfs_index::npy::{self, Matrix, Stored};

/// The query in a row of a file.
///
/// # Errors
/// One line that says why there is none.
pub fn read_query(file: &Path, row: usize) -> Result<Query, String> {
    let (matrix, stored) = read_matrix(file)?;
    if row >= matrix.rows {
        return Err(format!("{}: there is no row {row}: it has {}", file.display(), matrix.rows));
    }
    Ok(query_of(&matrix, stored, row))
}

/// Every row of a file.
///
/// # Errors
/// As [`read_query`].
pub fn read_queries(file: &Path) -> Result<Vec<Query>, String> {
    let (matrix, stored) = read_matrix(file)?;
    Ok((0..matrix.rows).map(|row| query_of(&matrix, stored, row)).collect())
}

fn read_matrix(file: &Path) -> Result<(Matrix, Stored), String> {
    let (matrix, stored) = npy::read_stored(file).map_err(|e| e.to_string())?;
    if matrix.rows == 0 {
        return Err(format!("{}: it has no rows to search for", file.display()));
    }
    Ok((matrix, stored))
}

fn query_of(matrix: &Matrix, stored: Stored, row: usize) -> Query {
    let numbers = matrix.row(row).iter();
    match stored {
        Stored::U8 => Query::Bytes { bytes: numbers.map(|x| *x as u8).collect(), signed: false },
        Stored::I8 => {
            let bytes = numbers.map(|x| (*x as i8).cast_unsigned()).collect();
            Query::Bytes { bytes, signed: true }
        }
        _ => Query::Vector(numbers.copied().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_query_is_a_row_that_exists() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("q.npy");
        npy::write(&file, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(read_query(&file, 1).unwrap(), Query::Vector(vec![3.0, 4.0]));
        assert!(read_query(&file, 2).unwrap_err().contains("no row 2: it has 2"));
        for (odd, words) in [(f32::NAN, "is NaN"), (f32::INFINITY, "is inf")] {
            npy::write(&file, 2, &[1.0, odd]).unwrap();
            let why = read_query(&file, 0).unwrap_err();
            assert!(why.contains(words) && !why.contains('\n'), "{why}");
        }
        npy::write(&file, 2, &[]).unwrap();
        assert!(read_query(&file, 0).unwrap_err().contains("no rows"));
        // Bytes stay what they are: only the daemon knows whether they are numbers or bits.
        let header = fs::read(&file).unwrap();
        let of = |descr: &str| {
            let text = String::from_utf8_lossy(&header[10..]).replace("<f4", descr);
            let text = text.replace("(0, 2)", "(1, 2)");
            [&header[..10], text.as_bytes(), &[0x80, 0x7f]].concat()
        };
        for (descr, signed) in [("|u1", false), ("|i1", true)] {
            fs::write(&file, of(descr)).unwrap();
            let bytes = vec![0x80, 0x7f];
            assert_eq!(read_query(&file, 0).unwrap(), Query::Bytes { bytes, signed });
        }
    }
}
