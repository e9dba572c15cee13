// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Debian's kernel, unpacked from its packages.
//!
//! A kernel's directory is complete when its stamp exists: it is unpacked beside its final
//! place and renamed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::{Kernel, SERIES, STAMP, Which, packages};
use crate::shell::Cmd;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// The flavour for guests: it has ublk and virtiofs, and is small.
const FLAVOUR: &str = "cloud-amd64";

/// The newest complete kernel under the target directory, if there is one.
pub fn find(workspace: &Workspace) -> Option<Kernel> {
    let mut found: Vec<Kernel> =
        fs::read_dir(&workspace.vm).ok()?.filter_map(|entry| at(&entry.ok()?.path())).collect();
    found.sort_by_key(|kernel| version(&kernel.release));
    found.pop()
}

/// The kernel in `dir`, if it is complete.
fn at(dir: &Path) -> Option<Kernel> {
    let release = dir.file_name()?.to_str()?.strip_prefix("kernel-")?.to_owned();
    let lib = if dir.join("usr/lib/modules").is_dir() { "usr/lib" } else { "lib" };
    let kernel = Kernel {
        which: Which::Stock,
        image: dir.join(format!("boot/vmlinuz-{release}")),
        modules: dir.join(lib).join("modules"),
        headers: dir.join(format!("usr/src/linux-headers-{release}")),
        release,
    };
    dir.join(STAMP).is_file().then_some(kernel)
}

/// Fetches and unpacks the newest kernel apt offers.
pub fn install(workspace: &Workspace, ui: Ui) -> Result<Kernel> {
    let release = newest()?;
    let step = ui.step(&format!("kernel {release}: downloading"));
    let base = release.trim_end_matches(FLAVOUR).trim_end_matches('-');
    let packages = [
        format!("linux-image-{release}"),
        format!("linux-headers-{release}"),
        format!("linux-headers-{base}-common"),
        format!("linux-kbuild-{base}"),
    ];
    let work = packages::unpack(workspace, &packages, &step)?;
    let tree = work.path().join("tree");
    let place = workspace.vm.join(format!("kernel-{release}"));
    relocate_headers(&tree, &place, &release, base)?;
    step.message("depmod");
    Cmd::new("depmod").arg("-b").arg(&tree).arg(&release).run(&step)?;
    fs::write(tree.join(STAMP), "")?;
    if place.exists() {
        fs::remove_dir_all(&place)
            .with_context(|| format!("cannot replace {}", place.display()))?;
    }
    fs::rename(&tree, &place)
        .with_context(|| format!("cannot move the kernel to {}", place.display()))?;
    step.done();
    at(&place).context("the unpacked kernel is incomplete")
}

/// Makes the headers' top Makefile include the common one where it is unpacked, not where it would be
/// installed.
fn relocate_headers(tree: &Path, place: &Path, release: &str, base: &str) -> Result<()> {
    let makefile = tree.join(format!("usr/src/linux-headers-{release}/Makefile"));
    let common = format!("usr/src/linux-headers-{base}-common/Makefile");
    ensure!(tree.join(&common).is_file(), "the common kernel headers lack their Makefile");
    fs::write(&makefile, format!("include {}\n", place.join(common).display()))
        .with_context(|| format!("cannot write {}", makefile.display()))
}

/// The newest release of the series for which both headers and a signed image are offered.
fn newest() -> Result<String> {
    let pattern = format!("^linux-(headers|image)-{}\\..*{FLAVOUR}$", SERIES.replace('.', "\\."));
    let names = Cmd::new("apt-cache").args(["search", "--names-only", &pattern]).output()?;
    let names: Vec<&str> = names.lines().filter_map(|line| line.split(' ').next()).collect();
    let newest = names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-headers-"))
        .filter(|release| names.contains(&format!("linux-image-{release}").as_str()))
        .max_by_key(|release| version(release));
    match newest {
        Some(release) => Ok(release.to_owned()),
        None => bail!(
            "apt offers no linux-image-{SERIES}.*-{FLAVOUR} with its headers: Debian 12's \
             'bookworm-security' has them; add that suite to the apt sources and try again"
        ),
    }
}

/// All numbers in a release, to compare: 6.12.107 is newer than 6.12.99.
fn version(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_compare_by_number() {
        assert!(version("6.12.107+deb12-cloud-amd64") > version("6.12.99+deb12-cloud-amd64"));
        assert!(version("6.12.9+deb12-cloud-amd64") < version("6.12.10+deb12-cloud-amd64"));
    }
}
