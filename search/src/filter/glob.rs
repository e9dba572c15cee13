// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Patterns of paths and text: `*`, `?`, `**`, `[a-z]`, and `\` before a character that is meant itself.
//!
//! All places of the pattern that the text so far leads to are followed at once, so the time is the product of
//! both lengths at most, whatever the pattern.

#[derive(Clone, Debug)]
enum Part {
    /// This character.
    One(char),
    /// Any character but `/`.
    Any,
    /// A character in one of these ranges, or in none of them; never `/`.
    Class(Vec<(char, char)>, bool),
    /// Characters other than `/`, or none.
    Some,
    /// Any characters, or none.
    All,
}

/// A pattern.
#[derive(Clone, Debug)]
pub struct Glob(Vec<Part>);

impl Glob {
    /// A pattern; an error says what is wrong with it.
    ///
    /// # Errors
    /// A class without an end, or nothing after a `\`.
    pub fn new(pattern: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' if rest.next_if_eq(&'*').is_some() => Part::All,
                '*' => Part::Some,
                '?' => Part::Any,
                '\\' => Part::One(rest.next().ok_or("the pattern ends with \\")?),
                '[' => {
                    let not = rest.next_if(|c| matches!(c, '!' | '^')).is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let mut next = || rest.next().ok_or("the pattern has a [ without a ]");
                        let from = match next()? {
                            ']' if !ranges.is_empty() => break,
                            '\\' => next()?,
                            c => c,
                        };
                        let mut ahead = rest.clone();
                        let to = match (ahead.next(), ahead.next()) {
                            (Some('-'), Some(to)) if to != ']' => {
                                rest = ahead;
                                to
                            }
                            _ => from,
                        };
                        ranges.push((from, to));
                    }
                    Part::Class(ranges, not)
                }
                c => Part::One(c),
            });
        }
        Ok(Self(parts))
    }

    /// Whether all of the text is like the pattern.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let parts = &self.0;
        let mut at = vec![false; parts.len() + 1];
        let mut next = at.clone();
        // A star may stand for nothing.
        let pass = |at: &mut [bool]| {
            for (i, part) in parts.iter().enumerate() {
                if at[i] && matches!(part, Part::Some | Part::All) {
                    at[i + 1] = true;
                }
            }
        };
        at[0] = true;
        pass(&mut at);
        for c in text.chars() {
            next.fill(false);
            for (i, part) in parts.iter().enumerate().filter(|(i, _)| at[*i]) {
                match part {
                    Part::One(one) => next[i + 1] |= *one == c,
                    Part::Any => next[i + 1] |= c != '/',
                    Part::Class(ranges, not) => {
                        let inside = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                        next[i + 1] |= c != '/' && inside != *not;
                    }
                    Part::Some => next[i] |= c != '/',
                    Part::All => next[i] = true,
                }
            }
            pass(&mut next);
            std::mem::swap(&mut at, &mut next);
        }
        at[parts.len()]
    }
}
