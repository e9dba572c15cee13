// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The language of filters: which files, and which of their rows, a search may find.
//!
//! ```text
//! expression  = conjunction { "or" conjunction }
//! conjunction = factor { "and" factor }
//! factor      = "not" factor | "(" expression ")" | test
//! test        = field comparison value | field "~" text | field ["not"] "in" "(" value { "," value } ")"
//! comparison  = "=" | "!=" | "<" | "<=" | ">" | ">="
//! value       = integer | number | text | "true" | "false"
//! text        = '"' characters '"'      with \" \\ \n \r \t
//! ```
//!
//! | field | what | takes |
//! |---|---|---|
//! | `path` | the path below what is searched; a file that is searched itself: its name | text; `~` a pattern |
//! | `slot` | the ordinal of a row in its file | integers |
//! | `owner` | the owner of a file | `=`, `!=`, `in`: a user's number or name |
//! | `mtime` | when a file's contents were last changed | seconds since 1970, or `"2026-01-31"`, `"2026-01-31T12:00:00Z"` (UTC) |
//! | `user.NAME` | an extended attribute of a file | text; numbers and `true`, `false` as it spells them |
//! | `row.NAME` | a column of the rows' metadata, in the sidecar file | what the column holds |
//!
//! A pattern holds `*` and `?`, which stand for no `/`, `**`, which stands for anything, and `[a-z]`, `[!a-z]`.
//!
//! Invariant: a test of something that is not there is false, whatever its comparison, so `not` of it is
//! true; and an expression is printed as text that is parsed to the same expression. Every length, and how
//! deep parentheses go, is bounded, so that an expression may come from anybody.

mod glob;
mod instant;
mod parse;
mod plan;
mod print;

pub use glob::Glob;
pub use instant::Instant;
pub use parse::{Mistake, parse};
pub use plan::{Facts, Passing, RowTest, plan};

/// Longest expression, in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Tests of an expression, at most.
pub const TESTS_MAX: usize = 64;
/// How deep parentheses and `not` go.
pub const DEPTH_MAX: usize = 32;
/// Longest name of an attribute or a column, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// What has to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// All of them; two or more.
    And(Vec<Expression>),
    /// At least one of them; two or more.
    Or(Vec<Expression>),
    /// It does not hold.
    Not(Box<Expression>),
    /// One test.
    Test(Test),
}

/// A test of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// The field.
    pub field: Field,
    /// What it has to be.
    pub is: Is,
}

/// What can be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The path of the file.
    Path,
    /// The ordinal of the row.
    Slot,
    /// The owner of the file.
    Owner,
    /// When the contents of the file changed last.
    Mtime,
    /// The attribute of the file that is called `user.` and this.
    User(String),
    /// The column of the metadata of the file's rows.
    Row(String),
}

/// What a field has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Is {
    /// So, compared with a value.
    Compared(Op, Value),
    /// One of these values.
    In(Vec<Value>),
    /// Text like this pattern.
    Like(String),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl Op {
    /// Whether it holds for values that are ordered so.
    #[must_use]
    pub fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer.
    Integer(i64),
    /// A finite number.
    Number(f64),
    /// Text.
    Text(String),
    /// `true` or `false`.
    Boolean(bool),
    /// A moment; only of `mtime`.
    Instant(Instant),
}

impl Expression {
    /// Calls `each` for every test.
    pub fn each(&self, each: &mut dyn FnMut(&Test)) {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.each(each)),
            Self::Not(part) => part.each(each),
            Self::Test(test) => each(test),
        }
    }

    /// Calls `each` for every test, which it may change.
    pub fn each_mut<E>(
        &mut self,
        each: &mut dyn FnMut(&mut Test) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::And(parts) | Self::Or(parts) => {
                parts.iter_mut().try_for_each(|part| part.each_mut(each))
            }
            Self::Not(part) => part.each_mut(each),
            Self::Test(test) => each(test),
        }
    }

    /// Whether a test has such a field.
    #[must_use]
    pub fn tests(&self, is: impl Fn(&Field) -> bool) -> bool {
        let mut found = false;
        self.each(&mut |test| found |= is(&test.field));
        found
    }
}

#[cfg(test)]
mod tests;
