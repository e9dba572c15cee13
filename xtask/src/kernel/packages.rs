// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Debian packages, downloaded and unpacked below the target directory instead of installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::shell::Cmd;
use crate::ui::Step;
use crate::workspace::Workspace;

/// Unpacks all of them into the directory `tree` of a temporary directory beside the kernels.
pub fn unpack(workspace: &Workspace, packages: &[String], step: &Step) -> Result<TempDir> {
    let work = tempfile::Builder::new()
        .prefix("unpack-")
        .tempdir_in(&workspace.vm)
        .context("cannot create a directory to unpack packages in")?;
    // apt drops to an unprivileged user to download where that user may write.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o777))?;
    Cmd::new("apt-get")
        .args(["-q", "download"])
        .args(packages)
        .dir(work.path())
        .run(step)
        .with_context(|| {
            format!(
                "cannot download {}; the guest's kernels are in Debian 12's 'bookworm-security'",
                packages.join(", ")
            )
        })?;
    step.message("unpacking");
    let tree = work.path().join("tree");
    fs::create_dir(&tree)?;
    let mut unpacked = 0;
    for entry in fs::read_dir(work.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "deb") {
            Cmd::new("dpkg").arg("-x").arg(&path).arg(&tree).run(step)?;
            unpacked += 1;
        }
    }
    ensure!(unpacked == packages.len(), "apt-get did not download {}", packages.join(", "));
    Ok(work)
}
