// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Why a run of the lab ends before its last step.

use vexfs::Error;

/// The reason.
#[derive(Debug)]
pub(crate) enum Halt {
    /// A planned fault: the power went, or a request failed.
    Planned,
    /// The engine does not do what it promises.
    Mismatch(String),
    /// The engine says that what is on the device is damaged.
    Detected(String),
}

impl Halt {
    /// An error of the engine where there should be none.
    pub(crate) fn error(what: &str, error: &Error) -> Self {
        let text = format!("{what}: {error}");
        match error {
            Error::Corrupt(_) | Error::NoRoot | Error::NotVexfs | Error::Truncated { .. } => {
                Self::Detected(text)
            }
            _ => Self::Mismatch(text),
        }
    }

    /// What to print.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Planned => "a planned fault came where none may come".into(),
            Self::Mismatch(text) | Self::Detected(text) => text,
        }
    }
}

/// Ends the run with a mismatch.
pub(crate) fn mismatch<T>(text: impl Into<String>) -> Result<T, Halt> {
    Err(Halt::Mismatch(text.into()))
}

/// Ends the run with a mismatch unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return crate::halt::mismatch(format!($($message)*));
        }
    };
}
pub(crate) use ensure;
