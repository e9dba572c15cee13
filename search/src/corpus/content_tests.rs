// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Files as people have them, in a directory with a mark: which are taken, where their rows are, and
//! what is said of the others.

use super::super::header::{self, TEXT};
use super::*;

impl Bytes for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let end = range.end.min(self.len() as u64) as usize;
        Ok(self.get(range.start as usize..end).unwrap_or_default().to_vec())
    }

    fn written(&self, range: Range<u64>) -> bool {
        range.end <= self.len() as u64
    }
}

fn look(attribute: &str, mut content: &[u8]) -> Result<header::Layout, Trouble> {
    let attribute = VectorLayout::parse(attribute).unwrap();
    match header::layout(&attribute, &mut content) {
        Ok(layout) => Ok(layout),
        Err(Stop::Left(why)) => Err(why),
        Err(Stop::Read(e)) => panic!("{e}"),
    }
}

#[track_caller]
fn left_out(attribute: &str, content: &[u8]) -> String {
    match look(attribute, content) {
        Err(Trouble::Unusable(why)) => {
            assert!(!why.contains('\n'), "{why}");
            why
        }
        Err(Trouble::Text) => TEXT.to_owned(),
        other => panic!("{other:?}"),
    }
}

fn array(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(dict.len() as u16).to_le_bytes());
    bytes.extend_from_slice(dict.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn tensors(header: &str, body: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), body].concat()
}

/// Rows after a word that is their length.
fn records(dim: u32, rows: usize, row: &[u8]) -> Vec<u8> {
    [&dim.to_le_bytes()[..], row].concat().repeat(rows)
}

const F32: &str = "type=f32,dim=4,metric=l2";
const FLOATS: [u8; 16] = [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0, 0, 0x40, 0x40, 0, 0, 0x80, 0xbf];

#[test]
fn an_npy_file_is_taken_however_its_writer_spells_the_header() {
    for descr in ["<f4", "f4", "=f4"] {
        for shape in ["(3, 4)", "(3L, 4L)"] {
            let file = array(descr, shape, &FLOATS.repeat(3));
            let found = look(F32, &file).unwrap();
            assert_eq!(found.rows.count(file.len() as u64), (3, 0), "{descr} {shape}");
            assert_eq!(found.rows.start(0), file.len() as u64 - 48);
        }
    }
    for (attribute, descr, columns) in [
        ("type=f16,dim=4", "<f2", 4),
        ("type=bf16,dim=4", "<V2", 4),
        ("type=i8,dim=4", "|i1", 4),
        ("type=bit,dim=30", "|u1", 4),
    ] {
        let found = look(attribute, &array(descr, &format!("(1, {columns})"), &[1; 8])).unwrap();
        assert!(!found.signed_bits, "{attribute}");
    }
    // sentence-transformers: packbits, less 128.
    assert!(look("type=bit,dim=32", &array("|i1", "(2, 4)", &[1; 8])).unwrap().signed_bits);
}

#[test]
fn an_npy_file_that_does_not_fit_says_why() {
    for (attribute, file, words) in [
        (F32, array("<f4", "(3, 5)", &[]), &["f32 x 5", "f32 x 4"][..]),
        (F32, array("<f8", "(3, 4)", &[]), &["f64 x 4"]),
        (F32, array(">f4", "(3, 4)", &[]), &["big-endian"]),
        (F32, array("|O", "(3, 4)", &[]), &["|O"]),
        (F32, array("<f4", "(3, 4, 2)", &[]), &["two-dimensional"]),
        (F32, b"\x93NUMPY\x01\x00".to_vec(), &["cut off"]),
        ("type=bit,dim=64", array("|u1", "(3, 64)", &[]), &["u8 x 64", "packed: u8 x 8"]),
        ("type=f32,dim=4,stride=32", array("<f4", "(3, 4)", &[]), &["stride"]),
    ] {
        let why = left_out(attribute, &file);
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    let fortran = array("<f4", "(3, 4)", &[]);
    let fortran = String::from_utf8_lossy(&fortran[10..]).replace("False", "True");
    let head = [b"\x93NUMPY\x01\x00".as_slice(), &(fortran.len() as u16).to_le_bytes()].concat();
    assert!(left_out(F32, &[&head, fortran.as_bytes()].concat()).contains("Fortran"));
}

// The header of a second array that was saved into one open file was found as a row.
#[test]
fn rows_end_where_the_header_says_if_another_header_follows() {
    let one = array("<f4", "(3, 4)", &FLOATS.repeat(3));
    let two = [one.clone(), one.clone()].concat();
    let found = look(F32, &two).unwrap();
    assert_eq!(found.rows.count(two.len() as u64), (3, 0));
    let odd = found.odd_end(3, two.len() as u64).unwrap();
    assert!(odd.contains("3 rows") && odd.contains("not searched"), "{odd}");
    // Only the first bytes of it are there yet.
    let cut = &two[..one.len() + 3];
    assert_eq!(look(F32, cut).unwrap().rows.count(cut.len() as u64), (3, 0));
    // Rows that were appended count.
    let more = [one.clone(), FLOATS.repeat(2)].concat();
    let found = look(F32, &more).unwrap();
    assert_eq!((found.rows.count(more.len() as u64), found.odd_end(5, 0)), ((5, 0), None));
    // Not all of them are there yet.
    let less = &one[..one.len() - 16];
    let found = look(F32, less).unwrap();
    assert_eq!(found.rows.count(less.len() as u64), (2, 0));
    assert!(found.odd_end(2, 0).unwrap().contains("says 3 rows, 2 are there"));
}

#[test]
fn a_safetensors_file_with_one_fitting_matrix_is_taken() {
    let header = r#"{"__metadata__":{"by":"x"},"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[3,4],"data_offsets":[8,56]}}  "#;
    let file = tensors(header, &[0; 60]);
    let found = look(F32, &file).unwrap();
    assert_eq!(found.rows.start(0), 8 + header.len() as u64 + 8);
    assert_eq!(found.rows.count(file.len() as u64), (3, 0));
    for (header, words) in [
        (r#"{"a":{"dtype":"F32","shape":[3,5],"data_offsets":[0,60]}}"#, "f32 x 4"),
        (r#"{"a":{"dtype":"F16","shape":[3,4],"data_offsets":[0,24]}}"#, "f32 x 4"),
        (r#"{"a":{"dtype":"F32","shape":[3,4],"data_offsets":[0,47]}}"#, "exactly one"),
        (
            r#"{"a":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]},"b":{"dtype":"F32","shape":[3,4],"data_offsets":[48,96]}}"#,
            "2 tensors",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,48]}}"#,
            "exactly one",
        ),
        ("{}", "0 tensors"),
        ("{\"a\"", "malformed"),
    ] {
        let why = left_out(F32, &tensors(header, &[0; 96]));
        assert!(why.contains(words), "{header}: {why}");
    }
    let whole = tensors(header, &[0; 60]);
    assert!(left_out(F32, &whole[..50]).contains("cut off"));
    let signed = r#"{"a":{"dtype":"I8","shape":[3,4],"data_offsets":[0,12]}}"#;
    assert!(look("type=bit,dim=32", &tensors(signed, &[0; 12])).unwrap().signed_bits);
}

#[test]
fn rows_with_length_words_are_taken_if_these_are_regular() {
    let file = records(4, 300, &FLOATS);
    let found = look(F32, &file).unwrap().rows;
    assert_eq!((found.stride, found.offset, found.word), (20, 4, Some(4)));
    assert_eq!(found.count(file.len() as u64), (300, 0));
    // A copy under way.
    assert_eq!(look(F32, &file[..50]).unwrap().rows.count(50), (2, 10));
    assert!(look("type=f32,dim=4,stride=20,offset=4", &file).is_ok());
    assert!(left_out("type=f32,dim=4,stride=24,offset=4", &file).contains("stride=20,offset=4"));
    // Every word is checked when the rows are read.
    let mut wrong = file.clone();
    wrong[40] = 5;
    let rows = look(F32, &wrong).unwrap().rows;
    assert_eq!(rows.wrong_word(7, &wrong), Some(9));
    assert_eq!(rows.wrong_word(0, &file), None);
    // The second, the middle and the last are looked at before.
    for row in [1, 150, 299] {
        let mut wrong = file.clone();
        wrong[row * 20] = 5;
        assert!(left_out(F32, &wrong).contains("raw bytes"));
    }
    let why = left_out(F32, &records(5, 9, &[0x3f; 20]));
    assert!(why.contains("5 to a row") && why.contains("f32 x 4"), "{why}");
    assert!(left_out(F32, &records(4, 9, &[200; 4])).contains(".bvecs"));
    assert!(left_out("type=i8,dim=4", &records(4, 9, &[200; 4])).contains("type=u8"));
    let ids = [7u32, 0, 99, 123].map(u32::to_le_bytes).concat();
    assert!(left_out(F32, &records(4, 9, &ids)).contains(".ivecs"));
}

// A Parquet file of the right length gave ten of ten hits, a pickle 65 of 80.
#[test]
fn what_lies_beside_vectors_is_left_out_by_its_name() {
    let zip = |name: &str| {
        let mut head = b"PK\x03\x04".to_vec();
        head.resize(26, 0);
        head.extend_from_slice(&(name.len() as u16).to_le_bytes());
        head.extend_from_slice(&[0, 0]);
        [&head, name.as_bytes(), &[0; 64]].concat()
    };
    let tar = [vec![b'n'; 1], vec![0; 256], b"ustar\0".to_vec(), vec![0; 249]].concat();
    let padded = |head: &[u8]| [head, &[0x80; 64]].concat();
    for (file, words) in [
        (zip("arr_0.npy"), ".npz"),
        (zip("archive/data.pkl"), "PyTorch"),
        (zip("a.txt"), "zip archive"),
        (padded(b"PAR1"), "Parquet"),
        (padded(b"ARROW1\0\0"), "Arrow"),
        (padded(b"\xff\xff\xff\xff\x10\x01\0\0"), "Arrow stream"),
        (padded(b"\x80\x04\x95\x10"), "pickle"),
        (padded(b"\x80\x02cnumpy"), "pickle"),
        (padded(b"SQLite format 3\0"), "SQLite"),
        (padded(b"\x89HDF\r\n\x1a\n"), "HDF5"),
        (padded(b"\x1f\x8b\x08"), "gzip"),
        (padded(b"\x28\xb5\x2f\xfd"), "zstd"),
        (padded(b"b0VIM 9.0"), "swap file"),
        (padded(b"IxFI"), "Faiss"),
        (padded(b"\0\0\0\0\0\0\0\0DUCK"), "DuckDB"),
        (tar, "tar"),
        (b"{\"a\": 1}".to_vec(), "JSON"),
        (b"  [1, 2]\n".to_vec(), "JSON"),
        (b"one line without an end".to_vec(), "text"),
        ("a\tb\nlib\u{e9}".as_bytes()[..9].to_vec(), "text"),
        (FLOATS.repeat(8), "raw bytes"),
        (vec![0; 160], "raw bytes"),
        (b"\xff\xfe\n".to_vec(), "raw bytes"),
    ] {
        let why = left_out(F32, &file);
        assert!(why.contains(words), "{words}: {why}");
        assert!(look(&format!("{F32},raw"), &file).is_ok(), "{words}: marked raw");
    }
    assert_eq!(look(F32, b"").unwrap().rows.count(0), (0, 0));
}

#[test]
fn no_bytes_make_it_panic() {
    let mut state = 7u64;
    let starts: [&[u8]; 6] = [
        b"",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04",
        b"\x04\0\0\0",
        b"\x20\0\0\0\0\0\0\0{\"a\":{",
        b"\x80",
    ];
    for round in 0..6000usize {
        let mut file = starts[round % starts.len()].to_vec();
        for _ in 0..round % 97 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            file.push((state >> 56) as u8);
        }
        for attribute in [F32, "type=bit,dim=9", "type=i8,dim=65536", "type=u8,dim=3"] {
            let _ = look(attribute, &file);
        }
    }
}
