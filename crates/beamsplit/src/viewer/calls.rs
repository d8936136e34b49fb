//! The system calls that a locked-in viewer may still make, as a list with the reason for each group. What is not on it fails
//! with EPERM.
//!
//! The device has a list of its own, for a process that does other things; the two are alike where the processes are.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// System calls and why a viewer makes them.
struct Group {
    why: &'static str,
    calls: &'static [Call],
}

/// A system call, perhaps only with certain arguments.
enum Call {
    /// However it is made.
    Any(i64),
    /// When the argument at this place has none of these bits.
    Without(i64, u8, u64),
    /// When the argument at this place has all of these bits.
    With(i64, u8, u64),
    /// When the argument at this place is one of these.
    Only(i64, u8, &'static [u64]),
}

impl Call {
    fn number(&self) -> i64 {
        match *self {
            Call::Any(number) | Call::Without(number, ..) | Call::With(number, ..) | Call::Only(number, ..) => number,
        }
    }

    fn rules(&self) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let rule = |place, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(place, SeccompCmpArgLen::Qword, operator, value)?])
        };
        match *self {
            Call::Any(_) => Ok(Vec::new()),
            Call::Without(_, place, bits) => Ok(vec![rule(place, SeccompCmpOp::MaskedEq(bits), 0)?]),
            Call::With(_, place, bits) => Ok(vec![rule(place, SeccompCmpOp::MaskedEq(bits), bits)?]),
            Call::Only(_, place, values) => values.iter().map(|value| rule(place, SeccompCmpOp::Eq, *value)).collect(),
        }
    }
}

use Call::{Any, Only, With, Without};

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
const UNIX: &[u64] = &[libc::AF_UNIX as u64];
const THREAD_NAMES: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64];
const SOCKETS_AND_TERMINALS: &[u64] = &[libc::FIONBIO, libc::FIONREAD, libc::TCGETS];

const LIST: &[Group] = &[
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

/// Lets only the calls of the list pass, in all threads.
pub fn allow() -> Result<()> {
    let mut rules = BTreeMap::new();
    for group in LIST {
        tracing::debug!("System calls allowed: {}", group.why);
        for call in group.calls {
            rules.insert(call.number(), call.rules()?);
        }
    }
    // The C library starts threads by clone3, whose flags lie in memory that a filter cannot read. Told that there is no
    // clone3 it takes clone, whose flags it can. The refusal is a filter of its own, as a filter has one error to give.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    install(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    rules.insert(libc::SYS_clone3, Vec::new());
    install(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn install(rules: BTreeMap<i64, Vec<SeccompRule>>, otherwise: SeccompAction, listed: SeccompAction) -> Result<()> {
    let filter = SeccompFilter::new(rules, otherwise, listed, std::env::consts::ARCH.try_into()?)?;
    let program = BpfProgram::try_from(filter)?;
    apply_filter_all_threads(&program).context("Cannot install the list of system calls (seccomp)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Call> {
        LIST.iter().flat_map(|group| group.calls)
    }

    #[test]
    fn nothing_on_the_list_leads_out() {
        let ways_out = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_open,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_keyctl,
            libc::SYS_perf_event_open,
            libc::SYS_open_by_handle_at,
            libc::SYS_pkey_mprotect,
            libc::SYS_shmat,
            libc::SYS_personality,
            libc::SYS_seccomp,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
            libc::SYS_fchmod,
        ];
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
