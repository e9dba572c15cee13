// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Verdicts by what was looked at: a decision tree whose inner nodes ask for the version of one
//! sector, whose leaves are verdicts.
//!
//! Invariant: a path from the root to a leaf is the trace of a real evaluation. An evaluation is a
//! function of what it reads, and which choice it looks at next follows from the answers so far;
//! so every state that answers as the path does has that leaf's verdict. What an evaluation never
//! looked at (blocks no root reaches) does not matter, and that is most of what a cut leaves.

/// What an evaluation came to: the generation that was recovered, or what is wrong.
pub type Verdict = Result<u64, String>;

enum Node {
    Unknown,
    /// Ask for this choice; the child of each version.
    Ask {
        choice: u32,
        children: Vec<u32>,
    },
    Known(Verdict),
}

/// The verdicts of one point.
pub struct Memo {
    nodes: Vec<Node>,
}

impl Default for Memo {
    fn default() -> Self {
        Self { nodes: vec![Node::Unknown] }
    }
}

impl Memo {
    /// The verdict of a state, if an evaluation has shown it.
    #[must_use]
    pub fn find(&self, state: &[u16]) -> Option<&Verdict> {
        let mut at = 0;
        loop {
            match self.nodes.get(at)? {
                Node::Unknown => return None,
                Node::Known(verdict) => return Some(verdict),
                Node::Ask { choice, children } => {
                    let version = *state.get(*choice as usize)?;
                    at = *children.get(usize::from(version))? as usize;
                    // The root is nobody's child.
                    if at == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// Takes in an evaluation. `versions` says how many versions a choice has, the durable one
    /// included.
    ///
    /// # Errors
    /// If the trace contradicts an earlier one: then something that judges is not deterministic.
    pub fn insert(
        &mut self,
        state: &[u16],
        trace: &[u32],
        versions: &dyn Fn(u32) -> usize,
        verdict: Verdict,
    ) -> Result<(), String> {
        let contradiction = || Err("the evaluation of a state is not deterministic".to_owned());
        let mut at = 0;
        for asked in trace {
            if matches!(self.nodes.get(at), Some(Node::Unknown)) {
                let children = vec![0; versions(*asked)];
                self.nodes[at] = Node::Ask { choice: *asked, children };
            }
            let next = self.nodes.len() as u32;
            let Some(Node::Ask { choice, children }) = self.nodes.get_mut(at) else {
                return contradiction();
            };
            let version = state.get(*asked as usize).map_or(0, |v| usize::from(*v));
            let Some(child) = children.get_mut(version).filter(|_| choice == asked) else {
                return contradiction();
            };
            if *child == 0 {
                *child = next;
                at = next as usize;
                self.nodes.push(Node::Unknown);
            } else {
                at = *child as usize;
            }
        }
        match self.nodes.get_mut(at) {
            Some(node @ Node::Unknown) => *node = Node::Known(verdict),
            _ => return contradiction(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_the_verdict_of_whoever_answered_alike() {
        let mut memo = Memo::default();
        let three = |_| 3;
        assert!(memo.find(&[0, 0, 0]).is_none());
        memo.insert(&[0, 1, 2], &[2, 0], &three, Ok(7)).unwrap();
        assert_eq!(memo.find(&[0, 2, 2]), Some(&Ok(7)), "choice 1 was never looked at");
        assert!(memo.find(&[1, 1, 2]).is_none() && memo.find(&[0, 1, 0]).is_none());
        memo.insert(&[1, 1, 2], &[2, 0, 1], &three, Err("no".into())).unwrap();
        assert_eq!(memo.find(&[1, 1, 2]), Some(&Err("no".into())));
        assert!(memo.find(&[1, 0, 2]).is_none());
        assert!(
            memo.insert(&[0, 0, 2], &[1], &three, Ok(1)).is_err(),
            "asked something else first"
        );
        assert!(memo.insert(&[0, 0, 2], &[2], &three, Ok(1)).is_err(), "ended too early");
    }
}
