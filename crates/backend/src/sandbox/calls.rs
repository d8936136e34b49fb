//! The system calls that a locked-in device may still make, as a list with the reason for each group.
//!
//! What is not on it fails with EPERM, and with `--sandbox log` is made and reported in the kernel's audit log.

use jail::calls::{Call, Group};

use Call::{Any, Only, With, Without};

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
const UNIX: &[u64] = &[libc::AF_UNIX as u64];
const THREAD_NAMES: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64];
const SOCKETS_AND_TERMINALS: &[u64] = &[libc::FIONBIO, libc::FIONREAD, libc::TCGETS];

/// What every device needs.
pub const ALWAYS: &[Group] = &[
    Group {
        why: "read, write and wait for what is open",
        calls: &[
            Any(libc::SYS_read),
            Any(libc::SYS_write),
            Any(libc::SYS_readv),
            Any(libc::SYS_writev),
            Any(libc::SYS_pread64),
            Any(libc::SYS_pwrite64),
            Any(libc::SYS_preadv),
            Any(libc::SYS_pwritev),
            Any(libc::SYS_lseek),
            Any(libc::SYS_close),
            Any(libc::SYS_dup),
            Any(libc::SYS_dup3),
            Any(libc::SYS_fcntl),
            Any(libc::SYS_fstat),
            // Tells a dma-buf from a file.
            Any(libc::SYS_fstatfs),
            Any(libc::SYS_ppoll),
            Any(libc::SYS_epoll_create1),
            Any(libc::SYS_epoll_ctl),
            Any(libc::SYS_epoll_pwait),
            Any(libc::SYS_eventfd2),
            Any(libc::SYS_timerfd_create),
            Any(libc::SYS_timerfd_settime),
            Only(libc::SYS_ioctl, 1, SOCKETS_AND_TERMINALS),
        ],
    },
    Group {
        why: "talk to the VMM, the viewer and clients over sockets that are bound already; connect to nobody",
        calls: &[
            Any(libc::SYS_accept4),
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
        why: "map the guest's memory and our own, never as code",
        calls: &[
            Without(libc::SYS_mmap, 2, EXECUTABLE),
            Without(libc::SYS_mprotect, 2, EXECUTABLE),
            Any(libc::SYS_munmap),
            Any(libc::SYS_mremap),
            Any(libc::SYS_madvise),
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
            Only(libc::SYS_prctl, 0, THREAD_NAMES),
            Any(libc::SYS_set_robust_list),
            Any(libc::SYS_rseq),
            Any(libc::SYS_futex),
            Any(libc::SYS_membarrier),
            Any(libc::SYS_sched_yield),
            Any(libc::SYS_sched_getaffinity),
            Any(libc::SYS_getpid),
            Any(libc::SYS_gettid),
            Any(libc::SYS_exit),
            Any(libc::SYS_exit_group),
            Any(libc::SYS_restart_syscall),
        ],
    },
    Group {
        why: "catch a fault of memory that the VMM took away, and end by abort (which Landlock keeps to ourselves)",
        calls: &[
            Any(libc::SYS_rt_sigaction),
            Any(libc::SYS_rt_sigprocmask),
            Any(libc::SYS_rt_sigreturn),
            Any(libc::SYS_sigaltstack),
            Any(libc::SYS_tgkill),
        ],
    },
    Group {
        why: "time and chance",
        calls: &[
            Any(libc::SYS_clock_gettime),
            Any(libc::SYS_clock_nanosleep),
            Any(libc::SYS_gettimeofday),
            Any(libc::SYS_nanosleep),
            Any(libc::SYS_getrandom),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "older names of the above, which the C library prefers on x86",
        calls: &[Any(libc::SYS_poll), Any(libc::SYS_epoll_wait), Any(libc::SYS_time)],
    },
];

/// What needs the list of files beside it.
pub const FILES: &[Group] = &[
    Group {
        why: "write and replace the capture, read our executable for a backtrace",
        calls: &[
            Any(libc::SYS_openat),
            Any(libc::SYS_newfstatat),
            Any(libc::SYS_statx),
            Any(libc::SYS_renameat),
            Any(libc::SYS_renameat2),
            Any(libc::SYS_unlinkat),
            Any(libc::SYS_fsync),
            Any(libc::SYS_fdatasync),
            Any(libc::SYS_readlinkat),
            Any(libc::SYS_getcwd),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "older names of the above",
        calls: &[
            Any(libc::SYS_open),
            Any(libc::SYS_stat),
            Any(libc::SYS_lstat),
            Any(libc::SYS_rename),
            Any(libc::SYS_unlink),
            Any(libc::SYS_readlink),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Call> {
        ALWAYS.iter().chain(FILES).flat_map(|group| group.calls)
    }

    #[test]
    fn nothing_on_the_list_leads_out() {
        for call in all() {
            assert!(!jail::calls::WAYS_OUT.contains(&call.number()), "{}", call.number());
        }
    }

    #[test]
    fn each_call_is_listed_once() {
        let mut numbers: Vec<i64> = all().map(Call::number).collect();
        numbers.sort_unstable();
        let count = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }

    #[test]
    fn each_group_says_why() {
        assert!(ALWAYS.iter().chain(FILES).all(|group| group.why.len() > 10 && !group.calls.is_empty()));
    }
}
