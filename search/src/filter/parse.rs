// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From text to an expression, or to a mistake and its column.
//!
//! The parser calls itself for parentheses and `not`, no deeper than [`DEPTH_MAX`].

use super::{
    DEPTH_MAX, Expression, Field, Glob, Instant, Is, NAME_BYTES_MAX, Op, TESTS_MAX, TEXT_BYTES_MAX,
    Test, Value,
};
use std::fmt;
use std::iter::Peekable;
use std::str::CharIndices;

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The character at which it shows, counted from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub why: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.why)
    }
}

type Parsed<T> = Result<T, Mistake>;

/// What text is made of.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// A name after `user.` or `row.`.
    Named(&'static str, String),
    Value(Value),
    Sign(&'static str),
    End,
}

/// Signs, longer ones first.
const SIGNS: [&str; 12] = ["!=", "<=", ">=", "==", "&&", "||", "=", "<", ">", "~", "(", ")"];

/// The expression that a text says.
///
/// # Errors
/// A mistake in it, or it is too long or too deep.
pub fn parse(text: &str) -> Parsed<Expression> {
    let mistake = |why: String| Mistake { column: 1, why };
    if text.len() > TEXT_BYTES_MAX {
        return Err(mistake(format!(
            "{} bytes are too long: at most {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    let tokens = Lexer { text, rest: text.char_indices().peekable() }.all()?;
    let mut parser = Parser { tokens, at: 0, tests: 0 };
    let expression = parser.expression(0)?;
    match parser.peek() {
        Token::End => Ok(expression),
        Token::Sign(")") => parser.wrong("a ) without a ("),
        _ => parser.wrong("'and', 'or' or the end was expected"),
    }
}

/// Whether a name needs no quotes.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(in_name)
}

const fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

struct Lexer<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl Lexer<'_> {
    fn column(&self, byte: usize) -> usize {
        self.text.get(..byte).map_or(0, |before| before.chars().count()) + 1
    }

    fn wrong<T>(&self, byte: usize, why: impl Into<String>) -> Parsed<T> {
        Err(Mistake { column: self.column(byte), why: why.into() })
    }

    /// All tokens, each with its column, and the end.
    fn all(mut self) -> Parsed<Vec<(Token, usize)>> {
        let mut tokens = Vec::new();
        while let Some((at, c)) = self.rest.peek().copied() {
            if c.is_whitespace() {
                self.rest.next();
                continue;
            }
            let token = self.token(at, c)?;
            tokens.push((token, self.column(at)));
        }
        let end = self.column(self.text.len());
        tokens.push((Token::End, end));
        Ok(tokens)
    }

    fn token(&mut self, at: usize, c: char) -> Parsed<Token> {
        if c == '"' {
            return Ok(Token::Value(Value::Text(self.quoted()?)));
        }
        if c == '\'' {
            return self.wrong(at, "text stands in double quotes: \"en\"");
        }
        if c == ',' {
            self.rest.next();
            return Ok(Token::Sign(","));
        }
        if let Some(sign) = SIGNS.into_iter().find(|sign| self.text[at..].starts_with(sign)) {
            let _ = self.rest.nth(sign.len() - 1);
            return match sign {
                "==" => self.wrong(at, "write = instead of =="),
                "&&" => self.wrong(at, "write and instead of &&"),
                "||" => self.wrong(at, "write or instead of ||"),
                sign => Ok(Token::Sign(sign)),
            };
        }
        if c.is_ascii_digit() || matches!(c, '-' | '+') {
            return self.number(at);
        }
        if !c.is_ascii_alphabetic() {
            return self.wrong(at, format!("'{c}' means nothing here"));
        }
        let word = self.take(in_name);
        if let Some((kind, name)) =
            ["user.", "row."].into_iter().find_map(|kind| Some((kind, word.strip_prefix(kind)?)))
        {
            let quoted = self.rest.peek().is_some_and(|(_, c)| *c == '"');
            let name = match (name, quoted) {
                ("", true) => self.quoted()?,
                ("", false) => return self.wrong(at, format!("{kind} needs a name after it")),
                (name, _) => name.to_owned(),
            };
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
                return self
                    .wrong(at, format!("a name has 1 to {NAME_BYTES_MAX} bytes, none of them 0"));
            }
            return Ok(Token::Named(kind, name));
        }
        Ok(match word.as_str() {
            "true" => Token::Value(Value::Boolean(true)),
            "false" => Token::Value(Value::Boolean(false)),
            _ => Token::Word(word),
        })
    }

    fn take(&mut self, is: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.rest.next_if(|(_, c)| is(*c))).map(|(_, c)| c).collect()
    }

    fn quoted(&mut self) -> Parsed<String> {
        let start = self.rest.next().map_or(0, |(at, _)| at);
        let mut text = String::new();
        while let Some((at, c)) = self.rest.next() {
            match c {
                '"' => return Ok(text),
                '\\' => text.push(match self.rest.next() {
                    Some((_, c @ ('"' | '\\'))) => c,
                    Some((_, 'n')) => '\n',
                    Some((_, 'r')) => '\r',
                    Some((_, 't')) => '\t',
                    _ => return self.wrong(at, "after \\ comes one of \" \\ n r t"),
                }),
                c => text.push(c),
            }
        }
        self.wrong(start, "the text that begins here has no end: \" is missing")
    }

    fn number(&mut self, at: usize) -> Parsed<Token> {
        let mut word = String::new();
        let mut last = ' ';
        // A sign is part of a number at its start and after its exponent's e.
        while let Some((_, c)) = self.rest.next_if(|(_, c)| {
            c.is_ascii_alphanumeric()
                || matches!(c, '.' | '_')
                || (matches!(c, '-' | '+') && matches!(last, ' ' | 'e' | 'E'))
        }) {
            word.push(c);
            last = c;
        }
        let digits = word.trim_start_matches(['-', '+']);
        if digits.bytes().all(|c| c.is_ascii_digit()) && !digits.is_empty() {
            return match word.parse() {
                Ok(number) => Ok(Token::Value(Value::Integer(number))),
                Err(_) => self.wrong(at, format!("{word} is too large an integer")),
            };
        }
        // Not every word that Rust takes for a number is one here: "infinity".
        let plain = digits.starts_with(|c: char| c.is_ascii_digit());
        match word.parse::<f64>() {
            Ok(number) if plain && number.is_finite() => Ok(Token::Value(Value::Number(number))),
            _ => self.wrong(at, format!("'{word}' is no number")),
        }
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    tests: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn column(&self, at: usize) -> usize {
        self.tokens.get(at).or(self.tokens.last()).map_or(1, |(_, column)| *column)
    }

    fn wrong<T>(&self, why: impl Into<String>) -> Parsed<T> {
        self.wrong_at(self.at, why)
    }

    fn wrong_at<T>(&self, at: usize, why: impl Into<String>) -> Parsed<T> {
        Err(Mistake { column: self.column(at), why: why.into() })
    }

    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Token::Word(next) if next == word);
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Token::Sign(next) if *next == sign);
        self.at += usize::from(is);
        is
    }

    fn expression(&mut self, depth: usize) -> Parsed<Expression> {
        let mut parts = vec![self.conjunction(depth)?];
        while self.word("or") {
            parts.push(self.conjunction(depth)?);
        }
        Ok(joined(parts, Expression::Or))
    }

    fn conjunction(&mut self, depth: usize) -> Parsed<Expression> {
        let mut parts = vec![self.factor(depth)?];
        while self.word("and") {
            parts.push(self.factor(depth)?);
        }
        Ok(joined(parts, Expression::And))
    }

    fn factor(&mut self, depth: usize) -> Parsed<Expression> {
        if depth >= DEPTH_MAX {
            return self.wrong(format!("more than {DEPTH_MAX} parentheses or 'not' in each other"));
        }
        if self.word("not") {
            return Ok(Expression::Not(Box::new(self.factor(depth + 1)?)));
        }
        if self.sign("(") {
            let inside = self.expression(depth + 1)?;
            if !self.sign(")") {
                return self.wrong("'and', 'or' or ) was expected");
            }
            return Ok(inside);
        }
        self.test()
    }

    fn test(&mut self) -> Parsed<Expression> {
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return self.wrong(format!("more than {TESTS_MAX} tests"));
        }
        let field = self.field()?;
        let negated = self.word("not");
        if self.word("in") {
            let test = Expression::Test(Test { is: self.set(&field)?, field });
            return Ok(if negated { Expression::Not(Box::new(test)) } else { test });
        }
        if negated {
            return self.wrong("'in' was expected after 'not'");
        }
        let sign = self.at;
        let Token::Sign(op) = self.next() else {
            return self.wrong_at(sign, "one of = != < <= > >= ~ or 'in' was expected");
        };
        let op = match op {
            "=" => Op::Eq,
            "!=" => Op::Ne,
            "<" => Op::Lt,
            "<=" => Op::Le,
            ">" => Op::Gt,
            ">=" => Op::Ge,
            "~" => return self.like(field),
            _ => return self.wrong_at(sign, "one of = != < <= > >= ~ or 'in' was expected"),
        };
        if field == Field::Owner && !matches!(op, Op::Eq | Op::Ne) {
            return self.wrong_at(sign, "an owner is compared with =, != or 'in'");
        }
        let at = self.at;
        let value = self.value(&field)?;
        if matches!(value, Value::Boolean(_)) && !matches!(op, Op::Eq | Op::Ne) {
            return self.wrong_at(at, "true and false are compared with = or !=");
        }
        Ok(Expression::Test(Test { field, is: Is::Compared(op, value) }))
    }

    fn field(&mut self) -> Parsed<Field> {
        const FIELDS: &str = "one of path, slot, owner, mtime, user.NAME, row.NAME was expected";
        let at = self.at;
        match self.next() {
            Token::Named("user.", name) => Ok(Field::User(name)),
            Token::Named(_, name) => Ok(Field::Row(name)),
            Token::Word(word) => match word.as_str() {
                "path" => Ok(Field::Path),
                "slot" => Ok(Field::Slot),
                "owner" => Ok(Field::Owner),
                "mtime" => Ok(Field::Mtime),
                _ => self.wrong_at(at, format!("'{word}': {FIELDS}")),
            },
            _ => self.wrong_at(at, FIELDS),
        }
    }

    fn like(&mut self, field: Field) -> Parsed<Expression> {
        if !matches!(field, Field::Path | Field::User(_) | Field::Row(_)) {
            return self.wrong_at(self.at - 1, format!("{field} is not text, and ~ compares text"));
        }
        let at = self.at;
        let Token::Value(Value::Text(pattern)) = self.next() else {
            return self.wrong_at(at, "a pattern in double quotes was expected");
        };
        match Glob::new(&pattern) {
            Ok(_) => Ok(Expression::Test(Test { field, is: Is::Like(pattern) })),
            Err(why) => self.wrong_at(at, why),
        }
    }

    fn set(&mut self, field: &Field) -> Parsed<Is> {
        if !self.sign("(") {
            return self.wrong("( was expected after 'in'");
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value(field)?);
            if self.sign(")") {
                return Ok(Is::In(values));
            }
            if !self.sign(",") {
                return self.wrong("a comma or ) was expected");
            }
        }
    }

    fn value(&mut self, field: &Field) -> Parsed<Value> {
        let at = self.at;
        let value = match self.next() {
            Token::Value(value) => value,
            Token::Word(word) => {
                return self.wrong_at(
                    at,
                    format!("a value was expected; text stands in double quotes: \"{word}\""),
                );
            }
            _ => return self.wrong_at(at, "a value was expected"),
        };
        let fits = match (field, &value) {
            (Field::Path | Field::Owner, Value::Text(_))
            | (Field::Slot, Value::Integer(0..))
            | (Field::User(_) | Field::Row(_), _) => Ok(()),
            (Field::Path, _) => Err("a path is compared with text"),
            (Field::Slot, _) => Err("a slot is an integer from 0 on"),
            (Field::Owner, Value::Integer(uid)) if u32::try_from(*uid).is_ok() => Ok(()),
            (Field::Owner, _) => Err("an owner is a user's number, or a name in double quotes"),
            (Field::Mtime, Value::Text(text)) => match Instant::parse(text) {
                Some(instant) => return Ok(Value::Instant(instant)),
                None => {
                    Err("a time is \"2026-01-31\", \"2026-01-31T12:00:00Z\" or seconds since 1970")
                }
            },
            (Field::Mtime, Value::Integer(seconds)) => match Instant::at(*seconds) {
                Some(instant) => return Ok(Value::Instant(instant)),
                None => Err("a time lies in the years 0000 to 9999"),
            },
            (Field::Mtime, _) => {
                Err("a time is \"2026-01-31\", \"2026-01-31T12:00:00Z\" or seconds since 1970")
            }
        };
        match fits {
            Ok(()) => Ok(value),
            Err(why) => self.wrong_at(at, why),
        }
    }
}

/// One part as it is, several together.
fn joined(mut parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match (parts.len(), parts.pop()) {
        (1, Some(part)) => part,
        (_, last) => {
            parts.extend(last);
            join(parts)
        }
    }
}
