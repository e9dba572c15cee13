// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Remembers verdicts by what was read: a decision tree whose inner nodes ask for the version of one
//! sector and whose leaves are verdicts.
//!
//! Invariant: a path from the root to a leaf is the trace of a real evaluation. An evaluation is a
//! function of what it reads, and what it reads next follows from the answers so far. So every state
//! that gives the same answers along the path has that leaf's verdict. Sectors that were never read
//! (blocks that no root reaches) do not matter, and they are most of what a cut leaves.

use super::judge::Verdict;

enum Node {
    Unknown,
    /// Asks for the version of this choice, and has a child for each.
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
                    // 0 stands for no child: no evaluation had this version.
                    if at == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// Adds an evaluation. `versions` says how many versions a choice has, the durable one included.
    ///
    /// # Errors
    /// If the trace contradicts an earlier one: the engine or the judge is not deterministic then.
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
    fn states_with_the_same_answers_have_the_same_verdict() {
        let mut memo = Memo::default();
        let three = |_| 3;
        assert!(memo.find(&[0, 0, 0]).is_none());
        memo.insert(&[0, 1, 2], &[2, 0], &three, Ok(7)).unwrap();
        assert_eq!(memo.find(&[0, 2, 2]), Some(&Ok(7)), "choice 1 was never read");
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
