//! What devices say of themselves: a file in the folder of each, with a bound, which others read in parts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// The file's name in the device's folder.
pub const FILE: &str = "log";
/// What a log may have before its beginning is thrown away.
const LIMIT: u64 = 1 << 20;
/// What is kept of it then.
const KEPT: u64 = 256 << 10;

/// The log of the device in this folder, to be written on at its end.
pub fn open(folder: &Path) -> Result<File> {
    let path = folder.join(FILE);
    bound(folder);
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    options.open(&path).with_context(|| format!("Cannot write {}", path.display()))
}

/// Throws the beginning of a log away that has become too long. A line that is written just then may be lost.
pub fn bound(folder: &Path) {
    let path = folder.join(FILE);
    if path.symlink_metadata().map_or(0, |there| there.len()) <= LIMIT {
        return;
    }
    let kept = part(&path, None, KEPT).unwrap_or_default().0;
    let whole = kept.split_once('\n').map_or("", |(_, rest)| rest);
    let opened = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    // Who writes into it appends, and so goes on at its new end.
    let done = opened.and_then(|mut file| {
        file.set_len(0)?;
        file.write_all(b"(what was before is gone)\n")?;
        file.write_all(whole.as_bytes())
    });
    if let Err(error) = done {
        tracing::warn!("Cannot shorten {}: {error}", path.display());
    }
}

/// A part of a log: what follows byte `from`, else its last `most` bytes, at most so many; and where the next part begins.
///
/// Who writes the log must not choose what is read: a link or a pipe in its place is not.
pub fn part(path: &Path, from: Option<u64>, most: u64) -> io::Result<(String, u64)> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let there = file.metadata()?;
    if !there.is_file() {
        return Err(io::Error::other("It is not a file"));
    }
    let end = there.len();
    // One that became shorter was begun anew.
    let from = from.filter(|from| *from <= end);
    let start = from.unwrap_or_else(|| end.saturating_sub(most));
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok((String::from_utf8_lossy(&text).into_owned(), start + text.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_log_is_read_in_parts_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(part(&path, None, 4).unwrap(), ("two\n".to_owned(), 8));
        assert_eq!(part(&path, Some(8), 100).unwrap(), (String::new(), 8));
        assert_eq!(part(&path, Some(4), 2).unwrap(), ("tw".to_owned(), 6));
        assert_eq!(part(&path, Some(99), 100).unwrap().0, "one\ntwo\n");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(part(&link, None, 100).is_err() && part(folder.path(), None, 100).is_err());
    }
}
