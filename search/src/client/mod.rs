// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a command line does with a question and with its answer: its options, reading queries, and printing
//! what was found.
//!
//! Shared by everybody who asks, of a mount as of an image. How the question reaches an index is not known
//! here, nor is where the names of rows come from.

mod print;
mod query;

pub use print::{
    HEAD_BYTES, names_file, names_of_rows, nothing_searched, remarks, rows_of, to_json, to_text,
};
pub use query::{read_queries, read_query};

use crate::ask::{Found, HITS_MAX, QUERIES_MAX, Query, Search};
use crate::filter::{self, Expression, Field, Is, Value};
use clap::{ArgGroup, Args};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is said of a file without the attribute that its directory has.
pub const UNMARKED: &str = "left out: it has no vexfs.vector attribute, as its directory has: it came from elsewhere; set it with setfattr";
/// What `--where` takes, for the help of a command.
pub const WHERE_HELP: &str = "--where chooses files and rows:
  path ~ \"2024/*\"            the path below PATH; * and ? stand for no /, ** for anything, [a-z]
  slot < 1000                 the ordinal of a row in its file
  owner = 1000                the owner of a file, as a number or \"NAME\"
  mtime > \"2026-01-31\"        when a file was last changed, in UTC; also \"2026-01-31T12:00:00Z\"
  user.lang = \"en\"            an extended attribute of a file
  row.year >= 2020            a column of the rows' metadata, in NAME.tsv or NAME.jsonl beside NAME.npy
Compare with = != < <= > >=, with in (1, 2) and not in (1, 2), text with ~ and a pattern; join with and, or,
not and parentheses. A test of what is not there is false. NAME.tsv begins with a line of column names
(year<TAB>tag, or year:integer<TAB>tag:text), NAME.jsonl has an object a line; the n-th line is of slot n.";

/// Vectors within a radius, if nothing else is said.
const WITHIN_MAX: u32 = 1000;
/// Bytes of the queries of one request, less than a request may have.
const QUERY_BYTES_MAX: usize = 900_000;
/// Where users and their numbers are.
const USERS: &str = "/etc/passwd";

/// What is searched for and how it is printed.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct AskArgs {
    /// Search for the vectors nearest to a row of this .npy file
    #[arg(long, value_name = "FILE.npy", group = "what")]
    pub query: Option<PathBuf>,
    /// The row of the query file
    #[arg(long, value_name = "I", default_value_t = 0, conflicts_with = "like")]
    pub row: usize,
    /// Search for every row of the query file: an answer for each
    #[arg(long, requires = "query", conflicts_with = "row")]
    pub batch: bool,
    /// Search for the vectors nearest to the one in this slot of the vector file
    #[arg(long, value_name = "SLOT", group = "what")]
    pub like: Option<u64>,
    /// How many to find [default: 10; with --within, at most 1000]
    #[arg(short, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub k: Option<u32>,
    /// Find all vectors within this distance, of which K is the most
    #[arg(long, value_name = "DISTANCE", allow_negative_numbers = true, value_parser = distance)]
    pub within: Option<f32>,
    /// Only files and rows for which this holds: see below
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// Show these columns of the rows' metadata
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub show: Vec<String>,
    /// Width of the search: a larger one finds more of the true neighbours and takes longer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub ef: Option<u32>,
    /// Find this part of the true neighbours, for example .99: the width that does is measured on rows of
    /// the index, once, and kept while the index is the same
    #[arg(long, value_name = "PART", conflicts_with_all = ["ef", "exact"], value_parser = recall)]
    pub recall: Option<f64>,
    /// Compare the query with every vector, without the graphs
    #[arg(long)]
    pub exact: bool,
    /// Only answer for this generation or a later one
    #[arg(long, value_name = "GENERATION")]
    pub at_least: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn distance(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|x: &f32| x.is_finite());
    number.ok_or_else(|| "give a distance, as searches print them".to_owned())
}

fn recall(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x| *x > 0.0 && *x <= 1.0);
    number.ok_or_else(|| "give a part above 0 and up to 1, for example .99".to_owned())
}

/// A request's answer, and the paths of the files in it.
pub type Answer = (Found, BTreeMap<u64, PathBuf>);

impl AskArgs {
    /// The requests, as many as it takes; and whether the name of a single file matters in them, which an
    /// open file does not tell: then its directory has to be asked, for that name [only](Search::only).
    ///
    /// # Errors
    /// One line: the queries cannot be read, or the filter has a mistake.
    pub fn searches(&self) -> Result<(Vec<Search>, bool), String> {
        let queries = match (&self.query, self.like) {
            (Some(file), _) if self.batch => read_queries(file)?,
            (Some(file), _) => vec![read_query(file, self.row)?],
            (None, Some(slot)) => vec![Query::Like(slot)],
            (None, None) => return Err("give --query or --like".to_owned()),
        };
        let filter = self.filter.as_deref().map(expression).transpose()?;
        let named = |field: &Field| matches!(field, Field::Path | Field::Row(_));
        let by_name =
            !self.show.is_empty() || filter.as_ref().is_some_and(|filter| filter.tests(named));
        let search = Search {
            ef: self.ef,
            exact: self.exact,
            at_least: self.at_least,
            recall: self.recall,
            within: self.within,
            filter: filter.map(|filter| filter.to_string()),
            show: self.show.clone(),
            ..Search::nearest(Query::Like(0), self.k())
        };
        let each = parts(queries, self.k()).into_iter();
        let searches = each.map(|(query, more)| Search { query, more, ..search.clone() });
        Ok((searches.collect(), by_name))
    }

    fn k(&self) -> u32 {
        self.k.unwrap_or(if self.within.is_some() { WITHIN_MAX } else { 10 })
    }
}

/// The path of what lies `below` the path that was given.
#[must_use]
pub fn joined(top: &Path, below: &[u8]) -> PathBuf {
    if below.is_empty() { top.to_owned() } else { top.join(OsStr::from_bytes(below)) }
}

/// The filter, with the users in it as numbers: who answers may know others by those names.
fn expression(text: &str) -> Result<Expression, String> {
    let wrong = |why: String| format!("--where: {why}");
    let mut filter = filter::parse(text).map_err(|e| wrong(e.to_string()))?;
    let mut users = None;
    let mut number = |value: &mut Value| -> Result<(), String> {
        let Value::Text(name) = value else { return Ok(()) };
        let users = users.get_or_insert_with(|| fs::read_to_string(USERS).unwrap_or_default());
        let uid = uid_of(users, name)
            .ok_or_else(|| wrong(format!("{USERS} has no user {name}: give a number as owner")))?;
        *value = Value::Integer(uid.into());
        Ok(())
    };
    filter.each_mut(&mut |test| match (&test.field, &mut test.is) {
        (Field::Owner, Is::Compared(_, value)) => number(value),
        (Field::Owner, Is::In(values)) => values.iter_mut().try_for_each(&mut number),
        _ => Ok(()),
    })?;
    Ok(filter)
}

fn uid_of(users: &str, name: &str) -> Option<u32> {
    let mut lines = users.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}

/// The queries of each request: as many as fit, and as many as may be answered at once.
fn parts(queries: Vec<Query>, k: u32) -> Vec<(Query, Vec<Query>)> {
    let bytes = |query: &Query| match query {
        Query::Vector(vector) => vector.len() * 4 + 16,
        Query::Bytes { bytes, .. } => bytes.len() + 16,
        Query::Like(_) => 16,
    };
    let most = (HITS_MAX / k.max(1) as usize).clamp(1, QUERIES_MAX);
    let mut parts: Vec<(Query, Vec<Query>)> = Vec::new();
    let mut room = 0;
    for query in queries {
        let bytes = bytes(&query);
        let last = parts.last_mut();
        if let Some((_, more)) = last.filter(|(_, more)| room >= bytes && more.len() + 1 < most) {
            more.push(query);
            room -= bytes;
        } else {
            parts.push((query, Vec::new()));
            room = QUERY_BYTES_MAX.saturating_sub(bytes);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ask: AskArgs,
    }

    pub(super) fn args(more: &[&str]) -> AskArgs {
        Line::parse_from(["search", "--query", "q.npy"].iter().chain(more)).ask
    }

    #[test]
    fn a_search_needs_something_to_search_for() {
        assert!(Line::try_parse_from(["search"]).is_err());
        assert!(Line::try_parse_from(["search", "--like", "1", "--query", "q.npy"]).is_err());
        assert_eq!((args(&["--within", "1"]).k(), args(&[]).k()), (1000, 10));
    }

    #[test]
    fn a_filter_is_checked_and_users_become_numbers() {
        assert_eq!(
            expression("owner != \"root\" or owner in (7)").unwrap().to_string(),
            "owner != 0 or owner in (7)"
        );
        for (text, words) in
            [("slot <", "--where: column 7"), ("owner = \"nobody by that name\"", "has no user")]
        {
            let why = expression(text).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        let users = "root:x:0:0::/:/bin/sh\nmia:x:1001:1001::/:/bin/sh\nodd\n";
        assert_eq!(
            (uid_of(users, "mia"), uid_of(users, "odd"), uid_of(users, "m")),
            (Some(1001), None, None)
        );
    }

    #[test]
    fn a_batch_is_sent_in_parts_that_fit() {
        let vectors = |count: usize, dim: usize| vec![Query::Vector(vec![0.0; dim]); count];
        let sizes = |queries, k| {
            parts(queries, k).iter().map(|(_, more)| more.len() + 1).collect::<Vec<_>>()
        };
        assert_eq!(sizes(vectors(3, 4), 10), [3]);
        assert_eq!(sizes(vectors(2500, 4), 10), [1024, 1024, 452]);
        assert_eq!(sizes(vectors(40, 4), 16_384), [16, 16, 8]);
        let large = sizes(vectors(1000, 384), 10);
        assert!(large.len() == 2 && large.iter().sum::<usize>() == 1000, "{large:?}");
        assert_eq!(sizes(vectors(2, 250_000), 10), [1, 1]);
    }

    #[test]
    fn the_name_of_a_file_matters_to_what_is_known_by_it() {
        let by_name = |words: &[&str]| {
            let words: Vec<&str> = ["search", "--like", "1"].iter().chain(words).copied().collect();
            Line::parse_from(words).ask.searches().unwrap().1
        };
        assert!(by_name(&["--where", "row.x = 1"]) && by_name(&["--show", "x"]));
        assert!(by_name(&["--where", "not path ~ \"*\""]));
        assert!(!by_name(&["--where", "slot = 1"]) && !by_name(&[]));
    }
}
