//! The system calls of libraries that draw 3D, found by running Mesa's OpenGL and Vulkan (llvmpipe, lavapipe) under them. The
//! commands of `ioctl` are not looked at: they are how a driver speaks with its GPU.

use jail::calls::Call::{Any, Only};
use jail::calls::Group;
use jail::common;

const OWN_AFFAIRS: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_SET_VMA as u64,
    libc::PR_SET_PDEATHSIG as u64,
    libc::PR_GET_PDEATHSIG as u64,
];

/// What a library may do in our own process.
pub const LIBRARY: &[Group] = &[
    common::OPEN,
    common::SOCKETS,
    common::THREADS,
    common::FAULTS,
    common::TIME,
    Group {
        why: "write at a position, lock and wait for what is open or may be opened, and speak with drivers",
        calls: &[
            Any(libc::SYS_pwrite64),
            Any(libc::SYS_close_range),
            Any(libc::SYS_flock),
            Any(libc::SYS_fstatfs),
            Any(libc::SYS_ioctl),
            Any(libc::SYS_pselect6),
            Any(libc::SYS_pipe2),
            Any(libc::SYS_fsync),
            Any(libc::SYS_fdatasync),
        ],
    },
    Group {
        why: "files, of which Landlock has the list",
        calls: &[
            Any(libc::SYS_openat),
            Any(libc::SYS_newfstatat),
            Any(libc::SYS_statx),
            Any(libc::SYS_statfs),
            Any(libc::SYS_faccessat),
            Any(libc::SYS_faccessat2),
            Any(libc::SYS_readlinkat),
            Any(libc::SYS_getdents64),
            Any(libc::SYS_getcwd),
            Any(libc::SYS_mkdirat),
            Any(libc::SYS_renameat),
            Any(libc::SYS_renameat2),
            Any(libc::SYS_unlinkat),
            Any(libc::SYS_fchmod),
        ],
    },
    Group {
        why: "map memory of the guest, of the GPU and our own; as code too, for drivers compile what a guest wants to run",
        calls: &[
            Any(libc::SYS_mmap),
            Any(libc::SYS_mprotect),
            Any(libc::SYS_munmap),
            Any(libc::SYS_mremap),
            Any(libc::SYS_madvise),
            Any(libc::SYS_mincore),
            Any(libc::SYS_msync),
            Any(libc::SYS_brk),
            Any(libc::SYS_memfd_create),
            Any(libc::SYS_ftruncate),
            Any(libc::SYS_fallocate),
        ],
    },
    Group {
        why: "what threads begin with, their names, and whose end is ours",
        calls: &[Only(libc::SYS_prctl, 0, OWN_AFFAIRS), Any(libc::SYS_set_tid_address), Any(libc::SYS_getcpu)],
    },
    Group {
        why: "who and where we are: drivers choose by it",
        calls: &[
            Any(libc::SYS_getppid),
            Any(libc::SYS_getuid),
            Any(libc::SYS_geteuid),
            Any(libc::SYS_getgid),
            Any(libc::SYS_getegid),
            Any(libc::SYS_uname),
            Any(libc::SYS_sysinfo),
            Any(libc::SYS_getrusage),
            Any(libc::SYS_prlimit64),
            // Whether two descriptors are one GPU; only of this process.
            Any(libc::SYS_kcmp),
        ],
    },
    Group {
        why: "wait for signals, and know how fine the clocks are",
        calls: &[Any(libc::SYS_rt_sigtimedwait), Any(libc::SYS_signalfd4), Any(libc::SYS_clock_getres)],
    },
    #[cfg(target_arch = "x86_64")]
    common::OLDER_NAMES,
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "more older names of the above",
        calls: &[
            Any(libc::SYS_select),
            Any(libc::SYS_epoll_create),
            Any(libc::SYS_eventfd),
            Any(libc::SYS_pipe),
            Any(libc::SYS_dup2),
            Any(libc::SYS_open),
            Any(libc::SYS_access),
            Any(libc::SYS_stat),
            Any(libc::SYS_lstat),
            Any(libc::SYS_readlink),
            Any(libc::SYS_getdents),
            Any(libc::SYS_mkdir),
            Any(libc::SYS_rename),
            Any(libc::SYS_unlink),
            Any(libc::SYS_arch_prctl),
        ],
    },
];

/// What a render server may do besides. It is executed once, by us; Landlock lets nothing else be.
pub const SERVER: &[Group] = &[Group {
    why: "become the render server, which has a process for each context, and see how they end",
    calls: &[
        Any(libc::SYS_execve),
        Any(libc::SYS_clone),
        Any(libc::SYS_wait4),
        Any(libc::SYS_waitid),
        Any(libc::SYS_kill),
    ],
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_the_librarys_list_leads_out_or_is_there_twice_or_without_a_reason() {
        assert_eq!(jail::calls::flaws(LIBRARY), Vec::<String>::new());
        assert!(SERVER.iter().all(|group| group.why.len() > 10 && !group.calls.is_empty()));
    }
}
