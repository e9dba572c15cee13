// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where an image lies: a file or a block device of the host, opened, locked and measured.
//!
//! Whoever opens an image to write holds its lock alone, and readers share it, so an image never has
//! two writers and never a reader beside a writer. Opening changes nothing. What the bytes mean is
//! the engine's business: nothing here reads the format.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod device;
mod error;
mod identity;
mod lock;
mod open;
mod usage;

pub use device::FileDevice;
pub use error::{Error, Result, advice};
pub use identity::Identity;
pub use lock::lock;
pub use open::{Access, Opened, open};
pub use usage::User;
