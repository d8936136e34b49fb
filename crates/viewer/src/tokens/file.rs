//! The file with the tokens, which is read again when it changes.
//!
//! It is opened once, before the process gives up all files, and read again through the same descriptor when somebody wrote to
//! it. A file that took its place cannot be opened any more: then the viewer ends, and whoever starts viewers starts another one.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, inotify};

use super::{Secret, Tokens};
use crate::floor::Right;

/// Bytes of the file. Stops a file that is something else.
const MAX_FILE: u64 = 64 << 10;

/// Letters of a token. Fewer can be guessed, more do not fit into a page's address.
const LETTERS: std::ops::RangeInclusive<usize> = 16..=256;

/// Why the tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("Cannot read the tokens in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a file of a few lines.
    #[error("{0} is no file with tokens: it must be an ordinary file of at most {max} bytes", max = MAX_FILE)]
    Kind(PathBuf),
    /// Others could read or change them.
    #[error("Others than its owner can read or change {0}: chmod 600 helps")]
    Exposed(PathBuf),
    /// Not what such a file has in it.
    #[error(
        "{path}, line {line}: use control = [\"...\"] and look = [\"...\"], each token once, of 16 to 256 letters, digits, - _ . ~"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// Where; the text is not repeated.
        line: usize,
    },
    /// Somebody put another one in its place.
    #[error("{0} was replaced by another file: the viewer begins anew with it")]
    Replaced(PathBuf),
}

/// A file with tokens, and the watch over it.
#[derive(Debug)]
pub struct TokensFile {
    path: PathBuf,
    file: File,
    watch: OwnedFd,
    tokens: Option<Tokens>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Content {
    control: Vec<toml::Spanned<Secret>>,
    look: Vec<toml::Spanned<Secret>>,
}

impl TokensFile {
    /// Opens and reads it.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let failed = |errno: rustix::io::Errno| TokensError::Read { path: path.to_owned(), source: errno.into() };
        let watch = watch(path).map_err(failed)?;
        let mut file = Self { path: path.to_owned(), file: open(path)?, watch, tokens: None };
        file.tokens = Some(file.read()?);
        Ok(file)
    }

    /// The tokens that were read when it was opened.
    pub(crate) fn first(&mut self) -> Tokens {
        self.tokens.take().unwrap_or_default()
    }

    /// What is readable when something happened to it.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        self.watch.try_clone()
    }

    /// What counts now. False: nothing happened to it since the last call.
    pub(crate) fn has_changed(&mut self) -> bool {
        let name = self.path.file_name();
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut space);
        let mut changed = false;
        while let Ok(event) = events.next() {
            // What has no name happened to the file itself, or is all that was too much.
            let named = event.file_name().map(|name| name.to_bytes());
            changed |= named.is_none_or(|named| name.is_some_and(|name| name.as_encoded_bytes() == named));
        }
        changed
    }

    /// Reads it again.
    pub(crate) fn read(&self) -> Result<Tokens, TokensError> {
        let failed = |source| TokensError::Read { path: self.path.clone(), source };
        let named = std::fs::metadata(&self.path).map_err(failed)?;
        let data = self.file.metadata().map_err(failed)?;
        if (named.dev(), named.ino()) != (data.dev(), data.ino()) {
            return Err(TokensError::Replaced(self.path.clone()));
        }
        read(&self.path, &self.file)
    }
}

impl Tokens {
    /// Reads a file of them once: for who can open it again whenever somebody asks.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        read(path, &open(path)?)
    }
}

fn open(path: &Path) -> Result<File, TokensError> {
    // A pipe is refused below; to open it must not wait for somebody who writes.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(errno) => Err(TokensError::Read { path: path.to_owned(), source: errno.into() }),
    }
}

fn read(path: &Path, file: &File) -> Result<Tokens, TokensError> {
    let failed = |source| TokensError::Read { path: path.to_owned(), source };
    let wrong = |at: usize, text: &[u8]| {
        let line = 1 + text.iter().take(at).filter(|byte| **byte == b'\n').count();
        TokensError::Content { path: path.to_owned(), line }
    };
    let data = file.metadata().map_err(failed)?;
    check(path, &data)?;
    let mut text = vec![0; data.len() as usize];
    file.read_exact_at(&mut text, 0).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|error| wrong(error.utf8_error().valid_up_to(), error.as_bytes()))?;
    // What the parser says repeats what it read, so only the place is told.
    let content: Content =
        toml::from_str(&text).map_err(|error| wrong(error.span().map_or(0, |span| span.start), text.as_bytes()))?;
    let lists = [(content.control, Right::Control), (content.look, Right::Look)];
    let all = lists.into_iter().flat_map(|(list, right)| list.into_iter().map(move |token| (token, right)));
    let mut tokens: Vec<(Secret, Right)> = Vec::new();
    for (token, right) in all {
        let start = token.span().start;
        let token = token.into_inner();
        if !token.is_sane() || tokens.iter().any(|(known, _)| *known == token) {
            return Err(wrong(start, text.as_bytes()));
        }
        tokens.push((token, right));
    }
    Ok(Tokens(tokens))
}

fn check(path: &Path, data: &Metadata) -> Result<(), TokensError> {
    if !data.is_file() || data.len() > MAX_FILE {
        return Err(TokensError::Kind(path.to_owned()));
    }
    if data.mode() & 0o077 != 0 {
        return Err(TokensError::Exposed(path.to_owned()));
    }
    Ok(())
}

impl AsFd for TokensFile {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Secret {
    /// Letters that a page's address can carry.
    fn is_sane(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        LETTERS.contains(&self.0.len()) && self.0.bytes().all(plain)
    }
}

/// Watches the file, and its folder for another file of its name.
fn watch(path: &Path) -> rustix::io::Result<OwnedFd> {
    use inotify::WatchFlags as Flags;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, path, Flags::CLOSE_WRITE | Flags::ATTRIB | Flags::DELETE_SELF | Flags::MOVE_SELF)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    inotify::add_watch(&watch, folder, Flags::CREATE | Flags::MOVED_TO | Flags::MOVED_FROM | Flags::DELETE)?;
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn open(text: &[u8], mode: u32) -> Result<Vec<(Secret, Right)>, TokensError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        TokensFile::open(&path).map(|mut file| file.first().0)
    }

    #[test]
    fn tokens_of_both_kinds() {
        let tokens =
            open(b"# who may\ncontrol = [\"0123456789abcdef\"]\nlook = [\"ABCDEF.-_~abcdef\"]\n", 0o600).unwrap();
        let of = |text: &str, right| (Secret::new(text.to_owned()), right);
        assert_eq!(tokens, [of("0123456789abcdef", Right::Control), of("ABCDEF.-_~abcdef", Right::Look)]);
        assert_eq!(open(b"", 0o400).unwrap(), [], "nobody gets in");
    }

    #[test]
    fn what_is_no_file_of_tokens_is_refused_by_its_line_and_never_repeated() {
        for (text, line) in [
            ("control = [\"hunter2hunter2\"]", 1),
            ("\nlook = [\"hunter2 hunter2 hunter2\"]", 2),
            ("control = [\"hunter2hunter2hunter2\"]\n\n\nlook = [\"hunter2hunter2hunter2\"]", 4),
            ("control = [\"hunter2hunter2hunter2\",\n\"hunter2hunter2hunter2\"]", 2),
            ("control = \"hunter2hunter2hunter2\"", 1),
            ("control = [2,\n \"hunter2hunter2hunter2\"]", 1),
            ("hunter2hunter2hunter2", 1),
            ("\n\nhunter2 = []", 3),
            ("control = [\"hunter2hunter2hunter2\"", 1),
        ] {
            let error = open(text.as_bytes(), 0o600).unwrap_err();
            assert!(matches!(error, TokensError::Content { line: at, .. } if at == line), "{text:?}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(matches!(open(b"look = [\"\xff\"]", 0o600), Err(TokensError::Content { line: 1, .. })));
        let long = format!("look = [\"{}\"]", "a".repeat(257));
        assert!(matches!(open(long.as_bytes(), 0o600), Err(TokensError::Content { line: 1, .. })));
        assert!(matches!(open(&vec![b'\n'; MAX_FILE as usize + 1], 0o600), Err(TokensError::Kind(_))));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_the_way_out_is_named() {
        for mode in [0o604, 0o640, 0o620, 0o602, 0o644, 0o777] {
            let error = open(b"", mode).unwrap_err();
            assert!(matches!(error, TokensError::Exposed(_)) && error.to_string().contains("chmod 600"), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(TokensFile::open(&folder.path().join("absent")), Err(TokensError::Read { .. })));
        assert!(matches!(TokensFile::open(folder.path()), Err(TokensError::Kind(_))));
        assert!(matches!(TokensFile::open(Path::new("/dev/null")), Err(TokensError::Kind(_))));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(matches!(TokensFile::open(&pipe), Err(TokensError::Kind(_))), "nobody writes to it");
    }

    #[test]
    fn only_what_happens_to_the_file_is_news() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let mut file = TokensFile::open(&path).unwrap();
        assert!(!file.has_changed());
        fs::write(folder.path().join("other"), "").unwrap();
        assert!(!file.has_changed());
        fs::write(&path, "look = []").unwrap();
        assert!(file.has_changed() && !file.has_changed());
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert!(file.has_changed());
        assert!(matches!(file.read(), Err(TokensError::Replaced(_))));
    }
}
