//! Files that are there as a whole or not at all, and the folder of definitions.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use manager::vgpu::parse_uuid;
use manager::{Definition, Uuid};

use super::fuse;

/// The largest file of ours that is read: real ones have a hundredth of it.
pub const LARGEST: u64 = 1 << 20;
/// What the name of a definition ends with.
const SUFFIX: &str = ".toml";
/// What the name of a file ends with that is not whole yet.
const NEW: &str = ".new";

/// What a written file must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// Us.
    UntilBoot,
    /// A loss of power.
    Always,
}

/// Puts a file in the place of another one, or of none. When that fails the old one is as it was.
pub fn replace(path: &Path, bytes: &[u8], lasting: Lasting) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    replace_by(Path::new(&new), path, bytes, lasting)
}

/// The same by this name for what is not whole yet: where others may write beside `path`, one in a folder in which they may not.
pub fn replace_by(new: &Path, path: &Path, bytes: &[u8], lasting: Lasting) -> io::Result<()> {
    let written = write(new, bytes, lasting).and_then(|()| {
        fuse::moment();
        fs::rename(new, path)
    });
    if written.is_err() {
        // What was begun takes no room on a disk that is full.
        let _ = fs::remove_file(new);
        return written;
    }
    match lasting {
        Lasting::UntilBoot => Ok(()),
        Lasting::Always => sync_folder(path),
    }
}

fn write(path: &Path, bytes: &[u8], lasting: Lasting) -> io::Result<()> {
    let mut file = create(path)?;
    let (begin, end) = bytes.split_at(bytes.len() / 2);
    file.write_all(begin)?;
    fuse::moment();
    file.write_all(end)?;
    if lasting == Lasting::Always { file.sync_all() } else { Ok(()) }
}

/// Makes a file that was not there. A device's user can put things into its folder, which would have root write to
/// whatever a link there names: nothing that has this name is opened.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // One that was left half done by a manager that was killed, or what somebody put there.
            fs::remove_file(path)?;
            options.open(path)
        }
        opened => opened,
    }
}

/// A name that was given or taken away lasts when its folder does.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Reads a text file of ours; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    match file.take(LARGEST + 1).read_to_string(&mut text)? as u64 > LARGEST {
        true => Err(io::Error::other(format!("It is larger than {} KiB", LARGEST >> 10))),
        false => Ok(Some(text)),
    }
}

/// Makes a folder, and those above it, where there is none.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// The folder of definitions: a file for each vGPU.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

/// A definition as it was found: the file's vGPU, and what it says or why that is not known.
pub type Found = (Uuid, Result<Definition, String>);

impl Store {
    /// The one in this config folder, which is made where there is none.
    pub fn open(config: &Path) -> io::Result<Self> {
        let folder = config.join("vgpus");
        make_folder(&folder, 0o755)?;
        // What a manager had begun that was killed: nobody was told that it is there.
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.path().as_os_str().as_encoded_bytes().ends_with(b".toml.new") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Store { folder })
    }

    fn path(&self, uuid: Uuid) -> PathBuf {
        self.folder.join(format!("{uuid}{SUFFIX}"))
    }

    /// Everything that is defined. Files that are no vGPU's are told by `ignored`.
    pub fn load(&self, mut ignored: impl FnMut(&str)) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.ends_with(NEW)) else { continue };
            match name.strip_suffix(SUFFIX).map(parse_uuid) {
                Some(Ok(uuid)) if name == format!("{uuid}{SUFFIX}") => found.push((uuid, self.read(uuid))),
                _ => ignored(name),
            }
        }
        found.sort_by_key(|(uuid, _)| *uuid);
        Ok(found)
    }

    fn read(&self, uuid: Uuid) -> Result<Definition, String> {
        let path = self.path(uuid);
        let cannot = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = read(&path).map_err(|error| cannot(&error))?.ok_or_else(|| cannot(&"It is gone"))?;
        let definition = Definition::parse(&text).map_err(|error| cannot(&error))?;
        match definition.uuid == uuid {
            true => Ok(definition),
            false => {
                Err(cannot(&format!("It speaks of {}: the name of the file and its uuid must be one", definition.uuid)))
            }
        }
    }

    /// Writes a definition down. On an error the file is as it was.
    pub fn save(&self, definition: &Definition) -> io::Result<()> {
        replace(&self.path(definition.uuid), definition.print().as_bytes(), Lasting::Always)
    }

    /// Removes it.
    pub fn forget(&self, uuid: Uuid) -> io::Result<()> {
        let path = self.path(uuid);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_folder(&path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn what_was_saved_is_loaded_and_what_is_wrong_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let good = Definition { name: Some("desk".to_owned()), ..Definition::new(uuid(1), "desktop-2d-128m") };
        store.save(&good).unwrap();
        let vgpus = folder.path().join("vgpus");
        let bad = vgpus.join(format!("{}.toml", uuid(2)));
        fs::write(&bad, "uuid = 3\n").unwrap();
        fs::copy(vgpus.join(format!("{}.toml", uuid(1))), vgpus.join(format!("{}.toml", uuid(3)))).unwrap();
        fs::write(vgpus.join("notes.txt"), "").unwrap();
        fs::write(vgpus.join(format!("{}.toml.new", uuid(4))), "half").unwrap();
        let mut ignored = Vec::new();
        let found = store.load(|name| ignored.push(name.to_owned())).unwrap();
        assert_eq!(ignored, ["notes.txt"]);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], (uuid(1), Ok(good)));
        assert!(found[1].1.as_ref().unwrap_err().contains("line 1"), "{:?}", found[1]);
        assert!(found[2].1.as_ref().unwrap_err().contains("speaks of"), "{:?}", found[2]);
        assert_eq!(fs::read_to_string(bad).unwrap(), "uuid = 3\n");
    }

    #[test]
    fn a_link_in_the_place_of_what_is_written_first_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, new, victim] = ["record.json", "record.json.new", "victim"].map(|name| folder.path().join(name));
        fs::write(&victim, "precious").unwrap();
        let links: [fn(&Path, &Path) -> io::Result<()>; 2] =
            [|from, to| std::os::unix::fs::symlink(from, to), |from, to| fs::hard_link(from, to)];
        for link in links {
            link(&victim, &new).unwrap();
            replace(&path, b"new", Lasting::UntilBoot).unwrap();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert!(path.symlink_metadata().unwrap().is_file());
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let definition = Definition::new(uuid(1), "render-1g");
        store.save(&definition).unwrap();
        // A folder in the place of what would be written first.
        fs::create_dir(store.folder.join(format!("{}.toml.new", uuid(1)))).unwrap();
        let other = Definition { kind: "other".to_owned(), ..definition.clone() };
        assert!(store.save(&other).is_err());
        assert_eq!(store.read(uuid(1)), Ok(definition));
        store.forget(uuid(1)).unwrap();
        store.forget(uuid(1)).unwrap();
        assert!(store.load(|_| ()).unwrap().is_empty());
    }
}
