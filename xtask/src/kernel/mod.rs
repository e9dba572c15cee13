// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The guest's kernel: image, modules and headers of one Debian kernel, unpacked, never installed.
//!
//! A kernel directory is complete when its stamp exists: it is unpacked beside its final
//! place and renamed. The debug kernel, built from source, is made in `debug.rs`.

pub mod debug;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::shell::Cmd;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// The series the module is built and tested on.
const SERIES: &str = "6.12";
/// The flavour with ublk, virtiofs and the small footprint of a guest.
const FLAVOUR: &str = "cloud-amd64";
/// Written last: a directory without it is thrown away.
const STAMP: &str = "complete";

/// Which kernel a guest runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Debian's, as it is
    #[default]
    Stock,
    /// Built from Debian's source with everything that finds mistakes, and some twenty times slower
    Debug,
}

impl Which {
    /// How many times as long things may take.
    pub fn patience(self) -> u32 {
        match self {
            Self::Stock => 1,
            Self::Debug => 10,
        }
    }

    /// How many times as much memory a guest gets.
    pub fn appetite(self) -> u32 {
        match self {
            Self::Stock => 1,
            Self::Debug => 2,
        }
    }

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Debug => "debug",
        }
    }
}

/// One unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Which one it is.
    pub which: Which,
    /// What `uname -r` prints in the guest.
    pub release: String,
    /// `vmlinuz`.
    pub image: PathBuf,
    /// The directory that holds `<release>/kernel/...`, to be mounted on `/lib/modules`.
    pub modules: PathBuf,
    /// What `make -C` is given to build a module.
    pub headers: PathBuf,
}

impl Kernel {
    /// The newest complete kernel under the target directory, if there is one.
    pub fn find(workspace: &Workspace) -> Option<Self> {
        let mut found: Vec<Self> = fs::read_dir(&workspace.vm)
            .ok()?
            .filter_map(|entry| Self::at(&entry.ok()?.path()))
            .collect();
        found.sort_by_key(|kernel| version(&kernel.release));
        found.pop()
    }

    /// The kernel under the target directory, or what to do about its absence.
    pub fn need(workspace: &Workspace, which: Which) -> Result<Self> {
        match which {
            Which::Stock => Self::find(workspace)
                .context("no guest kernel is unpacked yet: run 'cargo xtask setup' first"),
            Which::Debug => debug::find(workspace)
                .context("no debug kernel is built yet: run 'cargo xtask vm --kernel debug' first"),
        }
    }

    fn at(dir: &Path) -> Option<Self> {
        let release = dir.file_name()?.to_str()?.strip_prefix("kernel-")?.to_owned();
        let lib = if dir.join("usr/lib/modules").is_dir() { "usr/lib" } else { "lib" };
        let kernel = Self {
            which: Which::Stock,
            image: dir.join(format!("boot/vmlinuz-{release}")),
            modules: dir.join(lib).join("modules"),
            headers: dir.join(format!("usr/src/linux-headers-{release}")),
            release,
        };
        dir.join(STAMP).is_file().then_some(kernel)
    }

    /// Fetches and unpacks the newest kernel apt offers.
    pub fn install(workspace: &Workspace, ui: Ui) -> Result<Self> {
        let release = newest()?;
        let step = ui.step(&format!("kernel {release}: downloading"));
        let work = tempfile::Builder::new()
            .prefix("unpack-")
            .tempdir_in(&workspace.vm)
            .context("cannot create a directory to unpack the kernel in")?;
        // apt drops to an unprivileged user to download where that user may write.
        fs::set_permissions(work.path(), fs::Permissions::from_mode(0o777))?;
        let base = release.trim_end_matches(FLAVOUR).trim_end_matches('-');
        let packages = [
            format!("linux-image-{release}"),
            format!("linux-headers-{release}"),
            format!("linux-headers-{base}-common"),
            format!("linux-kbuild-{base}"),
        ];
        Cmd::new("apt-get")
            .args(["-q", "download"])
            .args(&packages)
            .dir(work.path())
            .run(&step)
            .with_context(|| format!("cannot download the packages of kernel {release}"))?;

        step.message("unpacking");
        let tree = work.path().join("tree");
        fs::create_dir(&tree)?;
        for entry in fs::read_dir(work.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "deb") {
                Cmd::new("dpkg").arg("-x").arg(&path).arg(&tree).run(&step)?;
            }
        }
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
        Self::at(&place).context("the unpacked kernel is incomplete")
    }
}

/// The headers' top Makefile includes the common one by its installed path.
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

/// Every number in a release, for comparing: 6.12.107 comes after 6.12.99.
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
