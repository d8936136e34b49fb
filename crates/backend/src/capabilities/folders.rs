//! Where we keep what can be made again.

use std::cmp::Reverse;
use std::fs::{DirBuilder, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf, absolute};
use std::time::SystemTime;

use rustix::process::geteuid;

use crate::child::Spec;
use crate::config::Endpoint;

/// What the folder of a process is called, before its number.
const PROCESS: &str = "process-";
/// Guests whose shaders are kept. Sockets with ever new paths would fill the disk.
const GUESTS: usize = 32;

/// The folder of this name among our own, made where it was missing, and ours alone.
pub fn own(name: &str) -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")))?;
    make(caches.join("beamsplit").join(name))
}

/// The folder of compiled shaders of one guest, which is known by its socket and its name. Never another's: what a guest makes
/// a driver write there, it reads. One whose socket was passed has one for its life.
pub fn shaders(spec: &Spec, endpoint: &Endpoint, name: &str) -> Option<PathBuf> {
    let all = own("shaders")?;
    sweep(&all);
    let own = match endpoint {
        Endpoint::Listen(socket) => hash(&(&spec.library, &spec.node, absolute(socket).ok()?, name)),
        Endpoint::Inherited(_) => format!("{PROCESS}{}", std::process::id()),
    };
    let folder = make(all.join(own))?;
    // It was used: others go first.
    let _ = File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
    Some(folder)
}

/// Removes the folders of processes that have gone, and of those guests that have not come for the longest time. Who draws
/// with one of those still, compiles again.
fn sweep(all: &Path) {
    let left_behind = |path: &Path| {
        let pid = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PROCESS)?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    let entries = all.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let (gone, mut rest): (Vec<_>, Vec<_>) = entries.partition(|path| left_behind(path));
    // Each is asked once: other devices start meanwhile, and an order that changes while it is made is none.
    rest.sort_by_cached_key(|path| {
        Reverse(path.metadata().and_then(|there| there.modified()).unwrap_or(SystemTime::UNIX_EPOCH))
    });
    // One more comes.
    for folder in gone.iter().chain(rest.iter().skip(GUESTS - 1)) {
        // Another start may do the same just now.
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn make(folder: PathBuf) -> Option<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    folder.symlink_metadata().is_ok_and(|there| is_ours(&there)).then_some(folder)
}

/// Whether nobody else can write there.
pub fn is_ours(there: &Metadata) -> bool {
    there.uid() == geteuid().as_raw() && there.mode() & 0o022 == 0 && !there.is_symlink()
}

/// A short name for a long one.
pub fn hash(what: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn only_folders_of_processes_that_have_gone_are_removed() {
        let all = tempfile::tempdir().unwrap();
        // No process has this number: the kernel's largest is 2^22.
        let [gone, own] = [u32::MAX - 1, std::process::id()].map(|pid| all.path().join(format!("{PROCESS}{pid}")));
        let kept = [own, all.path().join("0123456789abcdef"), all.path().join("process-x")];
        for folder in kept.iter().chain([&gone]) {
            std::fs::create_dir_all(folder.join("0a")).unwrap();
        }
        sweep(all.path());
        assert!(!gone.exists() && kept.iter().all(|folder| folder.exists()));
    }

    #[test]
    fn folders_that_others_use_meanwhile_are_in_some_order() {
        let all = tempfile::tempdir().unwrap();
        let folders: Vec<_> = (0..GUESTS - 1).map(|number| all.path().join(format!("{number:016x}"))).collect();
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (turn, folder) in folders.iter().cycle().enumerate().take_while(|_| !done.load(Ordering::Relaxed)) {
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(turn as u64 * 7919 % 10007);
                    File::open(folder).unwrap().set_modified(time).unwrap();
                }
            });
            let swept = std::panic::catch_unwind(|| (0..300).for_each(|_| sweep(all.path())));
            done.store(true, Ordering::Relaxed);
            swept.unwrap();
        });
        assert!(folders.iter().all(|folder| folder.exists()));
    }

    #[test]
    fn of_ever_new_guests_the_oldest_go() {
        let all = tempfile::tempdir().unwrap();
        let folders: Vec<_> = (0..2 * GUESTS).map(|number| all.path().join(format!("{number:016x}"))).collect();
        for (age, folder) in folders.iter().enumerate() {
            std::fs::create_dir(folder).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age as u64);
            File::open(folder).unwrap().set_modified(time).unwrap();
        }
        sweep(all.path());
        let kept: Vec<_> = folders.iter().filter(|folder| folder.exists()).collect();
        assert_eq!(kept, folders.iter().take(GUESTS - 1).collect::<Vec<_>>());
    }
}
