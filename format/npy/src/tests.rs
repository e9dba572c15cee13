// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Headers as NumPy writes them, as it might, and as somebody who means harm would.

extern crate alloc;

use super::*;
use alloc::{format, string::String, vec, vec::Vec};
use proptest::prelude::*;

fn file(version: [u8; 2], text: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&version);
    if version[0] == 1 {
        bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
    } else {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
    }
    bytes.extend_from_slice(text);
    bytes
}

fn parsed(text: &str) -> Option<(String, bool, [u64; 2])> {
    let bytes = file([1, 0], text.as_bytes());
    let header = Header::parse(&bytes)?;
    assert_eq!(header.data_start, bytes.len());
    Some((header.descr.into(), header.fortran_order, header.shape))
}

#[test]
fn what_numpy_wrote_is_understood() {
    // The header of numpy.save(f, numpy.zeros((3, 5), 'float16')), numpy 1.26.
    let text = format!("{:<117}\n", "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 5), }");
    assert_eq!(parsed(&text), Some(("<f2".into(), false, [3, 5])));
}

#[test]
fn spaces_quotes_commas_and_the_order_of_keys_are_free() {
    for text in [
        "{'descr': '<f2', 'fortran_order': True, 'shape': (9,), }",
        "{\"shape\":(9,),\"fortran_order\":True,\"descr\":\"<f2\"}",
        " {\t'shape' : ( 9 , ) ,'descr':'<f2','fortran_order' :True}\n\n",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (1, 9), }",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (1, 9,)}\u{a0}",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (01, 9)}",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (1L, 9L)}",
        "{'descr': '<f2', 'fortran_order': True, 'shape': (9L,)}",
    ] {
        assert_eq!(parsed(text), Some(("<f2".into(), true, [1, 9])), "{text}");
    }
}

#[test]
fn any_element_type_and_any_number_is_reported_as_written() {
    for descr in ["<f4", ">f8", "|V2", "|S0", "no type", ""] {
        let text =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (0, {}), }}", u64::MAX);
        assert_eq!(parsed(&text), Some((descr.into(), false, [0, u64::MAX])));
    }
}

#[test]
fn what_numpy_does_not_write_is_refused() {
    for text in [
        "",
        "{",
        "{}",
        "{,}",
        "[]",
        // Not two dimensions.
        "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3, }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5, 7), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3LL, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (L, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3 L, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 99999999999999999999), }",
        // A record type.
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
        // Keys that are missing, unknown or there twice.
        "{'descr': '<f4', 'shape': (3, 5), }",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), 'more': 'x'}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), 'shape': (3, 5)}",
        // Values of another type, and a text that goes on or ends early.
        "{'descr': <f4, 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '<f4\", 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (3, 5), }",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (3, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), } x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5),, }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5)",
    ] {
        assert_eq!(parsed(text), None, "{text}");
        // The length field is right all the same.
        assert_eq!(data_start(&file([1, 0], text.as_bytes())[..]), Some(10 + text.len() as u64));
    }
}

const GOOD: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }";

#[test]
fn later_versions_have_longer_lengths() {
    for (version, start) in [([1, 0], 10), ([2, 0], 12), ([3, 0], 12)] {
        let bytes = file(version, GOOD.as_bytes());
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.shape, header.data_start), ([3, 5], start + GOOD.len()));
        assert_eq!(data_start(&bytes), Some(header.data_start as u64));
    }
}

/// Both answers to each question that the prefix raises.
#[test]
fn where_the_array_begins_needs_magic_version_and_length_only() {
    assert_eq!(data_start(b"\x93NUMPY\x01\x00\x76\x00zz"), Some(128));
    assert_eq!(data_start(b"\x93NUMPY\x01\x00\xff\xff"), Some(10 + 0xffff));
    assert_eq!(data_start(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), Some(12 + 0xffff_ffff));
    assert_eq!(data_start(b"\x93NUMPY\x03\x00\x00\x00\x00\x00"), Some(12));
    assert_eq!(data_start(b"\x93NUMPY\x01\x00\x76"), None);
    assert_eq!(data_start(b"\x93NUMPY\x02\x00\x76\x00\x00"), None);
    for major in [0, 4, 255] {
        assert_eq!(data_start(&[&MAGIC[..], &[major, 0, 8, 0, 0, 0]].concat()), None, "{major}");
        assert_eq!(Header::parse(&file([major, 0], GOOD.as_bytes())), None, "{major}");
    }
    for bytes in
        [&b""[..], b"\x93NUMPY", b"\x93NUMPX\x01\x00\x76\x00zz", b"PK\x03\x04\0\0\0\0\0\0\0\0"]
    {
        assert_eq!(data_start(bytes), None, "{bytes:?}");
        assert_eq!(Header::parse(bytes), None, "{bytes:?}");
    }
    // A minor version that NumPy has not defined: the length is where it always was, the text is not trusted.
    for major in 1..=3 {
        let bytes = file([major, 1], GOOD.as_bytes());
        assert_eq!(data_start(&bytes), Some(bytes.len() as u64));
        assert_eq!(Header::parse(&bytes), None);
    }
}

#[test]
fn a_text_that_is_cut_off_too_long_or_not_utf8_is_refused() {
    let bytes = file([2, 0], GOOD.as_bytes());
    for cut in 0..bytes.len() {
        assert_eq!(Header::parse(&bytes[..cut]), None, "{cut}");
    }
    for (length, answer) in [(TEXT_BYTES_MAX, Some([3, 5])), (TEXT_BYTES_MAX + 1, None)] {
        let bytes = file([2, 0], format!("{GOOD}{}", " ".repeat(length - GOOD.len())).as_bytes());
        assert_eq!(Header::parse(&bytes).map(|header| header.shape), answer, "{length}");
    }
    let mut latin = GOOD.as_bytes().to_vec();
    latin.push(0xe9);
    assert_eq!(Header::parse(&file([1, 0], &latin)), None);
    // What follows the text is the array's.
    let mut whole = bytes.clone();
    whole.extend_from_slice(&[0xff; 9]);
    assert_eq!(Header::parse(&whole), Header::parse(&bytes));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(major in 0u8..5, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', major, 0];
        bytes.extend_from_slice(&tail);
        for bytes in [&bytes[..], &tail] {
            if let Some(header) = Header::parse(bytes) {
                prop_assert_eq!(data_start(bytes), Some(header.data_start as u64));
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[{}()':, a-z0-9TFruealse_]{0,90}") {
        let _ = parsed(&text);
    }

    #[test]
    fn what_is_said_is_what_is_read(rows: u64, columns: u64, fortran: bool, descr in "[<>|][a-z][0-9]{1,3}") {
        let order = if fortran { "True" } else { "False" };
        let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({rows}, {columns}), }}");
        prop_assert_eq!(parsed(&text), Some((descr, fortran, [rows, columns])));
    }
}
