// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the bytes of sidecars are, and which tables are used again.

use super::*;
use proptest::prelude::*;

fn cells<'a>(table: &'a Table, column: &str) -> Vec<Option<Cell<'a>>> {
    (0..table.rows() as u64).map(|row| table.cell(column, row)).collect()
}

#[test]
fn columns_of_tabs_are_what_all_their_cells_are() {
    let text = "year\tweight\tok\tname\tzip\tmixed\r\n2020\t0.5\ttrue\tré\t007\t1\n\n-3\t2\tfalse\t\t12\tx\n";
    let table = read(Form::Tsv, text.as_bytes());
    assert_eq!((table.rows(), table.notes.as_slice()), (3, &[][..]));
    assert_eq!(cells(&table, "year"), [Some(Cell::Integer(2020)), None, Some(Cell::Integer(-3))]);
    assert_eq!(cells(&table, "weight"), [Some(Cell::Number(0.5)), None, Some(Cell::Number(2.0))]);
    assert_eq!(cells(&table, "ok"), [Some(Cell::Boolean(true)), None, Some(Cell::Boolean(false))]);
    assert_eq!(cells(&table, "name"), [Some(Cell::Text("ré")), None, None]);
    // A number that would not be printed so is text, and with it the column.
    assert_eq!(cells(&table, "zip"), [Some(Cell::Text("007")), None, Some(Cell::Text("12"))]);
    assert_eq!(cells(&table, "mixed"), [Some(Cell::Text("1")), None, Some(Cell::Text("x"))]);
    assert_eq!(table.cell("none", 0), None);
    assert_eq!(table.cell("year", 3), None);
}

#[test]
fn a_header_may_say_types_and_a_list_of_words_has_none() {
    let table = read(Form::Tsv, b"tag:text\n1\n2\n");
    assert_eq!(cells(&table, "tag"), [Some(Cell::Text("1")), Some(Cell::Text("2"))]);
    let table = read(Form::Tsv, b"n:integer\tx:number\n1\t2\nb\t3\n");
    assert_eq!(cells(&table, "n"), [Some(Cell::Integer(1)), None]);
    assert!(
        table.notes[0].contains("line 3") && table.notes[0].contains("types"),
        "{:?}",
        table.notes
    );
    for words in ["apple\npear\n", "libwine\tWindows API\n", "a\ta\n", "a:date\tb\n", "", "\u{1}\n"]
    {
        let table = read(Form::Tsv, words.as_bytes());
        assert_eq!(table.rows(), 0, "{words}");
        assert!(table.notes[0].contains("does not name columns"), "{words}");
    }
    assert!(has_header("a\tb") && !has_header("a"));
}

#[test]
fn a_broken_line_is_a_row_without_metadata() {
    let table = read(Form::Tsv, b"a\tb\n1\t2\n1\n1\t2\t3\n\xff\t1\n5\t6\n");
    let five = [Some(Cell::Integer(1)), None, None, None, Some(Cell::Integer(5))];
    assert_eq!(cells(&table, "a"), five);
    assert!(
        table.notes[0].contains("3 of its lines") && table.notes[0].contains("line 3:"),
        "{:?}",
        table.notes
    );
    let table = read(
        Form::Jsonl,
        b"{\"a\": 1}\n[2]\n{\"a\":\n{\"a\": null, \"b\": {\"c\": 1}}\n{\"a\": 5}",
    );
    assert_eq!(cells(&table, "a"), five);
    assert!(
        table.notes[0].contains("2 of its lines") && table.notes[0].contains("line 2:"),
        "{:?}",
        table.notes
    );
    assert_eq!(cells(&table, "b"), [None; 5]);
}

#[test]
fn objects_need_not_have_the_same_names() {
    let table = read(
        Form::Jsonl,
        b"{\"a\": 1, \"m\": 1}\n{\"b\": \"x\", \"m\": \"y\"}\n{\"a\": 2.5, \"m\": true}\n",
    );
    assert_eq!(cells(&table, "a"), [Some(Cell::Number(1.0)), None, Some(Cell::Number(2.5))]);
    assert_eq!(cells(&table, "b"), [None, Some(Cell::Text("x")), None]);
    let mixed = ["1", "y", "true"].map(|text| Some(Cell::Text(text)));
    assert_eq!(cells(&table, "m"), mixed);
    let wide: Vec<String> = (0..300).map(|i| format!("\"c{i}\": 1")).collect();
    let table = read(Form::Jsonl, format!("{{{}}}", wide.join(",")).as_bytes());
    assert!(table.names().len() == 256 && table.notes[0].contains("256"));
    // Lines of two bytes that would take a kilobyte each.
    let bomb = format!("{{{}}}\n{}", wide[..256].join(","), "{}\n".repeat(1 << 17));
    let table = read(Form::Jsonl, bomb.as_bytes());
    assert!(table.rows() == 0 && table.notes[0].contains("too many"), "{:?}", table.notes);
}

proptest! {
    #[test]
    fn any_bytes_are_a_table(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), "(a\tb\n)?([a0-9\t\n{}\":, ]{0,80})".prop_map(String::into_bytes)]) {
        for (form, _) in Form::ALL {
            let table = read(form, &bytes);
            prop_assert!(table.rows() <= bytes.len());
            for name in table.names() {
                prop_assert_eq!(cells(&table, name).len(), table.rows());
            }
        }
    }
}

fn contents(ino: u64, version: u64) -> Contents {
    let extents = vec![DataExtent { start: 0, count: 2, block: ino * 10 }];
    Contents { ino, version, size: 100, extents, form: Form::Tsv }
}

#[test]
fn a_table_is_used_again_until_its_file_changes() {
    let watch = Arc::new(Watch::default());
    let mut tables = Tables::new(watch.clone());
    let table = Arc::new(read(Form::Tsv, b"a\tb\n1\t2\n"));
    let put = |tables: &mut Tables, contents: Contents| {
        tables.begin(&contents, 12);
        tables.put(contents, table.clone());
    };
    put(&mut tables, contents(3, 1));
    put(&mut tables, contents(4, 1));
    assert!(tables.get(&contents(3, 1)).is_some() && tables.get(&contents(3, 2)).is_none());
    // What lies beside it changes nothing; what is written into it does.
    watch.overwritten(&[
        DirtyRange { start: 0, end: 30 << 12 },
        DirtyRange { start: 32 << 12, end: 33 << 12 },
    ]);
    assert!(tables.get(&contents(3, 1)).is_some());
    watch.overwritten(&[
        DirtyRange { start: 0, end: 4096 },
        DirtyRange { start: 31 << 12, end: 32 << 12 },
    ]);
    assert!(tables.get(&contents(3, 1)).is_none() && tables.get(&contents(4, 1)).is_some());
    // A write between the registration and the end of the read counts too.
    tables.begin(&contents(3, 1), 12);
    watch.overwritten(&[DirtyRange { start: 30 << 12, end: 31 << 12 }]);
    tables.put(contents(3, 1), table.clone());
    assert!(tables.get(&contents(3, 1)).is_none());
}
