//! The folder of a device, and how one is started in it.
//!
//! ```text
//! R/<uuid>/  gpu.sock input.sock     for the VMM
//!            control.sock            for the manager
//!            arbiter.sock            for time slices
//!            device.toml record.json log
//! ```

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use host::processes::{Identity, Processes};
use manager::grant::{CONTROL_SOCKET, GPU_SOCKET, INPUT_SOCKET};
use manager::profile::Renderer;
use manager::value::Capset;
use manager::{Gpu, Grant, Uuid};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chown};
use rustix::process::geteuid;

use super::config::{Config, Users};
use super::keys::{self, Keys};
use super::store::{self, Lasting};
use super::{log, record, ruin};
use crate::launch::GO;

/// Where the manager and a device agree on time.
pub const ARBITER: &str = "arbiter.sock";
/// The variable of the environment that names the vGPU, for all processes that are started for one.
const MARK: &str = "BEAMSPLIT_VGPU";
/// What a device is told.
const OPTIONS: &str = "device.toml";
/// After so many times of the manager's own patience a device ends by itself what draws for it and does not get on.
const PATIENCES: u32 = 6;
/// What makes memory of the processor's one that can be given away.
const UDMABUF: &str = "/dev/udmabuf";
/// What the name begins with of what is to be removed from the folder of what devices keep.
const GONE: &str = "gone-";
/// The longest path that fits a Unix socket's address.
const MAX_SOCKET_PATH: usize = 107;

/// The folders of all devices.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The runtime folder.
    pub runtime: PathBuf,
    /// What devices keep for the next time, and do not miss when it is gone.
    pub cache: Option<PathBuf>,
    /// Whether consoles have tokens. Else every user of the host may look and type there.
    pub guarded: bool,
}

/// The word in the environment of all processes that are started for this vGPU.
pub fn mark(uuid: Uuid) -> String {
    format!("{MARK}={uuid}")
}

/// A process that waits for the word, see [`crate::launch`].
#[derive(Debug)]
pub struct Waiting(Child);

impl Waiting {
    /// Which process it is.
    pub fn identity(&self) -> Option<Identity> {
        Processes::default().identity(self.0.id().cast_signed())
    }

    /// Lets it go on.
    pub fn go(mut self) -> io::Result<()> {
        self.0.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(&[GO]))
    }
}

impl Devices {
    /// The folder of one.
    pub fn folder(&self, uuid: Uuid) -> PathBuf {
        self.runtime.join(uuid.to_string())
    }

    /// Those that have a folder of ours. What somebody else put there says nothing of a device.
    pub fn found(&self) -> io::Result<Vec<Uuid>> {
        let ours = |entry: fs::DirEntry| {
            let uuid = manager::vgpu::parse_uuid(entry.file_name().to_str()?).ok()?;
            // The same UUID in capitals is another folder.
            (entry.path() == self.folder(uuid) && is_ours(&entry.path())).then_some(uuid)
        };
        Ok(fs::read_dir(&self.runtime)?.flatten().filter_map(ours).collect())
    }

    /// Makes the folder where there is none, for nobody but us. One of somebody else's is refused.
    pub fn make(&self, uuid: Uuid) -> io::Result<PathBuf> {
        let folder = self.folder(uuid);
        store::make_folder(&folder, 0o700)?;
        match is_ours(&folder) {
            true => Ok(folder),
            false => Err(io::Error::new(ErrorKind::PermissionDenied, format!("{} is not ours", folder.display()))),
        }
    }

    /// Removes what a device listened on and what it was told; its log and record stay.
    pub fn sweep(&self, uuid: Uuid) {
        let folder = self.folder(uuid);
        // First, so that nothing comes while the rest goes.
        self.take_back(&folder);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name != log::FILE && name != record::FILE {
                // What is a folder was not made by us, and would be in the way.
                let _ = ruin::remove(&entry.path());
            }
        }
    }

    /// A folder that belongs to nobody's device is root's alone again: its user may be given to another one.
    fn take_back(&self, folder: &Path) {
        if geteuid().is_root() {
            let _ = chown(folder, Some(Uid::ROOT), Some(Gid::ROOT));
            let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
        }
    }

    /// Lets the group of VMMs connect to what a device listens on for them, once it does.
    pub fn share(&self, uuid: Uuid, group: Option<u32>) {
        let Some(group) = group.filter(|_| geteuid().is_root()) else { return };
        let user = self.user_of(uuid);
        for name in [GPU_SOCKET, INPUT_SOCKET] {
            let path = self.folder(uuid).join(name);
            // The device's user can put other things in the place of its sockets: what is given is what was looked at.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
            // Its own, and known by this name alone: another's could be linked to here.
            let is_its_socket = rustix::fs::fstat(&file).is_ok_and(|stat| {
                let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
                socket && stat.st_nlink == 1 && Some(stat.st_uid) == user
            });
            let given = || rustix::fs::chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH);
            if is_its_socket && let Err(error) = given() {
                tracing::warn!("Cannot give {} to the group of VMMs: {error}", path.display());
            }
        }
    }

    /// Removes all of it.
    pub fn remove(&self, uuid: Uuid) {
        let folder = self.folder(uuid);
        let _ = fs::remove_file(record::unfinished(&folder));
        if let Err(error) = ruin::remove(&folder)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!("Cannot remove {}: {error}", folder.display());
        }
    }

    /// Removes what it kept for the next time.
    pub fn forget(&self, uuid: Uuid) {
        if let Some(cache) = &self.cache {
            // Most keep nothing.
            let _ = put_away(cache, &cache.join(uuid.to_string()));
        }
    }

    /// Removes what a manager before this one had put away and did not get to.
    pub fn tidy(&self) {
        let put_away = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(GONE.as_bytes());
        for entry in self.cache.iter().filter_map(|cache| fs::read_dir(cache).ok()).flatten().flatten() {
            if put_away(&entry) {
                ruin::begin(entry.path());
            }
        }
    }

    /// The user that the folder was given to.
    fn user_of(&self, uuid: Uuid) -> Option<u32> {
        self.folder(uuid).metadata().ok().map(|there| there.gid())
    }

    /// Prepares everything and starts a process that waits for the word.
    pub fn spawn(&self, grant: &Grant, gpu: Option<&Gpu>, config: &Config, cgroup: Option<&Path>) -> Result<Waiting> {
        let uuid = grant.definition.uuid;
        let folder = self.make(uuid).with_context(|| format!("Cannot make {}", self.folder(uuid).display()))?;
        let longest = folder.join(CONTROL_SOCKET);
        let length = longest.as_os_str().len();
        ensure!(
            length <= MAX_SOCKET_PATH,
            "The path of the socket {} is too long ({length} bytes, at most {MAX_SOCKET_PATH}): choose a shorter --runtime-dir",
            longest.display()
        );
        self.sweep(uuid);
        let mut text = options(grant, gpu, &folder, config);
        let guarded = self.guarded && !config.open_consoles && grant.is_open();
        if guarded {
            let path = folder.join(keys::FILE);
            Keys::new().write(&folder).with_context(|| format!("Cannot write {}", path.display()))?;
            let path = path.to_str().context("The runtime folder's name is no text")?;
            text = format!("tokens = {}\n{text}", toml::Value::from(path));
        }
        store::replace(&folder.join(OPTIONS), text.as_bytes(), Lasting::UntilBoot)
            .with_context(|| format!("Cannot write {}", folder.join(OPTIONS).display()))?;
        let log = log::open(&folder)?;

        let mut command = Command::new("/proc/self/exe");
        command.arg0("beamsplit").arg("launch").env(MARK, uuid.to_string());
        let user = geteuid().is_root().then_some(config.users).flatten();
        if let Some(users) = user {
            let uid = self.give(&folder, users)?;
            if guarded {
                let own = chown(folder.join(keys::FILE), Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
                own.with_context(|| format!("Cannot give the tokens to user {uid}"))?;
            }
            command.arg("--uid").arg(uid.to_string());
            if let Some(group) = group_that_draws(grant, gpu) {
                command.arg("--group").arg(group.to_string());
            }
            if let Some(cache) = self.cache_for(uuid, uid) {
                command.env("XDG_CACHE_HOME", cache);
            }
        }
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg("--").args(&config.device).arg("--config").arg(folder.join(OPTIONS));
        let second = log.try_clone().context("Cannot hold the log")?;
        command.stdin(Stdio::piped()).stdout(log).stderr(second).current_dir("/");
        let child = command.spawn().context("Cannot start a process")?;
        Ok(Waiting(child))
    }

    /// Lets a user that no other device has make sockets in the folder. What is ours there stays ours.
    fn give(&self, folder: &Path, users: Users) -> Result<u32> {
        let found = self.found().context("Cannot look who is there")?;
        let taken: Vec<u32> = found.into_iter().filter_map(|uuid| self.user_of(uuid)).collect();
        let uid = users.free(|uid| taken.contains(&uid));
        let uid = uid.context("All users of the range have a device: widen users in serve.toml")?;
        let cannot = || format!("Cannot give {} to user {uid}", folder.display());
        let group = Some(Gid::from_raw(uid));
        chown(folder.join(OPTIONS), None, group).with_context(cannot)?;
        chown(folder, None, group).with_context(cannot)?;
        // VMMs pass through it. Who may connect is for each socket to say.
        fs::set_permissions(folder, Permissions::from_mode(0o1771)).with_context(cannot)?;
        Ok(uid)
    }

    /// Where a device of this user keeps things. What another user left there is of no use to it.
    fn cache_for(&self, uuid: Uuid, uid: u32) -> Option<PathBuf> {
        let cache = self.cache.as_ref()?;
        store::make_folder(cache, 0o755).ok()?;
        let own = cache.join(uuid.to_string());
        if own.symlink_metadata().is_ok_and(|there| there.uid() != uid) {
            put_away(cache, &own).ok()?;
        }
        store::make_folder(&own, 0o700).ok()?;
        chown(&own, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).ok()?;
        Some(own)
    }
}

/// Takes what a device kept out of its place at once, and removes it in a while: it may be as much as the disk has room for.
fn put_away(cache: &Path, kept: &Path) -> io::Result<()> {
    let gone = cache.join(format!("{GONE}{}", Uuid::new_v4()));
    fs::rename(kept, &gone)?;
    ruin::begin(gone);
    Ok(())
}

/// Whether it is a folder, no link to one, and belongs to us.
fn is_ours(folder: &Path) -> bool {
    folder.symlink_metadata().is_ok_and(|there| there.is_dir() && there.uid() == geteuid().as_raw())
}

/// The group of those who may open what a device draws by: the GPU, or what Vulkan needs where the processor draws.
fn group_that_draws(grant: &Grant, gpu: Option<&Gpu>) -> Option<u32> {
    let vulkan = grant.profile.capsets.contains(&Capset::Venus);
    let node = gpu.and_then(|gpu| gpu.node.as_deref()).or_else(|| vulkan.then_some(Path::new(UDMABUF)))?;
    node.metadata().ok().map(|there| there.gid()).filter(|group| *group != 0)
}

/// The config file of a device.
fn options(grant: &Grant, gpu: Option<&Gpu>, folder: &Path, config: &Config) -> String {
    let mut text = grant.device_toml(folder, gpu.and_then(|gpu| gpu.node.as_deref()));
    let profile = &grant.profile;
    if profile.renderer == Renderer::Virgl && profile.isolate {
        // The manager's own verdict, which says why, comes first.
        let patience = config.schedule.hang_timeout * PATIENCES;
        text = format!("renderer-patience = {}\n{text}", patience.as_secs().clamp(1, 3600));
    }
    if let Some(sandbox) = &config.sandbox {
        // Of a few words that need no quoting.
        text = format!("sandbox = \"{sandbox}\"\n{text}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_kept_is_forgotten_at_once_and_removed_whoever_gets_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let devices = Devices { runtime: folder.path().join("r"), cache: Some(cache.clone()), guarded: false };
        let [one, other] = [1, 2].map(Uuid::from_u128);
        for name in [&one.to_string(), &other.to_string(), "gone-7", "notes"] {
            fs::create_dir_all(cache.join(name).join("shaders/a/b")).unwrap();
        }
        devices.forget(one);
        assert!(!cache.join(one.to_string()).exists());
        // Which need not be there.
        devices.forget(one);
        devices.tidy();
        let names = || -> Vec<_> { fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
        while names().len() > 2 {
            std::thread::yield_now();
        }
        assert!(cache.join(other.to_string()).exists() && cache.join("notes").exists());
    }
}
