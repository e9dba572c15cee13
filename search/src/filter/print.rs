// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An expression as the text that it is parsed from.

use super::{Expression, Field, Is, Op, Test, Value, parse};
use std::fmt::{self, Display, Formatter, Write};

fn text(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(n) => write!(f, "{n}"),
            // With a point or an exponent, so that it is no integer.
            Self::Number(x) => write!(f, "{x:?}"),
            Self::Text(value) => text(f, value),
            Self::Boolean(is) => write!(f, "{is}"),
            Self::Instant(instant) => write!(f, "\"{instant}\""),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Path => return f.write_str("path"),
            Self::Slot => return f.write_str("slot"),
            Self::Owner => return f.write_str("owner"),
            Self::Mtime => return f.write_str("mtime"),
            Self::User(name) => ("user.", name),
            Self::Row(name) => ("row.", name),
        };
        f.write_str(kind)?;
        if parse::is_plain(name) { f.write_str(name) } else { text(f, name) }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eq => "=",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        })
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.field)?;
        match &self.is {
            Is::Compared(op, value) => write!(f, "{op} {value}"),
            Is::Like(pattern) => {
                f.write_str("~ ")?;
                text(f, pattern)
            }
            Is::In(values) => {
                f.write_str("in (")?;
                for (i, value) in values.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{value}")?;
                }
                f.write_char(')')
            }
        }
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (parts, word) = match self {
            Self::And(parts) => (parts, " and "),
            Self::Or(parts) => (parts, " or "),
            Self::Not(part) => {
                return match &**part {
                    part @ (Self::And(_) | Self::Or(_)) => write!(f, "not ({part})"),
                    part => write!(f, "not {part}"),
                };
            }
            Self::Test(test) => return write!(f, "{test}"),
        };
        for (i, part) in parts.iter().enumerate() {
            f.write_str(if i > 0 { word } else { "" })?;
            let alone =
                matches!(part, Self::Or(_)) || matches!((self, part), (Self::And(_), Self::And(_)));
            if alone {
                write!(f, "({part})")?;
            } else {
                write!(f, "{part}")?;
            }
        }
        Ok(())
    }
}
