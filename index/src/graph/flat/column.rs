// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Numbers in a row, in memory or in the pages of a blob, read in the same way.
//!
//! Invariant: a column does not change, and its owner lives as long as it does. Reading it costs what
//! reading a slice does: where the numbers are is not asked again.

use std::{ops::Deref, ptr::NonNull, sync::Arc};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::store::pages::Pages;

/// Values of one type, side by side.
pub(super) struct Column<T> {
    values: NonNull<[T]>,
    /// What the values are in; `None` if they are a box that is this column's.
    pages: Option<Arc<Pages>>,
}

// SAFETY: the values are only read, and belong to this column or to pages, which any thread may read.
unsafe impl<T: Send + Sync> Send for Column<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Column<T> {}

impl<T> From<Vec<T>> for Column<T> {
    fn from(values: Vec<T>) -> Self {
        Self { values: NonNull::from(Box::leak(values.into_boxed_slice())), pages: None }
    }
}

impl<T: FromBytes + Immutable + KnownLayout> Column<T> {
    /// `count` values from byte `at` of the pages; `None` if they do not lie there, or not aligned.
    pub(super) fn in_pages(pages: &Arc<Pages>, at: usize, count: usize) -> Option<Self> {
        let end = at.checked_add(count.checked_mul(size_of::<T>())?)?;
        let values = <[T]>::ref_from_bytes(pages.contents().get(at..end)?).ok()?;
        Some(Self { values: NonNull::from(values), pages: Some(Arc::clone(pages)) })
    }
}

impl<T> Deref for Column<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the values are those of a box that is freed when this column is dropped, or lie in pages
        // that it holds and that do not move. Any bytes are values of a type that pages are read as.
        unsafe { self.values.as_ref() }
    }
}

impl<T> Drop for Column<T> {
    fn drop(&mut self) {
        if self.pages.is_none() {
            // SAFETY: the values were leaked from a box by `from`, and nobody else has them.
            drop(unsafe { Box::from_raw(self.values.as_ptr()) });
        }
    }
}
