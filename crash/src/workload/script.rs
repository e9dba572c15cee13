// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A small workload and its text.

use super::ops::{self, Op};
use std::fmt;
use std::str::FromStr;

/// Operations and synchronisations, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub(super) steps: Vec<(&'static str, Op)>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.steps.iter().map(|(name, _)| *name).collect();
        f.write_str(&names.join("; "))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let steps: Result<_, _> = parts
            .map(|part| {
                ops::by_name(part)
                    .ok_or_else(|| format!("'{part}' is not an operation of the lab's workloads"))
            })
            .collect();
        Ok(Self { steps: steps? })
    }
}
