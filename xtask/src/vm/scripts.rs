// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The scripts of one run, which the guest reads from the run directory.
//!
//! `init.sh` sets up what `env.sh` says, then runs `command.sh`, or `shell.sh` on a terminal.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::Vm;
use crate::shell::quote;
use crate::workspace::Workspace;

const INIT: &str = include_str!("init.sh");
/// Directories of the host that the guest covers with its own.
const HIDDEN: [&str; 3] = ["/tmp", "/run", "/dev/shm"];

/// Writes them to the directory `run`; `token` tells the command's end from its output.
pub fn write(vm: &Vm, workspace: &Workspace, run: &Path, token: &str) -> Result<()> {
    let exports = exports(vm, workspace)?;
    let command = vm.command.as_deref().unwrap_or_default();
    let keep = kept(vm, workspace)?;
    let mut env = String::new();
    for (key, value) in [
        ("VM_KEEP", keep.as_str()),
        ("VM_MODULES", text(&vm.kernel.modules)?),
        ("VM_SHARE", if vm.share.is_some() { "1" } else { "" }),
        ("VM_DISKS", &vm.disks.len().to_string()),
        ("VM_CWD", text(&vm.cwd)?),
        ("VM_SHELL", if vm.command.is_none() { "1" } else { "" }),
        ("VM_TOKEN", token),
    ] {
        env.extend([key, "=", &quote(value), "\n"]);
    }
    for (name, content) in [
        ("init.sh", INIT),
        ("env.sh", &env),
        ("shell.sh", &format!("{exports}{}", shell())),
        ("command.sh", &format!("{exports}{command}\n")),
    ] {
        fs::write(run.join(name), content)
            .with_context(|| format!("cannot write the guest's {name}"))?;
    }
    Ok(())
}

/// The environment of the command, as shell text.
fn exports(vm: &Vm, workspace: &Workspace) -> Result<String> {
    let mut lines = String::new();
    let mut export = |key: &str, value: &str| {
        lines.extend(["export ", key, "=", &quote(value), "\n"]);
    };
    let dist = text(&workspace.dist)?;
    export("VEXFS_VM", "1");
    export("VEXFS_KERNEL", vm.kernel.which.name());
    // Scripts that wait, or let something run for a while, do so this many times as long.
    export("VEXFS_PATIENCE", &vm.kernel.which.time_factor().to_string());
    export("VEXFS_ROOT", text(&workspace.root)?);
    export("VEXFS_DIST", dist);
    export("VEXFS_MODULE", &format!("{dist}/modules/{}/vexfs.ko", vm.kernel.release));
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    export("PATH", &format!("{dist}/bin:{system}"));
    if !vm.disks.is_empty() {
        export("VEXFS_DISK", "/dev/vda");
    }
    for (key, value) in &vm.env {
        export(key, value);
    }
    Ok(lines)
}

/// Directories that the guest needs although they are inside hidden ones, separated by blanks.
fn kept(vm: &Vm, workspace: &Workspace) -> Result<String> {
    let mut keep: Vec<&str> = Vec::new();
    for path in [&workspace.root, &workspace.target, &workspace.dist, &vm.cwd] {
        let path = text(path)?;
        if HIDDEN.contains(&path) {
            bail!("the guest has its own {path}, which hides this one: use a directory inside it");
        }
        let inside = |dir: &&str| path.starts_with(&format!("{dir}/"));
        if HIDDEN.iter().any(inside) && !keep.contains(&path) {
            ensure!(!path.contains([' ', '\'']), "the path {path} holds a blank or a quote");
            keep.push(path);
        }
    }
    Ok(keep.join(" "))
}

/// The end of `shell.sh`: starts a shell that knows the terminal's type and size.
fn shell() -> String {
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.map_or_else(String::new, |size| {
        format!("stty rows {} cols {}\n", size.ws_row, size.ws_col)
    });
    format!(
        "export TERM={} PS1='\\h:\\w\\$ '\n{size}command -v bash >/dev/null && exec bash\nexec sh\n",
        quote(&term)
    )
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}
