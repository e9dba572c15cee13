// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where things are: the repository, the target directory, and what is built into it.
//!
//! The commands write nothing outside the target directory, except the packages that are installed.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The places every command works with; all paths are absolute.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The repository.
    pub root: PathBuf,
    /// Cargo's target directory (`CARGO_TARGET_DIR` is respected).
    pub target: PathBuf,
    /// What `build` fills: `bin/`, `modules/<release>/`, `share/` (`VEXFS_DIST` overrides).
    pub dist: PathBuf,
    /// Guest kernels, logs, and what a guest needs while it runs.
    pub vm: PathBuf,
}

impl Workspace {
    /// Finds the repository that this crate is in.
    pub fn find() -> Result<Self> {
        let here = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = here
            .ancestors()
            .find(|dir| dir.join("xtask/Cargo.toml").is_file())
            .context("the repository is not found: run this as 'cargo xtask' inside it")?
            .to_owned();
        let target = absolute(env::var_os("CARGO_TARGET_DIR"), &root, &root.join("target"))?;
        let dist = absolute(env::var_os("VEXFS_DIST"), &root, &target.join("dist"))?;
        let vm = target.join("vm");
        Ok(Self { root, target, dist, vm })
    }

    /// The same with another place to build into, so that tests leave alone what people built.
    pub fn for_tests(&self) -> Result<Self> {
        let dist = absolute(None, &self.root, &self.target.join("dist-tests"))?;
        Ok(Self { dist, ..self.clone() })
    }
}

fn absolute(value: Option<std::ffi::OsString>, root: &Path, default: &Path) -> Result<PathBuf> {
    let path = value.map_or_else(|| default.to_owned(), |value| root.join(value));
    std::fs::create_dir_all(&path)
        .with_context(|| format!("cannot create the directory {}", path.display()))?;
    path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))
}
