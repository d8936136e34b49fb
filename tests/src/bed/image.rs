//! What a guest boots besides the kernel: initramfs, disk image.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cpio::newc::{self, ModeFileType};

use crate::bed::apt::checked;
use crate::bed::cache::{self, Key};
use crate::bed::{Layer, Tree, kernel, run, tree};
use crate::progress::say;
use crate::workspace;

/// Raise it when this file builds other images from the same inputs.
const VERSION: u64 = 2;

/// What a guest may need beyond what the kernel has built in. The agent loads each group when it is asked to.
const MODULES: &[(&str, &[&str])] = &[
    ("gpu", &["virtio-gpu"]),
    ("bochs", &["bochs"]),
    ("disk", &["virtio_blk", "ext4", "overlay"]),
    ("input", &["evdev", "virtio_input", "psmouse"]),
    ("udmabuf", &["udmabuf", "vgem"]),
];

/// An initramfs: the agent as `/init`, busybox, and these groups of modules. It is unpacked at every boot, so nothing that
/// a guest does not need is in it.
pub fn initramfs(tree: &Tree, agent: &Path, groups: &[&str]) -> Result<PathBuf> {
    let kernel = kernel::packed(tree)?;
    let groups: Vec<Group> = groups.iter().map(|name| group(name)).collect::<Result<_>>()?;
    let mut key = Key::new(VERSION).with_file(agent)?.with(kernel.as_os_str().as_encoded_bytes());
    let mut name = "initramfs".to_owned();
    for (group, modules) in &groups {
        key = modules.iter().fold(key.with(group.as_bytes()), |key, module| key.with(module.as_bytes()));
        name = format!("{name}-{group}");
    }
    cache::ensure(&name, key, |path| write_initramfs(tree, agent, &groups, path))
}

/// Some modules under one name.
type Group = (&'static str, &'static [&'static str]);

fn group(name: &str) -> Result<Group> {
    MODULES.iter().find(|(group, _)| *group == name).copied().with_context(|| format!("No group {name} of modules"))
}

/// Builds the guest agent as a static program. Cargo knows whether there is anything to do.
pub fn agent() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = workspace::target().join("guest");
    let mut cargo = workspace::cargo();
    cargo
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            TARGET,
            "-p",
            "beamsplit-guest-agent",
            "--features",
            "guest",
        ])
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs([("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols"), ("CARGO_PROFILE_RELEASE_LTO", "off")]);
    checked(cargo).context("The guest agent does not build")?;
    Ok(folder.join(TARGET).join("release/guest-agent"))
}

fn write_initramfs(tree: &Tree, agent: &Path, groups: &[Group], path: &Path) -> Result<()> {
    say("bed: making the guests' initramfs");
    let modules = Modules::of(tree)?;
    let mut archive = Archive { file: File::create(path)?, inode: 0 };
    for folder in ["bin", "dev", "etc", "etc/fonts", "modules", "newroot", "proc", "run", "sys", "tmp"] {
        archive.folder(folder)?;
    }
    archive.file("init", 0o755, &fs::read(agent)?)?;
    archive.file("bin/busybox", 0o755, &fs::read(tree.file("usr/bin/busybox"))?)?;
    for (name, font) in [("regular", "DejaVuSans.ttf"), ("bold", "DejaVuSans-Bold.ttf")] {
        let font = tree.file("usr/share/fonts/truetype/dejavu").join(font);
        archive.file(&format!("etc/fonts/{name}.ttf"), 0o644, &fs::read(font)?)?;
    }
    let mut written = HashSet::new();
    for (group, wanted) in groups {
        archive.folder(&format!("modules/{group}"))?;
        for (index, name) in modules.in_load_order(wanted)?.into_iter().enumerate() {
            if written.insert(name.clone()) {
                let module = modules.contents(&name)?;
                archive.file(&format!("modules/{group}/{index:02}-{name}.ko"), 0o644, without_signature(&module))?;
            }
        }
    }
    newc::trailer(archive.file)?;
    Ok(())
}

/// A cpio archive being written.
struct Archive {
    file: File,
    inode: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o755, ModeFileType::Directory, &[])
    }

    fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.entry(name, mode, ModeFileType::Regular, contents)
    }

    fn entry(&mut self, name: &str, mode: u32, kind: ModeFileType, contents: &[u8]) -> Result<()> {
        self.inode += 1;
        let entry = newc::Builder::new(name).ino(self.inode).nlink(1).mode(mode).set_mode_file_type(kind);
        let mut writer = entry.write(&self.file, u32::try_from(contents.len())?);
        io::copy(&mut Cursor::new(contents), &mut writer)?;
        writer.finish()?.flush()?;
        Ok(())
    }
}

/// The kernel's modules, as unpacked from its package, where no module index is.
struct Modules<'a> {
    tree: &'a Tree,
    paths: HashMap<String, PathBuf>,
}

impl<'a> Modules<'a> {
    fn of(tree: &'a Tree) -> Result<Self> {
        let mut paths = HashMap::new();
        let mut folders = vec![kernel::modules_folder(tree)?.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let file_name = entry.file_name();
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Some((name, _)) = file_name.to_str().and_then(|name| name.split_once(".ko")) {
                    paths.insert(canonical(name), entry.path());
                }
            }
        }
        ensure!(!paths.is_empty(), "The bed's kernel has no modules");
        Ok(Modules { tree, paths })
    }

    /// Modules and what they depend on, each after what it needs. What is no module is taken as built in.
    fn in_load_order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&canonical(name), &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<String>) -> Result<()> {
        if order.iter().any(|known| known == name) || !self.paths.contains_key(name) {
            return Ok(());
        }
        for needed in dependencies(&self.contents(name)?) {
            self.visit(&canonical(&needed), order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }

    fn contents(&self, name: &str) -> Result<Vec<u8>> {
        let Some(path) = self.paths.get(name) else { bail!("No module {name}") };
        let tool = match path.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => return Ok(fs::read(path)?),
            Some("xz") => "xzcat",
            Some("gz") => "zcat",
            _ => bail!("Module {} is packed in an unknown way", path.display()),
        };
        let mut busybox = Command::new(self.tree.file("usr/bin/busybox"));
        busybox.arg(tool).arg(path);
        Ok(checked(busybox)?.stdout)
    }
}

/// Modules are named with - in files and _ in lists of dependencies, or the other way.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The names in a module's own `depends=`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let rest = module.get(at + key.len()..).unwrap_or_default();
    let list = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A module as it was before it was signed: a translated processor takes long to check signatures, and the kernel takes
/// modules without one.
fn without_signature(module: &[u8]) -> &[u8] {
    const END: &[u8] = b"~Module signature appended~\n";
    // Before the mark: the signature, then 12 bytes, of which the last four are the signature's length.
    let body = module.strip_suffix(END).and_then(|signed| {
        let (rest, length) = signed.split_last_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_add(8)?;
        rest.get(..rest.len().checked_sub(length)?)
    });
    body.unwrap_or(module)
}

/// A layer as a disk image: one ext4 file system, to be mounted read-only.
pub fn desktop(linux: &Tree, layer: &Layer) -> Result<PathBuf> {
    cache::ensure(&format!("{}.ext4", layer.name), tree::key(layer).with(&VERSION.to_le_bytes()), |path| {
        let root = path.with_extension("tree");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        tree::build(layer, &root)?;
        write_disk(linux, layer, &root, path)?;
        fs::remove_dir_all(&root)?;
        Ok(())
    })
}

/// A layer's tree, which is there, as such a disk image too.
pub fn of_tree(linux: &Tree, layer: &Layer, of: &Tree) -> Result<PathBuf> {
    let key = tree::key(layer).with(&VERSION.to_le_bytes());
    cache::ensure(&format!("{}.ext4", layer.name), key, |path| write_disk(linux, layer, of.root(), path))
}

fn write_disk(linux: &Tree, layer: &Layer, root: &Path, path: &Path) -> Result<()> {
    say(format_args!("bed: {}: writing the disk image", layer.name));
    let mut mkfs = run::program(linux, "usr/sbin/mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0", "-d"]);
    mkfs.arg(root).arg(path).arg(format!("{}M", megabytes(root)? * 5 / 4 + 64));
    checked(mkfs).map(drop)
}

fn megabytes(folder: &Path) -> Result<u64> {
    let mut du = Command::new("du");
    du.args(["-sm", "--apparent-size"]).arg(folder);
    let output = checked(du)?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|number| number.parse().ok()).context("No size from du")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_dependencies_are_read_from_its_own_list() {
        assert_eq!(dependencies(b"x\0license=GPL\0depends=drm,drm_kms_helper\0name=y\0"), ["drm", "drm_kms_helper"]);
        assert!(dependencies(b"x\0depends=\0name=y\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn a_module_loses_its_signature_and_nothing_else() {
        let signed = b"code~signature.\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x0b~Module signature appended~\n";
        assert_eq!(without_signature(signed), b"code");
        assert_eq!(without_signature(b"code"), b"code");
        let short = b"\0\0\0\xff~Module signature appended~\n";
        assert_eq!(without_signature(short), short);
    }
}
