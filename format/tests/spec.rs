// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tables of FORMAT.md are compared with the structures and constants that they describe.
//!
//! A table of fields follows a heading "### `Name`: N bytes"; every field has its row, in order, and
//! offsets and sizes are the structure's. Prose is not checked.

use std::collections::BTreeMap;
use vexfs_format::item::{
    DirentHead, EXTENT_KNOWN, EXTENT_UNWRITTEN, EXTENT_VECTOR, ExtentItem, GroupItem, INODE_KNOWN,
    INODE_VECTOR, InodeItem, RawTime, VECTOR_AUTO_HEADER, VECTOR_KNOWN, VectorItem, XattrHead,
};
use vexfs_format::key::RawKey;
use vexfs_format::node::{InnerEntry, LeafSlot, NODE_MAGIC, NodeHeader, RawPointer};
use vexfs_format::root::ROOT_MAGIC;
use vexfs_format::superblock::{SUPER_MAGIC, SUPER_OFFSET, VERSION};
use vexfs_format::{Kind, RootRecord, Superblock, features};

const TEXT: &str = include_str!("../FORMAT.md");

/// (field, offset, size)
type Field = (String, usize, usize);

/// Size of the field a function reaches; the function is never called.
fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! fields {
    ($structure:ident { $($field:ident),* $(,)? }) => {{
        // A field that is missing here does not compile.
        #[allow(dead_code)]
        fn complete(whole: &$structure) {
            let $structure { $($field: _),* } = whole;
        }
        let fields: Vec<Field> = vec![$((
            stringify!($field).to_owned(),
            core::mem::offset_of!($structure, $field),
            size_of_field(|whole: &$structure| &whole.$field),
        )),*];
        (stringify!($structure), size_of::<$structure>(), fields)
    }};
}

fn structures() -> Vec<(&'static str, usize, Vec<Field>)> {
    vec![
        fields!(Superblock {
            magic,
            version,
            block_shift,
            uuid,
            label,
            blocks,
            compat,
            ro_compat,
            incompat,
            ring_start,
            ring_slots,
            backup_first,
            backup_last,
            hash_key,
            created_ns,
            reserved,
            crc,
        }),
        fields!(RootRecord {
            magic,
            level,
            uuid,
            generation,
            tree,
            next_ino,
            free_blocks,
            inodes,
            orphans,
            time_ns,
            reserved,
            crc,
        }),
        fields!(RawPointer { block, generation, crc, reserved }),
        fields!(NodeHeader {
            magic,
            level,
            reserved0,
            count,
            uuid,
            address,
            generation,
            heap_start,
            heap_live,
            reserved1,
        }),
        fields!(LeafSlot { key, offset, len }),
        fields!(InnerEntry { key, child }),
        fields!(RawKey { hi, lo }),
        fields!(InodeItem {
            mode,
            nlink,
            uid,
            gid,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            btime,
            flags,
            rdev,
            parent,
            project,
            reserved0,
            version,
            reserved1,
        }),
        fields!(RawTime { seconds, nanos }),
        fields!(DirentHead { ino, file_type, name_len }),
        fields!(XattrHead { value_len, chunks, name_len, reserved }),
        fields!(ExtentItem { block, len, flags }),
        fields!(VectorItem {
            element,
            metric,
            flags,
            dim,
            header,
            stride,
            offset,
            m,
            ef_construction,
            reserved,
        }),
        fields!(GroupItem { bitmap, free, reserved }),
    ]
}

/// The cells of a table's row; a `\|` is no border.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?.replace("\\|", "\u{1}");
    Some(inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect())
}

/// The rows, without head and rule, of every table whose head is `head`.
fn tables(head: &[&str]) -> Vec<Vec<Vec<String>>> {
    let mut found = Vec::new();
    let mut lines = TEXT.lines();
    while let Some(line) = lines.next() {
        if cells(line).is_some_and(|row| row == head) {
            found.push(lines.by_ref().skip(1).map_while(cells).collect());
        }
    }
    found
}

fn ticked(cell: &str) -> String {
    cell.split('`').nth(1).unwrap_or_default().to_owned()
}

/// What the document says of each structure: size, fields.
fn documented() -> BTreeMap<String, (usize, Vec<Field>)> {
    let mut found = BTreeMap::new();
    let mut lines = TEXT.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, size)) = line
            .strip_prefix("### `")
            .and_then(|rest| rest.strip_suffix(" bytes"))
            .and_then(|rest| rest.split_once("`: "))
        else {
            continue;
        };
        let rows = lines
            .by_ref()
            .skip_while(|line| cells(line).is_none())
            .skip(2)
            .map_while(cells)
            .map(|row| (ticked(&row[2]), row[0].parse().unwrap(), row[1].parse().unwrap()))
            .collect();
        let before = found.insert(name.to_owned(), (size.parse().unwrap(), rows));
        assert!(before.is_none(), "{name} is documented twice");
    }
    found
}

#[test]
fn every_structure_is_documented_field_by_field() {
    let mut documented = documented();
    for (name, size, fields) in structures() {
        let (said, rows) = documented.remove(name).unwrap_or_else(|| panic!("no table of {name}"));
        assert_eq!(said, size, "size of {name}");
        assert_eq!(rows, fields, "fields of {name}");
        let mut end = 0;
        for (field, offset, len) in &fields {
            assert_eq!(*offset, end, "{name}.{field} leaves a gap");
            end = offset + len;
        }
        assert_eq!(end, size, "{name} ends in padding");
    }
    assert!(documented.is_empty(), "tables of nothing: {:?}", documented.keys());
}

#[test]
fn every_kind_is_documented() {
    let [rows] = &tables(&["kind", "name", "under", "offset", "payload"])[..] else {
        panic!("one table of kinds")
    };
    let said: Vec<(u8, String)> =
        rows.iter().map(|row| (row[0].parse().unwrap(), ticked(&row[1]))).collect();
    let real: Vec<(u8, String)> = (0..=u8::MAX)
        .filter_map(|byte| Kind::from_byte(byte).map(|kind| (byte, format!("{kind:?}"))))
        .collect();
    assert_eq!(said, real);
}

#[test]
fn every_flag_is_documented() {
    let said: BTreeMap<String, u32> = tables(&["bit", "name", "meaning"])
        .into_iter()
        .flatten()
        .map(|row| (ticked(&row[1]), 1 << row[0].parse::<u32>().unwrap()))
        .collect();
    let real = BTreeMap::from(
        [
            ("INODE_VECTOR", INODE_VECTOR),
            ("EXTENT_UNWRITTEN", EXTENT_UNWRITTEN),
            ("EXTENT_VECTOR", EXTENT_VECTOR),
            ("VECTOR_AUTO_HEADER", u32::from(VECTOR_AUTO_HEADER)),
        ]
        .map(|(name, bit)| (name.to_owned(), bit)),
    );
    assert_eq!(said, real);
    // A flag that is added to the code has to be added here, and above.
    let known = |prefix: &str| -> u32 {
        real.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, bit)| bit).sum()
    };
    assert_eq!(known("INODE_"), INODE_KNOWN);
    assert_eq!(known("EXTENT_"), EXTENT_KNOWN);
    assert_eq!(known("VECTOR_"), u32::from(VECTOR_KNOWN));
}

#[test]
fn every_feature_is_documented() {
    let [rows] = &tables(&["word", "bit", "name", "meaning"])[..] else {
        panic!("one table of features")
    };
    let mut words = BTreeMap::from([("compat", 0u64), ("ro_compat", 0), ("incompat", 0)]);
    for row in rows {
        let bit: u32 = row[1].parse().unwrap();
        *words.get_mut(row[0].as_str()).unwrap() |= 1 << bit;
        if row[0] == "incompat" {
            let name = features::incompat_name(bit).unwrap().to_uppercase();
            assert_eq!(ticked(&row[2]), format!("INCOMPAT_{name}"));
        }
    }
    assert_eq!(words["compat"], features::COMPAT_KNOWN);
    assert_eq!(words["ro_compat"], features::RO_COMPAT_KNOWN);
    assert_eq!(words["incompat"], features::INCOMPAT_KNOWN);
}

/// `N`, `2^N` or `2^N - M`.
fn number(text: &str) -> u64 {
    let (power, less) = text.split_once(" - ").unwrap_or((text, "0"));
    let value = match power.split_once('^') {
        Some((base, exponent)) => base.parse::<u64>().unwrap().pow(exponent.parse().unwrap()),
        None => power.parse().unwrap(),
    };
    value - less.parse::<u64>().unwrap()
}

#[test]
fn every_limit_is_the_constant() {
    let [rows] = &tables(&["limit", "constant", "value"])[..] else {
        panic!("one table of limits")
    };
    let said: BTreeMap<String, u64> = rows
        .iter()
        .filter(|row| !row[1].is_empty())
        .map(|row| (ticked(&row[1]), number(&row[2])))
        .collect();
    macro_rules! constants {
        ($($name:ident),* $(,)?) => {
            BTreeMap::from([$((stringify!($name).to_owned(), number(&vexfs_format::$name.to_string()))),*])
        };
    }
    let real: BTreeMap<String, u64> = constants!(
        BLOCK_BYTES_DEFAULT,
        BLOCK_SHIFT_MIN,
        BLOCK_SHIFT_MAX,
        BLOCKS_MIN,
        BLOCKS_MAX,
        ROOT_SLOTS,
        ROOT_RING_START,
        BACKUP_FIRST,
        FIRST_FREE,
        NAME_MAX,
        SYMLINK_MAX,
        XATTR_VALUE_MAX,
        ITEM_BYTES_MAX,
        CHUNK_BYTES,
        LEVELS_MAX,
        FILE_BYTES_MAX,
    );
    assert_eq!(said, real);
}

#[test]
fn magics_and_places_are_those_of_the_text() {
    let text = TEXT.split_whitespace().collect::<Vec<_>>().join(" ");
    let magic = String::from_utf8(NODE_MAGIC.to_le_bytes().to_vec()).unwrap();
    assert!(text.contains(&format!("the bytes `{magic}`")));
    let magic = String::from_utf8(ROOT_MAGIC.to_le_bytes().to_vec()).unwrap();
    assert!(text.contains(&format!("the bytes `{magic}`")));
    assert_eq!(SUPER_MAGIC, *b"VexFS\x0D\x0A\x1A");
    assert!(text.contains("the bytes `VexFS`, `0D 0A 1A`"));
    assert!(text.contains(&format!("512 bytes at byte {SUPER_OFFSET} of block 0")));
    assert!(text.contains(&format!("# The VexFS on-disk format, version {VERSION} This is")));
    let entries = (4096 - size_of::<NodeHeader>()) / size_of::<InnerEntry>();
    assert!(text.contains(&format!("({entries} entries fit into 4096 bytes)")));
    // What the text says of splitting a leaf.
    let largest = vexfs_format::ITEM_BYTES_MAX + size_of::<LeafSlot>();
    assert!(4 * largest <= 4096 - size_of::<NodeHeader>());
}
