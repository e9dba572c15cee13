// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The metadata of rows out of the bytes of a sidecar: `.tsv` with a header line, or `.jsonl`.
//!
//! Line by line, the rows in order; what columns hold is what all their cells are. Invariant: whatever the
//! bytes are, there is a table; a line that is broken is a row without metadata, and a note says so.

use super::table::{Builder, Cell, Kind, Table};
use serde_json::Value;

/// Columns of a table, at most.
pub const COLUMNS_MAX: usize = 256;
/// Cells of a table, at most: those that are empty take memory too.
pub const CELLS_MAX: usize = 1 << 25;
/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What a sidecar is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Cells between tabs, after a line with the names of the columns.
    Tsv,
    /// An object a line.
    Jsonl,
}

impl Form {
    /// Both, and what their names end with. The first that is there counts.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Tsv, "tsv"), (Self::Jsonl, "jsonl")];
}

/// The table that these bytes are.
#[must_use]
pub fn read(form: Form, bytes: &[u8]) -> Table {
    match form {
        Form::Tsv => tsv(bytes),
        Form::Jsonl => jsonl(bytes),
    }
}

/// Instead of a table that would take too much memory.
fn too_large(rows: usize, columns: usize) -> Option<Table> {
    (rows.saturating_mul(columns) > CELLS_MAX).then(|| {
        let why =
            format!("{rows} rows of {columns} columns are too many: at most {CELLS_MAX} cells");
        Table::new(0, Vec::new(), vec![why])
    })
}

/// Lines that could not be read.
#[derive(Default)]
struct Broken {
    count: usize,
    first: usize,
}

impl Broken {
    /// Lines are counted from 1.
    fn add(&mut self, line: usize) {
        self.first = if self.count == 0 { line } else { self.first };
        self.count += 1;
    }

    fn note(self, wanted: &str) -> Option<String> {
        (self.count > 0).then(|| {
            format!(
                "{} of its lines are not {wanted}, the first is line {}: their rows have no metadata",
                self.count, self.first
            )
        })
    }
}

/// The lines, without their ends; `None` for one that is too long or no text.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Option<&str>> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = (!bytes.is_empty()).then(|| bytes.split(|byte| *byte == b'\n'));
    lines.into_iter().flatten().map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (line.len() <= LINE_BYTES_MAX).then(|| std::str::from_utf8(line).ok()).flatten()
    })
}

/// A column's name and, after a colon, what it holds.
fn heading(cell: &str) -> Option<(&str, Option<Kind>)> {
    let (name, kind) = match cell.split_once(':') {
        None => (cell, None),
        Some((name, kind)) => (
            name,
            Some(match kind {
                "integer" => Kind::Integer,
                "number" => Kind::Number,
                "text" => Kind::Text,
                "boolean" => Kind::Boolean,
                _ => return None,
            }),
        ),
    };
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let plain = first && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    plain.then_some((name, kind))
}

/// The names of the columns, if the line is a header: names that are all different; a single one says what it
/// holds (`tag:text`), or a list of words would begin with a header.
fn header(line: &str) -> Option<Vec<(&str, Option<Kind>)>> {
    let cells = line.split('\t').take(COLUMNS_MAX + 1).map(heading).collect::<Option<Vec<_>>>()?;
    let mut names: Vec<&str> = cells.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let said = cells.len() > 1 || cells.iter().any(|(_, kind)| kind.is_some());
    (names.len() == cells.len() && cells.len() <= COLUMNS_MAX && said).then_some(cells)
}

/// Whether the first line of a `.tsv` file has the names of columns and is no row.
#[must_use]
pub fn has_header(first_line: &str) -> bool {
    header(first_line).is_some()
}

/// What a cell of text says. Integers and numbers are those that would be printed so.
fn cell(text: &str) -> Option<Cell<'_>> {
    if text.is_empty() {
        return None;
    }
    Some(match text {
        "true" => Cell::Boolean(true),
        "false" => Cell::Boolean(false),
        text => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let number = digits.starts_with(|c: char| c.is_ascii_digit())
                && (digits.len() == 1
                    || !digits.starts_with('0')
                    || digits[1..].starts_with(['.', 'e', 'E']));
            match (text.parse(), text.parse::<f64>()) {
                (Ok(integer), _) if number => Cell::Integer(integer),
                (_, Ok(x)) if number && x.is_finite() => Cell::Number(x),
                _ => Cell::Text(text),
            }
        }
    })
}

fn kind(cell: Option<Cell<'_>>) -> Kind {
    match cell {
        None => Kind::Nothing,
        Some(Cell::Integer(_)) => Kind::Integer,
        Some(Cell::Number(_)) => Kind::Number,
        Some(Cell::Text(_)) => Kind::Text,
        Some(Cell::Boolean(_)) => Kind::Boolean,
    }
}

fn tsv(bytes: &[u8]) -> Table {
    let Some(head) = lines(bytes).next().flatten().and_then(header) else {
        let why =
            "its first line does not name columns (two or more names between tabs, or NAME:text)";
        return Table::new(0, Vec::new(), vec![format!("{why}: its rows have no metadata")]);
    };
    if let Some(none) = too_large(lines(bytes).count(), head.len()) {
        return none;
    }
    // One more than there should be: a longer line is broken however long it is.
    let most = head.len() + 1;
    let mut kinds: Vec<Kind> = vec![Kind::Nothing; head.len()];
    for line in lines(bytes).skip(1).flatten() {
        let cells: Vec<&str> = line.split('\t').take(most).collect();
        if cells.len() == head.len() {
            kinds
                .iter_mut()
                .zip(cells)
                .for_each(|(known, text)| *known = known.with(kind(cell(text))));
        }
    }
    let kinds: Vec<Kind> =
        kinds.into_iter().zip(&head).map(|(found, (_, said))| said.unwrap_or(found)).collect();
    let mut builders: Vec<Builder> = kinds.iter().map(|kind| Builder::new(*kind)).collect();
    let (mut broken, mut odd, mut rows) = (Broken::default(), Broken::default(), 0);
    for (number, line) in lines(bytes).enumerate().skip(1) {
        rows += 1;
        let cells: Vec<&str> =
            line.into_iter().flat_map(|line| line.split('\t')).take(most).collect();
        let whole = cells.len() == head.len();
        if !whole && line != Some("") {
            broken.add(number + 1);
        }
        let mut fits = true;
        for (i, (builder, kind)) in builders.iter_mut().zip(&kinds).enumerate() {
            let text = cells.get(i).filter(|_| whole).copied().filter(|text| !text.is_empty());
            fits &= builder.push(match kind {
                Kind::Text | Kind::Nothing => text.map(Cell::Text),
                _ => text.and_then(cell),
            });
        }
        if !fits {
            odd.add(number + 1);
        }
    }
    let wanted = format!("{} cells between tabs", head.len());
    let notes = [broken.note(&wanted), odd.note("of the types that its first line says")];
    let columns =
        head.iter().zip(builders).map(|((name, _), builder)| ((*name).to_owned(), builder.done()));
    Table::new(rows, columns.collect(), notes.into_iter().flatten().collect())
}

/// The object that a line is.
fn object(line: Option<&str>) -> Option<serde_json::Map<String, Value>> {
    match serde_json::from_str(line?) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// What a value is; lists and objects are nothing.
fn json_cell(value: &Value) -> Option<Cell<'_>> {
    match value {
        Value::Bool(is) => Some(Cell::Boolean(*is)),
        Value::String(text) => Some(Cell::Text(text)),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Some(Cell::Integer(integer)),
            None => number.as_f64().map(Cell::Number),
        },
        _ => None,
    }
}

fn jsonl(bytes: &[u8]) -> Table {
    let mut names: Vec<(String, Kind)> = Vec::new();
    let mut more = false;
    for object in lines(bytes).filter_map(object) {
        for (name, value) in &object {
            let found = kind(json_cell(value));
            if let Some((_, known)) = names.iter_mut().find(|(own, _)| own == name) {
                *known = known.with(found);
            } else if names.len() < COLUMNS_MAX {
                names.push((name.clone(), found));
            } else {
                more = true;
            }
        }
    }
    if let Some(none) = too_large(lines(bytes).count(), names.len()) {
        return none;
    }
    let mut builders: Vec<Builder> = names.iter().map(|(_, kind)| Builder::new(*kind)).collect();
    let (mut broken, mut rows) = (Broken::default(), 0);
    for (number, line) in lines(bytes).enumerate() {
        rows += 1;
        let object = object(line);
        if object.is_none() && line != Some("") {
            broken.add(number + 1);
        }
        for ((name, kind), builder) in names.iter().zip(&mut builders) {
            let value = object.as_ref().and_then(|object| object.get(name));
            let cell = value.and_then(json_cell);
            let text = match (kind, &cell, value) {
                // A column of several kinds is text: as JSON spells it.
                (
                    Kind::Text,
                    Some(Cell::Integer(_) | Cell::Number(_) | Cell::Boolean(_)),
                    Some(value),
                ) => value.to_string(),
                _ => String::new(),
            };
            builder.push(if text.is_empty() { cell } else { Some(Cell::Text(&text)) });
        }
    }
    let columns =
        names.into_iter().zip(builders).map(|((name, _), builder)| (name, builder.done()));
    let more =
        more.then(|| format!("it has more than {COLUMNS_MAX} columns: the others are left out"));
    let notes = [broken.note("JSON objects"), more];
    Table::new(rows, columns.collect(), notes.into_iter().flatten().collect())
}
