//! The control group that devices are put into.
//!
//! As a service of systemd's with `Delegate=yes` the manager may divide its own control group. Devices get a part of their own each,
//! beside the manager's, where they stay when it ends (`KillMode=process`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use manager::Uuid;

/// Where the manager itself is put (`DelegateSubgroup=`): systemd wants no process in a group that is divided.
const MANAGER: &str = "manager";
/// Where control groups are, on hosts with one hierarchy and on those with several.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The group below which devices get theirs, where the manager was given one. Nobody says so but systemd.
pub fn for_devices() -> Option<PathBuf> {
    env::var_os("INVOCATION_ID")?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let root = ROOTS.into_iter().map(Path::new).find(|root| root.join("cgroup.procs").exists())?;
    divided(root, &own)
}

/// The group that `own`, as `/proc/self/cgroup` says it, was delegated, if it was.
fn divided(root: &Path, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = root.join(path);
    if !own.ends_with(MANAGER) {
        return None;
    }
    let above = own.parent()?;
    // Who may write there was given it.
    rustix::fs::access(above.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).ok()?;
    Some(above.to_owned())
}

/// The group of a device.
pub fn of(groups: &Path, uuid: Uuid) -> PathBuf {
    groups.join(format!("vgpu-{uuid}"))
}

/// Makes the group of a device; `None` where that is not possible, and the device stays in the manager's.
pub fn make(groups: &Path, uuid: Uuid) -> Option<PathBuf> {
    let group = of(groups, uuid);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            tracing::warn!("Cannot make {}: {error}", group.display());
            None
        }
        _ => Some(group),
    }
}

/// Removes it with those that were made in it, once nobody is in them.
pub fn remove(groups: &Path, uuid: Uuid) {
    let group = of(groups, uuid);
    // One that is not empty stays until the next time.
    for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
        // What is no group is no folder, and goes with its group.
        let _ = fs::remove_dir(entry.path());
    }
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_that_was_given_to_the_manager_is_divided() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/beamsplit.service");
        fs::create_dir_all(service.join(MANAGER)).unwrap();
        fs::write(service.join("cgroup.procs"), "").unwrap();
        let own = |path: &str| divided(root.path(), &format!("4:memory:/x\n0::{path}\n"));
        assert_eq!(own("/system.slice/beamsplit.service/manager"), Some(service.clone()));
        assert_eq!(own("/system.slice/beamsplit.service"), None);
        assert_eq!(own("/"), None);
        assert_eq!(own("/user.slice/manager"), None);
        assert_eq!(divided(root.path(), "4:memory:/x\n"), None);
        let uuid = Uuid::from_u128(1);
        let group = make(&service, uuid).unwrap();
        assert_eq!(make(&service, uuid), Some(group.clone()));
        // Those who draw get one in it.
        host::cgroup::Cgroup::at(&group).child("renderers").unwrap();
        remove(&service, uuid);
        assert!(!group.exists());
    }
}
