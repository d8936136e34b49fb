//! What was found, kept on disk: looking takes a second, and the same host finds the same.
//!
//! An entry is true as long as its key is the same (our version, the words, the environment, the kernel) and no file that took
//! part was changed. What did not work is looked for again each time: somebody may just have mended it. A wrong entry can
//! only make a guest's context fail.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::CapsetId;
use renderer::library::Kind;
use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::folders;
use crate::child::{self, Finding, Spec};

/// The largest entry: capability sets have two KiB.
const LARGEST: u64 = 256 << 10;
/// Changes whenever entries do.
const FORMAT: u32 = 1;
/// Folders and files whose change may change what is found, besides those that took part.
const WATCHED: &[&str] = &[
    "/usr/share/glvnd/egl_vendor.d",
    "/etc/glvnd/egl_vendor.d",
    "/usr/share/vulkan/icd.d",
    "/etc/vulkan/icd.d",
    "/etc/ld.so.cache",
    "/dev/udmabuf",
];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    key: String,
    stamps: Vec<Stamp>,
    finding: Finding,
}

/// How a file is told from a changed one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    /// Seconds, nanoseconds, bytes, inode; of a device its number in the place of the bytes, and nothing else: each boot makes its file
    /// anew, and udev touches it. Nothing if it is not there.
    state: Option<(i64, i64, u64, u64)>,
    usable: bool,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let there = path.metadata().ok();
        let state = there.map(|there| match there.file_type().is_char_device() {
            true => (0, 0, there.rdev(), 0),
            false => (there.mtime(), there.mtime_nsec(), there.size(), there.ino()),
        });
        Stamp { usable: access(path, Access::READ_OK).is_ok(), path: path.to_owned(), state }
    }
}

/// What is known of this kind of 3D, else what is found now.
pub fn recall_or_ask(kind: Kind, spec: &Spec) -> Finding {
    let Some(folder) = folders::own("capsets") else { return child::ask(kind, spec) };
    let key = key(kind, spec);
    // One for each library and node: what was true before makes room.
    let file = folder.join(folders::hash(&(kind, &spec.library, &spec.node))).with_extension("json");
    if let Some(finding) = recall(&file, &key) {
        return finding;
    }
    let finding = child::ask(kind, spec);
    if !finding.probe.capsets.is_empty() {
        // Without, the next start looks again.
        let _ = keep(&file, key, finding.clone());
    }
    finding
}

fn key(kind: Kind, spec: &Spec) -> String {
    let mut environment = child::environment(spec, std::env::vars_os());
    environment.sort();
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.to_string_lossy(), value.to_string_lossy())).collect();
    let node = spec.node.as_deref().and_then(|path| path.metadata().ok()).map(|there| there.rdev());
    let kernel = rustix::system::uname();
    json!({
        "format": FORMAT,
        "beamsplit": env!("CARGO_PKG_VERSION"),
        "kind": kind,
        "spec": spec,
        "node": node,
        "kernel": kernel.release().to_string_lossy(),
        "user": rustix::process::geteuid().as_raw(),
        "environment": environment,
    })
    .to_string()
}

fn recall(file: &Path, key: &str) -> Option<Finding> {
    let opened = File::open(file).ok().filter(|file| file.metadata().is_ok_and(|there| folders::is_ours(&there)))?;
    let mut text = String::new();
    opened.take(LARGEST).read_to_string(&mut text).ok()?;
    let entry: Entry = serde_json::from_str(&text).ok()?;
    let same = entry.key == key && entry.stamps.iter().all(|stamp| *stamp == Stamp::of(&stamp.path));
    let finding = Some(entry.finding).filter(|_| same)?;
    // What no library of ours would have said.
    let named = |id: CapsetId| Kind::of(id) == Some(finding.probe.kind);
    let sane = finding.probe.capsets.iter().all(|capset| named(capset.id) && (1..=4096).contains(&capset.bytes.len()));
    sane.then_some(finding)
}

fn keep(file: &Path, key: String, finding: Finding) -> std::io::Result<()> {
    let watched = WATCHED.iter().map(PathBuf::from).chain(finding.files.iter().cloned());
    let stamps = watched.map(|path| Stamp::of(&path)).collect();
    let text = serde_json::to_vec(&Entry { key, stamps, finding })?;
    let new = file.with_extension(std::process::id().to_string());
    // Whoever starts us with a umask that lets a group write: what others can write is not believed.
    let mut options = File::options();
    // One that another of our number left behind may be writable still.
    let _ = std::fs::remove_file(&new);
    options.write(true).create_new(true).mode(0o600).open(&new)?.write_all(&text)?;
    std::fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use renderer::virgl::{Probe, ProbedCapset};

    fn finding(file: &Path) -> Finding {
        let capset = ProbedCapset { id: CapsetId::VIRGL2, version: 2, bytes: vec![1; 1384], rings: 1, maps: false };
        let probe = Probe {
            kind: Kind::Gl,
            version: Some("1.1".to_owned()),
            path: Some(file.to_owned()),
            lacks: vec![],
            capsets: vec![capset],
            drivers: vec!["llvmpipe".to_owned()],
            missing: vec![],
        };
        Finding { probe, server: None, files: [file.to_owned()].into() }
    }

    #[test]
    fn what_was_found_is_recalled_until_a_file_that_took_part_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, library) = (folder.path().join("entry.json"), folder.path().join("library.so"));
        std::fs::write(&library, "old").unwrap();
        keep(&file, "key".to_owned(), finding(&library)).unwrap();
        assert_eq!(recall(&file, "key"), Some(finding(&library)));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(recall(&file, "other key"), None);
        std::fs::write(&library, "newer").unwrap();
        assert_eq!(recall(&file, "key"), None);
        keep(&file, "key".to_owned(), finding(&library)).unwrap();
        std::fs::remove_file(&library).unwrap();
        assert_eq!(recall(&file, "key"), None);
    }

    #[test]
    fn a_device_is_the_same_after_a_boot_and_whenever_udev_touches_its_file() {
        let [null, zero] = ["/dev/null", "/dev/zero"].map(|path| Stamp::of(Path::new(path)).state.unwrap());
        let number = Path::new("/dev/null").metadata().unwrap().rdev();
        assert_eq!(null, (0, 0, number, 0));
        assert_ne!(null, zero);
    }

    #[test]
    fn an_entry_that_we_cannot_have_written_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (file, library) = (folder.path().join("entry.json"), folder.path().join("library.so"));
        for spoil in [
            |finding: &mut Finding| finding.probe.capsets[0].bytes.clear(),
            |finding: &mut Finding| finding.probe.capsets[0].bytes = vec![0; 4097],
            |finding: &mut Finding| finding.probe.capsets[0].id = CapsetId::VENUS,
        ] {
            let mut finding = finding(&library);
            spoil(&mut finding);
            keep(&file, "key".to_owned(), finding).unwrap();
            assert_eq!(recall(&file, "key"), None);
        }
        for text in ["", "{}", "[1", "\0"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(recall(&file, "key"), None);
        }
        keep(&file, "key".to_owned(), finding(&library)).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(recall(&file, "key"), None);
    }
}
