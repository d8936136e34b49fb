//! The control group that devices are put into.
//!
//! As a service of systemd's with `Delegate=yes` the manager may divide its own control group. Devices get a part of their own each,
//! beside the manager's, where they stay when it ends (`KillMode=process`). Where the host gave us its controllers, each is bounded.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use host::cgroup::{Cgroup, Error};
use host::processes::Processes;
use manager::Uuid;
use manager::profile::Type;

use crate::launch::MOST_TASKS;

/// Where the manager itself is put (`DelegateSubgroup=`): systemd wants no process in a group that is divided.
const MANAGER: &str = "manager";
/// What bounds devices.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "dmem", "pids"];
/// The largest there is: who gives out time must get to it.
const MANAGER_WEIGHT: u32 = 10_000;

/// The group below which devices get theirs, where the manager was given one. Nobody says so but systemd.
pub fn for_devices() -> Option<PathBuf> {
    env::var_os("INVOCATION_ID")?;
    let processes = Processes::default();
    let groups = delegated(&processes, &Cgroup::mount(&processes)?, std::process::id().cast_signed())?;
    share_controllers(&groups);
    Some(groups)
}

/// Lets the groups of devices have those controllers that we were given.
fn share_controllers(groups: &Path) {
    let given = fs::read_to_string(groups.join("cgroup.controllers")).unwrap_or_default();
    for name in CONTROLLERS.into_iter().filter(|name| given.split_ascii_whitespace().any(|word| word == *name)) {
        // One by one: the kernel takes all of a write or nothing.
        if let Err(error) = fs::write(groups.join("cgroup.subtree_control"), format!("+{name}")) {
            tracing::warn!("Devices are not bounded by the controller {name}: {error}");
        }
    }
    say(Cgroup::at(groups.join(MANAGER)).set_cpu_weight(MANAGER_WEIGHT));
}

/// Bounds all processes of a device together, by what controllers its group has.
pub fn bound(group: &Path, profile: &Type) {
    let group = Cgroup::at(group);
    say(group.set_memory_max(Some(profile.most_memory())));
    say(group.set_cpu_weight(profile.weight));
    say(group.set_pids_max(Some(MOST_TASKS)));
    say(bound_gpu(&group, profile));
}

/// Bounds what it has of its GPU's own memory; beyond, the kernel moves things to the host's.
fn bound_gpu(group: &Cgroup, profile: &Type) -> Result<(), Error> {
    let Some(address) = profile.gpu.0.strip_prefix("pci-") else { return Ok(()) };
    let of_this_gpu = format!("drm/{address}/");
    let regions = group.device_memory()?.into_iter().map(|(region, _)| region);
    let mut regions = regions.filter(|region| region.starts_with(&of_this_gpu));
    regions.try_for_each(|region| group.set_device_memory_max(&region, Some(profile.memory)))
}

/// That a controller is missing is no news.
fn say(done: Result<(), Error>) {
    match done {
        Ok(()) | Err(Error::Missing { .. }) => {}
        Err(error) => tracing::warn!("{:#}", anyhow::Error::from(error)),
    }
}

/// The group that this process was delegated, if it was one.
fn delegated(processes: &Processes, mount: &Path, own: i32) -> Option<PathBuf> {
    let own = Cgroup::of(processes, mount, own)?;
    let above = own.path().parent().filter(|_| own.path().ends_with(MANAGER))?;
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
        let said = |text: &str| {
            let proc = root.path().join("proc");
            fs::create_dir_all(proc.join("7")).unwrap();
            fs::write(proc.join("7/cgroup"), text).unwrap();
            delegated(&Processes::at(proc), root.path(), 7)
        };
        let own = |path: &str| said(&format!("4:memory:/x\n0::{path}\n"));
        assert_eq!(own("/system.slice/beamsplit.service/manager"), Some(service.clone()));
        assert_eq!(own("/system.slice/beamsplit.service"), None);
        assert_eq!(own("/"), None);
        assert_eq!(own("/user.slice/manager"), None);
        assert_eq!(said("4:memory:/x\n"), None);
        let uuid = Uuid::from_u128(1);
        let group = make(&service, uuid).unwrap();
        assert_eq!(make(&service, uuid), Some(group.clone()));
        // Those who draw get one in it.
        Cgroup::at(&group).child("renderers").unwrap();
        remove(&service, uuid);
        assert!(!group.exists());
    }
    /// A type of a GPU, from a file of types.
    fn kind(gpu: &str, words: &str) -> Type {
        let gpu = manager::Gpu {
            id: manager::GpuId(gpu.to_owned()),
            name: gpu.to_owned(),
            memory: 8 << 30,
            node: None,
            capsets: manager::value::Capset::ALL.to_vec(),
            software: gpu == "software",
            timed: manager::gpu::Timed::Processor,
        };
        let text = format!("[[type]]\nname = 'a'\nmemory = '1G'\ngpu = '{}'\n{words}", gpu.id.0);
        let types = manager::profile::Catalogue::parse(&text, &[gpu]).unwrap().types;
        types.iter().next().unwrap().clone()
    }

    #[test]
    fn a_device_is_bounded_by_what_controllers_its_group_has() {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path();
        let said = |name: &str| fs::read_to_string(group.join(name)).unwrap();
        let drawn = kind("pci-0000:03:00.0", "capsets = ['venus']\nrenderer-memory = '2G'\nweight = 300");
        // None of them, and none is made.
        bound(group, &drawn);
        assert_eq!(fs::read_dir(group).unwrap().count(), 0);

        fs::write(group.join("memory.max"), "").unwrap();
        bound(group, &drawn);
        assert_eq!(said("memory.max"), ((1u64 << 30) + 2 * (3 << 30) + (256 << 20)).to_string());
        assert_eq!(fs::read_dir(group).unwrap().count(), 1);

        let regions = "drm/0000:03:00.0/vram0 0\ndrm/0000:04:00.0/vram0 0\n";
        let files =
            [("memory.max", ""), ("cpu.weight", ""), ("pids.max", ""), ("dmem.max", ""), ("dmem.current", regions)];
        for (name, text) in files {
            fs::write(group.join(name), text).unwrap();
        }
        bound(group, &drawn);
        assert_eq!([said("cpu.weight"), said("dmem.max")], ["300", "drm/0000:03:00.0/vram0 1073741824"]);
        assert_eq!(said("pids.max"), MOST_TASKS.to_string());

        for name in ["memory.max", "dmem.max"] {
            fs::write(group.join(name), "").unwrap();
        }
        bound(group, &kind("software", ""));
        assert_eq!([said("memory.max"), said("dmem.max")], [((1u64 << 30) + (256 << 20)).to_string(), String::new()]);
    }

    #[test]
    fn devices_get_those_controllers_that_were_given_to_the_manager() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let shared = || fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap();
        write("cgroup.controllers", "cpuset io rdma\n");
        write("cgroup.subtree_control", "");
        share_controllers(folder.path());
        assert_eq!(shared(), "");
        write("cgroup.controllers", "cpuset memory rdma\n");
        share_controllers(folder.path());
        assert_eq!(shared(), "+memory");
    }
}
