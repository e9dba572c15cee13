// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs search` and `vexfs index`: an image's vectors without a device, a mount or root.

mod common;

use common::{Lab, give_up};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use vexfs::Ino;
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::testing::Mounted;

const BYTES: u64 = 64 << 20;
const DIM: usize = 8;
const ROWS: usize = 2000;

fn row(slot: usize) -> Vec<f32> {
    (0..DIM).map(|i| ((slot * 37 + i * 11) as f32 * 0.13).sin() + slot as f32 * 0.01).collect()
}

/// An image with vectors in a directory, their names, and files that hold none.
fn lab() -> Lab {
    let lab = Lab::with_image("64M");
    let image = lab.path("a.img");
    let mut fs = Mounted::open(&image, BYTES, Arc::new(DirtyLog::new(BYTES).unwrap()));
    let dir = fs.corpus("corpus", "type=f32,dim=8,metric=l2");
    let file = fs.create(dir, "rows.npy", 0o100_600);
    let rows: Vec<f32> = (0..ROWS).flat_map(row).collect();
    vexfs_index::npy::write(&lab.path("rows.npy"), DIM, &rows).unwrap();
    fs.write(file, 0, &std::fs::read(lab.path("rows.npy")).unwrap());
    let names: Vec<String> = (0..ROWS).map(|slot| format!("name {slot}")).collect();
    let beside = fs.create(dir, "rows.tsv", 0o100_600);
    fs.write(beside, 0, names.join("\n").as_bytes());
    let plain = fs.create(Ino::ROOT, "plain", 0o100_600);
    fs.write(plain, 0, b"no vectors");
    fs.commit();
    vexfs_index::npy::write(&lab.path("q.npy"), DIM, &row(1234)).unwrap();
    lab
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn an_image_is_searched_with_an_index_and_without() {
    let lab = lab();
    let before = std::fs::read(lab.path("a.img")).unwrap();
    let first = lab.vexfs("search a.img /corpus --query q.npy -k 3").ok();
    let line = first.out.lines().nth(1).unwrap();
    assert!(line.contains("1234") && line.ends_with("/corpus/rows.npy  name 1234"), "{first:?}");
    let all = json(&lab.vexfs("search a.img /corpus --query q.npy --exact --json").ok().out);
    assert!(std::fs::read(lab.path("a.img")).unwrap() == before, "a search wrote to the image");
    lab.vexfs("index a.img --status").refused(1, &["a.img", "no index", "vexfs index"]);

    let built = json(&lab.vexfs("index a.img --json").ok().out);
    assert_eq!((&built["vectors"], &built["graphs"]), (&ROWS.into(), &1.into()));
    let indexed = json(&lab.vexfs("search a.img /corpus --query q.npy --ef 200 --json").ok().out);
    assert_eq!(indexed["hits"], all["hits"]);
    assert_eq!(indexed["generation"], all["generation"]);
    let status = lab.vexfs("index a.img --status").ok().out;
    assert!(status.contains("corpus/rows.npy") && status.contains("rows.tsv: it holds text"));
    let verified = json(&lab.vexfs("index a.img --verify --json").ok().out);
    assert_eq!(verified["damage"], serde_json::json!([]));
    let recall = verified["files"][0]["measured"][0]["recall"].as_f64().unwrap();
    assert!(recall > 0.9, "{verified}");
    // The engine's tools are content with the image, tail and all.
    lab.run(common::FSCK, ["-n", "a.img"]).ok();
}

#[test]
fn what_cannot_be_searched_is_refused_in_one_line() {
    let lab = lab();
    for (args, words) in [
        ("search a.img /nowhere --query q.npy", &["a.img", "nowhere"][..]),
        ("search a.img /plain --query q.npy", &["/plain", "not a vector file"]),
        ("search a.img /corpus --query none.npy", &["none.npy"]),
        ("search a.img /corpus --like 1", &["--like", "one vector file"]),
        ("search a.img /corpus --query q.npy --at-least 99999", &["99999", "generation"]),
        ("search q.npy / --query q.npy", &["q.npy", "no VexFS"]),
    ] {
        lab.vexfs(args).refused(1, words);
    }
    assert_eq!(lab.vexfs("search a.img /corpus").code, 2);
    assert_eq!(lab.vexfs("search a.img /corpus --like 1 --query q.npy").code, 2);
}

#[test]
fn an_image_in_use_is_refused_and_one_that_can_only_be_read_is_searched() {
    let lab = lab();
    let writer = vexfs_image::open(&lab.path("a.img"), vexfs_image::Access::Write).unwrap();
    let writer = writer.unused().unwrap();
    lab.vexfs("search a.img /corpus --query q.npy").refused(1, &["a.img", "in use"]);
    lab.vexfs("index a.img").refused(1, &["a.img", "in use"]);
    give_up(writer);
    let reader = vexfs_image::open(&lab.path("a.img"), vexfs_image::Access::Read).unwrap();
    let _reader = reader.unused().unwrap();
    lab.vexfs("index a.img").refused(1, &["a.img", "in use"]);
    let read_only = std::fs::Permissions::from_mode(0o400);
    std::fs::set_permissions(lab.path("a.img"), read_only).unwrap();
    lab.vexfs("search a.img /corpus --query q.npy").ok();
}

#[test]
fn an_image_is_searched_by_what_is_known_of_rows_and_for_many_at_once() {
    let lab = lab();
    let image = lab.path("a.img");
    let mut fs = Mounted::open(&image, BYTES, Arc::new(DirtyLog::new(BYTES).unwrap()));
    let (dir, _) = fs.volume.resolve(|v| v.lookup(Ino::ROOT, b"corpus")).unwrap();
    let (beside, _) = fs.volume.resolve(|v| v.lookup(dir, b"rows.tsv")).unwrap();
    let lines: Vec<String> =
        (0..ROWS).map(|slot| format!("{}\tt{slot}", 2000 + slot % 30)).collect();
    fs.write(beside, 0, format!("year\ttag\n{}\n", lines.join("\n")).as_bytes());
    fs.commit();
    drop(fs);
    vexfs_index::npy::write(&lab.path("many.npy"), DIM, &[row(1234), row(7)].concat()).unwrap();
    for path in ["/corpus", "/corpus/rows.npy"] {
        let search = format!("search a.img {path} --query many.npy --batch -k 3 --json");
        let mut words: Vec<&str> = search.split(' ').collect();
        words.extend(["--where", "row.year = 2004 and slot > 10", "--show", "year,tag"]);
        let found = json(&lab.run(common::VEXFS, words).ok().out);
        assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
        let first = &found[0]["hits"][0];
        assert_eq!(first["slot"], 1234);
        assert_eq!(first["row"], serde_json::json!({ "year": 2004, "tag": "t1234" }));
        assert_eq!(first["path"], "/corpus/rows.npy");
        for hit in found[1]["hits"].as_array().unwrap() {
            assert_eq!(hit["row"]["year"], 2004);
            assert!(hit["slot"].as_u64().unwrap() > 10);
        }
    }
    let words = ["search", "a.img", "/corpus", "--like", "1", "--where", "slot <"];
    lab.run(common::VEXFS, words).refused(1, &["--where: column 7"]);
}
