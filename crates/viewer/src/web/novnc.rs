//! noVNC, which is not part of this project: taken in at build time from where BEAMSPLIT_NOVNC_DIR says, else found on the host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

include!(concat!(env!("OUT_DIR"), "/novnc.rs"));

/// The folders that a browser needs, and the file that shows that it is noVNC.
const FOLDERS: [&str; 2] = ["core", "vendor"];
const MAIN: &str = "core/rfb.js";

/// Files and bytes of them; noVNC has about 60 and one MB. Stops a folder that is something else.
const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 16 << 20;

/// What the page says when there is none.
const MISSING: &str = "noVNC is not installed on the host: install the package novnc (or set BEAMSPLIT_NOVNC_DIR to its folder) \
                       and start the viewer again. A VNC client can connect all the same.";

/// noVNC's files, by their path below its folder. A request finds one by its exact name or not at all.
pub(crate) struct NoVnc(BTreeMap<Cow<'static, str>, Cow<'static, [u8]>>);

impl NoVnc {
    /// What was built in, else the first folder that has it.
    pub(crate) fn find() -> Self {
        if !EMBEDDED.is_empty() {
            return Self(EMBEDDED.iter().map(|(path, bytes)| (Cow::from(*path), Cow::from(*bytes))).collect());
        }
        Self::find_in(folders())
    }

    fn find_in(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        match folders.into_iter().find(|folder| folder.join(MAIN).is_file()) {
            Some(folder) => {
                info!("noVNC from {}", folder.display());
                Self::load(&folder)
            }
            None => {
                warn!("{MISSING}");
                Self(BTreeMap::new())
            }
        }
    }

    fn load(folder: &Path) -> Self {
        let (mut files, mut bytes) = (BTreeMap::new(), 0);
        let mut open: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
        while let Some(path) = open.pop() {
            let full = folder.join(&path);
            if full.is_dir() {
                let entries = fs::read_dir(full).into_iter().flatten().flatten();
                open.extend(entries.map(|entry| path.join(entry.file_name())).take(MAX_FILES));
                continue;
            }
            bytes += full.metadata().map_or(0, |data| data.len());
            if files.len() >= MAX_FILES || bytes > MAX_BYTES {
                break;
            }
            let is_script = path.extension().is_some_and(|extension| extension == "js");
            if let (true, Some(name), Ok(content)) = (is_script, path.to_str(), fs::read(&full)) {
                files.insert(name.to_owned().into(), content.into());
            }
        }
        Self(files)
    }

    /// A file of it.
    pub(crate) fn file(&self, path: &str) -> Option<Cow<'static, [u8]>> {
        self.0.get(path).cloned()
    }

    /// What to tell a person when it is missing.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        (!self.0.contains_key(MAIN)).then_some(MISSING)
    }
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let said = std::env::var_os("BEAMSPLIT_NOVNC_DIR").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("../share/novnc")));
    [said, Some("/usr/share/novnc".into()), beside].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scripts_of_its_folders_are_served_and_by_exact_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("core/rfb.js", "rfb");
        write("core/util/events.js", "events");
        write("vendor/pako/lib/inflate.js", "inflate");
        write("vendor/pako/README.md", "text");
        write("secret.js", "secret");
        let novnc = NoVnc::find_in([PathBuf::from("/nowhere"), folder.path().to_owned()]);
        assert_eq!(novnc.missing(), None);
        assert_eq!(novnc.file("core/util/events.js").as_deref(), Some(&b"events"[..]));
        assert!(novnc.file("vendor/pako/lib/inflate.js").is_some());
        for path in ["secret.js", "core/../secret.js", "vendor/pako/README.md", "", "core", "/core/rfb.js"] {
            assert_eq!(novnc.file(path), None, "{path}");
        }
    }

    #[test]
    fn without_it_the_page_can_say_what_is_missing() {
        let novnc = NoVnc::find_in([PathBuf::from("/nowhere")]);
        assert!(novnc.missing().is_some_and(|missing| missing.contains("package novnc")));
    }
}
