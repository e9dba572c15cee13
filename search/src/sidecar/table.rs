// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The metadata of a file's rows in memory: typed columns; of text every value once.
//!
//! Invariant: every column has as many rows as the table, and a row's value is only used if it is in `present`.

use std::collections::HashMap;
use vexfs_index::Bitmap;

/// The metadata of a file's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    rows: usize,
    names: Vec<String>,
    columns: Vec<Column>,
    /// What is odd about the file that it was read from.
    pub notes: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The rows that have a value.
    pub present: Bitmap,
    /// The values.
    pub values: Values,
}

/// The values of a column, by row.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Integers.
    Integers(Vec<i64>),
    /// Finite numbers.
    Numbers(Vec<f64>),
    /// Text: every value once, and which one each row has.
    Texts(Vec<Box<str>>, Vec<u32>),
    /// Truth values: the rows that are true.
    Booleans(Bitmap),
}

impl Values {
    /// What they are, as a message says it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Integers(_) => "integer",
            Self::Numbers(_) => "number",
            Self::Texts(..) => "text",
            Self::Booleans(_) => "boolean",
        }
    }
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// An integer.
    Integer(i64),
    /// A number.
    Number(f64),
    /// Text.
    Text(&'a str),
    /// A truth value.
    Boolean(bool),
}

impl Table {
    /// A table of these columns, which all have so many rows; others are left out.
    #[must_use]
    pub fn new(rows: usize, columns: Vec<(String, Column)>, notes: Vec<String>) -> Self {
        let fits = |column: &Column| {
            let values = match &column.values {
                Values::Integers(values) => values.len(),
                Values::Numbers(values) => values.len(),
                Values::Texts(_, codes) => codes.len(),
                Values::Booleans(values) => values.len(),
            };
            values == rows && column.present.len() == rows
        };
        let (names, columns) = columns.into_iter().filter(|(_, column)| fits(column)).unzip();
        Self { rows, names, columns, notes }
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The names of its columns.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A column by its name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.position(name).and_then(|at| self.columns.get(at))
    }

    /// Where a column is.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|own| own == name)
    }

    /// A column by its position.
    #[must_use]
    pub fn at(&self, position: usize) -> Option<&Column> {
        self.columns.get(position)
    }

    /// The value of a row.
    #[must_use]
    pub fn cell(&self, column: &str, row: u64) -> Option<Cell<'_>> {
        let row = usize::try_from(row).ok()?;
        let column = self.column(column).filter(|column| column.present.contains(row))?;
        Some(match &column.values {
            Values::Integers(values) => Cell::Integer(*values.get(row)?),
            Values::Numbers(values) => Cell::Number(*values.get(row)?),
            Values::Texts(texts, codes) => Cell::Text(texts.get(*codes.get(row)? as usize)?),
            Values::Booleans(values) => Cell::Boolean(values.contains(row)),
        })
    }

    /// Resident bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let column = |column: &Column| {
            self.rows / 8
                + match &column.values {
                    Values::Integers(values) => values.capacity() * 8,
                    Values::Numbers(values) => values.capacity() * 8,
                    Values::Texts(texts, codes) => {
                        codes.capacity() * 4
                            + texts.iter().map(|text| text.len() + 16).sum::<usize>()
                    }
                    Values::Booleans(_) => self.rows / 8,
                }
        };
        self.columns.iter().map(column).sum()
    }
}

/// What the cells of a column are, so far: every kind holds what the ones before it hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Nothing,
    Boolean,
    Integer,
    Number,
    Text,
}

impl Kind {
    /// The kind that holds both.
    pub(super) fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (one, other) if one == other => one,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            _ => Self::Text,
        }
    }
}

/// A column that is being read.
pub(super) struct Builder {
    present: Vec<bool>,
    values: Building,
}

enum Building {
    Integers(Vec<i64>),
    Numbers(Vec<f64>),
    Texts(Vec<Box<str>>, Vec<u32>, HashMap<Box<str>, u32>),
    Booleans(Vec<bool>),
}

impl Builder {
    pub(super) fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Integer => Building::Integers(Vec::new()),
            Kind::Number => Building::Numbers(Vec::new()),
            Kind::Boolean => Building::Booleans(Vec::new()),
            Kind::Nothing | Kind::Text => Building::Texts(Vec::new(), Vec::new(), HashMap::new()),
        };
        Self { present: Vec::new(), values }
    }

    /// Adds the value of the next row; one of another kind is none. False if it was one of another kind.
    pub(super) fn push(&mut self, cell: Option<Cell<'_>>) -> bool {
        let fits = match (&mut self.values, cell) {
            (Building::Integers(values), Some(Cell::Integer(n))) => {
                values.push(n);
                true
            }
            (Building::Numbers(values), Some(Cell::Number(x))) if x.is_finite() => {
                values.push(x);
                true
            }
            (Building::Numbers(values), Some(Cell::Integer(n))) => {
                values.push(n as f64);
                true
            }
            (Building::Texts(texts, codes, known), Some(Cell::Text(text))) => {
                let code = known.get(text).copied().unwrap_or_else(|| {
                    let code = texts.len() as u32;
                    texts.push(text.into());
                    known.insert(text.into(), code);
                    code
                });
                codes.push(code);
                true
            }
            (Building::Booleans(values), Some(Cell::Boolean(is))) => {
                values.push(is);
                true
            }
            (values, _) => {
                match values {
                    Building::Integers(values) => values.push(0),
                    Building::Numbers(values) => values.push(0.0),
                    Building::Texts(_, codes, _) => codes.push(0),
                    Building::Booleans(values) => values.push(false),
                }
                false
            }
        };
        self.present.push(fits);
        fits || cell.is_none()
    }

    pub(super) fn done(self) -> Column {
        let bits = |values: &[bool]| Bitmap::of(values.len(), |row| values[row]);
        Column {
            present: bits(&self.present),
            values: match self.values {
                Building::Integers(values) => Values::Integers(values),
                Building::Numbers(values) => Values::Numbers(values),
                Building::Texts(texts, codes, _) => Values::Texts(texts, codes),
                Building::Booleans(values) => Values::Booleans(bits(&values)),
            },
        }
    }
}
