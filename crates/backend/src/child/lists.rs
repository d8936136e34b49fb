//! The system calls of libraries that draw 3D, found by running Mesa's OpenGL and Vulkan (llvmpipe, lavapipe) under them. The
//! commands of `ioctl` are not looked at: they are how a driver speaks with its GPU.

use jail::calls::Call::{Any, Only, With};
use jail::calls::Group;

const UNIX: &[u64] = &[libc::AF_UNIX as u64];
const OWN_AFFAIRS: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_SET_VMA as u64,
    libc::PR_SET_PDEATHSIG as u64,
    libc::PR_GET_PDEATHSIG as u64,
];

/// What a library may do in our own process.
pub const LIBRARY: &[Group] = &[
    Group {
        why: "read, write, wait for and speak with what is open or may be opened",
        calls: &[
            Any(libc::SYS_read),
            Any(libc::SYS_write),
            Any(libc::SYS_readv),
            Any(libc::SYS_writev),
            Any(libc::SYS_pread64),
            Any(libc::SYS_pwrite64),
            Any(libc::SYS_lseek),
            Any(libc::SYS_close),
            Any(libc::SYS_close_range),
            Any(libc::SYS_dup),
            Any(libc::SYS_dup3),
            Any(libc::SYS_fcntl),
            Any(libc::SYS_flock),
            Any(libc::SYS_fstat),
            Any(libc::SYS_fstatfs),
            Any(libc::SYS_ioctl),
            Any(libc::SYS_ppoll),
            Any(libc::SYS_pselect6),
            Any(libc::SYS_epoll_create1),
            Any(libc::SYS_epoll_ctl),
            Any(libc::SYS_epoll_pwait),
            Any(libc::SYS_eventfd2),
            Any(libc::SYS_pipe2),
            Any(libc::SYS_timerfd_create),
            Any(libc::SYS_timerfd_settime),
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
        why: "speak with the device and the render server over sockets that are open; connect to nobody",
        calls: &[
            Any(libc::SYS_recvfrom),
            Any(libc::SYS_recvmsg),
            Any(libc::SYS_sendto),
            Any(libc::SYS_sendmsg),
            Any(libc::SYS_shutdown),
            Any(libc::SYS_getsockname),
            Any(libc::SYS_getpeername),
            Any(libc::SYS_getsockopt),
            Any(libc::SYS_setsockopt),
            Only(libc::SYS_socketpair, 0, UNIX),
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
        why: "start, name and end threads of this process, never another process",
        calls: &[
            With(libc::SYS_clone, 0, libc::CLONE_THREAD as u64),
            Only(libc::SYS_prctl, 0, OWN_AFFAIRS),
            Any(libc::SYS_set_tid_address),
            Any(libc::SYS_set_robust_list),
            Any(libc::SYS_rseq),
            Any(libc::SYS_futex),
            Any(libc::SYS_membarrier),
            Any(libc::SYS_sched_yield),
            Any(libc::SYS_sched_getaffinity),
            Any(libc::SYS_getcpu),
            Any(libc::SYS_exit),
            Any(libc::SYS_exit_group),
            Any(libc::SYS_restart_syscall),
        ],
    },
    Group {
        why: "who and where we are: drivers choose by it",
        calls: &[
            Any(libc::SYS_getpid),
            Any(libc::SYS_getppid),
            Any(libc::SYS_gettid),
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
        why: "catch a fault, and end by abort",
        calls: &[
            Any(libc::SYS_rt_sigaction),
            Any(libc::SYS_rt_sigprocmask),
            Any(libc::SYS_rt_sigreturn),
            Any(libc::SYS_rt_sigtimedwait),
            Any(libc::SYS_sigaltstack),
            Any(libc::SYS_signalfd4),
            Any(libc::SYS_tgkill),
        ],
    },
    Group {
        why: "time and chance",
        calls: &[
            Any(libc::SYS_clock_gettime),
            Any(libc::SYS_clock_getres),
            Any(libc::SYS_clock_nanosleep),
            Any(libc::SYS_gettimeofday),
            Any(libc::SYS_nanosleep),
            Any(libc::SYS_getrandom),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "older names of the above",
        calls: &[
            Any(libc::SYS_poll),
            Any(libc::SYS_select),
            Any(libc::SYS_epoll_create),
            Any(libc::SYS_epoll_wait),
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
            Any(libc::SYS_time),
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
    use jail::calls::WAYS_OUT;

    #[test]
    fn nothing_on_the_librarys_list_leads_out() {
        let calls = LIBRARY.iter().flat_map(|group| group.calls);
        let out: Vec<i64> = calls.map(|call| call.number()).filter(|number| WAYS_OUT.contains(number)).collect();
        assert!(out.is_empty(), "{out:?}");
    }

    #[test]
    fn each_call_of_the_library_is_listed_once_and_each_group_says_why() {
        let mut numbers: Vec<i64> = LIBRARY.iter().flat_map(|group| group.calls).map(|call| call.number()).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(LIBRARY.iter().chain(SERVER).all(|group| group.why.len() > 10 && !group.calls.is_empty()));
    }
}
