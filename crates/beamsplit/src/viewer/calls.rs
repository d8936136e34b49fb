//! The system calls that a locked-in viewer may still make, as a list with the reason for each group. What is not on it fails
//! with EPERM.
//!
//! The device has a list of its own, for a process that does other things; the two are alike where the processes are.

use jail::calls::{Call, Group};

use Call::{Any, Only, With, Without};

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
const UNIX: &[u64] = &[libc::AF_UNIX as u64];
const THREAD_NAMES: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64];
const SOCKETS_AND_TERMINALS: &[u64] = &[libc::FIONBIO, libc::FIONREAD, libc::TCGETS];

/// What a viewer needs.
pub const LIST: &[Group] = &[
    Group {
        why: "read, write and wait for what is open",
        calls: &[
            Any(libc::SYS_read),
            Any(libc::SYS_write),
            Any(libc::SYS_readv),
            Any(libc::SYS_writev),
            Any(libc::SYS_pread64),
            Any(libc::SYS_lseek),
            Any(libc::SYS_close),
            Any(libc::SYS_dup),
            Any(libc::SYS_dup3),
            Any(libc::SYS_fcntl),
            Any(libc::SYS_fstat),
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
        why: "talk to the device, to clients and to the display server over sockets that are open already; connect to nobody",
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
        why: "map pictures of the device and of the window, and our own memory, never as code",
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
        why: "read the page's files, of which Landlock has the list, and see whether the tokens' file is still the same",
        calls: &[
            Any(libc::SYS_openat),
            Any(libc::SYS_newfstatat),
            Any(libc::SYS_statx),
            Any(libc::SYS_getdents64),
            Any(libc::SYS_readlinkat),
            Any(libc::SYS_getcwd),
            Any(libc::SYS_uname),
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
        why: "catch a fault, and end by abort (which Landlock keeps to ourselves)",
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
        calls: &[
            Any(libc::SYS_poll),
            Any(libc::SYS_epoll_wait),
            Any(libc::SYS_time),
            Any(libc::SYS_open),
            Any(libc::SYS_stat),
            Any(libc::SYS_lstat),
            Any(libc::SYS_readlink),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Call> {
        LIST.iter().flat_map(|group| group.calls)
    }

    #[test]
    fn nothing_on_the_list_leads_out() {
        let change_files = [libc::SYS_renameat2, libc::SYS_unlinkat, libc::SYS_fchmod];
        let ways_out: Vec<i64> = jail::calls::WAYS_OUT.iter().chain(&change_files).copied().collect();
        for call in all() {
            assert!(!ways_out.contains(&call.number()), "{}", call.number());
        }
    }

    #[test]
    fn each_call_is_listed_once_and_each_group_says_why() {
        let mut numbers: Vec<i64> = all().map(Call::number).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(LIST.iter().all(|group| group.why.len() > 10 && !group.calls.is_empty()));
    }
}
