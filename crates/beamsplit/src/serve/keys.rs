//! Who may look at a vGPU's console and who may type there: a token each, of its own, where the manager's page has tokens.
//!
//! They are made when its device is started, and lie in its folder for as long as it runs. They are not the page's own: a device
//! that somebody took over must not learn what opens the others.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use manager::Uuid;
use viewer::Right;

/// The file's name in the folder of a device.
pub const FILE: &str = "tokens.toml";
/// How many letters a token has, all of them hexadecimal digits.
const LETTERS: usize = 32;

/// The tokens of one console.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    control: String,
    look: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// New ones, which nobody can guess.
    pub fn new() -> Self {
        let token = || Uuid::new_v4().simple().to_string();
        Keys { control: token(), look: token() }
    }

    /// The token of one who has this right.
    pub fn of(&self, right: Right) -> &str {
        match right {
            Right::Control => &self.control,
            Right::Look => &self.look,
        }
    }

    /// Writes them into the folder of a device, for nobody but us. There must be none.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(FILE))?;
        writeln!(file, "control = [\"{}\"]\nlook = [\"{}\"]", self.control, self.look)
    }

    /// Those that a manager before this one wrote. The device's user may have put something else there since: only what can be a
    /// token is believed, and where nothing is, nobody is told one.
    pub fn read(folder: &Path) -> Option<Self> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(folder.join(FILE)).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text).ok()?;
        let text: toml::Table = text.parse().ok()?;
        let token = |name: &str| {
            let token = text.get(name)?.as_array()?.first()?.as_str()?;
            (token.len() == LETTERS && token.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| token.to_owned())
        };
        Some(Keys { control: token("control")?, look: token("look")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_device_takes_them_and_the_next_manager_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new();
        keys.write(folder.path()).unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let tokens = viewer::Tokens::read(&path).unwrap();
        for right in [Right::Look, Right::Control] {
            assert_eq!(tokens.right_of(keys.of(right).as_bytes()), Some(right));
        }
        assert_eq!(Keys::read(folder.path()), Some(keys.clone()));
        assert_ne!(Keys::new(), keys);
        assert_eq!(format!("{keys:?}"), "Keys");
    }

    #[test]
    fn what_cannot_be_a_token_is_told_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let good = "0123456789abcdef0123456789abcdef";
        for text in [
            String::new(),
            format!("control = ['{good}']"),
            format!("control = ['{good}']\nlook = ['{}']", &good[1..]),
            format!("control = ['{good}']\nlook = ['{}\"']", &good[1..]),
            format!("control = '{good}'\nlook = ['{good}']"),
        ] {
            fs::write(&path, &text).unwrap();
            assert_eq!(Keys::read(folder.path()), None, "{text}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(Keys::read(folder.path()), None);
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, format!("control = ['{good}']\nlook = ['{good}']")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(Keys::read(folder.path()), None);
    }
}
