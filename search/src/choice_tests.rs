// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Filtered searches of a filesystem that the engine writes: files and rows are chosen as the newest tree says,
//! and by nothing that the caller may not read.

use super::*;
use crate::answer::search_in;
use crate::ask::{Found, HITS_MAX, QUERIES_MAX, Query, SHOWN_MAX, Shown};
use crate::corpus::tracker::Tracker;
use crate::dirty_log::DirtyLog;
use crate::rights::caller::Caller;
use crate::rights::names::{Names, Top};
use crate::snapshot::Snapshot;
use crate::testing::{Mounted, NOW, floats, reader};
use std::sync::Arc;
use vexfs::{Ino, RenameFlags, SetAttr, Time, VectorLayout, XattrMode};
use vexfs_image::FileDevice;
use vexfs_index::Options;

const BYTES: u64 = 64 << 20;
const FILE: u32 = 0o100_644;
/// Of a directory, and of a file in it that says itself that it is raw.
const LAYOUT: &str = "type=f32,dim=2,metric=l2";
const RAW: &str = "type=f32,dim=2,metric=l2,header=0";

struct World {
    image: tempfile::NamedTempFile,
    mounted: Mounted,
    index: Arc<Index>,
    tracker: Tracker<FileDevice>,
    names: Names,
}

impl World {
    fn new() -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(BYTES).unwrap();
        let log = Arc::new(DirtyLog::new(BYTES).unwrap());
        let mounted = Mounted::format(image.path(), BYTES, log.clone());
        let index = Arc::new(Index::open(None, Options::default()).unwrap().0);
        let tracker = Tracker::open(reader(image.path(), BYTES), index.clone(), log).unwrap();
        let names = Names::open(reader(image.path(), BYTES)).unwrap().watching(tracker.sidecars());
        Self { image, mounted, index, tracker, names }
    }

    /// A file of `count` vectors (0, 0), (1, 0), ... in a directory.
    fn vectors(&mut self, dir: Ino, name: &str, count: usize) -> Ino {
        let file = self.mounted.create(dir, name, FILE);
        let layout = VectorLayout::parse(RAW).unwrap();
        self.mounted.volume.resolve(|v| v.set_vector(file, Some(&layout), NOW)).unwrap();
        self.mounted.write(file, 0, &floats((0..count).flat_map(|i| [i as f32, 0.0])));
        file
    }

    /// A file in the directory with this text.
    fn text(&mut self, dir: Ino, name: &str, text: &str) -> Ino {
        let file = self.mounted.create(dir, name, FILE);
        self.mounted.write(file, 0, text.as_bytes());
        file
    }

    fn set(&mut self, ino: Ino, attr: SetAttr) {
        self.mounted.volume.run(NOW, |volume| volume.set_attr(ino, &attr)).unwrap();
    }

    fn xattr(&mut self, ino: Ino, name: &str, value: &str) {
        let set = |volume: &mut vexfs::Volume<_>| {
            volume.xattr_set(ino, name.as_bytes(), value.as_bytes(), XattrMode::Set, NOW)
        };
        self.mounted.volume.run(NOW, set).unwrap();
    }

    fn rename(&mut self, dir: Ino, from: &str, to: &str) {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        let renamed = self
            .mounted
            .volume
            .run(NOW, |volume| volume.rename(dir, from, dir, to, RenameFlags::default(), NOW));
        renamed.unwrap();
        self.mounted.volume.evict_orphans(NOW).unwrap();
    }

    /// Searches as the daemon does.
    fn search(&mut self, uid: u32, top: Ino, search: &Search) -> Result<Found, String> {
        while self.tracker.cycle().unwrap() {}
        let snapshot = Snapshot {
            index: Some(self.index.clone()),
            generation: self.tracker.generation(),
            files: Arc::new(self.tracker.files().collect()),
            ..Snapshot::default()
        };
        let caller = Caller { uid, gid: uid, groups: vec![] };
        let question = Question::of(search)?;
        let top = Top { ino: top.0, readable: true };
        let wanted = |ino| snapshot.files.contains_key(&ino);
        let scope = self.names.scope_with(top, &caller, wanted, &question.wanted)?;
        search_in(&snapshot, &scope, search)
    }

    fn ask(&mut self, uid: u32, top: Ino, filter: &str) -> Found {
        let filter = Some(filter.to_owned());
        let near = Search { filter, ..Search::nearest(Query::Vector(vec![0.0, 0.0]), 100) };
        self.search(uid, top, &near).unwrap()
    }

    /// The slots that root finds, in order.
    fn slots(&mut self, top: Ino, filter: &str) -> Vec<u64> {
        let mut slots: Vec<u64> =
            self.ask(0, top, filter).hits.iter().map(|hit| hit.slot).collect();
        slots.sort_unstable();
        slots
    }
}

fn notes(found: &Found) -> String {
    found.notes.iter().map(|(_, note)| note.as_str()).collect::<Vec<_>>().join("\n")
}

#[test]
fn files_and_rows_are_chosen_by_the_newest_tree() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", LAYOUT);
    let (a, b) = (w.vectors(dir, "a.vec", 4), w.vectors(dir, "b.vec", 6));
    w.mounted.commit();
    assert_eq!(w.slots(dir, "slot < 3"), [0, 0, 1, 1, 2, 2]);
    assert_eq!(w.slots(dir, "slot in (1, 5)"), [1, 1, 5]);
    assert_eq!(w.slots(dir, "path ~ \"b*\" and not slot < 4"), [4, 5]);
    assert_eq!(w.slots(dir, "user.lang = \"en\""), [0u64; 0]);
    assert_eq!(w.ask(0, dir, "slot > 100").searched, 2, "the files were looked at");
    w.xattr(a, "user.lang", "en");
    w.set(
        b,
        SetAttr {
            uid: Some(1000),
            mtime: Some(Time { seconds: 86_400, nanos: 0 }),
            ..SetAttr::default()
        },
    );
    assert_eq!(w.slots(dir, "user.lang = \"en\""), [0u64; 0], "not committed yet");
    w.mounted.commit();
    assert_eq!(w.slots(dir, "user.lang = \"en\" and slot > 1"), [2, 3]);
    assert_eq!(w.slots(dir, "owner = 1000 and slot > 3"), [4, 5]);
    assert_eq!(w.slots(dir, "mtime <= \"1970-01-02\" and slot > 3"), [4, 5]);
    w.rename(dir, "b.vec", "c.vec");
    w.mounted.commit();
    assert_eq!(w.slots(dir, "path = \"b.vec\""), [0u64; 0]);
    assert_eq!(w.slots(dir, "path = \"c.vec\" and slot = 0"), [0]);
    // Other attributes are none of a filter's business.
    assert!(w.ask(0, dir, "user.vexfs.vector ~ \"*\"").hits.is_empty());
    let wrong = Search { filter: Some("slot <".into()), ..Search::nearest(Query::Like(0), 1) };
    assert!(w.search(0, dir, &wrong).unwrap_err().contains("column 7"));
}

#[test]
fn rows_are_chosen_by_the_file_beside_them_as_it_changes() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", LAYOUT);
    w.vectors(dir, "a.vec", 4);
    let side = w.text(dir, "a.tsv", "year\ttag\n2020\ta\n2021\tb\n2022\ta\n2023\tb\n");
    w.mounted.commit();
    assert_eq!(w.slots(dir, "row.year >= 2021 and row.tag = \"b\""), [1, 3]);
    let found = w.ask(0, dir, "row.year > 0");
    assert_eq!((found.hits.len(), notes(&found)), (4, String::new()));
    // Written in place, without a commit: rows in place are found so, too.
    w.mounted.write(side, 9, b"1999");
    assert_eq!(w.slots(dir, "row.year = 1999"), [0]);
    // Shortened and with a line that is broken.
    w.mounted.volume.run(NOW, |volume| volume.truncate(side, 0, NOW)).unwrap();
    w.mounted.write(side, 0, b"year\ttag\n2020\ta\nbroken\n2022\ta\n");
    w.mounted.commit();
    let found = w.ask(0, dir, "row.year > 0");
    assert_eq!(found.hits.iter().map(|hit| hit.slot).collect::<Vec<_>>(), [0, 2]);
    assert!(
        notes(&found).contains("3 rows for 4 vectors") && notes(&found).contains("line 3"),
        "{}",
        notes(&found)
    );
    // Replaced by rename, with more rows than there are vectors.
    w.text(dir, "new", "year\ttag\n1\tx\n2\tx\n3\tx\n4\tx\n5\tx\n");
    w.rename(dir, "new", "a.tsv");
    w.mounted.commit();
    let found = w.ask(0, dir, "row.tag = \"x\"");
    assert!(
        found.hits.len() == 4 && notes(&found).contains("5 rows for 4 vectors"),
        "{}",
        notes(&found)
    );
    // Removed: then the other form counts, and then none.
    w.text(dir, "a.jsonl", "{\"year\": 7}\n{\"year\": 8}\n{}\n{\"year\": 9}\n");
    w.mounted.commit();
    assert_eq!(w.slots(dir, "row.year > 6"), [0u64; 0], "the .tsv counts");
    w.mounted.unlink(dir, "a.tsv");
    w.mounted.commit();
    assert_eq!(w.slots(dir, "row.year > 6"), [0, 1, 3]);
    assert_eq!(w.slots(dir, "not row.year > 6"), [2]);
    w.mounted.unlink(dir, "a.jsonl");
    w.mounted.commit();
    let found = w.ask(0, dir, "row.year > 6");
    assert!(
        found.hits.is_empty() && notes(&found).contains("no a.tsv or a.jsonl"),
        "{}",
        notes(&found)
    );
}

#[test]
fn what_is_beside_may_be_unmarked_and_is_not_complained_of() {
    let mut w = World::new();
    let dir = w.mounted.create(Ino::ROOT, "plain", 0o040_755);
    w.vectors(dir, "a.vec", 2);
    w.text(dir, "a.jsonl", "{\"n\": 1}\n{\"n\": 2}\n");
    w.mounted.commit();
    assert_eq!(w.slots(dir, "row.n = 2"), [1]);
    let marked = w.mounted.corpus("marked", LAYOUT);
    w.vectors(marked, "b.vec", 1);
    w.text(marked, "b.jsonl", "{\"n\": 1}\n");
    w.mounted.commit();
    let found = w.ask(0, marked, "slot = 0");
    assert_eq!(notes(&found), "");
}

#[test]
fn metadata_that_the_caller_may_not_read_changes_nothing_that_he_sees() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", LAYOUT);
    w.vectors(dir, "a.vec", 3);
    let side = w.text(dir, "a.tsv", "year\ttag\n2020\ta\n2021\tb\n2022\ta\n");
    w.mounted.commit();
    assert_eq!(w.ask(2000, dir, "row.year = 2021").hits.len(), 1);
    let chmod =
        |w: &mut World, mode| w.set(side, SetAttr { mode: Some(mode), ..SetAttr::default() });
    chmod(&mut w, 0o600);
    w.mounted.commit();
    assert_eq!(w.slots(dir, "row.year = 2021"), [1], "root may");
    let show = vec!["year".to_owned()];
    let seen = |w: &mut World| {
        [
            "row.year = 2021",
            "not row.year = 2021",
            "row.none = 1",
            "row.year = \"x\"",
            "slot = 1 or row.tag ~ \"*\"",
        ]
        .map(|filter| {
            let filter = Some(filter.to_owned());
            let near = Search {
                filter,
                show: show.clone(),
                ..Search::nearest(Query::Vector(vec![0.0, 0.0]), 9)
            };
            let found = w.search(2000, dir, &near).unwrap();
            assert!(notes(&found).contains("may not read a.tsv"), "{}", notes(&found));
            (found.hits, found.notes)
        })
    };
    let before = seen(&mut w);
    assert_eq!(before.clone().map(|(hits, _)| hits.len()), [0, 3, 0, 0, 1]);
    // With other contents all is the same: nothing can be learnt by asking.
    w.mounted.volume.run(NOW, |volume| volume.truncate(side, 0, NOW)).unwrap();
    w.mounted.write(side, 0, b"none\tother\n1\tx\nbroken\n");
    w.mounted.commit();
    assert_eq!(seen(&mut w), before);
    chmod(&mut w, 0o604);
    w.mounted.commit();
    assert_eq!(w.ask(2000, dir, "row.none = 1").hits.len(), 1);
}

#[test]
fn a_single_file_is_chosen_by_its_name_in_a_directory_that_may_be_passed() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", LAYOUT);
    w.vectors(dir, "a.vec", 3);
    let b = w.vectors(dir, "b.vec", 3);
    w.text(dir, "a.tsv", "year\ttag\n2020\ta\n2021\tb\n2022\ta\n");
    w.set(dir, SetAttr { mode: Some(0o711), ..SetAttr::default() });
    w.set(b, SetAttr { mode: Some(0o600), ..SetAttr::default() });
    w.mounted.commit();
    let only = |name: &str, filter: &str| Search {
        only: Some(name.into()),
        filter: Some(filter.into()),
        show: vec!["tag".into(), "none".into()],
        ..Search::nearest(Query::Like(0), 9)
    };
    let found =
        w.search(2000, dir, &only("a.vec", "row.year > 2020 and path = \"a.vec\"")).unwrap();
    assert_eq!(found.hits.iter().map(|hit| hit.slot).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(found.hits[0].shown, [Some(Shown::Text("b".into())), None]);
    assert_eq!(found.paths, [(found.hits[0].file, b"a.vec".to_vec())]);
    for (name, words) in [
        ("b.vec", "may not read"),
        ("c.vec", "not committed"),
        ("a.tsv", "text"),
        ("..", "not committed"),
    ] {
        let why = w.search(2000, dir, &only(name, "slot = 0")).unwrap_err();
        assert!(why.contains(words), "{name}: {why}");
    }
    // A descriptor alone does not say where the metadata is, nor what the file is called.
    let near =
        |filter: &str| Search { filter: Some(filter.into()), ..Search::nearest(Query::Like(0), 9) };
    let a = w.search(0, dir, &only("a.vec", "slot = 0")).unwrap().hits[0].file;
    assert!(w.search(2000, Ino(a), &near("path = \"a\"")).unwrap_err().contains("directory"));
    let found = w.search(2000, Ino(a), &near("row.year = 2020 or slot = 2")).unwrap();
    assert!(
        found.hits.len() == 1 && notes(&found).contains("directory is not known"),
        "{}",
        notes(&found)
    );
    assert_eq!(w.search(2000, Ino(a), &near("slot > 0")).unwrap().hits.len(), 2);
}

#[test]
fn a_batch_is_answered_query_by_query_and_bounded() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", LAYOUT);
    w.vectors(dir, "a.vec", 5);
    w.mounted.commit();
    let at = |x: f32| Query::Vector(vec![x, 0.0]);
    let batch = Search {
        more: vec![at(4.0), at(2.0)],
        filter: Some("slot != 2".into()),
        ..Search::nearest(at(0.0), 2)
    };
    let found = w.search(0, dir, &batch).unwrap();
    let slots: Vec<Vec<u64>> =
        found.each().map(|(_, hits)| hits.iter().map(|hit| hit.slot).collect()).collect();
    assert_eq!(slots, [[0, 1], [4, 3], [1, 3]]);
    let within = Search { within: Some(1.5), ..batch.clone() };
    let found = w.search(0, dir, &within).unwrap();
    assert_eq!(
        found.answers.iter().map(|one| (one.hits, one.cut)).collect::<Vec<_>>(),
        [(2, false), (2, false), (2, false)]
    );
    let odd = Search { more: vec![Query::Vector(vec![1.0])], ..batch.clone() };
    assert!(w.search(0, dir, &odd).unwrap_err().contains("one length"));
    let many = Search { more: vec![at(0.0); QUERIES_MAX], ..batch.clone() };
    assert!(w.search(0, dir, &many).unwrap_err().contains("too many"));
    let deep = Search { k: HITS_MAX as u32 / 2, ..batch.clone() };
    assert!(w.search(0, dir, &deep).unwrap_err().contains("too many"));
    let wide = Search { show: vec!["a".into(); SHOWN_MAX + 1], ..batch };
    assert!(w.search(0, dir, &wide).unwrap_err().contains("columns"));
}

// Blocks of a sidecar that is replaced go to the next one: what was read of them meanwhile must not be believed.
#[test]
fn a_sidecar_that_is_replaced_while_it_is_read_is_read_whole() {
    const LINES: usize = 4000;
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", LAYOUT);
    let file = w.vectors(dir, "a.vec", 3);
    w.text(dir, "a.tsv", &format!("n\tm\n{}", "0\t0\n".repeat(LINES)));
    w.mounted.commit();
    let World { image, mut mounted, names, .. } = w;
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut read, mut last) = (0, 0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 1..120 {
                let new = mounted.create(dir, "new", FILE);
                let line = format!("{round}\t{round}\n");
                mounted.write(new, 0, format!("n\tm\n{}", line.repeat(LINES)).as_bytes());
                mounted.commit();
                let (from, to): (&[u8], &[u8]) = (b"new", b"a.tsv");
                mounted
                    .volume
                    .run(NOW, |v| v.rename(dir, from, dir, to, RenameFlags::default(), NOW))
                    .unwrap();
                mounted.volume.evict_orphans(NOW).unwrap();
                mounted.commit();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let root = Caller::root();
        let top = Top { ino: dir.0, readable: true };
        let wanted = Wanted { facts: Some(vec![]), tables: true, ..Wanted::default() };
        let mut end = false;
        while !end {
            end = done.load(std::sync::atomic::Ordering::SeqCst);
            // While commits come faster than the file is read, there is no answer.
            let Ok(scope) = names.scope_with(top, &root, |ino| ino == file.0, &wanted) else {
                continue;
            };
            let table = scope.facts[&file.0].table.clone().unwrap();
            let first = table.cell("n", 0);
            assert_eq!((table.rows(), table.notes.len()), (LINES, 0));
            assert!(
                (0..LINES as u64)
                    .all(|row| table.cell("n", row) == first && table.cell("m", row) == first)
            );
            let Some(crate::sidecar::Cell::Integer(round)) = first else { panic!("{first:?}") };
            assert!(round >= last, "an older file");
            (read, last) = (read + 1, round);
        }
    });
    assert!(read > 0 && last == 119, "{read} {last}");
    drop(image);
}
