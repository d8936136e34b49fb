//! A folder that a guest's firmware sees as a disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace;

/// The name under which UEFI firmware looks for what to start.
pub const UEFI_PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";

/// What is on it. It is gone with the value.
#[derive(Debug)]
pub struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Disk { folder: workspace::scratch("disk-")? })
    }

    /// Adds a file that is there already.
    pub fn file(self, name: &str, source: &Path) -> Result<Self> {
        let source = source.canonicalize().with_context(|| format!("No {}", source.display()))?;
        symlink(source, self.place(name)?).with_context(|| format!("Cannot put {name} on a disk"))?;
        Ok(self)
    }

    /// Adds a file of this text.
    pub fn text(self, name: &str, text: &str) -> Result<Self> {
        fs::write(self.place(name)?, text).with_context(|| format!("Cannot write {name} to a disk"))?;
        Ok(self)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn place(&self, name: &str) -> Result<std::path::PathBuf> {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().context("A file without a folder")?)?;
        Ok(path)
    }
}
