// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An expression for one file: what is known of the file is decided, and what is left says which rows pass.
//!
//! Invariant: a row passes exactly if the expression holds for it. Tests of a column are decided once for every
//! text that the column holds, and then for 64 rows at a time.

use super::{Expression, Field, Glob, Instant, Is, Op, Test, Value};
use crate::sidecar::{Column, Table, Values};
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;
use vexfs_index::Bitmap;

/// What is known of a file.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Its path.
    pub path: &'a [u8],
    /// Its owner.
    pub uid: u32,
    /// When its contents changed last.
    pub mtime: Instant,
    /// Its attributes, without the `user.` of their names.
    pub attributes: &'a [(String, Vec<u8>)],
    /// The metadata of its rows.
    pub table: Option<&'a Arc<Table>>,
}

/// Which rows of a file pass.
pub enum Passing {
    /// All.
    All,
    /// None.
    None,
    /// Those for which this holds.
    Rows(RowTest),
}

/// What has to hold for a row.
pub enum RowTest {
    /// All of them.
    And(Vec<RowTest>),
    /// At least one of them.
    Or(Vec<RowTest>),
    /// It does not.
    Not(Box<RowTest>),
    /// Its slot is in one of these ranges, both ends included.
    Slots(Vec<(u64, u64)>),
    /// It has a value in a column, and that passes.
    Column(Arc<Table>, usize, Pass),
}

/// Which values of a column pass.
pub enum Pass {
    /// The texts, by their number.
    Texts(Vec<bool>),
    /// Integers and numbers.
    Numbers(Is),
    /// False, and true.
    Booleans([bool; 2]),
}

/// The expression for one file. What is wrong with it for this file is added to `notes`.
#[must_use]
pub fn plan(expression: &Expression, facts: &Facts<'_>, notes: &mut Vec<String>) -> Passing {
    match expression {
        Expression::And(parts) => {
            let parts = parts.iter().map(|part| plan(part, facts, notes)).collect::<Vec<_>>();
            if parts.iter().any(|part| matches!(part, Passing::None)) {
                return Passing::None;
            }
            joined(parts, Passing::All, RowTest::And)
        }
        Expression::Or(parts) => {
            let parts = parts.iter().map(|part| plan(part, facts, notes)).collect::<Vec<_>>();
            if parts.iter().any(|part| matches!(part, Passing::All)) {
                return Passing::All;
            }
            joined(parts, Passing::None, RowTest::Or)
        }
        Expression::Not(part) => match plan(part, facts, notes) {
            Passing::All => Passing::None,
            Passing::None => Passing::All,
            Passing::Rows(test) => Passing::Rows(RowTest::Not(Box::new(test))),
        },
        Expression::Test(test) => test_of(test, facts, notes),
    }
}

fn joined(parts: Vec<Passing>, empty: Passing, join: fn(Vec<RowTest>) -> RowTest) -> Passing {
    let rows = |part| match part {
        Passing::Rows(test) => Some(test),
        _ => None,
    };
    let tests: Vec<RowTest> = parts.into_iter().filter_map(rows).collect();
    if tests.is_empty() { empty } else { Passing::Rows(join(tests)) }
}

fn test_of(test: &Test, facts: &Facts<'_>, notes: &mut Vec<String>) -> Passing {
    let known = match &test.field {
        Field::Path => bytes_pass(facts.path, &test.is),
        Field::Owner => any(&test.is, |op, value| match value {
            Value::Integer(uid) => op.holds(i64::from(facts.uid).cmp(uid)),
            _ => false,
        }),
        Field::Mtime => any(&test.is, |op, value| match value {
            Value::Instant(instant) => op.holds(facts.mtime.cmp(instant)),
            _ => false,
        }),
        Field::User(name) => {
            let value = facts.attributes.iter().find(|(own, _)| own == name);
            value.is_some_and(|(_, value)| bytes_pass(value, &test.is))
        }
        Field::Slot => return slots(&test.is),
        Field::Row(name) => return column(name, &test.is, facts.table, notes),
    };
    if known { Passing::All } else { Passing::None }
}

/// Whether a comparison holds, or that with one of the values of a set.
fn any(is: &Is, holds: impl Fn(Op, &Value) -> bool) -> bool {
    match is {
        Is::Compared(op, value) => holds(*op, value),
        Is::In(values) => values.iter().any(|value| holds(Op::Eq, value)),
        Is::Like(_) => false,
    }
}

/// Whether bytes that are text pass; numbers and truth values are compared with what they spell.
fn bytes_pass(bytes: &[u8], is: &Is) -> bool {
    let text = std::str::from_utf8(bytes).ok();
    if let Is::Like(pattern) = is {
        return text.is_some_and(|text| Glob::new(pattern).is_ok_and(|glob| glob.matches(text)));
    }
    any(is, |op, value| match value {
        Value::Text(other) => op.holds(bytes.cmp(other.as_bytes())),
        Value::Boolean(is) => {
            let own = text.and_then(|text| text.parse::<bool>().ok());
            own.is_some_and(|own| op.holds(own.cmp(is)))
        }
        Value::Integer(_) | Value::Number(_) => {
            let integer = text.and_then(|text| text.parse().ok()).map(Value::Integer);
            let number = || text.and_then(|text| text.parse().ok()).map(Value::Number);
            let order = integer.or_else(number).and_then(|own| order(&own, value));
            order.is_some_and(|order| op.holds(order))
        }
        Value::Instant(_) => false,
    })
}

/// The order of two numbers.
fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => Some(one.cmp(other)),
        (Value::Integer(one), Value::Number(other)) => integer_order(*one, *other),
        (Value::Number(one), Value::Integer(other)) => {
            integer_order(*other, *one).map(Ordering::reverse)
        }
        (Value::Number(one), Value::Number(other)) => one.partial_cmp(other),
        _ => None,
    }
}

/// The order of an integer and a number, also where a number is too coarse to be the integer.
fn integer_order(one: i64, other: f64) -> Option<Ordering> {
    if other.is_nan() {
        return None;
    }
    let whole = other.floor();
    // Exactly 2^63 and beyond are no i64.
    if whole >= 9_223_372_036_854_775_808.0 {
        return Some(Ordering::Less);
    }
    if whole < -9_223_372_036_854_775_808.0 {
        return Some(Ordering::Greater);
    }
    let fraction = if other > whole { Ordering::Less } else { Ordering::Equal };
    Some(one.cmp(&(whole as i64)).then(fraction))
}

fn slots(is: &Is) -> Passing {
    let integer = |value: &Value| match value {
        Value::Integer(slot) => u64::try_from(*slot).ok(),
        _ => None,
    };
    let ranges = match is {
        Is::Compared(op, value) => {
            let Some(slot) = integer(value) else { return Passing::None };
            let below = slot.checked_sub(1).map(|last| (0, last));
            let above = slot.checked_add(1).map(|first| (first, u64::MAX));
            match op {
                Op::Eq => vec![(slot, slot)],
                Op::Ne => below.into_iter().chain(above).collect(),
                Op::Lt => below.into_iter().collect(),
                Op::Le => vec![(0, slot)],
                Op::Gt => above.into_iter().collect(),
                Op::Ge => vec![(slot, u64::MAX)],
            }
        }
        Is::In(values) => values.iter().filter_map(integer).map(|slot| (slot, slot)).collect(),
        Is::Like(_) => Vec::new(),
    };
    if ranges.is_empty() { Passing::None } else { Passing::Rows(RowTest::Slots(ranges)) }
}

fn column(name: &str, is: &Is, table: Option<&Arc<Table>>, notes: &mut Vec<String>) -> Passing {
    let Some(table) = table else { return Passing::None };
    let Some(at) = table.position(name) else {
        if table.rows() > 0 {
            notes.push(format!("its rows have no column {name}, but {}", listed(table.names())));
        }
        return Passing::None;
    };
    let Some(column) = table.at(at) else { return Passing::None };
    // What kind of values an empty column has, nothing says.
    if column.present.count() == 0 {
        return Passing::None;
    }
    let pass = match (&column.values, is) {
        (Values::Texts(texts, _), is) => {
            let text = |value: &Value| matches!(value, Value::Text(_));
            fits(is, text).then(|| Pass::Texts(texts.iter().map(|text| bytes_pass(text.as_bytes(), is)).collect()))
        }
        (Values::Booleans(_), is) => fits(is, |value| matches!(value, Value::Boolean(_))).then(|| {
            Pass::Booleans([false, true].map(|own| {
                any(is, |op, value| matches!(value, Value::Boolean(other) if op.holds(own.cmp(other))))
            }))
        }),
        (_, is) => fits(is, |value| matches!(value, Value::Integer(_) | Value::Number(_)))
            .then(|| Pass::Numbers(is.clone())),
    };
    let Some(pass) = pass else {
        let kind = column.values.kind();
        notes.push(format!(
            "its column {name} holds {kind}, and is compared with something else: nothing passes"
        ));
        return Passing::None;
    };
    Passing::Rows(RowTest::Column(table.clone(), at, pass))
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Whether all values of a test are of a kind; a pattern is text.
fn fits(is: &Is, kind: impl Fn(&Value) -> bool) -> bool {
    match is {
        Is::Compared(_, value) => kind(value),
        Is::In(values) => values.iter().all(kind),
        Is::Like(_) => kind(&Value::Text(String::new())),
    }
}

impl RowTest {
    /// The rows of these slots for which it holds.
    #[must_use]
    pub fn bits(&self, slots: &Range<u64>) -> Bitmap {
        let len = usize::try_from(slots.end.saturating_sub(slots.start)).unwrap_or(0);
        match self {
            Self::And(parts) => parts.iter().fold(Bitmap::all(len), |mut all, part| {
                all.and(&part.bits(slots));
                all
            }),
            Self::Or(parts) => parts.iter().fold(Bitmap::none(len), |mut all, part| {
                all.or(&part.bits(slots));
                all
            }),
            Self::Not(part) => {
                let mut bits = part.bits(slots);
                bits.not();
                bits
            }
            Self::Slots(ranges) => {
                let mut bits = Bitmap::none(len);
                for (first, last) in ranges {
                    let from = first.max(&slots.start) - slots.start;
                    let to = last.saturating_add(1).min(slots.end).saturating_sub(slots.start);
                    bits.insert_range(from as usize..to as usize);
                }
                bits
            }
            Self::Column(table, at, pass) => {
                let Some(column) = table.at(*at) else { return Bitmap::none(len) };
                let first = usize::try_from(slots.start).unwrap_or(usize::MAX);
                Bitmap::of(len, |row| pass.row(column, first.saturating_add(row)))
            }
        }
    }
}

impl Pass {
    #[inline]
    fn row(&self, column: &Column, row: usize) -> bool {
        column.present.contains(row)
            && match (self, &column.values) {
                (Self::Texts(pass), Values::Texts(_, codes)) => {
                    codes.get(row).is_some_and(|code| pass.get(*code as usize) == Some(&true))
                }
                (Self::Booleans(pass), Values::Booleans(values)) => {
                    pass[usize::from(values.contains(row))]
                }
                (Self::Numbers(is), Values::Integers(values)) => {
                    values.get(row).is_some_and(|own| number(is, &Value::Integer(*own)))
                }
                (Self::Numbers(is), Values::Numbers(values)) => {
                    values.get(row).is_some_and(|own| number(is, &Value::Number(*own)))
                }
                _ => false,
            }
    }
}

fn number(is: &Is, own: &Value) -> bool {
    any(is, |op, value| order(own, value).is_some_and(|order| op.holds(order)))
}
