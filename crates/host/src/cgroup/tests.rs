use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    folder
}

/// What was written into a file that was empty.
fn said(folder: &tempfile::TempDir, file: &str) -> String {
    fs::read_to_string(folder.path().join(file)).expect("a file")
}

#[test]
fn limits_are_written_as_the_kernel_wants_them() {
    let files =
        ["memory.max", "cpu.weight", "dmem.max", "pids.max", "cgroup.freeze", "cgroup.procs"].map(|name| (name, ""));
    let folder = folder(&files);
    let group = Cgroup::at(folder.path());
    group.set_memory_max(Some(1 << 30)).expect("written");
    group.set_cpu_weight(0).expect("written");
    group.set_device_memory_max("drm/0000:03:00.0/vram0", Some(1 << 20)).expect("written");
    group.set_pids_max(Some(7)).expect("written");
    group.freeze(true).expect("written");
    group.add(42).expect("written");
    assert_eq!(said(&folder, "memory.max"), "1073741824");
    assert_eq!(said(&folder, "cpu.weight"), "1");
    assert_eq!(said(&folder, "dmem.max"), "drm/0000:03:00.0/vram0 1048576");
    assert_eq!(said(&folder, "pids.max"), "7");
    assert_eq!(said(&folder, "cgroup.freeze"), "1");
    assert_eq!(said(&folder, "cgroup.procs"), "42");
    assert!(group.can_freeze());
    assert_eq!(limit(None), "max");
}

#[test]
fn what_is_used_is_read() {
    let files = [
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("dmem.current", "drm/0000:03:00.0/vram0 12345\ndrm/0000:03:00.0/stolen 0\n"),
    ];
    let folder = folder(&files);
    let group = Cgroup::at(folder.path());
    assert!(!group.is_frozen().expect("a word"));
    assert_eq!(group.device_memory().expect("regions")[0], ("drm/0000:03:00.0/vram0".to_owned(), 12345));
}

#[test]
fn a_controller_that_is_not_there_is_named() {
    let folder = folder(&[("cgroup.events", "nonsense\n"), ("dmem.current", "x\n")]);
    let group = Cgroup::at(folder.path());
    assert!(!group.can_freeze());
    for error in [group.set_memory_max(None), group.set_cpu_weight(100), group.set_device_memory_max("x", None)] {
        let message = error.expect_err("it is not there").to_string();
        assert!(message.contains(".max") || message.contains("cpu.weight"), "{message}");
        assert!(message.contains("controller"), "{message}");
    }
    assert!(matches!(group.is_frozen(), Err(Error::Garbage(_))));
    assert!(matches!(group.device_memory(), Err(Error::Garbage(_))));
}

#[test]
fn the_group_of_a_process_is_found_unless_it_is_not_ours() {
    let mountinfo =
        "22 1 0:5 / /proc rw - proc proc rw\n33 22 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    let folder = folder(&[
        ("self/mountinfo", mountinfo),
        ("7/cgroup", "1:cpu:/x\n0::/user.slice/a.scope\n"),
        ("8/cgroup", "0::/../a\n"),
        ("9/cgroup", "0::/a.scope (deleted)\n"),
        ("10/cgroup", "1:cpu:/\n"),
    ]);
    let processes = Processes::at(folder.path());
    let mount = Cgroup::mount(&processes).expect("a mount");
    assert_eq!(mount, Path::new("/sys/fs/cgroup"));
    let path = |pid| Cgroup::of(&processes, &mount, pid).map(|group| group.path().to_owned());
    assert_eq!(path(7), Some("/sys/fs/cgroup/user.slice/a.scope".into()));
    assert_eq!([path(8), path(9), path(10), path(11)], [None, None, None, None]);
}
