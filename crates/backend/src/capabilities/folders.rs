//! Where we keep what can be made again.

use std::fs::{DirBuilder, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::child::Spec;

/// The folder of this name among our own, made where it was missing, and ours alone.
pub fn own(name: &str) -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")))?;
    make(caches.join("beamsplit").join(name))
}

/// The folder of compiled shaders of one guest. Never another's: what a guest makes a driver write there, it reads.
pub fn shaders(spec: &Spec, guest: &str) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (&spec.library, &spec.node, guest).hash(&mut hasher);
    make(own("shaders")?.join(format!("{:016x}", hasher.finish())))
}

fn make(folder: PathBuf) -> Option<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    folder.symlink_metadata().is_ok_and(|there| is_ours(&there)).then_some(folder)
}

/// Whether nobody else can write there.
pub fn is_ours(there: &Metadata) -> bool {
    there.uid() == geteuid().as_raw() && there.mode() & 0o022 == 0 && !there.is_symlink()
}

/// A file of a short name for a long key.
pub fn file_for(folder: &Path, key: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    folder.join(format!("{:016x}.json", hasher.finish()))
}
