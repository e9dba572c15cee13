// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Types for quantities that must not be confused: each is a `u64` whose type says what it counts.

use core::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The quantity `n` further on, or `None` past the end of 64 bits.
            #[must_use]
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

unit! {
    /// A block of the device, counted from its start in the filesystem's block size.
    BlockNr
}
unit! {
    /// A block of a file, counted from the file's start in the filesystem's block size.
    FileBlock
}
unit! {
    /// The number of a commit; it grows by one with each.
    Generation
}
unit! {
    /// An inode's number; 56 bits, never used twice.
    Ino
}

impl Ino {
    /// Not a file: the number of the filesystem's own items (orphans, groups).
    pub const SYSTEM: Self = Self(0);
    /// The root directory.
    pub const ROOT: Self = Self(1);
    /// The first inode number given to a created file.
    pub const FIRST: Self = Self(2);
    /// The largest inode number.
    pub const MAX: Self = Self((1 << 56) - 1);
}
