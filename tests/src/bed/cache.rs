//! Things made once and kept, by the hash of what they are made of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::say;
use crate::workspace;

/// Where the bed is kept.
pub fn folder() -> Result<PathBuf> {
    let folder = workspace::target().join("bed");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A lock between processes, held until it is dropped.
pub fn lock(name: &str) -> Result<File> {
    let path = folder()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("Cannot make {}", path.display()))?;
    file.lock().with_context(|| format!("Cannot lock {}", path.display()))?;
    Ok(file)
}

/// Returns the file or folder `name` made of the inputs that `key` stands for, and lets `build` make it if it is not
/// there. Versions made of other inputs are removed.
pub fn ensure(name: &str, key: Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = folder()?.join(format!("{name}-{:016x}", key.0));
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(name)?;
    if path.exists() {
        return Ok(path);
    }
    remove_versions(name)?;
    let start = std::time::Instant::now();
    let partial = folder()?.join(format!("{name}-partial"));
    build(&partial).with_context(|| format!("Cannot make the bed's {name}"))?;
    fs::rename(&partial, &path).with_context(|| format!("Cannot put {} in its place", path.display()))?;
    say(format_args!("bed: {name} ready, {:.1} s", start.elapsed().as_secs_f32()));
    Ok(path)
}

fn remove_versions(name: &str) -> Result<()> {
    for entry in fs::read_dir(folder()?)?.flatten() {
        let file_name = entry.file_name();
        let Some(version) = file_name.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('-')) else {
            continue;
        };
        if version == "partial" || (version.len() == 16 && version.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("Cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A hash (FNV-1a) of what a thing is made of: the same on every machine and with every compiler.
#[derive(Clone, Copy)]
pub struct Key(u64);

impl Key {
    /// A key of a recipe's version. Raise it when the code that builds changes what it builds.
    pub fn new(version: u64) -> Self {
        Key(0xcbf2_9ce4_8422_2325).with(&version.to_le_bytes())
    }

    /// The key with one more input.
    #[must_use]
    pub fn with(self, input: &[u8]) -> Self {
        let bytes = (input.len() as u64).to_le_bytes();
        let all = bytes.iter().chain(input);
        Key(all.fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// The key with one more file.
    pub fn with_file(self, path: &Path) -> Result<Self> {
        Ok(self.with(&fs::read(path).with_context(|| format!("Cannot read {}", path.display()))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_byte_between_two_inputs_changes_the_key() {
        assert_ne!(Key::new(1).with(b"ab").with(b"c").0, Key::new(1).with(b"a").with(b"bc").0);
        assert_ne!(Key::new(1).0, Key::new(2).0);
    }

    #[test]
    fn an_interrupted_build_is_not_taken_for_a_finished_one_and_a_finished_one_is_kept() {
        // Not this process' number, which another one had that was interrupted.
        let chance = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
        let name = format!("selftest{chance:016x}");
        let key = Key::new(1);
        let failed = ensure(&name, key, |path| {
            fs::write(path, "half")?;
            anyhow::bail!("Interrupted")
        });
        assert!(failed.is_err());
        let built = ensure(&name, key, |path| Ok(fs::write(path, "whole")?)).unwrap();
        assert_eq!(fs::read(&built).unwrap(), b"whole");
        let kept = ensure(&name, key, |_| anyhow::bail!("Built twice")).unwrap();
        assert_eq!(kept, built);
        let newer = ensure(&name, Key::new(2), |path| Ok(fs::write(path, "newer")?)).unwrap();
        assert!(!built.exists() && newer.exists());
        remove_versions(&name).unwrap();
        fs::remove_file(folder().unwrap().join(format!("{name}.lock"))).unwrap();
    }
}
