// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A state as text, so that it can be printed and judged again.

use super::points::Point;
use std::fmt;
use std::str::FromStr;

/// Which of a point's writes are kept, by their numbers. As text `none`, or `3,5[0+1+7]`, where the
/// brackets name the sectors that are kept of a torn write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen(pub Vec<(u64, Option<Vec<u32>>)>);

impl Chosen {
    /// Describes a state.
    #[must_use]
    pub fn of(point: &Point, state: &[u16]) -> Self {
        let mut chosen = Vec::new();
        for (place, write) in point.writes.iter().enumerate() {
            let place = place as u32;
            let mut kept = Vec::new();
            let mut own = 0;
            for (choice, version) in point.choices.iter().zip(state) {
                for cover in choice.covers.iter().filter(|c| c.write == place && c.version > 0) {
                    own += 1;
                    // Of writes with the same contents the first one is named.
                    let first = choice.covers.iter().find(|c| c.version == *version);
                    if first.is_some_and(|first| first.write == place) {
                        kept.push(cover.index);
                    }
                }
            }
            if !kept.is_empty() {
                chosen.push((write.id, (kept.len() < own).then_some(kept)));
            }
        }
        Self(chosen)
    }

    /// The state of a point that this describes. Writes that are not named are lost.
    #[must_use]
    pub fn state(&self, point: &Point) -> Vec<u16> {
        let mut state = Vec::new();
        let keep = |write: u32, index: u32| {
            let id = point.writes.get(write as usize).map(|write| write.id);
            self.0.iter().any(|(named, sectors)| {
                Some(*named) == id && sectors.as_ref().is_none_or(|s| s.contains(&index))
            })
        };
        point.apply(&keep, &mut state);
        state
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, (id, sectors)) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if place > 0 { "," } else { "" })?;
            if let Some(sectors) = sectors {
                let list: Vec<String> = sectors.iter().map(u32::to_string).collect();
                write!(f, "[{}]", list.join("+"))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let wrong = |part: &str| {
            format!("'{part}' is not a write: give 'none' or numbers as in '3,5[0+1+2]'")
        };
        text.split(',')
            .map(|part| {
                let (id, sectors) = match part.split_once('[') {
                    None => (part, None),
                    Some((id, rest)) => {
                        let rest = rest.strip_suffix(']').ok_or_else(|| wrong(part))?;
                        let sectors: Result<_, _> = rest.split('+').map(str::parse).collect();
                        (id, Some(sectors.map_err(|_| wrong(part))?))
                    }
                };
                Ok((id.parse().map_err(|_| wrong(part))?, sectors))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::states::Limits;
    use crate::explore::states::tests::{point, states};

    #[test]
    fn what_was_chosen_is_read_as_it_is_written() {
        let point = point(&[(0, 2048), (4096, 512), (512, 512)]);
        for state in states(&point, &Limits::default()) {
            let chosen = Chosen::of(&point, &state);
            assert_eq!(chosen.state(&point), state, "{chosen}");
            assert_eq!(chosen.to_string().parse(), Ok(chosen));
        }
        assert!("3,x".parse::<Chosen>().is_err() && "3[1".parse::<Chosen>().is_err());
    }
}
