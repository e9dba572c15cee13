// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From what a search says to the files and rows that it may find.
//!
//! Invariant: what is chosen passes the filter, by the facts of the scope, which are of files that the caller
//! may read; a scope without the facts that a filter needs is refused.

use crate::ask::{HITS_MAX, QUERIES_MAX, SHOWN_MAX, Search};
use crate::filter::{self, Expression, Facts, Field, Instant, NAME_BYTES_MAX, Passing, RowTest};
use crate::rights::names::{FileFacts, Scope, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vexfs_index::{Bitmap, FileId, Filter, Index};

/// What a search says, checked.
pub struct Question {
    filter: Option<Expression>,
    /// What has to be known of the files.
    pub wanted: Wanted,
}

/// The files that are searched, and what has to hold for the rows of some of them.
pub struct Chosen {
    /// The files.
    pub files: Vec<FileId>,
    /// Of files of which not all rows may be found.
    pub rows: BTreeMap<u64, RowTest>,
}

impl Filter for Chosen {
    fn passing(&self, file: FileId, slots: Range<u64>) -> Bitmap {
        match self.rows.get(&file.0) {
            Some(test) => test.bits(&slots),
            None => Bitmap::all(usize::try_from(slots.end - slots.start).unwrap_or(0)),
        }
    }
}

impl Question {
    /// Checks what a search says.
    ///
    /// # Errors
    /// One line: a mistake in the filter, with its column, or something that is too long.
    pub fn of(search: &Search) -> Result<Self, String> {
        let queries = search.more.len() + 1;
        let hits = queries.saturating_mul(search.k as usize);
        if hits > HITS_MAX || queries > QUERIES_MAX {
            return Err(format!(
                "{queries} queries for {} vectors each are too many: at most {QUERIES_MAX}, and {HITS_MAX} vectors in all",
                search.k
            ));
        }
        if search.show.len() > SHOWN_MAX
            || search.show.iter().any(|name| name.len() > NAME_BYTES_MAX)
        {
            return Err(format!(
                "at most {SHOWN_MAX} columns of at most {NAME_BYTES_MAX} bytes can be shown"
            ));
        }
        let parsed = search.filter.as_deref().map(filter::parse).transpose();
        let filter = parsed.map_err(|mistake| format!("the filter is wrong at {mistake}"))?;
        let mut attributes = BTreeSet::new();
        let mut tables = !search.show.is_empty();
        if let Some(filter) = &filter {
            filter.each(&mut |test| match &test.field {
                Field::User(name) => drop(attributes.insert(name.clone())),
                Field::Row(_) => tables = true,
                Field::Path | Field::Slot | Field::Owner | Field::Mtime => {}
            });
        }
        let facts = (filter.is_some() || tables).then(|| attributes.into_iter().collect());
        let wanted = Wanted { only: search.only.clone(), facts, tables };
        Ok(Self { filter, wanted })
    }

    /// The files, of those given, and the rows that may be found. What is odd about their metadata is noted.
    pub(crate) fn choose(
        &self,
        index: &Index,
        scope: &Scope,
        files: &[FileId],
        notes: &mut Vec<(u64, String)>,
    ) -> Result<Chosen, String> {
        let mut chosen = Chosen { files: files.to_vec(), rows: BTreeMap::new() };
        if self.wanted.facts.is_none() {
            return Ok(chosen);
        }
        let by_path =
            self.filter.as_ref().is_some_and(|filter| filter.tests(|field| *field == Field::Path));
        if by_path && scope.files.values().any(Vec::is_empty) {
            return Err(
                "its name is not known here: test path in a search of its directory".to_owned()
            );
        }
        let mut files = Vec::new();
        for file in &chosen.files {
            let Some(facts) = scope.facts.get(&file.0) else {
                return Err("files cannot be chosen by a filter here".to_owned());
            };
            if self.wanted.tables {
                about_table(index, *file, facts, notes);
            }
            let Some(filter) = &self.filter else {
                files.push(*file);
                continue;
            };
            let mtime = Instant { seconds: facts.mtime.seconds, nanos: facts.mtime.nanos };
            let facts = Facts {
                path: scope.files.get(&file.0).map_or(&[], Vec::as_slice),
                uid: facts.uid,
                mtime,
                attributes: &facts.attributes,
                table: facts.table.as_ref().ok(),
            };
            let mut wrong = Vec::new();
            match filter::plan(filter, &facts, &mut wrong) {
                Passing::None => {}
                Passing::All => files.push(*file),
                Passing::Rows(test) => {
                    files.push(*file);
                    chosen.rows.insert(file.0, test);
                }
            }
            notes.extend(wrong.into_iter().map(|why| (file.0, why)));
        }
        chosen.files = files;
        Ok(chosen)
    }
}

/// Notes what is odd about the metadata of a file.
fn about_table(index: &Index, file: FileId, facts: &FileFacts, notes: &mut Vec<(u64, String)>) {
    let table = match &facts.table {
        Ok(table) => table,
        Err(why) => {
            notes.push((file.0, why.clone()));
            return;
        }
    };
    notes.extend(table.notes.iter().map(|why| (file.0, format!("its metadata: {why}"))));
    let counts = index.file_stats(file).unwrap_or_default();
    let (vectors, rows) = (counts.vectors + counts.skipped, table.rows() as u64);
    if rows != vectors && rows > 0 {
        notes.push((file.0, format!("its metadata has {rows} rows for {vectors} vectors")));
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
