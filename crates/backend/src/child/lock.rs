//! What a process for 3D is locked in with. The files are a table; what of it is not there needs no permission.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jail::calls::{self, Otherwise};
use jail::files::Grant;
use rustix::thread::set_no_new_privs;

use super::environment::{self, environment};
use super::{Spec, lists};
use crate::values::SandboxMode;

/// Who is locked in.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// A library in our own process: it runs no program.
    Library,
    /// This render server, still to be executed.
    Server(&'a Path),
}

/// What is read, and why.
const READ: &[(&str, &str)] = &[
    ("/usr/lib", "libraries and drivers"),
    ("/usr/lib32", "the same"),
    ("/usr/lib64", "the same"),
    ("/lib", "the same, where it is no part of /usr"),
    ("/lib64", "the same"),
    ("/usr/local/lib", "the same, built here"),
    ("/etc/ld.so.cache", "where libraries are"),
    ("/usr/share/glvnd", "which EGL there is"),
    ("/etc/glvnd", "the same"),
    ("/usr/share/egl", "its platforms"),
    ("/etc/egl", "the same"),
    ("/usr/share/vulkan", "which Vulkan drivers there are"),
    ("/etc/vulkan", "the same"),
    ("/usr/local/share/vulkan", "the same"),
    ("/usr/share/drirc.d", "what Mesa does for which program"),
    ("/etc/drirc", "the same"),
    ("/usr/share/libdrm", "names of GPUs"),
    ("/usr/share/nvidia", "what NVIDIA's driver does for which program"),
    ("/sys/devices/system/cpu", "how many processors there are"),
    ("/proc/self", "which libraries are loaded"),
    ("/proc/cpuinfo", "what the processor can do"),
    ("/proc/meminfo", "how much memory there is"),
    ("/dev/urandom", "chance"),
];

/// What is read besides with a render node.
const READ_WITH_NODE: &[(&str, &str)] = &[
    ("/sys/dev/char", "what is behind a device's number"),
    ("/sys/devices", "which GPU it is"),
    ("/sys/module/nvidia", "the version of NVIDIA's driver"),
    ("/proc/driver/nvidia", "the same"),
];

/// What is written too.
const SPOKEN_WITH: &[(&str, &str)] =
    &[("/dev/null", "nothing"), ("/dev/udmabuf", "memory that a software driver shows to the guest")];

/// What is written too with a render node: the parts of NVIDIA's driver, which has no other way.
const SPOKEN_WITH_NODE: &[(&str, &str)] = &[
    ("/dev/nvidia0", "draw"),
    ("/dev/nvidiactl", "draw"),
    ("/dev/nvidia-uvm", "memory"),
    ("/dev/nvidia-modeset", "draw"),
];

/// Programs that run other programs.
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1"];

/// Locks this process in, for good.
pub fn lock_in(spec: &Spec, who: Who<'_>) -> Result<()> {
    let list = || lists::LIBRARY.iter().chain(lists::SERVER.iter().filter(|_| matches!(who, Who::Server(_))));
    match spec.sandbox {
        SandboxMode::Off => {}
        SandboxMode::Log => {
            set_no_new_privs(true)?;
            calls::allow_only(list(), Otherwise::Report)?;
        }
        SandboxMode::On => {
            let enforced = jail::files::allow_only(&grants(spec, who, std::env::vars_os()))?;
            if !enforced.guards_files() {
                eprintln!("This kernel has no Landlock (Linux 5.13): what draws 3D can read all files of its user");
            }
            calls::allow_only(list(), Otherwise::Refuse)?;
        }
    }
    Ok(())
}

/// The files of a library that shares a process with others, whose environment is not all meant for it.
pub fn files(spec: &Spec) -> Vec<Grant> {
    grants(spec, Who::Library, environment(spec, std::env::vars_os()))
}

fn grants(spec: &Spec, who: Who<'_>, words: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Grant> {
    let with_node = |table: &'static [(&str, &str)]| table.iter().filter(|_| spec.node.is_some());
    let read = READ.iter().chain(with_node(READ_WITH_NODE)).map(|(path, _)| PathBuf::from(path));
    let beside =
        spec.library.iter().chain(&spec.server).filter_map(|path| Some(path.canonicalize().ok()?.parent()?.to_owned()));
    let read = read.chain(beside).chain(environment::paths(words));
    let spoken = SPOKEN_WITH.iter().chain(with_node(SPOKEN_WITH_NODE)).map(|(path, _)| PathBuf::from(path));
    let spoken = spoken.chain(spec.node.clone());
    let there = |path: &PathBuf| path.exists();
    let mut grants: Vec<Grant> = read.filter(there).map(|path| Grant::read(&path)).collect();
    grants.extend(spoken.filter(there).map(|path| Grant::speak(&path)));
    grants.extend(spec.shaders.as_ref().filter(|path| there(path)).map(|path| Grant::keep(path)));
    if let Who::Server(program) = who {
        let loaders = LOADERS.iter().map(Path::new).filter(|path| path.exists());
        grants.extend(loaders.chain([program]).map(Grant::run));
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    /// Its presence makes a test the process that is locked in: there is no way back.
    const INSIDE: &str = "BEAMSPLIT_TEST_CHILD_LOCK";

    fn outcome<T>(what: &str, result: std::io::Result<T>) {
        println!("{what} {}", if result.is_ok() { "done" } else { "refused" });
    }

    /// Runs the test `name` again to be locked in, and returns what that says.
    fn inside(name: &str) -> String {
        let name = format!("child::lock::tests::{name}");
        let words = ["--exact", name.as_str(), "--nocapture"];
        let output = Command::new(std::env::current_exe().unwrap()).args(words).env(INSIDE, "1").output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    #[test]
    fn a_library_draws_and_reaches_nothing_else() {
        if std::env::var_os(INSIDE).is_some() {
            jail::give_up_privileges().unwrap();
            lock_in(&Spec::plain(), Who::Library).unwrap();
            outcome("code", crate::inherited::tests::map_code());
            outcome("driver", std::fs::read_dir("/usr/lib"));
            outcome("thread", std::thread::Builder::new().spawn(|| {}));
            outcome("memory", rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).map_err(Into::into));
            outcome("passwords", File::open("/etc/passwd"));
            outcome("folder", std::fs::read_dir("/home"));
            outcome("write", File::create("/usr/lib/beamsplit-test"));
            outcome("execute", Command::new("/bin/true").status());
            outcome("tcp", TcpListener::bind("127.0.0.1:0"));
            outcome("unix", UnixDatagram::unbound());
            outcome("signal", rustix::process::test_kill_process(rustix::process::getpid()).map_err(Into::into));
            outcome("trace", crate::inherited::tests::trace_me());
            return;
        }
        let text = inside("a_library_draws_and_reaches_nothing_else");
        for line in ["code done", "driver done", "thread done", "memory done"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        for what in ["passwords", "folder", "write", "execute", "tcp", "unix", "signal", "trace"] {
            assert!(text.contains(&format!("{what} refused")), "{what}: {text}");
        }
    }

    #[test]
    fn a_server_runs_itself_and_no_other_program() {
        let server = Path::new("/bin/true");
        if std::env::var_os(INSIDE).is_some() {
            jail::give_up_privileges().unwrap();
            lock_in(&Spec::plain(), Who::Server(server)).unwrap();
            outcome("itself", Command::new(server).status().map(|status| assert!(status.success())));
            outcome("another", Command::new("/bin/ls").status());
            outcome("unix", UnixDatagram::unbound());
            outcome("passwords", File::open("/etc/passwd"));
            return;
        }
        let text = inside("a_server_runs_itself_and_no_other_program");
        for line in ["itself done", "another refused", "unix refused", "passwords refused"] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn a_library_runs_nothing_and_a_server_itself_alone() {
        let runs = |who| grants(&Spec::plain(), who, []).iter().filter(|grant| grant.runs()).count();
        assert_eq!(runs(Who::Library), 0);
        let loaders = LOADERS.iter().filter(|path| Path::new(path).exists()).count();
        assert_eq!(runs(Who::Server(Path::new("/proc/self/exe"))), loaders + 1);
    }

    #[test]
    fn each_file_of_the_table_has_a_reason_and_none_is_a_home() {
        for (path, why) in [READ, READ_WITH_NODE, SPOKEN_WITH, SPOKEN_WITH_NODE].concat() {
            assert!(!why.is_empty() && path.starts_with('/'), "{path}");
            assert!(
                !path.starts_with("/home") && !path.starts_with("/run") && path != "/proc" && path != "/etc",
                "{path}"
            );
        }
    }
}
