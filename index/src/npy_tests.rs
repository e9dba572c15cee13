// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which `.npy` files are vector files, and which are read as matrices; the parser has its own tests.

use super::*;
use proptest::prelude::*;

fn v1(dict: &str) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(dict.len() as u16).to_le_bytes());
    bytes.extend_from_slice(dict.as_bytes());
    bytes
}

#[test]
fn what_numpy_wrote_is_understood() {
    // The first bytes of numpy.save(f, numpy.zeros((3, 5), 'float16')), numpy 1.26.
    let bytes = v1(
        "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 5), }                                                          \n",
    );
    assert_eq!(
        parse(&bytes),
        Some(NpyHeader {
            stored: Stored::F16,
            columns: 5,
            rows: 3,
            header_len: bytes.len() as u64,
            fortran: false
        })
    );
    let own = header("|u1", 7, 48);
    assert_eq!(own.len() % 64, 0);
    let parsed = parse(&own).unwrap();
    assert_eq!((parsed.stored, parsed.columns, parsed.rows), (Stored::U8, 48, 7));
    let row = parse(&v1("{'descr': '<V2', 'fortran_order': True, 'shape': (9,), }")).unwrap();
    assert_eq!((row.stored, row.columns, row.rows, row.fortran), (Stored::Bf16, 9, 1, true));
}

#[test]
fn later_versions_have_longer_lengths() {
    for major in [2, 3] {
        let dict = "{\"shape\":(2,4),\"fortran_order\":False,\"descr\":\"|i1\"}";
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', major, 0];
        bytes.extend_from_slice(&(dict.len() as u32).to_le_bytes());
        bytes.extend_from_slice(dict.as_bytes());
        let parsed = parse(&bytes).unwrap();
        assert_eq!((parsed.stored, parsed.columns, parsed.rows), (Stored::I8, 4, 2));
        assert_eq!(parsed.header_len, bytes.len() as u64);
    }
}

#[test]
fn what_is_no_vector_file_is_refused() {
    for dict in [
        "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5, 7), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 65537), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 99999999999999999999), }",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '<f4', 'shape': (3, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), } x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5)",
        "",
    ] {
        assert_eq!(parse(&v1(dict)), None, "{dict}");
        assert!(unusable(&v1(dict)).is_some(), "{dict}");
    }
    assert_eq!(parse(b"\x93NUMPY"), None);
    let why = |dict: &str| unusable(&v1(dict)).unwrap();
    assert!(why("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 5), }").contains("<i4"));
    assert!(why("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0), }").contains("have 0"));
    assert!(
        why("{'descr': '>f4', 'fortran_order': False, 'shape': (3, 5), }").contains("big-endian")
    );
    assert!(why("{'descr': '<f4', 'fortran").contains("cut off"));
    assert_eq!(unusable(b"no numpy"), None);
    assert_eq!(unusable(&header("<f4", 3, 5)), None);
}

#[test]
fn element_types_are_taken_as_other_writers_spell_them() {
    for (spellings, stored) in [
        (&["<f4", "f4", "=f4", "|f4"][..], Stored::F32),
        (&["<f2", "f2", "=f2"], Stored::F16),
        (&["<V2", "|V2", "V2"], Stored::Bf16),
        (&["|i1", "<i1", "i1", "=i1", ">i1"], Stored::I8),
        (&["|u1", "u1"], Stored::U8),
        (&["|b1", "?"], Stored::Bool),
    ] {
        for descr in spellings {
            assert_eq!(Stored::parse(descr), Some(stored), "{descr}");
        }
    }
    for descr in [">f4", ">f2", "!f4", "f", "", "<c8", "<U4", "|O"] {
        assert_eq!(Stored::parse(descr), None, "{descr}");
    }
    let python2 = v1("{'descr': 'f4', 'fortran_order': False, 'shape': (3L, 5L), }");
    let parsed = parse(&python2).unwrap();
    assert_eq!((parsed.stored, parsed.rows, parsed.columns), (Stored::F32, 3, 5));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&tail);
        let _ = parse(&bytes);
        let _ = fvecs(&tail);
        let _ = parse(&tail);
    }

    #[test]
    fn no_text_makes_it_panic(dict in "[{}()':, a-z0-9TFruealse_]{0,90}") {
        let _ = parse(&v1(&dict));
    }

    #[test]
    fn own_headers_are_parsed(rows in 0usize..1_000_000_000, dim in 1usize..=65536) {
        let parsed = parse(&header("<f4", rows, dim)).unwrap();
        prop_assert_eq!((parsed.rows, parsed.columns as usize), (rows as u64, dim));
    }
}

#[test]
fn fvecs_records_start_with_their_dimension() {
    let layout = Fvecs { dim: 128, stride: 516, offset: 4 };
    assert_eq!(fvecs(&[128, 0, 0, 0, 1]), Some(layout));
    assert!(fvecs(&[0; 8]).is_none() && fvecs(&[0xff; 8]).is_none() && fvecs(&[1, 0]).is_none());
}

#[test]
fn matrices_survive_and_bad_ones_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.npy");
    let data: Vec<f32> = (0..12).map(|x| x as f32 / 3.0).collect();
    write(&path, 4, &data).unwrap();
    let matrix = read_matrix(&path).unwrap();
    assert_eq!((matrix.rows, matrix.dim, matrix.row(2)), (3, 4, &data[8..]));
    assert!(matrix.row(3).is_empty());
    assert!(write(&path, 5, &data).is_err());

    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_matrix(&path).unwrap_err().to_string()
    };
    let mut nan = data.clone();
    nan[6] = f32::NAN;
    write(&path, 4, &nan).unwrap();
    let text = read_matrix(&path).unwrap_err().to_string();
    assert!(text.contains("row 1, column 2 is NaN"), "{text}");
    let mut short = header("<f4", 3, 4);
    short.extend_from_slice(&[0; 47]);
    assert!(refused(&short).contains("3 rows of 4"));
    let mut words = header("<i4", 1, 1);
    words.extend_from_slice(&[0; 4]);
    assert!(refused(&words).contains("float32"));
    assert!(refused(&header("<f4", 3, 0)).contains("no elements"));
    let mut wide = header("<V2", 1, 2);
    wide.extend_from_slice(&[0x80, 0x3f, 0, 0xc0]);
    std::fs::write(&path, &wide).unwrap();
    let (matrix, stored) = read_stored(&path).unwrap();
    assert_eq!((matrix.data, stored), (vec![1.0, -2.0], Stored::Bf16));
    let mut bytes = header("|u1", 1, 2);
    bytes.extend_from_slice(&[200, 1]);
    std::fs::write(&path, &bytes).unwrap();
    let (matrix, stored) = read_stored(&path).unwrap();
    assert_eq!((matrix.data, stored), (vec![200.0, 1.0], Stored::U8));
    let mut huge = header("<f8", 1, 1);
    huge.extend_from_slice(&1e300f64.to_le_bytes());
    assert!(refused(&huge).contains("inf"));
    assert!(refused(b"PK").contains("numpy.save"));
    let mut double = header("<f8", 1, 2);
    for x in [1.5f64, -2.0] {
        double.extend_from_slice(&x.to_le_bytes());
    }
    std::fs::write(&path, &double).unwrap();
    assert_eq!(read_matrix(&path).unwrap().data, [1.5, -2.0]);
    double.extend_from_slice(&[0; 100]);
    assert!(refused(&double).contains("do not make the 116 bytes after"));
    // Without an end.
    assert!(read_matrix(Path::new("/dev/zero")).unwrap_err().to_string().contains("numpy.save"));
}
