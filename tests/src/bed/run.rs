//! Running the bed's programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::bed::{Tree, cache};
use crate::workspace;

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A program of a tree, run by the tree's own loader with the tree's own libraries: no root, no namespace, the host's
/// paths. Enough for programs that are told where their data is.
pub fn program(tree: &Tree, path: &str) -> Command {
    let mut command = Command::new(tree.file(LIBRARIES).join("ld-linux-x86-64.so.2"));
    let base = Path::new(path).file_name().unwrap_or_default();
    command.arg("--argv0").arg(base).arg("--library-path").arg(tree.file(LIBRARIES)).arg(tree.file(path));
    command.env("QEMU_MODULE_DIR", tree.file(LIBRARIES).join("qemu"));
    command
}

/// QEMU for x86_64 with its firmware.
pub fn qemu(tree: &Tree) -> Command {
    let mut command = program(tree, "usr/bin/qemu-system-x86_64");
    for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.arg("-L").arg(tree.file(folder));
    }
    command
}

/// A program that expects to find itself in `/usr`: a private mount namespace with the tree as its root, and the
/// host's /dev, /proc, /sys, /tmp and the project's folder in it.
pub fn inside(tree: &Tree, program: &str) -> Command {
    // Nothing is left behind: the mounts vanish with the last process in the namespace. No process is put in between.
    // In one line: see `words`.
    let script = "root=$1 project=$2; shift 2; mount --make-rprivate /; mount --bind \"$root\" \"$root\"; \
                  for dir in /dev /proc /sys /tmp; do mount --rbind $dir \"$root$dir\"; done; \
                  mkdir -p \"$root$project\"; mount --rbind \"$project\" \"$root$project\"; exec chroot \"$root\" \"$@\"";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(tree.root()).arg(workspace::root()).arg(program);
    command.envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8")]);
    command
}

/// A program inside a tree with the stand-in for `/dev/udmabuf`, without which lavapipe exports no memory: for it and all that it
/// starts and leaves an environment.
pub fn with_udmabuf(tree: &Tree, program: &str) -> Result<Command> {
    let preloaded = put(tree, "beamsplit-udmabuf-stand-in", "libudmabuf_stand_in.so")?;
    let mut command = inside(tree, "/usr/bin/env");
    command.arg(format!("LD_PRELOAD={preloaded}")).arg(program);
    Ok(command)
}

/// Builds a library of ours and puts it where a tree's other libraries are: a sandbox lets programs load those. Returns its path for
/// programs inside.
pub fn put(tree: &Tree, package: &str, name: &str) -> Result<String> {
    let built = workspace::built(package, name)?;
    let place = tree.file(LIBRARIES).join(name);
    let _lock = cache::lock(package)?;
    let bytes = fs::read(&built).with_context(|| format!("Cannot read {}", built.display()))?;
    if fs::read(&place).ok().as_ref() != Some(&bytes) {
        // Not in place: somebody may have it loaded.
        let new = place.with_extension("new");
        fs::write(&new, &bytes)
            .and_then(|()| fs::rename(&new, &place))
            .with_context(|| format!("Cannot put {name} in its place"))?;
    }
    Ok(format!("/{LIBRARIES}/{name}"))
}

/// What a command runs, a word a line: for programs that put their own after it.
pub fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join("\n")
}
