//! System calls that every process of ours makes, whatever else it does.

use super::calls::Call::{Any, Only, With, Without};
use super::calls::Group;

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
const UNIX: &[u64] = &[libc::AF_UNIX as u64];
const THREAD_NAMES: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64];
const SOCKETS_AND_TERMINALS: &[u64] = &[libc::FIONBIO, libc::FIONREAD, libc::TIOCOUTQ, libc::TCGETS];

/// Input and output.
pub const OPEN: Group = Group {
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
    ],
};

/// Commands that are no driver's.
pub const TERMINALS: Group = Group {
    why: "ask sockets and terminals about themselves, and no driver anything",
    calls: &[Only(libc::SYS_ioctl, 1, SOCKETS_AND_TERMINALS)],
};

/// Sockets that are open.
pub const SOCKETS: Group = Group {
    why: "talk over sockets that are open already; connect to nobody",
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
};

/// Sockets that are bound.
pub const CLIENTS: Group =
    Group { why: "let those in who come to sockets that are bound already", calls: &[Any(libc::SYS_accept4)] };

/// Memory as data.
pub const MEMORY: Group = Group {
    why: "map memory of others and our own, never as code",
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
};

/// Threads.
pub const THREADS: Group = Group {
    why: "start and end threads of this process, never another process",
    calls: &[
        With(libc::SYS_clone, 0, libc::CLONE_THREAD as u64),
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
};

/// Their names.
pub const NAMES: Group = Group { why: "name threads and memory", calls: &[Only(libc::SYS_prctl, 0, THREAD_NAMES)] };

/// Faults.
pub const FAULTS: Group = Group {
    why: "catch a fault, and end by abort (which Landlock keeps to ourselves)",
    calls: &[
        Any(libc::SYS_rt_sigaction),
        Any(libc::SYS_rt_sigprocmask),
        Any(libc::SYS_rt_sigreturn),
        Any(libc::SYS_sigaltstack),
        Any(libc::SYS_tgkill),
    ],
};

/// Clocks.
pub const TIME: Group = Group {
    why: "time and chance",
    calls: &[
        Any(libc::SYS_clock_gettime),
        Any(libc::SYS_clock_nanosleep),
        Any(libc::SYS_gettimeofday),
        Any(libc::SYS_nanosleep),
        Any(libc::SYS_getrandom),
    ],
};

/// What the C library of x86 prefers.
#[cfg(target_arch = "x86_64")]
pub const OLDER_NAMES: Group = Group {
    why: "older names of waiting and of time",
    calls: &[Any(libc::SYS_poll), Any(libc::SYS_epoll_wait), Any(libc::SYS_time)],
};
