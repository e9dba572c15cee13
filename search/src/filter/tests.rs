// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The language: what is parsed, what is refused and where, and which files and rows pass.

use super::*;
use crate::sidecar::{self, Form, Table};
use proptest::prelude::*;
use std::sync::Arc;
use vexfs_index::Bitmap;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![2 => "[a-z_][a-zA-Z0-9_.-]{0,6}", 1 => "[^\\x00]{1,5}"]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        (-9i64..9).prop_map(Value::Integer),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Number),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof!["[a-c]{0,2}", ".{0,6}", "[\"\\\\\n\t]{0,3}"].prop_map(Value::Text)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![number(), text(), any::<bool>().prop_map(Value::Boolean)]
}

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge])
}

fn instant() -> impl Strategy<Value = Value> {
    let seconds = Instant::parse("0000-01-01").unwrap().seconds
        ..Instant::parse("9999-12-31").unwrap().seconds;
    (seconds, 0u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| Value::Instant(Instant { seconds, nanos }))
}

fn test() -> impl Strategy<Value = Expression> {
    let compared = |(field, op, value)| Test { field, is: Is::Compared(op, value) };
    let is_equal = prop::sample::select(vec![Op::Eq, Op::Ne]);
    let named = prop_oneof![name().prop_map(Field::User), name().prop_map(Field::Row)];
    let pattern =
        prop_oneof![Just("2024/*"), Just("[a-c]?"), Just("**\\*")].prop_map(str::to_owned);
    prop_oneof![
        (Just(Field::Path), op(), text()).prop_map(compared),
        (Just(Field::Slot), op(), (0..=i64::MAX).prop_map(Value::Integer)).prop_map(compared),
        (
            Just(Field::Owner),
            is_equal.clone(),
            any::<u32>().prop_map(|uid| Value::Integer(uid.into()))
        )
            .prop_map(compared),
        (Just(Field::Mtime), op(), instant()).prop_map(compared),
        (named.clone(), op(), prop_oneof![number(), text()]).prop_map(compared),
        (named.clone(), is_equal, any::<bool>().prop_map(Value::Boolean)).prop_map(compared),
        (named.clone(), prop::collection::vec(value(), 1..4))
            .prop_map(|(field, values)| Test { field, is: Is::In(values) }),
        (named, pattern).prop_map(|(field, pattern)| Test { field, is: Is::Like(pattern) }),
    ]
    .prop_map(Expression::Test)
}

fn expression() -> impl Strategy<Value = Expression> {
    test().prop_recursive(4, 24, 3, |part| {
        prop_oneof![
            prop::collection::vec(part.clone(), 2..4).prop_map(Expression::And),
            prop::collection::vec(part.clone(), 2..4).prop_map(Expression::Or),
            part.prop_map(|part| Expression::Not(Box::new(part))),
        ]
    })
}

/// Text that looks like the language.
fn words() -> impl Strategy<Value = String> {
    let words = [
        "path",
        "slot",
        "owner",
        "mtime",
        "user.lang",
        "row.",
        "row.year",
        "and",
        "or",
        "not",
        "in",
        "(",
        ")",
        ",",
        "=",
        "!=",
        "<",
        ">=",
        "~",
        "\"en\"",
        "\"[\"",
        "\"",
        "7",
        "-1.5e9",
        "1e999",
        "true",
        "'",
        "é",
        "user.\"a b\"",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..24)
        .prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_to_the_same(expression in expression()) {
        let text = expression.to_string();
        prop_assume!(text.len() <= TEXT_BYTES_MAX);
        prop_assert_eq!(parse(&text).map_err(|mistake| format!("{text}: {mistake}")), Ok(expression));
    }

    #[test]
    fn no_text_is_too_much(text in prop_oneof![".{0,80}", words(), "[(]{0,200}", "(not ){0,80}slot = 1"]) {
        match parse(&text) {
            Ok(expression) => prop_assert_eq!(parse(&expression.to_string()), Ok(expression)),
            Err(mistake) => prop_assert!((1..=text.chars().count() + 1).contains(&mistake.column), "{mistake}"),
        }
    }

    #[test]
    fn moments_are_printed_as_they_are_parsed(value in instant()) {
        let Value::Instant(instant) = value else { unreachable!() };
        prop_assert_eq!(Instant::parse(&instant.to_string()), Some(instant));
    }

    #[test]
    fn any_moment_and_pattern_can_be_tried(text in "[0-9TZ:.-]{0,25}", pattern in "[a-c*?\\[\\]!\\\\/-]{0,12}", on in "[a-c/]{0,12}") {
        let _ = Instant::parse(&text);
        let _ = Glob::new(&pattern).map(|glob| glob.matches(&on));
    }

    #[test]
    fn rows_pass_as_if_tested_one_by_one(
        expression in rows_expression(), rows in prop::collection::vec((0i64..5, 0usize..4, any::<bool>(), any::<bool>()), 1..150),
        from in 0u64..100,
    ) {
        let table = Arc::new(table(&rows));
        let facts = facts(&table);
        let mut notes = Vec::new();
        let slots = from..from + 130;
        let bits = match plan(&expression, &facts, &mut notes) {
            Passing::All => Bitmap::all(130),
            Passing::None => Bitmap::none(130),
            Passing::Rows(test) => test.bits(&slots),
        };
        prop_assert_eq!(notes, Vec::<String>::new());
        let expected = Bitmap::of(130, |row| holds(&expression, from + row as u64, &rows));
        prop_assert_eq!(bits, expected);
    }
}

/// Years from 2020, tags, and whether each is there.
type Rows = [(i64, usize, bool, bool)];
const TAGS: [&str; 4] = ["a", "b", "ab", "é"];

fn table(rows: &Rows) -> Table {
    let mut text = String::from("year\ttag\n");
    for (year, tag, has_year, has_tag) in rows {
        let year = has_year.then(|| (2020 + year).to_string()).unwrap_or_default();
        let tag = if *has_tag { TAGS[*tag] } else { "" };
        text += &[&year, "\t", tag, "\n"].concat();
    }
    sidecar::read(Form::Tsv, text.as_bytes())
}

fn facts(table: &Arc<Table>) -> Facts<'_> {
    let mtime = Instant { seconds: 1_800_000_000, nanos: 5 };
    Facts { path: b"2024/a.npy", uid: 1000, mtime, attributes: &[], table: Some(table) }
}

fn rows_expression() -> impl Strategy<Value = Expression> {
    let parsed = |text: String| parse(&text).unwrap();
    let sign = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let test = prop_oneof![
        (sign.clone(), 0u64..200)
            .prop_map(move |(sign, slot)| parsed(format!("slot {sign} {slot}"))),
        (sign, 2019i64..2026)
            .prop_map(move |(sign, year)| parsed(format!("row.year {sign} {year}"))),
        prop::sample::select(TAGS.to_vec())
            .prop_map(move |tag| parsed(format!("row.tag in (\"{tag}\", \"b\")"))),
        Just("row.tag ~ \"a*\"").prop_map(move |text| parsed(text.to_owned())),
        Just("owner = 1000").prop_map(move |text| parsed(text.to_owned())),
        Just("path ~ \"2023/*\"").prop_map(move |text| parsed(text.to_owned())),
    ];
    test.prop_recursive(3, 12, 3, |part| {
        prop_oneof![
            prop::collection::vec(part.clone(), 2..4).prop_map(Expression::And),
            prop::collection::vec(part.clone(), 2..4).prop_map(Expression::Or),
            part.prop_map(|part| Expression::Not(Box::new(part))),
        ]
    })
}

/// The definition, for one row; numbers are small here.
fn holds(expression: &Expression, slot: u64, rows: &Rows) -> bool {
    let row = rows.get(slot as usize);
    match expression {
        Expression::And(parts) => parts.iter().all(|part| holds(part, slot, rows)),
        Expression::Or(parts) => parts.iter().any(|part| holds(part, slot, rows)),
        Expression::Not(part) => !holds(part, slot, rows),
        Expression::Test(Test { field, is }) => match (field, is) {
            (Field::Slot, Is::Compared(op, Value::Integer(n))) => op.holds((slot as i64).cmp(n)),
            (Field::Row(name), Is::Compared(op, Value::Integer(n))) if name == "year" => {
                row.is_some_and(|(year, _, has, _)| *has && op.holds((2020 + year).cmp(n)))
            }
            (Field::Row(_), Is::In(values)) => row.is_some_and(|(_, tag, _, has)| {
                *has && values.contains(&Value::Text(TAGS[*tag].to_owned()))
            }),
            (Field::Row(_), Is::Like(_)) => {
                row.is_some_and(|(_, tag, _, has)| *has && TAGS[*tag].starts_with('a'))
            }
            (Field::Owner, _) => true,
            (Field::Path, _) => false,
            other => panic!("{other:?}"),
        },
    }
}

#[test]
fn the_example_of_the_manual_is_understood() {
    let text = r#"path ~ "2024/*" and user.lang = "en" and row.year >= 2020 and row.tag in ("a", "b") and slot < 1000 and owner = 1000 and mtime > "2026-01-01""#;
    let Expression::And(parts) = parse(text).unwrap() else { panic!() };
    assert_eq!(parts.len(), 7);
    assert_eq!(parse(text).unwrap().to_string(), text);
}

#[test]
fn a_mistake_is_told_with_its_column() {
    for (text, column, words) in [
        ("", 1, "one of path"),
        ("slot", 5, "one of = !="),
        ("slot < ", 8, "a value"),
        ("slot < -1", 8, "from 0 on"),
        ("slot < 1 and", 13, "one of path"),
        ("slot < 1 owner = 2", 10, "'and', 'or'"),
        ("(slot < 1", 10, "or )"),
        ("slot < 1)", 9, "without a ("),
        ("path = 3", 8, "with text"),
        ("owner > 3", 7, "=, != or 'in'"),
        ("owner = 4294967296", 9, "a user's number"),
        ("mtime > \"yesterday\"", 9, "2026-01-31"),
        ("mtime > \"2026-02-29\"", 9, "2026-01-31"),
        ("user. = 1", 1, "needs a name"),
        ("user.lang == \"en\"", 11, "instead of =="),
        ("user.lang = en", 13, "\"en\""),
        ("user.lang = 'en'", 13, "double quotes"),
        ("user.lang = \"en", 13, "no end"),
        ("row.a in 3", 10, "( was expected"),
        ("row.a in (1 2)", 13, "a comma"),
        ("row.a not = 3", 11, "'in' was expected"),
        ("row.a ~ \"[a\"", 9, "[ without a ]"),
        ("slot ~ \"a\"", 6, "not text"),
        ("row.a < true", 9, "= or !="),
        ("row.a = 1x", 9, "no number"),
        ("row.a = 99999999999999999999", 9, "too large"),
        ("row.é = 1", 1, "needs a name"),
        ("row.\"é\" = 1 or §", 16, "means nothing"),
        ("year = 1", 1, "'year'"),
    ] {
        let mistake = parse(text).unwrap_err();
        assert_eq!(mistake.column, column, "{text}: {mistake}");
        assert!(mistake.why.contains(words), "{text}: {mistake}");
    }
    let deep = |n: usize| format!("{}slot = 1{}", "(".repeat(n), ")".repeat(n));
    assert!(parse(&deep(DEPTH_MAX - 1)).is_ok());
    assert!(parse(&deep(DEPTH_MAX)).unwrap_err().why.contains("in each other"));
    assert!(parse(&deep(TEXT_BYTES_MAX)).unwrap_err().why.contains("too long"));
    let many = vec!["slot = 1"; TESTS_MAX + 1].join(" or ");
    assert!(parse(&many).unwrap_err().why.contains("tests"));
}

#[test]
fn patterns_match_as_they_say() {
    for (pattern, yes, no) in [
        ("2024/*", &["2024/a.npy", "2024/"][..], &["2024", "2024/b/a", "x2024/a"][..]),
        ("**/*.npy", &["a/b.npy", "a/b/c.npy"], &["b.npy", "a/b.npz"]),
        ("a?c", &["abc", "aéc"], &["ac", "a/c", "abbc"]),
        ("[a-c]x", &["ax", "cx"], &["dx", "x", "-x"]),
        ("[!a-c]x", &["dx", "]x"], &["ax", "/x"]),
        ("[]-]", &["]", "-"], &["a"]),
        (r"\*\[", &["*["], &["a["]),
        ("**", &["", "a/b"], &[]),
        (
            "*a*a*a*a*a*a*a*a*b",
            &["aaaaaaaab"],
            &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        ),
    ] {
        let glob = Glob::new(pattern).unwrap();
        assert!(yes.iter().all(|text| glob.matches(text)), "{pattern}");
        assert!(!no.iter().any(|text| glob.matches(text)), "{pattern}");
    }
}

#[test]
fn moments_are_those_of_the_calendar() {
    for (text, seconds) in [
        ("1970-01-01", 0),
        ("2000-02-29", 951_782_400),
        ("2000-03-01T00:00:01Z", 951_868_801),
        ("2026-11-26T22:20:22Z", 1_795_731_622),
        ("1969-12-31T23:59:59Z", -1),
        ("2100-02-28", 4_107_456_000),
    ] {
        let instant = Instant::parse(text).unwrap();
        assert_eq!((instant.seconds, instant.to_string()), (seconds, text.to_owned()));
    }
    assert_eq!(Instant::parse("2026-01-01T00:00:00.5Z").unwrap().nanos, 500_000_000);
    for text in [
        "2100-02-29",
        "2026-13-01",
        "2026-00-01",
        "2026-04-31",
        "2026-1-1",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00.1234567890Z",
        "+026-01-01",
        "",
    ] {
        assert_eq!(Instant::parse(text), None, "{text}");
    }
}

#[test]
fn files_are_chosen_by_what_is_known_of_them() {
    let table = Arc::new(table(&[(0, 0, true, true)]));
    let attributes = [
        ("lang".to_owned(), b"en".to_vec()),
        ("year".to_owned(), b"2024".to_vec()),
        ("raw".to_owned(), vec![0xff]),
    ];
    let facts = Facts { attributes: &attributes, ..facts(&table) };
    for (text, all) in [
        ("path = \"2024/a.npy\"", true),
        ("path ~ \"*.npy\"", false),
        ("owner in (1, 1000)", true),
        ("owner != 1000", false),
        ("mtime > \"2027-01-15T08:00:00Z\"", true),
        ("mtime = 1800000000", false),
        ("user.lang = \"en\"", true),
        ("user.lang not in (\"de\", \"fr\")", true),
        ("user.lang ~ \"e?\"", true),
        ("user.year >= 2020.5", true),
        ("user.year = true", false),
        ("user.raw != \"x\"", true),
        ("user.raw ~ \"*\"", false),
        // A test of what is not there is false, and its opposite true.
        ("user.none != \"en\"", false),
        ("not user.none = \"en\"", true),
    ] {
        let mut notes = Vec::new();
        let found = plan(&parse(text).unwrap(), &facts, &mut notes);
        assert_eq!(
            (matches!(found, Passing::All), matches!(found, Passing::None)),
            (all, !all),
            "{text}"
        );
        assert!(notes.is_empty());
    }
}

#[test]
fn numbers_are_compared_exactly_and_what_cannot_be_compared_is_told() {
    let lines =
        "{\"n\": 9007199254740993, \"x\": 0.5, \"b\": true}\n{\"n\": -3, \"x\": 2, \"b\": false}\n";
    let table = Arc::new(sidecar::read(Form::Jsonl, lines.as_bytes()));
    let facts = facts(&table);
    for (text, rows, note) in [
        ("row.n = 9007199254740993", &[0][..], ""),
        ("row.n = 9007199254740992.0", &[], ""),
        ("row.n > -3.5", &[0, 1], ""),
        ("row.n < 1e300", &[0, 1], ""),
        ("row.x in (2, 0.25)", &[1], ""),
        ("row.x < 1", &[0], ""),
        ("row.b = true", &[0], ""),
        ("row.b != true", &[1], ""),
        ("not row.b = true", &[1], ""),
        ("row.n = \"3\"", &[], "column n holds integer"),
        ("row.none = 1", &[], "no column none, but"),
    ] {
        let mut notes = Vec::new();
        let found = match plan(&parse(text).unwrap(), &facts, &mut notes) {
            Passing::All => vec![0, 1],
            Passing::None => Vec::new(),
            Passing::Rows(test) => test.bits(&(0..2)).iter().collect(),
        };
        assert_eq!(found, rows, "{text}");
        assert!(
            notes.iter().all(|line| line.contains(note)) && notes.is_empty() == note.is_empty(),
            "{text}: {notes:?}"
        );
    }
}
