// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The committed C header is what cbindgen makes of this crate. `UPDATE=1` rewrites it. Its sections say which functions
//! the module calls, and which are for its tests or for hosts in userspace.

use cbindgen::{Builder, Config, DocumentationStyle, Language, RenameRule, Style};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

const HEAD: &str = "\
/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The VexFS engine's functions for C. Generated from kernel/ffi; do not edit:
 * UPDATE=1 cargo test -p vexfs-ffi --test header
 *
 * The names are those of an older interface. Each description begins with what
 * the function is in the engine's own words. Three sections: what the module
 * calls, its self-tests, and what only hosts in userspace call. The rules for
 * pointers and locks are the contract in kernel/ffi/src/lib.rs.
 */
#ifndef VEXFS_FFI_H
#define VEXFS_FFI_H

#ifdef __KERNEL__
#include <linux/limits.h>
#include <linux/types.h>
#ifndef UINT64_MAX
#define UINT64_MAX U64_MAX
#endif
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif
";

/// The first function of a section, and what stands before it.
const SECTIONS: [(&str, &str); 2] = [
    (
        "vexfs_rust_test_basic",
        "\
/*
 * Self-tests: in the kernel's object only if that was linked with test hooks.
 */
#if !defined(__KERNEL__) || defined(VEXFS_TEST_HOOKS)

",
    ),
    (
        "vexfs_rust_userspace_init",
        "\
#endif /* !__KERNEL__ || VEXFS_TEST_HOOKS */

/*
 * For hosts in userspace: not in the kernel's object.
 */
#ifndef __KERNEL__

",
    ),
];

/// What the host provides besides a device: stands in `runtime.rs` as an extern block, and is declared here for its `noreturn`, which Rust must not be told.
const TAIL: &str = "\
#endif /* !__KERNEL__ */

// Memory of `size` (more than 0) bytes aligned to `align` (a power of two up to 4096), or null. May sleep; must not
// enter a filesystem.
uint8_t *vexfs_host_alloc(size_t size, size_t align);

// Gives back memory of `vexfs_host_alloc`.
void vexfs_host_free(uint8_t *memory);

// The engine panicked. Logs the message (not ended by a zero), stops the volume that the call works on, and ends
// that call with `-EIO`. Does not return.
void __attribute__((noreturn)) vexfs_host_panic(const uint8_t *message, size_t len);

#endif /* VEXFS_FFI_H */";

const NAMES: [(&str, &str); 24] = [
    ("Attr", "vexfs_attr"),
    ("CommitHandle", "vexfs_commit"),
    ("DirRecord", "vexfs_dir_record"),
    ("Extent", "vexfs_extent"),
    ("Figures", "vexfs_figures"),
    ("FormatOptions", "vexfs_format_options"),
    ("HostDevice", "vexfs_host_device"),
    ("NameAt", "vexfs_name_at"),
    ("NewAttrs", "vexfs_new_attrs"),
    ("NodeHandle", "vexfs_node"),
    ("RenameResult", "vexfs_rename_result"),
    ("Report", "vexfs_report"),
    ("SetAttrs", "vexfs_set_attrs"),
    ("State", "vexfs_state"),
    ("Timestamp", "vexfs_timestamp"),
    ("VectorHit", "vexfs_vector_hit"),
    ("VectorShape", "vexfs_vector_shape"),
    ("VolumeHandle", "vexfs_volume"),
    ("WindowAnswer", "vexfs_window_answer"),
    ("WindowHit", "vexfs_window_hit"),
    ("WindowNote", "vexfs_window_note"),
    ("WindowProof", "vexfs_window_proof"),
    ("WindowSearch", "vexfs_window_search"),
    ("WriteRequest", "vexfs_write_request"),
];

const SOURCES: [&str; 11] = [
    "abi.rs",
    "volume.rs",
    "commit.rs",
    "inode.rs",
    "names.rs",
    "data.rs",
    "xattr.rs",
    "window.rs",
    "selftest.rs",
    "userspace.rs",
    "vector.rs",
];

const PRIVATE: [&str; 6] =
    ["CHUNK_BYTES", "VERSION", "RECORD_HEAD", "NAME_MAX", "BYTES", "ALIGN_MAX"];

fn generate() -> String {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        header: Some(HEAD.to_owned()),
        trailer: Some(TAIL.to_owned()),
        no_includes: true,
        usize_is_size_t: true,
        documentation_style: DocumentationStyle::C99,
        tab_width: 8,
        line_length: 100,
        ..Config::default()
    };
    config.export.rename = NAMES
        .iter()
        .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
        .collect::<HashMap<_, _>>();
    // No function names it: readdir packs it into bytes.
    config.export.include = vec!["DirRecord".to_owned()];
    config.export.exclude = PRIVATE.iter().map(|name| (*name).to_owned()).collect();
    config.function.args = cbindgen::Layout::Auto;
    config.enumeration.rename_variants = RenameRule::None;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut builder = Builder::new().with_config(config);
    for source in SOURCES.iter().chain(&["handle.rs"]) {
        builder = builder.with_src(sources.join(source));
    }
    let mut text = Vec::new();
    builder.generate().expect("the sources parse").write(&mut text);
    let text = String::from_utf8(text).expect("a header is text");
    let text: String = text
        .lines()
        .map(|line| {
            // Rust's paths mean nothing to a reader of C.
            let line = line
                .trim_end()
                .replace("[`crate::volume::", "`")
                .replace("[`", "`")
                .replace("`]", "`");
            let line = line.replace("        ", "\t");
            match line.as_str().strip_prefix("#define ") {
                Some(rest) if !rest.starts_with("VEXFS_") && !rest.starts_with("UINT64_MAX") => {
                    format!("#define VEXFS_{rest}")
                }
                _ => line,
            }
        })
        .fold(String::new(), |all, line| all + &line + "\n");
    SECTIONS.iter().fold(text, |text, (first, heading)| insert_before(&text, first, heading))
}

/// Puts `heading` before the comment of a function.
fn insert_before(text: &str, function: &str, heading: &str) -> String {
    let declared =
        text.find(&format!("\nint32_t {function}(")).expect("a section's first function");
    let comment = text[..declared].rfind("\n\n").expect("an empty line before its comment") + 2;
    let (before, after) = text.split_at(comment);
    format!("{before}{heading}{after}")
}

/// The engine's functions that are named in `text` with an opening parenthesis behind them.
fn functions(text: &str) -> BTreeSet<&str> {
    let names = text.match_indices("vexfs_rust_").filter_map(|(at, _)| text.get(at..));
    let ends = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    names
        .filter_map(|rest| rest.split_once(ends))
        .filter_map(|(name, _)| text.contains(&format!("{name}(")).then_some(name))
        .collect()
}

#[test]
fn the_first_section_is_what_the_module_calls() {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut module = String::new();
    for entry in std::fs::read_dir(&kernel).expect("the module's sources") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ext| ext == "c") {
            module += &std::fs::read_to_string(path).expect("C is text");
        }
    }
    let header = generate();
    let at = |(_, heading): (&str, &str)| header.find(heading).expect("the section is there");
    let (tests, userspace) = (at(SECTIONS[0]), at(SECTIONS[1]));
    let called = functions(&module);
    let hooks = functions(&header[tests..userspace]);
    let first: BTreeSet<_> = functions(&header[..tests]);
    assert_eq!(called.difference(&hooks).copied().collect::<BTreeSet<_>>(), first);
    assert!(hooks.is_subset(&called), "{hooks:?}");
}

#[test]
fn the_header_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/vexfs_ffi.h");
    let fresh = generate();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "kernel/include/vexfs_ffi.h is stale: UPDATE=1 cargo test -p vexfs-ffi"
    );
}
