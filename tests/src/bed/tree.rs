//! A tree of unpacked packages.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::bed::Layer;
use crate::bed::apt::{Apt, checked};
use crate::bed::cache::{self, Key};
use crate::progress::say;

/// Raise it when this file builds another tree from the same packages.
const VERSION: u64 = 1;

/// The folder of unpacked packages.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// Returns the layer's tree; makes it when it is not there.
pub fn ensure(layer: &Layer) -> Result<Tree> {
    let root = cache::ensure(layer.name, key(layer), |root| build(layer, root))?;
    Ok(Tree { root })
}

/// What a layer's tree is made of.
pub fn key(layer: &Layer) -> Key {
    let key = layer.packages.iter().fold(Key::new(VERSION), |key, package| key.with(package.as_bytes()));
    let key = layer.only.iter().fold(key, |key, (package, only)| {
        only.iter().fold(key.with(package.as_bytes()), |key, word| key.with(word.as_bytes()))
    });
    layer.without.iter().fold(key, |key, pattern| key.with(pattern.as_bytes()))
}

/// Unpacks a layer's packages into a new folder.
pub fn build(layer: &Layer, root: &Path) -> Result<()> {
    let files = {
        let _lock = cache::lock("apt")?;
        let apt = Apt::open()?;
        match apt.download(layer) {
            Ok(files) => files,
            // The lists are missing, or older than the mirror.
            Err(_) => apt.update().and_then(|()| apt.download(layer))?,
        }
    };
    say(format_args!("bed: {}: unpacking", layer.name));
    lay_out(root)?;
    unpack(&files, layer.without, root)?;
    finish(root)
}

/// The links of a merged /usr, which each package expects to find.
fn lay_out(root: &Path) -> Result<()> {
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(dir))?;
        symlink(format!("usr/{dir}"), root.join(dir)).context("Cannot lay out a tree")?;
    }
    for dir in ["dev", "proc", "sys", "tmp", "run", "root", "var/tmp", "etc", "home"] {
        fs::create_dir_all(root.join(dir))?;
    }
    Ok(())
}

fn unpack(files: &[PathBuf], without: &[&str], root: &Path) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Not `dpkg-deb -x`: its tar replaces a link to a folder by a folder.
            let script = "file=$1 root=$2; shift 2; dpkg-deb --fsys-tarfile \"$file\" | tar -x --keep-directory-symlink --no-same-owner \
                          --exclude=./usr/share/doc/* --exclude=./usr/share/man/* --exclude=./usr/share/locale/* \
                          --exclude=./usr/share/info/* \"$@\" -C \"$root\"";
            let mut shell = Command::new("bash");
            shell.args(["-o", "pipefail", "-ec", script, "bash"]).arg(file).arg(root);
            shell.args(without.iter().map(|pattern| format!("--exclude={pattern}")));
            checked(shell).with_context(|| format!("Cannot unpack {}", file.display()))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("Unpacking panicked"),
            }
        }
        Ok(())
    })
}

/// What the packages' own scripts would have done, as far as our programs look.
fn finish(root: &Path) -> Result<()> {
    for (master, file) in [("passwd.master", "passwd"), ("group.master", "group")] {
        let master = root.join("usr/share/base-passwd").join(master);
        if master.exists() {
            fs::copy(master, root.join("etc").join(file))?;
        }
    }
    for (link, program) in [("awk", "mawk"), ("x-terminal-emulator", "xterm")] {
        let link = root.join("usr/bin").join(link);
        if root.join("usr/bin").join(program).exists() && !link.exists() {
            symlink(program, link)?;
        }
    }
    let machine_id = "beda5b11000000000000000000000000\n";
    fs::write(root.join("etc/machine-id"), machine_id)?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    Ok(())
}
