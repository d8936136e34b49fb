//! What hostile processes made goes away, however much and however deep it is.
//!
//! The standard library goes down as deep as folders lie in each other, with an open file and a part of the stack for each: one
//! who makes enough of them in a folder that is ours to remove would end us.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Removes a folder with all that is in it, or what has its name. Links are not followed.
pub fn remove(path: &Path) -> io::Result<()> {
    match open(CWD, path) {
        Ok(folder) => {
            empty(&folder)?;
            fs::remove_dir(path)
        }
        Err(Errno::NOTDIR | Errno::LOOP) => fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}

/// Removes it in a while, and nobody waits for that.
pub fn begin(path: PathBuf) {
    let removing = std::thread::Builder::new().name("ruin".to_owned()).spawn(move || {
        if let Err(error) = remove(&path) {
            tracing::warn!("Cannot remove {}: {error}", path.display());
        }
    });
    if let Err(error) = removing {
        tracing::warn!("What is to be removed stays until the manager is started anew: {error}");
    }
}

/// Removes all that is in a folder. What is in a folder in it is brought up beside that one first, so that nothing is ever deep.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut number = 0;
    each(top, |name| {
        if unlinked(top, name)? {
            return Ok(());
        }
        let folder = open(top, name)?;
        each(&folder, |inner| match unlinked(&folder, inner)? {
            true => Ok(()),
            false => bring_up(&folder, inner, top, &mut number),
        })?;
        // Not before it is empty: the kernel would look through all that is below it, each time.
        Ok(unlinkat(top, name, AtFlags::REMOVEDIR)?)
    })
}

/// Does it with each name in a folder, until there is none.
fn each(folder: &OwnedFd, mut done: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    loop {
        let names = names(folder)?;
        if names.is_empty() {
            return Ok(());
        }
        names.iter().try_for_each(|name| done(name))?;
    }
}

/// How many names are held at once. Stops one who made millions of them from taking our memory.
const MOST_NAMES: usize = 4096;

fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == MOST_NAMES {
            break;
        }
    }
    Ok(names)
}

/// Whether it is gone; if not, it is a folder.
fn unlinked(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn bring_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, number: &mut u64) -> io::Result<()> {
    loop {
        *number += 1;
        match renameat(from, name, top, format!("gone-{number}")) {
            // One that somebody called so.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            done => return Ok(done?),
        }
    }
}

fn open<Name: rustix::path::Arg>(at: impl AsFd, name: Name) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;

    /// In memory, where much takes a moment; else wherever there is room.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    /// As deep as it is asked for, which no path could say.
    fn dig(folder: &Path, depth: usize) {
        let mut at = open(CWD, folder).unwrap();
        for _ in 0..depth {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open(&at, "d").unwrap();
        }
    }

    #[test]
    fn folders_in_folders_end_nobody_however_deep_they_are() {
        let folder = folder();
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        dig(&own, 20_000);
        // Of the stack that a thread has. It aborts the process where it is used up.
        std::thread::spawn(move || remove(&own)).join().unwrap().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn all_goes_whatever_it_is_called_and_nothing_that_a_link_leads_to() {
        let folder = folder();
        let (own, other) = (folder.path().join("own"), folder.path().join("other"));
        for name in ["own/a/b/c", "own/gone-1/x/y", "own/gone-2", "own/a/gone-3/gone-4", "other"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["own/file", "own/gone-3", "own/a/b/gone-1", "own/gone-1/x/y/z", "other/precious"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        for number in 0..=MOST_NAMES {
            fs::write(own.join(format!("{number}")), "").unwrap();
        }
        std::os::unix::fs::symlink(&other, own.join("a/link")).unwrap();
        remove(&own).unwrap();
        assert!(!own.exists() && other.join("precious").exists());
        // A link is a name like any other.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        remove(&link).unwrap();
        assert!(link.symlink_metadata().is_err() && other.join("precious").exists());
        remove(&other.join("precious")).unwrap();
        assert_eq!(remove(&own).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
